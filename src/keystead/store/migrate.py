"""Bringing a store to the schema of this program, and refusing one it does not know.

Owns: the Alembic configuration, built here and not read from a file, so that the migrations work from an
installed package. Deliberately goes forward only: a store is taken back by restoring a backup.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from keystead.api.errors import FailedPrecondition
from keystead.store.backend import Backend
from keystead.store.faults import translate
from keystead.store.schema import metadata

# Not Alembic's default name: the database may be shared with an application that uses that one.
VERSION_TABLE = "keystead_schema"


def upgrade(backend: Backend, *, create: bool) -> None:
    """Runs what migrations are missing, in one transaction under the writers' lock.

    Raises FailedPrecondition if the database was written by a newer Keystead, holds tables that are not
    Keystead's own under its names, or is empty and `create` is false.
    """
    try:
        with backend.reading.connect() as connection, connection.begin():
            if _is_current(backend, connection, create=create):
                return
        with backend.writing.connect() as connection, connection.begin():
            backend.lock_writers(connection)
            # Another process may have migrated while this one waited.
            if not _is_current(backend, connection, create=create):
                command.upgrade(configuration(connection), "head")
    except DBAPIError as error:
        raise translate(error, backend.where) from None


def configuration(connection: Connection) -> Config:
    """The Alembic configuration that migrates through an open connection."""
    config = Config()
    # A percent sign is an interpolation to Alembic's parser.
    location = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", location)
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def revision(connection: Connection) -> str | None:
    """The schema revision of the database; None if it never held a store."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def _is_current(backend: Backend, connection: Connection, *, create: bool) -> bool:
    stored = revision(connection)
    scripts = ScriptDirectory.from_config(configuration(connection))
    if stored is None:
        if not create:
            raise FailedPrecondition(f"There is no store at {backend.where}.")
        foreign = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
        if foreign:
            raise FailedPrecondition(
                f"The database {backend.where} is not a Keystead store, but has tables named"
                f" {', '.join(foreign)}. Give Keystead a database of its own."
            )
        return False
    known = {script.revision for script in scripts.walk_revisions()}
    if stored not in known:
        raise FailedPrecondition(
            f"The store {backend.where} has schema revision {stored}, which this version of Keystead does not"
            " know: a newer version wrote it. Upgrade Keystead, or restore a backup made before the upgrade."
        )
    return stored == scripts.get_current_head()
