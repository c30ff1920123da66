"""A store in a PostgreSQL database: how it is opened, locked, checked and vacuumed.

Owns what differs from SQLite. Deliberately knows no table but the one it vacuums.
"""

from __future__ import annotations

import os
import socket

from sqlalchemy import URL, Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from keystead.api.errors import FailedPrecondition, Internal
from keystead.store.backend import WRITER_LOCK, quiet_logger
from keystead.store.faults import translate
from keystead.store.schema import key_material, metadata


class Postgresql:
    """A store in one PostgreSQL database (in the first schema of its search path)."""

    def __init__(self, url: URL, busy_seconds: float) -> None:
        # Host and port may also stand in the query; so may a password, which must not be shown.
        shown = {key: value for key, value in url.query.items() if key in ("host", "port")}
        self.where = url.set(password=None, query=shown).render_as_string()
        self._busy_ms = int(busy_seconds * 1000)
        # Connections say whose they are, for pg_stat_activity and for the error of a second server.
        named = (
            url if "application_name" in url.query else url.update_query_dict({"application_name": _whoami()})
        )
        try:
            self.engine = create_engine(
                named,
                isolation_level="READ COMMITTED",
                hide_parameters=True,
                logging_name=quiet_logger(),
                connect_args={"client_encoding": "utf8"},
                pool_size=16,
                max_overflow=16,
                pool_timeout=busy_seconds,
                pool_pre_ping=True,
            )
        except ModuleNotFoundError:
            raise FailedPrecondition(
                "A PostgreSQL store needs the driver psycopg: install keystead[postgresql]."
            ) from None
        event.listen(self.engine, "connect", self._configure)
        self.reading: Engine = self.engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        # READ COMMITTED and not a snapshot: a snapshot is taken by the first statement, which waits for the
        # writer before, and would show the store as it was before that one committed.
        self.writing: Engine = self.engine.execution_options(isolation_level="READ COMMITTED")

    def _configure(self, connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        try:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{self._busy_ms}ms",))
            # An answered call is on the disk, whatever the server's default.
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        finally:
            cursor.close()
        connection.commit()

    def exists(self) -> bool:
        return True

    def prepare(self) -> None:
        try:
            with self.reading.connect() as connection:
                encoding = connection.scalar(text("SHOW server_encoding"))
        except DBAPIError as error:
            raise translate(error, self.where) from None
        if encoding != "UTF8":
            raise FailedPrecondition(
                f"The database {self.where} must have the encoding UTF8, not {encoding}."
            )

    def lock_writers(self, connection: Connection) -> None:
        """One writer at a time, as on SQLite: the hash chain of the audit log is a total order, so two
        writing transactions could not both commit anyway, and a gapless count must know the last."""
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})

    def scrub(self) -> None:
        """Vacuums key_material: the space of deleted rows that no transaction can see any more is freed for
        reuse, and the row pointers are cleared.

        PostgreSQL does not overwrite. The bytes may stay in the page until new rows take their place, and
        they stay in the write-ahead log, its archive, replicas and base backups for as long as those are
        kept. What protects them there is that they are wrapped under the root key.
        """
        try:
            # VACUUM refuses to run inside a transaction.
            autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            with autocommit.connect() as connection:
                connection.execute(text(f"VACUUM {key_material.name}"))
        except DBAPIError as error:
            raise translate(error, self.where) from None

    def check(self) -> list[str]:
        """Reads every page of every table, which verifies their checksums where the cluster has them."""
        found: list[str] = []
        for table in metadata.sorted_tables:
            try:
                with self.reading.connect() as connection:
                    # A whole row, so that values kept out of line are read as well.
                    for _ in connection.execution_options(yield_per=1000).execute(select(table)):
                        pass
            except DBAPIError as error:
                fault = translate(error, self.where)
                if not isinstance(fault, Internal):
                    raise fault from None
                found.append(f"{table.name}: {fault.message}")
        return found


def _whoami() -> str:
    return f"keystead {os.getpid()}@{socket.gethostname()}"[:63]
