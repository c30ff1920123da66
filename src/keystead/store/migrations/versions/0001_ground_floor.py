"""The first schema.

There is no downgrade: below this lies an empty database, and emptying one must never be a typing error.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Creates every table."""
    _resources()
    _policies_and_material()
    _keychains()
    _operations()
    _audit()


def _name(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, NAME, nullable=nullable)


def _bytes(name: str, *, nullable: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary(), nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _resources() -> None:
    op.create_table(
        "resources",
        _name("name"),
        _name("kind"),
        _name("parent"),
        _name("sort"),
        _bytes("body"),
        _bytes("sealed", nullable=True),
        _number("revision"),
        _number("due", nullable=True),
        _name("alias", nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_resources"),
    )
    op.create_index("ix_resources_kind_parent_sort", "resources", ["kind", "parent", "sort"], unique=True)
    op.create_index("ix_resources_kind_name", "resources", ["kind", "name"])
    op.create_index("ix_resources_alias", "resources", ["alias"], unique=True)
    op.create_index(
        "ix_resources_kind_due",
        "resources",
        ["kind", "due", "name"],
        sqlite_where=sa.text("due IS NOT NULL"),
        postgresql_where=sa.text("due IS NOT NULL"),
    )


def _policies_and_material() -> None:
    op.create_table(
        "policies",
        _name("resource"),
        _bytes("body"),
        _number("revision"),
        sa.PrimaryKeyConstraint("resource", name="pk_policies"),
    )
    op.create_table(
        "key_material",
        _name("name"),
        _bytes("wrapped"),
        sa.PrimaryKeyConstraint("name", name="pk_key_material"),
    )
    op.create_table(
        "counters",
        _name("name"),
        _number("value"),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.create_table(
        "meta",
        _name("key"),
        _bytes("value"),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )


def _keychains() -> None:
    op.create_table(
        "keychains",
        _name("resource"),
        _name("service"),
        _name("resource_type"),
        _name("kms_key"),
        _name("key_version"),
        _bytes("wrapped_kek"),
        _name("location"),
        _name("project"),
        _number("create_us"),
        _number("revision"),
        sa.PrimaryKeyConstraint("resource", name="pk_keychains"),
    )
    op.create_index("ix_keychains_kms_key_resource", "keychains", ["kms_key", "resource"])
    op.create_index("ix_keychains_service_resource", "keychains", ["service", "resource"])


def _operations() -> None:
    op.create_table(
        "operations",
        _name("name"),
        _name("service"),
        _name("parent"),
        _name("kind"),
        _name("target"),
        sa.Column("done", sa.Boolean(), nullable=False),
        _bytes("body"),
        _bytes("arguments"),
        _name("principal"),
        _name("request_id", nullable=True),
        _number("create_us"),
        sa.PrimaryKeyConstraint("name", name="pk_operations"),
    )
    op.create_index(
        "ix_operations_parent_service_create_us_name",
        "operations",
        ["parent", "service", "create_us", "name"],
    )
    op.create_index("ix_operations_done_create_us_name", "operations", ["done", "create_us", "name"])
    op.create_index(
        "ix_operations_service_principal_request_id",
        "operations",
        ["service", "principal", "request_id"],
        unique=True,
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", SEQUENCE, autoincrement=False, nullable=False),
        _name("log_name"),
        _name("parent"),
        _number("time_us"),
        _name("insert_id"),
        _bytes("body"),
        _bytes("previous"),
        _bytes("digest"),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
    )
    op.create_index("ix_audit_parent_seq", "audit", ["parent", "seq"])
    op.create_index("ix_audit_parent_time_us_seq", "audit", ["parent", "time_us", "seq"])
