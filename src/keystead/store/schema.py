"""The tables, as the newest migration leaves them.

Owns: names, types, keys and indices, for both engines. Deliberately creates nothing: the migrations do, and a
test holds that they arrive exactly here.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Lists are ordered and sought bytewise. SQLite does so by itself; PostgreSQL would use the locale of its
# database, in which "a-b" and "ab" may be neighbours and a page boundary falls elsewhere on another machine.
Name = Text().with_variant(Text(collation="C"), "postgresql")

# An INTEGER PRIMARY KEY is SQLite's own row id: the audit log is then stored in the order of its chain.
Sequence = BigInteger().with_variant(Integer(), "sqlite")

resources = Table(
    "resources",
    metadata,
    Column("name", Name, primary_key=True),
    Column("kind", Name, nullable=False),
    Column("parent", Name, nullable=False),
    Column("sort", Name, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("sealed", LargeBinary),
    Column("revision", BigInteger, nullable=False),
    Column("due", BigInteger),
    Column("alias", Name),
)
Index("ix_resources_kind_parent_sort", resources.c.kind, resources.c.parent, resources.c.sort, unique=True)
Index("ix_resources_kind_name", resources.c.kind, resources.c.name)
Index("ix_resources_alias", resources.c.alias, unique=True)
# Partial: of a million resources few are ever due, and the others should not pay for it.
Index(
    "ix_resources_kind_due",
    resources.c.kind,
    resources.c.due,
    resources.c.name,
    sqlite_where=resources.c.due.is_not(None),
    postgresql_where=resources.c.due.is_not(None),
)

# How many resources of a kind a parent has, and the highest number ever given under it.
children = Table(
    "children",
    metadata,
    Column("kind", Name, primary_key=True),
    Column("parent", Name, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    sqlite_with_rowid=False,  # there is one row for each key, and little in it but its own key
)

policies = Table(
    "policies",
    metadata,
    Column("resource", Name, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

key_material = Table(
    "key_material",
    metadata,
    Column("name", Name, primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("public", LargeBinary),
)

keychains = Table(
    "keychains",
    metadata,
    Column("resource", Name, primary_key=True),
    Column("service", Name, nullable=False),
    Column("resource_type", Name, nullable=False),
    Column("kms_key", Name, nullable=False),
    Column("key_version", Name, nullable=False),
    Column("wrapped_kek", LargeBinary, nullable=False),
    Column("location", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("create_us", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
Index("ix_keychains_kms_key_resource", keychains.c.kms_key, keychains.c.resource)
Index("ix_keychains_service_resource", keychains.c.service, keychains.c.resource)

operations = Table(
    "operations",
    metadata,
    Column("name", Name, primary_key=True),
    Column("service", Name, nullable=False),
    Column("parent", Name, nullable=False),
    Column("kind", Name, nullable=False),
    Column("target", Name, nullable=False),
    Column("done", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("arguments", LargeBinary, nullable=False),
    Column("principal", Name, nullable=False),
    Column("request_id", Name),
    Column("create_us", BigInteger, nullable=False),
)
Index(
    "ix_operations_parent_service_create_us_name",
    operations.c.parent,
    operations.c.service,
    operations.c.create_us,
    operations.c.name,
)
Index("ix_operations_done_create_us_name", operations.c.done, operations.c.create_us, operations.c.name)
# Both engines hold two NULLs apart, so operations without a request id never collide.
Index(
    "ix_operations_service_principal_request_id",
    operations.c.service,
    operations.c.principal,
    operations.c.request_id,
    unique=True,
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Sequence, primary_key=True, autoincrement=False),
    Column("log_name", Name, nullable=False),
    Column("parent", Name, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("insert_id", Name, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
)
Index("ix_audit_parent_seq", audit.c.parent, audit.c.seq)
Index("ix_audit_parent_time_us_seq", audit.c.parent, audit.c.time_us, audit.c.seq)

counters = Table(
    "counters",
    metadata,
    Column("name", Name, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", Name, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
