"""Opening a store, and its transactions.

Owns: the life of a transaction (begin, commit or nothing at all, then the epoch, then what follows the
commit), the rule of one writer at a time, and the epoch that caches are keyed by. `Store` is the process that
writes, `Follower` another one beside it that only reads. Deliberately knows no table and no engine: the
repositories and the back ends do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from keystead.api.call import NeedsMain
from keystead.api.errors import FailedPrecondition, Unavailable
from keystead.store.backend import Backend
from keystead.store.epoch import EpochReader, EpochWriter
from keystead.store.faults import BUSY, FAULTS, UNKNOWN_OUTCOME, translate
from keystead.store.migrate import upgrade
from keystead.store.postgresql import Postgresql
from keystead.store.session import Session
from keystead.store.sqlite import Sqlite
from keystead.store.transactions import ReadTx, WriteTx

_LOG = logging.getLogger(__name__)

BUSY_SECONDS = 10.0


def open_store(url: str, *, create: bool = True, busy_seconds: float = BUSY_SECONDS) -> Store:
    """Opens the store at `url` and brings its schema up to date.

    `url` is `sqlite:////absolute/path/store.db` or `postgresql+psycopg://user@host/database`. With `create`
    false the store must be there already. A call that waits longer than `busy_seconds` for another writer
    gets Unavailable.

    Raises FailedPrecondition if the URL is of neither kind, there is no store, or a newer Keystead wrote it;
    Unavailable if the server cannot be reached; Internal if the file is damaged.
    """
    backend = _backend(url, busy_seconds)
    try:
        if not create and not backend.exists():
            raise FailedPrecondition(f"There is no store at {backend.where}.")
        backend.prepare()
        upgrade(backend, create=create)
    except BaseException:
        backend.engine.dispose()
        raise
    return Store(backend, busy_seconds)


def open_follower(url: str, epoch: EpochReader, *, busy_seconds: float = BUSY_SECONDS) -> Follower:
    """Opens a store that another process has open as `Store` and keeps so; `epoch` is that one's.

    Raises FailedPrecondition if the URL is of neither kind.
    """
    return Follower(_backend(url, busy_seconds), epoch)


def _backend(url: str, busy_seconds: float) -> Backend:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise FailedPrecondition("The store's URL cannot be read.") from None  # it may hold a password
    if parsed.get_backend_name() == "sqlite":
        return Sqlite(parsed, busy_seconds)
    if parsed.get_backend_name() == "postgresql":
        return Postgresql(parsed.set(drivername="postgresql+psycopg"), busy_seconds)
    raise FailedPrecondition(
        f"A store is kept in sqlite or postgresql, not in {parsed.get_backend_name()!r}."
    )


class _Readable:
    """An open store; safe to use from many threads, each with its own transactions."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def where(self) -> str:
        """The store as an operator knows it: its file, or its URL without the password."""
        return self.backend.where

    @contextmanager
    def read(self) -> Iterator[ReadTx]:
        """A reading transaction: one consistent snapshot. Never waits for a writer."""
        connection = self._begin(self.backend.reading)
        try:
            yield ReadTx(Session(connection, self.where))
        finally:
            _end(connection)

    def check(self) -> list[str]:
        """What is wrong with the database, one finding a line; empty if it is sound. Reads all of it."""
        return self.backend.check()

    def close(self) -> None:
        """Closes every idle connection. No transaction may be open."""
        self.backend.engine.dispose()

    def _begin(self, engine: Engine, first: Callable[[Connection], None] | None = None) -> Connection:
        connection: Connection | None = None
        try:
            connection = engine.connect()
            connection.begin()
            if first is not None:
                first(connection)
        except FAULTS as error:
            if connection is not None:
                _end(connection)
            raise translate(error, self.where) from None
        return connection


class Store(_Readable):
    """The store of the one process that writes it.

    `epoch` rises after every committed write that touched resources, policies or key material. A cache keeps
    what it read together with the epoch it saw before reading, and drops it once the epoch is another; never
    the epoch seen after reading, which may be newer than what was read.
    """

    def __init__(self, backend: Backend, busy_seconds: float) -> None:
        super().__init__(backend)
        self.epoch = 0  # a plain attribute: read on every cached call
        self._moving = threading.Lock()
        self._shared: EpochWriter | None = None
        self._writer = _WriterLock(busy_seconds)

    def share_epoch(self) -> int:
        """A descriptor by which other processes follow the epoch (`EpochReader`); the same each time."""
        with self._moving:
            if self._shared is None:
                self._shared = EpochWriter(self.epoch)
            return self._shared.descriptor

    def move_epoch(self) -> None:
        """Have every cache, of this process and of those that follow it, read again."""
        with self._moving:
            self.epoch += 1
            if self._shared is not None:
                self._shared.publish(self.epoch)

    @contextmanager
    def write(self) -> Iterator[WriteTx]:
        """The writing transaction. Only one is open at a time, in this process or any other.

        Leaving the block commits, moves the epoch, then runs what was given to `after_commit`. An exception
        rolls everything back. Raises Unavailable if the store is busy, ResourceExhausted if the disk is full,
        and RuntimeError when this thread already has one open.
        """
        with self._writer:
            connection = self._begin(self.backend.writing, self.backend.lock_writers)
            try:
                session = Session(connection, self.where)
                tx = WriteTx(session)
                yield tx
                tx.resources.flush()
                self._commit(connection, session)
            finally:
                _end(connection)
        # Outside of the lock, so that a callback may open a transaction of its own.
        for callback in tx.callbacks:
            try:
                callback()
            except Exception:
                _LOG.exception("a callback after a commit failed; the commit stands")

    def scrub(self) -> None:
        """Takes the bytes of deleted key material from the disk, as far as the engine can; called after the
        transaction that deleted them.

        SQLite: nothing of them is left in the database or its log. Raises Unavailable while an open reading
        transaction still needs the log; call again. PostgreSQL: see `Postgresql.scrub` for what remains.
        """
        with self._writer:
            self.backend.scrub()

    def close(self) -> None:
        """Closes every idle connection, and the shared epoch. No transaction may be open."""
        super().close()
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _commit(self, connection: Connection, session: Session) -> None:
        # A statement failed and the caller went on: SQLite may have rolled back already, and a commit would
        # keep only what came after.
        if session.failure is not None:
            raise session.failure
        try:
            connection.commit()
        except FAULTS as error:
            if session.touched:  # the commit may have arrived all the same: no cache may outlive it
                self.move_epoch()
            if getattr(error, "connection_invalidated", False):
                raise Unavailable(UNKNOWN_OUTCOME) from None
            raise translate(error, self.where) from None
        if session.touched:
            self.move_epoch()


class Follower(_Readable):
    """The store of a process that reads what another one writes. `epoch` is the writer's: what is kept of the
    store by the rule of `Store` is as fresh here as there."""

    def __init__(self, backend: Backend, epoch: EpochReader) -> None:
        super().__init__(backend)
        self._cell = epoch.cell

    @property
    def epoch(self) -> int:
        return self._cell[0]

    def write(self) -> AbstractContextManager[WriteTx]:
        """Raises NeedsMain: the process that is followed is the only one that writes."""
        raise NeedsMain


def _end(connection: Connection) -> None:
    """Gives the connection back; what is not committed is rolled back."""
    try:
        connection.close()
    except DBAPIError:  # it is lost, and its transaction with it
        connection.invalidate()
        connection.close()


class _WriterLock:
    """One writer at a time in this process, in front of the database's own lock: waiting here is in memory
    and holds no connection."""

    def __init__(self, busy_seconds: float) -> None:
        self._lock = threading.Lock()
        self._busy_seconds = busy_seconds
        self._owner: int | None = None

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner == me:
            raise RuntimeError("this thread already has a writing transaction open")
        if not self._lock.acquire(timeout=self._busy_seconds):
            raise Unavailable(BUSY)
        self._owner = me

    def __exit__(self, *_: object) -> None:
        self._owner = None
        self._lock.release()
