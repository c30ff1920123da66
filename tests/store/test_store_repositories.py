"""The contracts of policies, material, keychains, operations, audit records and meta values."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import column, create_engine, literal, select

from keystead.api.errors import Aborted, AlreadyExists
from keystead.store import Store
from keystead.store.session import at_or_below, starting_with
from tests.stores import a_keychain, an_audit_row, an_operation


def test_policy_revisions_are_never_given_twice(store: Store) -> None:
    """Also after a policy was deleted, and for another resource, a revision is greater than all before."""
    revisions = []
    for resource in ["p/a", "p/a", "p/b", "p/a"]:
        with store.write() as tx:
            revisions.append(tx.policies.put(resource, b"body"))
            tx.policies.delete("p/a")
    assert revisions == sorted(set(revisions))


def test_a_rolled_back_policy_leaves_no_trace(store: Store) -> None:
    """The policy before stays, with its revision."""
    with store.write() as tx:
        first = tx.policies.put("p", b"kept")
    with pytest.raises(KeyError), store.write() as tx:
        tx.policies.put("p", b"lost")
        raise KeyError
    with store.read() as tx:
        row = tx.policies.get("p")
    assert row is not None
    assert (row.resource, row.body, row.revision) == ("p", b"kept", first)


def test_policies_are_found_singly_together_and_below(store: Store) -> None:
    """`list_under` is the resource and what is below it, and not its neighbours whose names begin alike."""
    names = ["p/a", "p/a/k/1", "p/a/k/2", "p/a-b", "p/a0", "p/ab", "p", "q"]
    with store.write() as tx:
        for name in names:
            tx.policies.put(name, name.encode())
        assert tx.policies.delete("q")
        assert not tx.policies.delete("q")
    with store.read() as tx:
        assert tx.policies.get("q") is None
        assert [row.resource for row in tx.policies.list_under("p/a")] == ["p/a", "p/a/k/1", "p/a/k/2"]
        assert [row.resource for row in tx.policies.list_under("p/none")] == []
        many = tx.policies.get_many(["p", "q", "p/ab", "p", *(f"none/{i}" for i in range(1200))])
    assert {name: row.body for name, row in many.items()} == {"p": b"p", "p/ab": b"p/ab"}


def test_material_is_set_replaced_listed_and_deleted(store: Store) -> None:
    """The last bytes put are the bytes got; deleted material is gone."""
    with store.write() as tx:
        tx.material.put("k/1", b"\x00first")
        tx.material.put("k/1", b"\x00second")
        tx.material.put("k/10", b"")
        tx.material.put("l/1", b"x")
    with store.read() as tx:
        assert tx.material.get("k/1") == b"\x00second"
        assert tx.material.get("k/10") == b""
        assert tx.material.get("k") is None
        assert tx.material.list("k/") == ["k/1", "k/10"]
        assert tx.material.list() == ["k/1", "k/10", "l/1"]
    with store.write() as tx:
        assert tx.material.delete("k/1")
        assert not tx.material.delete("k/1")
        assert tx.material.get("k/1") is None


def test_a_public_key_stands_beside_its_material(store: Store) -> None:
    """It is read without the material, is empty where none was put, and goes with what it was put with."""
    with store.write() as tx:
        tx.material.put("k/1", b"wrapped", b"\x00public")
        tx.material.put("k/2", b"wrapped")
    with store.read() as tx:
        assert (tx.material.get("k/1"), tx.material.public("k/1")) == (b"wrapped", b"\x00public")
        assert (tx.material.public("k/2"), tx.material.public("none")) == (b"", b"")
    with store.write() as tx:
        tx.material.put("k/1", b"other", b"other public")
        tx.material.put("k/2", b"wrapped", b"late")
    with store.write() as tx:
        assert (tx.material.get("k/1"), tx.material.public("k/1")) == (b"other", b"other public")
        assert tx.material.public("k/2") == b"late"
        tx.material.put("k/1", b"secret key now")
        tx.material.delete("k/2")
        assert (tx.material.get("k/1"), tx.material.public("k/1")) == (b"secret key now", b"")
        assert tx.material.public("k/2") == b""


def test_keychains_are_found_by_resource_key_and_service(store: Store) -> None:
    """A key name finds its own keychains and those of keys below it, never those of a key named alike."""
    ring = "projects/p/locations/l/keyRings/r"
    rows = [
        a_keychain("a"),
        a_keychain("b", kms_key=f"{ring}/cryptoKeys/k2"),
        a_keychain("c", service="dataflow.googleapis.com"),
        a_keychain("d", kms_key="projects/q/locations/l/keyRings/r/cryptoKeys/k"),
    ]
    with store.write() as tx:
        assert all(tx.keychains.insert(row) for row in rows)
        assert not tx.keychains.insert(a_keychain("a", wrapped_kek=b"other"))
    with store.read() as tx:
        assert tx.keychains.get("a") == rows[0]
        assert tx.keychains.get("none") is None
        assert tx.keychains.list() == rows
        assert tx.keychains.list(kms_key=f"{ring}/cryptoKeys/k") == [rows[0], rows[2]]
        assert tx.keychains.list(kms_key=ring) == rows[:3]
        assert tx.keychains.list(f"{ring}/", "dataflow.googleapis.com") == [rows[2]]
        assert tx.keychains.list(service="none") == []


def test_a_keychain_is_rewrapped_by_one_writer_only(store: Store) -> None:
    """An update writes the new key version and KEK; a second one from the same revision is aborted."""
    with store.write() as tx:
        tx.keychains.insert(a_keychain("a"))
    rewrapped = a_keychain("a", key_version="v/2", wrapped_kek=b"new", kms_key="k2")
    with store.write() as tx:
        tx.keychains.update(rewrapped)
    with pytest.raises(Aborted), store.write() as tx:
        tx.keychains.update(rewrapped)
    with store.write() as tx:
        assert tx.keychains.get("a") == dataclasses.replace(rewrapped, revision=2)
        assert tx.keychains.delete("a")
        assert not tx.keychains.delete("a")


def test_an_operation_is_kept_until_done_and_after(store: Store) -> None:
    """What a restarted server must take up is every operation that is not done, the oldest first."""
    rows = [an_operation(f"o/{i}", create_us=100 - i) for i in range(4)]
    with store.write() as tx:
        assert all(tx.operations.insert(row) for row in rows)
        assert not tx.operations.insert(rows[0])
        tx.operations.update(dataclasses.replace(rows[1], done=True, body=b"result", arguments=b""))
    with store.read() as tx:
        assert tx.operations.unfinished() == [rows[3], rows[2], rows[0]]
        assert tx.operations.get("o/1") == dataclasses.replace(
            rows[1], done=True, body=b"result", arguments=b""
        )
    with pytest.raises(Aborted), store.write() as tx:
        assert tx.operations.delete("o/1")
        assert not tx.operations.delete("o/1")
        tx.operations.update(rows[1])


def test_an_operation_is_created_once(store: Store) -> None:
    """A created operation is not done; a second of its name or request id is an AlreadyExists."""
    wanted = an_operation("o/1", request_id="r")
    fields = dataclasses.asdict(wanted)
    del fields["done"]
    with store.write() as tx:
        assert tx.operations.create(**fields) == wanted
    for name, request_id in [("o/1", None), ("o/2", "r")]:
        with pytest.raises(AlreadyExists), store.write() as tx:
            tx.operations.create(**{**fields, "name": name, "request_id": request_id})
    with store.read() as reader:
        assert reader.operations.unfinished() == [wanted]


def test_operations_are_listed_in_the_order_they_were_made(store: Store) -> None:
    """Ascending by (create_us, name) under one parent, of one service or of all, in pages."""
    rows = [an_operation(f"o/{i}", create_us=i // 3) for i in range(9)]
    other = an_operation("o/x", service="dataflow.googleapis.com", create_us=1)
    with store.write() as tx:
        for row in [*reversed(rows), other, an_operation("o/y", parent="elsewhere")]:
            assert tx.operations.insert(row)
    service, parent = rows[0].service, rows[0].parent
    with store.read() as tx:
        assert tx.operations.list(parent, service) == rows
        assert tx.operations.list(parent) == [*rows[:6], other, *rows[6:]]
        pages = [tx.operations.list(parent, service, limit=4)]
        while pages[-1]:
            last = pages[-1][-1]
            pages.append(tx.operations.list(parent, service, (last.create_us, last.name), 4))
    assert [len(page) for page in pages] == [4, 4, 1, 0]
    assert [row for page in pages for row in page] == rows


def test_a_repeated_request_finds_its_operation(store: Store) -> None:
    """A request id is taken once per service and principal; operations without one never collide."""
    first = an_operation("o/1", request_id="r")
    with store.write() as tx:
        assert tx.operations.insert(first)
        assert not tx.operations.insert(an_operation("o/2", request_id="r"))
        assert tx.operations.insert(an_operation("o/3", request_id="r", principal="user:b@example.com"))
        assert tx.operations.insert(an_operation("o/4"))
        assert tx.operations.insert(an_operation("o/5"))
    with store.read() as tx:
        assert tx.operations.by_request_id(first.service, first.principal, "r") == first
        assert tx.operations.by_request_id(first.service, first.principal, "s") is None


def test_audit_records_are_numbered_without_a_gap(store: Store) -> None:
    """A rolled back append uses up no number, and a record that expects another number is refused."""
    with store.read() as tx:
        assert tx.audit.last() is None
    with store.write() as tx:
        assert [tx.audit.append(an_audit_row()) for _ in range(2)] == [1, 2]
    with pytest.raises(KeyError), store.write() as tx:
        assert tx.audit.append(an_audit_row()) == 3
        raise KeyError
    with store.write() as tx:
        assert tx.audit.append(an_audit_row(seq=3, body=b"third")) == 3
    with pytest.raises(ValueError, match="is 4, not 3"), store.write() as tx:
        tx.audit.append(an_audit_row(seq=3))
    with store.read() as tx:
        assert tx.audit.last() == an_audit_row(seq=3, body=b"third")
        assert [row.seq for row in tx.audit.walk()] == [1, 2, 3]


def test_audit_records_are_scanned_by_parent_log_and_time(store: Store) -> None:
    """Each filter narrows the scan, in both directions and in pages."""
    with store.write() as tx:
        for number in range(1, 31):
            tx.audit.append(
                an_audit_row(
                    parent=f"projects/{'abc'[number % 3]}",
                    log_name="activity" if number % 2 else "data_access",
                    time_us=number * 10,
                )
            )
    both = ["projects/a", "projects/b"]
    with store.read() as tx:
        mine = [row.seq for row in tx.audit.scan(parents=both)]
        assert mine == [number for number in range(1, 31) if number % 3 != 2]
        assert [row.seq for row in tx.audit.scan(parents=both, descending=True)] == mine[::-1]
        assert tx.audit.scan(parents=[]) == []
        assert tx.audit.scan(parents=both, log_names=[]) == []
        odd = tx.audit.scan(parents=["projects/a"], log_names=["activity"], since_us=90, until_us=210)
        assert [row.seq for row in odd] == [9, 15]
        page = tx.audit.scan(parents=both, after_seq=10, limit=3)
        assert [row.seq for row in page] == [12, 13, 15]
        page = tx.audit.scan(parents=both, after_seq=10, limit=3, descending=True)
        assert [row.seq for row in page] == [9, 7, 6]


def test_walking_the_chain_crosses_batches(store: Store) -> None:
    """Every record is seen once and in order, however many there are, from any number on."""
    with store.write() as tx:
        for _ in range(1203):
            tx.audit.append(an_audit_row())
    with store.read() as tx:
        assert [row.seq for row in tx.audit.walk()] == list(range(1, 1204))
        assert [row.seq for row in tx.audit.walk(704)] == list(range(704, 1204))


def test_meta_values_are_set_and_replaced(store: Store) -> None:
    """The last value put is the value got."""
    with store.write() as tx:
        tx.meta.put("seal", b"1")
        tx.meta.put("seal", b"\x00\xff")
    with store.read() as tx:
        assert tx.meta.get("seal") == b"\x00\xff"
        assert tx.meta.get("none") is None


def test_rows_do_not_show_their_bytes() -> None:
    """No repr carries a body, a wrapped key or a digest into a log."""
    rows = [
        a_keychain(wrapped_kek=b"CANARY"),
        an_operation(body=b"CANARY", arguments=b"CANARY"),
        an_audit_row(body=b"CANARY", previous=b"CANARY", digest=b"CANARY"),
    ]
    assert "CANARY" not in repr(rows)


TEXTS = st.text(st.sampled_from("/-.0aZé\ud7ff\ue000\U0010ffff"), max_size=4)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_ranges_mean_what_they_are_named_after(value: str, prefix: str) -> None:
    """A range of an index selects exactly the strings that begin with a prefix, or lie at or below a name."""
    with create_engine("sqlite://").connect() as connection:
        below, starting = connection.execute(
            select(at_or_below(column("v"), prefix), starting_with(column("v"), prefix)).select_from(
                select(literal(value).label("v")).subquery()
            )
        ).one()
    name = prefix.rstrip("/")
    assert bool(starting) is value.startswith(prefix)
    assert bool(below) is (value == name or value.startswith(f"{name}/"))
