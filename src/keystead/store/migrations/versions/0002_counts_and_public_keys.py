"""Counts and numbers of resources under a parent, and a place for public keys beside key material."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds the table `children`, filled from the resources that are there, and the column of public keys."""
    op.create_table(
        "children",
        sa.Column("kind", NAME, nullable=False),
        sa.Column("parent", NAME, nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "parent", name="pk_children"),
        sqlite_with_rowid=False,
    )
    _fill()
    op.add_column("key_material", sa.Column("public", sa.LargeBinary(), nullable=True))


def _fill() -> None:
    resources = sa.table("resources", sa.column("kind"), sa.column("parent"), sa.column("sort"))
    children = sa.table(
        "children", sa.column("kind"), sa.column("parent"), sa.column("count"), sa.column("last")
    )
    # The sort key of a version is its number with leading zeros. Inside of the aggregate, so that no other
    # sort key is read as a number.
    number = sa.case((resources.c.kind == "CryptoKeyVersion", sa.cast(resources.c.sort, sa.BigInteger())))
    counted = sa.select(
        resources.c.kind,
        resources.c.parent,
        sa.func.count(),
        sa.func.coalesce(sa.func.max(number), sa.func.count()),
    ).group_by(resources.c.kind, resources.c.parent)
    op.execute(children.insert().from_select(["kind", "parent", "count", "last"], counted))
