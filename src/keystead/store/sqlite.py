"""SECURITY: deleted key material leaves the file, and no other user of the host can read it.

Owns: how a SQLite store is opened, locked, checked and scrubbed. `secure_delete` overwrites deleted bytes
with zeros in the database, `scrub` empties the write-ahead log that still has them, `temp_store` keeps sorted
rows out of temporary files, and the files have mode 0600. What a file system or a drive keeps of blocks that
were given up is out of reach from here. Deliberately knows no table.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path
from typing import cast

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from keystead.api.errors import FailedPrecondition, Internal, Unavailable
from keystead.store.backend import quiet_logger
from keystead.store.faults import BUSY, translate

_OLDEST = (3, 35, 0)  # RETURNING
_BEGIN = "keystead_begin"


class Sqlite:
    """A store in one file, with its write-ahead log beside it."""

    def __init__(self, url: URL, busy_seconds: float) -> None:
        if not url.database or url.database == ":memory:" or url.query:
            raise FailedPrecondition("A SQLite store is a file: sqlite:////absolute/path/to/store.db")
        self.path = Path(url.database).absolute()
        self.where = str(self.path)
        self.engine = create_engine(
            url.set(drivername="sqlite+pysqlite", database=self.where),
            hide_parameters=True,
            logging_name=quiet_logger(),
            pool_size=16,
            max_overflow=16,
            pool_timeout=busy_seconds,
            connect_args={"timeout": busy_seconds},
        )
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)
        # BEGIN takes no lock before its first read. BEGIN IMMEDIATE takes the write lock at once: a
        # transaction that reads first and locks later fails whenever another has written in between.
        self.reading: Engine = self.engine.execution_options(**{_BEGIN: "BEGIN"})
        self.writing: Engine = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    def exists(self) -> bool:
        return self.path.exists()

    def prepare(self) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise FailedPrecondition(
                f"SQLite {oldest} or newer is needed; this Python has {sqlite3.sqlite_version}."
            )
        try:
            self._create_private()
        except OSError as error:
            raise FailedPrecondition(f"The store {self.where} cannot be opened: {error.strerror}.") from None

    def _create_private(self) -> None:
        """The file with mode 0600 before SQLite first opens it: its log and index files copy the mode."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FailedPrecondition(f"The store {self.where} is not a regular file.")
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def lock_writers(self, connection: Connection) -> None:
        """BEGIN IMMEDIATE has done it."""

    def scrub(self) -> None:
        """Moves the log into the database and cuts it to nothing. Raises Unavailable while a reader still
        needs the log: the deleted bytes are then still in it, and the caller must come back."""
        try:
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                ((blocked, _, _),) = cursor.fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise translate(DBAPIError(None, None, error), self.where) from None
        if blocked:
            raise Unavailable(BUSY)

    def check(self) -> list[str]:
        try:
            with self.reading.connect() as connection:
                found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check")]
        except DBAPIError as error:
            fault = translate(error, self.where)
            if isinstance(fault, Internal):
                return [fault.message]
            raise fault from None
        return [] if found == ["ok"] else [f"{self.where}: {line}" for line in found]


def _configure(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    """Settings that hold for one connection (the log mode excepted), so every new one gets them."""
    # The driver would begin transactions by its own rules; `_begin` does instead (SQLAlchemy's documentation,
    # "Using SQLAlchemy to emit BEGIN in lieu of SQLite's transaction control").
    cast(sqlite3.Connection, connection).isolation_level = None
    cursor = connection.cursor()
    try:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "secure_delete=ON",
            "foreign_keys=ON",
            "temp_store=MEMORY",
            "trusted_schema=OFF",
        ):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))
