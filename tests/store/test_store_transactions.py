"""The contract of transactions: all or nothing, one writer, snapshots, the epoch, what follows a commit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from keystead.api.errors import Aborted, Unavailable
from keystead.store import ReadTx, Store, WriteTx, open_store
from tests.stores import a_keychain, a_resource, an_audit_row, an_operation

TOUCHING: dict[str, Callable[[WriteTx], object]] = {
    "resource inserted": lambda tx: tx.resources.insert(a_resource("t/new")),
    "resource updated": lambda tx: tx.resources.update(a_resource("t/a", body=b"new")),
    "resource deleted": lambda tx: tx.resources.delete("t/a"),
    "policy put": lambda tx: tx.policies.put("t/new", b""),
    "policy deleted": lambda tx: tx.policies.delete("t/a"),
    "material put": lambda tx: tx.material.put("t/new", b""),
    "material deleted": lambda tx: tx.material.delete("t/a"),
}
NOT_TOUCHING: dict[str, Callable[[WriteTx], object]] = {
    "nothing": lambda tx: None,
    "reading": lambda tx: tx.resources.get("t/a"),
    "nothing deleted": lambda tx: tx.resources.delete("t/none") or tx.material.delete("t/none"),
    "audit": lambda tx: tx.audit.append(an_audit_row()),
    "operation": lambda tx: tx.operations.insert(an_operation()),
    "keychain": lambda tx: tx.keychains.insert(a_keychain()),
    "meta": lambda tx: tx.meta.put("key", b""),
}


def _fill(store: Store) -> None:
    with store.write() as tx:
        tx.resources.insert(a_resource("t/a"))
        tx.policies.put("t/a", b"")
        tx.material.put("t/a", b"")


@pytest.mark.parametrize("act", TOUCHING.values(), ids=TOUCHING)
def test_the_epoch_rises_with_what_caches_hold(store: Store, act: Callable[[WriteTx], object]) -> None:
    """A committed write of resources, policies or material moves the epoch; a rolled back one does not."""
    _fill(store)
    before = store.epoch
    with pytest.raises(KeyError), store.write() as tx:
        act(tx)
        raise KeyError
    assert store.epoch == before
    with store.write() as tx:
        act(tx)
        assert store.epoch == before
    assert store.epoch > before


@pytest.mark.parametrize("act", NOT_TOUCHING.values(), ids=NOT_TOUCHING)
def test_the_epoch_stays_for_all_else(store: Store, act: Callable[[WriteTx], object]) -> None:
    """An audited read, an operation's progress or a re-wrapped KEK drops no cache."""
    _fill(store)
    before = store.epoch
    with store.write() as tx:
        act(tx)
    assert store.epoch == before


def test_nothing_remains_of_a_transaction_that_failed(store: Store) -> None:
    """An exception undoes every repository, and what was to follow the commit does not run."""
    called: list[str] = []
    with pytest.raises(ZeroDivisionError), store.write() as tx:
        tx.after_commit(lambda: called.append("ran"))
        tx.resources.insert(a_resource("t/a"))
        tx.policies.put("t/a", b"")
        tx.material.put("t/a", b"")
        tx.keychains.insert(a_keychain("t/a"))
        tx.operations.insert(an_operation("o/1"))
        tx.audit.append(an_audit_row())
        tx.meta.put("key", b"")
        _ = 1 / 0
    with store.read() as reader:
        assert reader.resources.get("t/a") is None
        assert reader.policies.get("t/a") is None
        assert reader.material.get("t/a") is None
        assert reader.keychains.get("t/a") is None
        assert reader.operations.get("o/1") is None
        assert reader.audit.last() is None
        assert reader.meta.get("key") is None
    assert called == []


def test_what_follows_a_commit_sees_it_and_runs_in_order(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Callbacks run after the epoch moved, may write, and one that fails is logged and stops no other."""
    seen: list[tuple[str, int, bool]] = []

    def look(name: str) -> None:
        with store.write() as tx:
            seen.append((name, store.epoch, tx.resources.get("t/a") is not None))

    def fail() -> None:
        raise RuntimeError("callback broke")

    before = store.epoch
    with caplog.at_level(logging.ERROR), store.write() as tx:
        tx.after_commit(lambda: look("first"))
        tx.after_commit(fail)
        tx.after_commit(lambda: look("second"))
        tx.resources.insert(a_resource("t/a"))
        assert seen == []
    assert seen == [("first", before + 1, True), ("second", before + 1, True)]
    assert "callback broke" in caplog.text


def test_a_reader_sees_one_state_of_the_store(store: Store) -> None:
    """What is committed after a reader's first read is not in its snapshot, in no table."""
    _fill(store)
    with store.read() as tx:
        assert tx.resources.count("Thing", "t") == 1
        with store.write() as writer:
            writer.resources.insert(a_resource("t/b"))
            writer.policies.put("t/b", b"")
        assert tx.resources.count("Thing", "t") == 1
        assert tx.policies.get("t/b") is None
    with store.read() as tx:
        assert tx.resources.count("Thing", "t") == 2


def test_a_reader_does_not_wait_for_the_writer(store: Store) -> None:
    """While a writer is open, readers go on and see the state before it."""
    with store.write() as writer:
        writer.resources.insert(a_resource("t/a"))
        with store.read() as tx:
            assert tx.resources.get("t/a") is None
        assert writer.resources.get("t/a") is not None


def test_a_reader_has_no_changing_method() -> None:
    """The types of a reading transaction offer nothing that writes, so a function given one cannot."""
    changing = {"insert", "update", "delete", "put", "append", "after_commit"}
    for name, reader in ReadTx.__annotations__.items():
        offered = set(dir(ReadTx.__init__.__globals__[reader]))
        assert not offered & changing, name
    assert not set(dir(ReadTx)) & changing


def test_a_thread_cannot_open_two_writers(store: Store) -> None:
    """It would wait for itself; instead it raises at once, and the first goes on."""
    with store.write() as tx:
        with pytest.raises(RuntimeError, match="already"), store.write():
            pass
        tx.resources.insert(a_resource("t/a"))
    with store.read() as reader:
        assert reader.resources.get("t/a") is not None


def test_a_writer_that_waits_too_long_is_told(store_url: str) -> None:
    """A second writer, of this server or another, gets Unavailable, and gets in when the first is done."""
    first, second = open_store(store_url, busy_seconds=0.2), open_store(store_url, busy_seconds=0.2)
    entered, leave = threading.Event(), threading.Event()

    def occupy() -> None:
        with first.write() as tx:
            tx.resources.insert(a_resource("t/a"))
            entered.set()
            assert leave.wait(30)

    with ThreadPoolExecutor(1) as pool:
        occupant = pool.submit(occupy)
        assert entered.wait(30)
        for store in (first, second):
            with pytest.raises(Unavailable, match=r"The store is busy; retry the call\."), store.write():
                pass
        leave.set()
        occupant.result(30)
    with second.write() as tx:
        assert tx.resources.get("t/a") is not None
    first.close()
    second.close()


def test_concurrent_increments_are_all_kept(store_url: str) -> None:
    """Eight threads of two servers raise one counter; each sees the one before, and none is lost."""
    stores = [open_store(store_url, busy_seconds=60), open_store(store_url, busy_seconds=60)]
    with stores[0].write() as tx:
        tx.resources.insert(a_resource("t/counter", body=b"0"))

    def increment(store: Store) -> None:
        for _ in range(20):
            with store.write() as tx:
                row = tx.resources.get("t/counter")
                assert row is not None
                tx.resources.update(
                    a_resource("t/counter", body=b"%d" % (int(row.body) + 1), revision=row.revision)
                )
                tx.audit.append(an_audit_row())

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(increment, stores[i % 2]) for i in range(8)]:
            done.result(120)
    with stores[0].read() as reader:
        row = reader.resources.get("t/counter")
        assert row is not None
        assert (row.body, row.revision) == (b"160", 161)
        assert [record.seq for record in reader.audit.walk()] == list(range(1, 161))
    for store in stores:
        store.close()


def test_a_transaction_with_a_failed_statement_is_not_committed(store: Store) -> None:
    """A caller that swallows the error of a statement cannot commit the rest of what it did."""
    with store.write() as tx:
        tx.resources.insert(a_resource("t/a", alias="x"))
        tx.resources.insert(a_resource("t/b"))
    with pytest.raises(Aborted), store.write() as tx:
        tx.meta.put("half", b"1")
        with pytest.raises(Aborted):
            tx.resources.update(a_resource("t/b", alias="x"))
        with pytest.raises(Aborted):
            tx.meta.put("other half", b"1")
    with store.read() as reader:
        assert reader.meta.get("half") is None
        assert reader.meta.get("other half") is None
