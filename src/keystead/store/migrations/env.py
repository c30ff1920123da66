"""Run by Alembic: applies the migrations to the connection that `keystead.store.migrate` passes."""

from __future__ import annotations

from alembic import context

from keystead.store.migrate import VERSION_TABLE
from keystead.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    compare_type=True,
)
# The caller has begun the transaction that holds the writers' lock, and commits it.
context.run_migrations()
