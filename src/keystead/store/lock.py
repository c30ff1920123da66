"""One server per store.

Owns: the lock on a data directory, and the lock on a store that lies elsewhere. Both vanish with the process
that holds them, however it ends; neither is a file whose mere existence means something.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from keystead.api.errors import FailedPrecondition
from keystead.store.backend import SERVER_LOCK
from keystead.store.engine import Store
from keystead.store.faults import translate
from keystead.store.postgresql import Postgresql
from keystead.store.sqlite import Sqlite


class _FileLock:
    """An flock on a file that holds the pid of its owner."""

    def __init__(self, path: Path, subject: str) -> None:
        self.path = path
        self._subject = subject
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock without waiting. Raises FailedPrecondition, naming the owner, if another has it."""
        if self._descriptor is not None:
            raise RuntimeError(f"{self.path} is already locked by this object")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise FailedPrecondition(
                f"Another Keystead server (pid {owner or 'unknown'}) is using {self._subject}. Stop it first."
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor = descriptor

    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._descriptor is not None

    def release(self) -> None:
        """Gives the lock back. The file stays: without it two servers could lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class DataDirLock(_FileLock):
    """The right to use a data directory, held by `acquire` or a `with` block: an flock on its file `lock`.

    Makes the directory (mode 0700) if it is not there. A child that is forked, not spawned, shares the lock.
    """

    def __init__(self, path: str | Path) -> None:
        directory = Path(path)
        super().__init__(directory / "lock", f"the data directory {directory}")
        self._directory = directory

    def acquire(self) -> None:
        """Takes the lock without waiting. Raises FailedPrecondition, naming the owner, if another has it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        super().acquire()


class _SessionLock:
    """A PostgreSQL advisory lock, held by one connection of its own until it is closed or lost."""

    def __init__(self, backend: Postgresql) -> None:
        self._backend = backend
        self._connection: Connection | None = None

    def acquire(self) -> None:
        """Takes the lock without waiting. Raises FailedPrecondition, naming the owner, if another has it."""
        if self._connection is not None:
            raise RuntimeError("the store is already locked by this object")
        connection: Connection | None = None
        try:
            connection = self._backend.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # Detached: the pool neither counts it nor gives it to anyone, and closing it ends the session.
            connection.detach()
            if connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": SERVER_LOCK}):
                self._connection = connection
                return
            owner = _owner(connection)
        except DBAPIError as error:
            raise translate(error, self._backend.where) from None
        finally:
            if connection is not None and self._connection is None:
                connection.close()
        raise FailedPrecondition(
            f"Another Keystead server ({owner}) is using the store {self._backend.where}. Stop it first."
        )

    def held(self) -> bool:
        """Whether the lock is still held: a server that lost this connection lost its lock, and must stop."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            return False
        return True

    def release(self) -> None:
        """Gives the lock back."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                connection.close()
            except DBAPIError:
                connection.invalidate()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


ServerLock = _FileLock | _SessionLock


def server_lock(store: Store) -> ServerLock:
    """The right to serve this store, wherever it lies: two data directories could name one store.

    Used as a `with` block, or with `acquire`, `held` and `release`. On PostgreSQL an advisory lock of a
    session of its own; on SQLite an flock on a file beside the database.
    """
    backend = store.backend
    if isinstance(backend, Postgresql):
        return _SessionLock(backend)
    if isinstance(backend, Sqlite):
        return _FileLock(backend.path.with_name(backend.path.name + ".lock"), f"the store {backend.where}")
    raise TypeError(f"no server lock for {type(backend).__name__}")


def _owner(connection: Connection) -> str:
    """What PostgreSQL shows of the session that holds the lock."""
    row = connection.execute(
        text(
            "SELECT a.application_name, a.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
            " WHERE l.locktype = 'advisory' AND l.granted AND l.database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND ((l.classid::bigint << 32) | l.objid::bigint) = :key AND l.objsubid = 1"
        ),
        {"key": SERVER_LOCK},
    ).first()
    return "unknown" if row is None else f"{row[0]}, PostgreSQL session {row[1]}"
