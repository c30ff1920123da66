"""A full disk, a damaged file, a lost server: the answer is clear and nothing is half done."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from keystead.api.errors import (
    Aborted,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from keystead.store import Store, open_store
from tests.stores import PostgresForTests, a_resource, an_audit_row

FULL = "The disk that holds the store is full; nothing was changed. Free space and retry."


def _limit_pages(store: Store, pages: int) -> None:
    """A SQLite database that may not grow beyond `pages`: to SQLite the same as a full disk."""

    def limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}").close()

    event.listen(store.backend.engine, "connect", limit)
    store.close()  # every connection from now on is a new one


def test_nothing_is_half_done_on_a_full_disk(sqlite_store: Store) -> None:
    """The transaction that filled the disk is gone whole, and with space there is life again."""
    with sqlite_store.write() as tx:
        tx.meta.put("before", b"1")
    _limit_pages(sqlite_store, 60)
    epoch = sqlite_store.epoch
    with pytest.raises(ResourceExhausted) as full, sqlite_store.write() as tx:
        tx.audit.append(an_audit_row())
        for number in range(1000):
            tx.resources.insert(a_resource(f"t/{number}", body=bytes(1000)))
    assert full.value.message == FULL
    assert sqlite_store.epoch == epoch
    with sqlite_store.read() as reader:
        assert reader.meta.get("before") == b"1"
        assert reader.resources.count("Thing", "t") == len(reader.resources.list("Thing", "t")) == 0
        assert reader.audit.last() is None
    assert sqlite_store.check() == []
    with sqlite_store.write() as tx:
        assert tx.resources.insert(a_resource("t/small"))


def test_a_full_disk_that_a_caller_ignores_commits_nothing(sqlite_store: Store) -> None:
    """SQLite rolls back by itself when the disk is full; what a careless caller writes then is not kept."""
    _limit_pages(sqlite_store, 60)
    with pytest.raises(ResourceExhausted), sqlite_store.write() as tx:
        tx.resources.insert(a_resource("t/first"))
        with pytest.raises(ResourceExhausted):
            tx.material.put("big", bytes(1_000_000))
        with pytest.raises(ResourceExhausted):
            tx.resources.insert(a_resource("t/second"))
    with sqlite_store.read() as reader:
        assert reader.resources.count("Thing", "t") == len(reader.resources.list("Thing", "t")) == 0


LIMITED = """
import resource, sys
from keystead.api.errors import ResourceExhausted
from keystead.store import Resource, open_store

url, path = sys.argv[1:]
store = open_store(url)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
kept = 0
try:
    while True:
        with store.write() as tx:
            for half in "ab":
                name = f"t/{kept}{half}"
                assert tx.resources.insert(Resource(name, "Thing", "t", name, bytes(3000)))
        kept += 1
except ResourceExhausted as error:
    print(error.message)
assert kept > 10, kept
def count():
    with store.read() as tx:
        found = tx.resources.count("Thing", "t")
        assert found == len(tx.resources.list("Thing", "t"))
        return found
assert count() == 2 * kept, (count(), kept)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
with store.write() as tx:
    assert tx.resources.insert(Resource("t/after", "Thing", "t", "after", b""))
assert count() == 2 * kept + 1
assert store.check() == []
print(kept)
"""


def test_a_file_that_may_not_grow_keeps_what_was_answered(sqlite_url: str, tmp_path: Path) -> None:
    """With a real limit on file sizes, every answered write is there and no other, also after reopening."""
    command = [sys.executable, "-c", LIMITED, sqlite_url, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    message, kept = done.stdout.splitlines()
    assert "nothing was changed" in message
    store = open_store(sqlite_url)
    with store.read() as reader:
        assert reader.resources.count("Thing", "t") == 2 * int(kept) + 1
    store.close()


def _filled(url: str) -> None:
    store = open_store(url)
    with store.write() as tx:
        for number in range(200):
            tx.resources.insert(a_resource(f"t/{number}", body=b"CANARY" * 100))
    store.close()


def test_a_damaged_page_is_found_and_named(sqlite_url: str, tmp_path: Path) -> None:
    """Reading damaged pages is an Internal error, and `check` reports it; both name the file only."""
    _filled(sqlite_url)
    path = tmp_path / "store.db"
    content = bytearray(path.read_bytes())
    for page in range(0, len(content), 4096):
        if b"CANARY" in content[page : page + 4096]:
            content[page : page + 200] = b"CANARY-0" * 25
    path.write_bytes(content)
    store = open_store(sqlite_url)
    findings = store.check()
    assert findings
    with pytest.raises(Internal) as damaged, store.read() as tx:
        tx.resources.list("Thing", "t")
    assert str(path) in damaged.value.message
    assert all(str(path) in finding for finding in findings)
    assert "CANARY" not in damaged.value.message + "".join(findings)
    store.close()


def test_a_file_that_is_no_database_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    """The error names the file, and the file is left as it is."""
    path = tmp_path / "store.db"
    path.write_bytes(b"this is not a database, but a letter" * 300)
    before = path.read_bytes()
    with pytest.raises(Internal, match=r"store\.db is damaged"):
        open_store(sqlite_url)
    assert path.read_bytes() == before


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """What cannot be opened is said so before anything is made."""
    with pytest.raises(FailedPrecondition, match="cannot be opened"):
        open_store(f"sqlite:///{tmp_path}")


def test_a_sound_store_has_no_findings(store: Store) -> None:
    """`check` reads everything and finds nothing wrong."""
    with store.write() as tx:
        tx.resources.insert(a_resource("t/a"))
    assert store.check() == []


def test_damage_in_postgresql_is_found(pg_server: PostgresForTests, pg_url: str) -> None:
    """Reading a damaged page is an Internal error, and `check` reports it under the name of its table."""
    store = open_store(pg_url)
    with store.write() as tx:
        tx.material.put("k/1", b"CANARY")
    with store.backend.engine.connect() as connection:
        directory = connection.scalar(text("SHOW data_directory"))
        file = connection.scalar(text("SELECT pg_relation_filepath('key_material')"))
    store.close()
    damaged_url = pg_server.copy_damaged(pg_url, Path(directory) / file)
    store = open_store(damaged_url)
    (finding,) = store.check()
    assert finding.startswith("key_material: ")
    with pytest.raises(Internal, match="is damaged") as damaged, store.read() as tx:
        tx.material.list()
        tx.material.get("k/1")
    assert "CANARY" not in damaged.value.message + finding
    store.close()
    pg_server.drop(damaged_url)


def test_errors_carry_no_values(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the error, nor what it came from, nor a log line holds what was written."""
    with caplog.at_level(logging.DEBUG), store.write() as tx:
        tx.resources.insert(a_resource("t/a"))
    with store.backend.engine.begin() as connection:
        connection.execute(text("DROP TABLE key_material"))
    with caplog.at_level(logging.DEBUG), pytest.raises(Internal) as failed, store.write() as tx:
        tx.material.put("k/1", b"CANARY")
    error: BaseException | None = failed.value
    while error is not None:
        assert "CANARY" not in repr(error) + str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "CANARY" not in caplog.text


def test_what_the_driver_quotes_stays_out_of_tracebacks(pg_url: str) -> None:
    """PostgreSQL's own message for a refused row repeats the row; no traceback of ours does."""
    store = open_store(pg_url)
    with store.backend.engine.begin() as connection:
        connection.execute(text("ALTER TABLE meta ADD CONSTRAINT small CHECK (length(key) < 5)"))
    with pytest.raises(Aborted) as refused, store.write() as tx:
        tx.meta.put("CANARY", b"")
    assert "CANARY" not in "".join(traceback.format_exception(refused.value)).replace('put("CANARY"', "")
    store.close()


def test_no_log_level_shows_rows(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """With everything logged at DEBUG, neither what is written nor what is read is."""
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "sqlalchemy.engine"):
        store = open_store(store_url)
        with store.write() as tx:
            tx.material.put("k/1", b"CANARY")
        with store.read() as reader:
            assert reader.material.get("k/1") == b"CANARY"
        store.close()
    assert "CANARY" not in caplog.text


def test_a_lost_connection_is_unavailable_and_recovers(pg_server: PostgresForTests, pg_url: str) -> None:
    """A transaction whose server connection is cut fails whole; the next call finds a new connection."""
    store = open_store(pg_url)
    with pytest.raises(Unavailable), store.write() as tx:
        tx.resources.insert(a_resource("t/a"))
        pg_server.disconnect(pg_url)
        tx.resources.insert(a_resource("t/b"))
    with pytest.raises(Unavailable, match="not known"), store.write() as tx:
        tx.meta.put("c", b"")  # nothing of it is left to be written when the transaction ends
        pg_server.disconnect(pg_url)
    with store.write() as tx:
        assert tx.resources.count("Thing", "t") == 0
        assert tx.resources.list("Thing", "t") == []
        assert tx.resources.insert(a_resource("t/a"))
    store.close()


def test_text_that_postgresql_cannot_hold_is_the_callers_mistake(pg_url: str) -> None:
    """A NUL in a name is InvalidArgument and not a failure of the store."""
    store = open_store(pg_url)
    with pytest.raises(InvalidArgument), store.read() as tx:
        tx.resources.get("t/\x00")
    store.close()
