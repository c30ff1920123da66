"""One server per data directory, and one per store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keystead.api.errors import FailedPrecondition
from keystead.store import DataDirLock, Store, open_store, server_lock
from tests.stores import PostgresForTests

HOLDER = """
import sys
from keystead.store import DataDirLock
DataDirLock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_server_is_told_who_has_the_directory(tmp_path: Path) -> None:
    """The error names the pid of the first; killed, the first leaves nothing that must be cleared away."""
    directory = tmp_path / "data"
    command = [sys.executable, "-c", HOLDER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FailedPrecondition, match=rf"pid {holder.pid}\) is using the data directory"):
            DataDirLock(directory).acquire()
        holder.kill()
    with DataDirLock(directory):
        assert (directory / "lock").read_text() == f"{os.getpid()}\n"


def test_a_data_directory_is_made_private(tmp_path: Path) -> None:
    """The directory has mode 0700 and the lock file 0600."""
    with DataDirLock(tmp_path / "data"):
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "data" / "lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_can_be_taken_again_after_release(tmp_path: Path) -> None:
    """It is held in the block only; a lock object cannot be taken twice, and releasing twice does no harm."""
    lock = DataDirLock(tmp_path)
    assert not lock.held()
    with lock:
        assert lock.held()
        with pytest.raises(RuntimeError):
            lock.acquire()
        with pytest.raises(FailedPrecondition):
            DataDirLock(tmp_path).acquire()
    lock.release()
    assert not lock.held()
    with DataDirLock(tmp_path):
        pass


def test_one_server_per_store(store: Store, store_url: str) -> None:
    """Also with data directories of their own, two servers cannot share a store; the first keeps working."""
    other = open_store(store_url)
    first, second = server_lock(store), server_lock(other)
    with first:
        assert first.held()
        with pytest.raises(FailedPrecondition, match=rf"Another Keystead server \(.*\b{os.getpid()}\b"):
            second.acquire()
        assert not second.held()
        with other.write() as tx:
            tx.meta.put("key", b"")
        with pytest.raises(RuntimeError):
            first.acquire()
    assert not first.held()
    with second:
        assert second.held()
    other.close()


def test_a_server_notices_that_it_lost_its_lock(pg_server: PostgresForTests, pg_url: str) -> None:
    """PostgreSQL gives the lock to another when the connection breaks; the first must learn it by asking."""
    store = open_store(pg_url)
    lock = server_lock(store)
    lock.acquire()
    pg_server.disconnect(pg_url)
    assert not lock.held()
    lock.release()
    with server_lock(store) as again:
        assert again.held()
    store.close()
