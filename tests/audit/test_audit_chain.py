"""The hash chain: whatever is done to a record afterwards, verifying finds it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
from audit_world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url

from keystead.audit.chain import GENESIS, ChainBroken, Head, digest_of, link, verify
from keystead.audit.verification import current_head, verify_store
from keystead.store import AuditRow, Store

COLUMNS = ("log_name", "parent", "time_us", "insert_id", "body", "previous", "digest")


def record(body: bytes, name: str = "projects/p/logs/a") -> AuditRow:
    return AuditRow(
        log_name=name,
        parent="projects/p",
        time_us=len(body),
        insert_id="i",
        body=body,
        previous=b"",
        digest=b"",
    )


def chained(bodies: list[bytes]) -> list[AuditRow]:
    rows: list[AuditRow] = []
    for body in bodies:
        rows.append(link(record(body), rows[-1] if rows else None))
    return rows


CHAINS = st.lists(st.binary(max_size=8), min_size=1, max_size=8).map(chained)


@given(CHAINS)
def test_an_untouched_chain_verifies(rows: list[AuditRow]) -> None:
    """A chain as it was written verifies, up to the digest of its last record."""
    verified = verify(rows)
    assert (verified.head_seq, verified.head_digest) == (len(rows), rows[-1].digest)
    assert verify(rows, verified.head) == verified


def test_an_empty_log_verifies() -> None:
    """A log without records is a chain of none, and its head is a head."""
    verified = verify([])
    assert (verified.head_seq, verified.head_digest) == (0, GENESIS)
    assert verify(chained([b"a"]), verified.head).head_seq == 1


@given(CHAINS, st.data())
def test_an_edit_of_any_column_is_found(rows: list[AuditRow], data: st.DataObject) -> None:
    """No column of no record can be changed without the chain breaking at or right after that record."""
    at = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from([field.name for field in fields(AuditRow)]))
    old = getattr(rows[at], column)
    kind = {bytes: st.binary(max_size=40), str: st.text("ab/", max_size=8), int: st.integers(0, 2**62)}[
        type(old)
    ]
    rows[at] = replace(rows[at], **{column: data.draw(kind.filter(lambda new: new != old))})
    with pytest.raises(ChainBroken) as broken:
        verify(rows)
    assert broken.value.seq in {at + 1, at + 2}


@given(CHAINS, st.data())
def test_an_edit_with_its_digest_recomputed_is_found(rows: list[AuditRow], data: st.DataObject) -> None:
    """Recomputing the digest of an edited record does not help: the next record, or the head, tells."""
    head = verify(rows).head
    at = data.draw(st.integers(0, len(rows) - 1))
    edited = replace(rows[at], body=rows[at].body + b"!")
    rows[at] = replace(edited, digest=digest_of(edited))
    with pytest.raises(ChainBroken):
        verify(rows, head)


@given(CHAINS, st.data())
def test_a_deletion_is_found(rows: list[AuditRow], data: st.DataObject) -> None:
    """A missing record is found: by what follows it, or, at the end, by a head kept elsewhere."""
    head = verify(rows).head
    at = data.draw(st.integers(0, len(rows) - 1))
    del rows[at]
    with pytest.raises(ChainBroken) as broken:
        verify(rows, head)
    assert broken.value.seq == at + 1


@given(CHAINS.filter(lambda rows: len(rows) > 1), st.data())
def test_reordering_is_found(rows: list[AuditRow], data: st.DataObject) -> None:
    """Two records cannot trade places, with their numbers or without."""
    one, two = data.draw(
        st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=2, unique=True).map(sorted)
    )
    rows[one], rows[two] = rows[two], rows[one]
    with pytest.raises(ChainBroken):
        verify(rows)
    rows[one] = replace(rows[one], seq=one + 1)
    rows[two] = replace(rows[two], seq=two + 1)
    with pytest.raises(ChainBroken):
        verify(rows)


@given(CHAINS, st.data())
def test_an_insertion_is_found(rows: list[AuditRow], data: st.DataObject) -> None:
    """A record put between two others, well linked to the one before, breaks the chain after it."""
    head = verify(rows).head
    at = data.draw(st.integers(0, len(rows) - 1))
    rows.insert(at, link(record(b"forged"), rows[at - 1] if at else None))
    with pytest.raises(ChainBroken):
        verify(rows, head)
    renumbered = [replace(row, seq=number) for number, row in enumerate(rows, 1)]
    with pytest.raises(ChainBroken):
        verify(renumbered, head)


def test_columns_do_not_run_into_each_other() -> None:
    """Moving a character from one column to its neighbour gives another digest."""
    row = link(record(b"x", name="ab"), None)
    moved = replace(row, log_name="a", parent=f"b{row.parent}")
    assert digest_of(row) != digest_of(moved)


def test_a_cut_end_needs_a_head_to_be_seen() -> None:
    """Records cut off at the end are found with an exported head, and only with it."""
    rows = chained([b"a", b"b", b"c"])
    head = Head.parse(verify(rows).head.export())
    assert verify(rows[:2]).head_seq == 2
    with pytest.raises(ChainBroken, match="there were 3 records"):
        verify(rows[:2], head)


def test_a_rewritten_log_needs_a_head_to_be_seen() -> None:
    """A log written anew with right digests throughout does not agree with a head of the old one."""
    head = verify(chained([b"a", b"b"])).head
    forged = chained([b"a", b"B", b"c"])
    assert verify(forged).head_seq == 3
    with pytest.raises(ChainBroken, match="rewritten"):
        verify(forged, head)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keystead-audit-head-v1 1",
        f"keystead-audit-head-v2 1 {'0' * 64}",
        f"keystead-audit-head-v1 01 {'0' * 64}",
    ],
)
def test_other_text_is_no_head(text: str) -> None:
    """Text that no head was exported as is refused, not taken for an empty log."""
    with pytest.raises(ValueError, match="not an audit head"):
        Head.parse(text)


def test_a_store_verifies_and_tells_progress(store: Store) -> None:
    """The log of a store in use verifies on both engines, and its end is the head it exports."""
    assert current_head(store) == Head(0, GENESIS)
    world = World(store)
    for number in range(5):
        world.create(f"r{number}")
    told: list[int] = []
    verified = verify_store(store, told.append)
    assert told == [5]
    assert verified.head == current_head(store)
    assert verify_store(store, head=current_head(store)) == verified


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tampering_with_the_database_is_found(sqlite_store: Store, data: st.DataObject) -> None:
    """Whatever one statement does to the rows of the database file, verifying the store finds it."""
    if current_head(sqlite_store).seq == 0:
        world = World(sqlite_store)
        for number in range(6):
            world.create(f"r{number}")
    head = verify_store(sqlite_store).head
    path = make_url(sqlite_store.where).database if "://" in sqlite_store.where else sqlite_store.where
    database = sqlite3.connect(str(path))
    before = database.execute("SELECT * FROM audit").fetchall()
    try:
        data.draw(st.sampled_from([edit, delete, swap]))(database, data)
        database.commit()
        assert database.execute("SELECT * FROM audit ORDER BY seq").fetchall() != before
        with pytest.raises(ChainBroken):
            verify_store(sqlite_store, head=head)
    finally:
        database.execute("DELETE FROM audit")
        marks = ",".join("?" * len(before[0]))
        database.executemany(f"INSERT INTO audit VALUES ({marks})", before)
        database.commit()
        database.close()
    assert verify_store(sqlite_store).head == head


Tampering = Callable[[sqlite3.Connection, st.DataObject], None]


def edit(database: sqlite3.Connection, data: st.DataObject) -> None:
    """Change one column of one record a little."""
    column = data.draw(st.sampled_from(COLUMNS))
    seq = data.draw(st.integers(1, 6))
    (old,) = database.execute(f"SELECT {column} FROM audit WHERE seq = ?", (seq,)).fetchone()
    new = {str: lambda: f"{old}x", bytes: lambda: old[:-1] + bytes([old[-1] ^ 1]), int: lambda: old + 1}
    database.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (new[type(old)](), seq))


def delete(database: sqlite3.Connection, data: st.DataObject) -> None:
    """Remove one record, and close the gap in the numbers or not."""
    seq = data.draw(st.integers(1, 6))
    database.execute("DELETE FROM audit WHERE seq = ?", (seq,))
    if data.draw(st.booleans()):
        for following in range(seq + 1, 7):
            database.execute("UPDATE audit SET seq = ? WHERE seq = ?", (following - 1, following))


def swap(database: sqlite3.Connection, data: st.DataObject) -> None:
    """Exchange the numbers of two records."""
    one = data.draw(st.integers(1, 5))
    two = data.draw(st.integers(one + 1, 6))
    for old, new in ((one, 0), (two, one), (0, two)):
        database.execute("UPDATE audit SET seq = ? WHERE seq = ?", (new, old))
