"""Opening a store, and its transactions.

Owns: the life of a transaction (begin, commit or nothing at all, then the epoch, then what follows the
commit), the rule of one writer at a time, and the epoch that caches are keyed by. Deliberately knows no table
and no engine: the repositories and the back ends do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from keystead.api.errors import FailedPrecondition, Unavailable
from keystead.store.backend import Backend
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


class Store:
    """An open store; safe to use from many threads, each with its own transactions.

    `epoch` rises after every committed write of this process that touched resources, policies or key
    material. A cache keeps what it read together with the epoch it saw before reading, and drops it once the
    epoch is another; never the epoch seen after reading, which may be newer than what was read.
    """

    def __init__(self, backend: Backend, busy_seconds: float) -> None:
        self.backend = backend
        self.epoch = 0  # a plain attribute: read on every cached call
        self._writer = _WriterLock(busy_seconds)

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

    def _commit(self, connection: Connection, session: Session) -> None:
        # A statement failed and the caller went on: SQLite may have rolled back already, and a commit would
        # keep only what came after.
        if session.failure is not None:
            raise session.failure
        try:
            connection.commit()
        except FAULTS as error:
            self.epoch += session.touched  # the commit may have arrived all the same: no cache may outlive it
            if getattr(error, "connection_invalidated", False):
                raise Unavailable(UNKNOWN_OUTCOME) from None
            raise translate(error, self.where) from None
        self.epoch += session.touched


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
