"""The AML input data model as data: every table, its columns, keys and allowed values.

Source: "AML input data model", Google Cloud AML AI reference. Owns what a table must look like; it reads no
file (`sources`), checks no row (`validation`) and knows no resource of the API.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
STRING = pa.string()
INT64 = pa.int64()
FLOAT64 = pa.float64()
BOOL = pa.bool_()
DATE = pa.date32()


class Level(enum.Enum):
    """Whether a table or column must be delivered: only MANDATORY ones may not be left out."""

    MANDATORY = "MANDATORY"
    RECOMMENDED = "RECOMMENDED"
    EXPERIMENTAL = "EXPERIMENTAL"


@dataclass(frozen=True)
class Field:
    """One column, or one member of a STRUCT.

    `required`: the value may not be NULL where its parent is present (mode REQUIRED of the model).
    `level`: whether the column itself may be missing from the input. `values`: the allowed values, or
    None for free text. `fields`: the members of a STRUCT. `repeated`: an ARRAY of the type.
    """

    name: str
    kind: Any = STRING
    required: bool = False
    level: Level = Level.RECOMMENDED
    values: frozenset[str] | None = None
    fields: tuple[Field, ...] = ()
    repeated: bool = False

    @cached_property
    def type(self) -> Any:
        """The Arrow type; nullable throughout, because NULLs are reported by validation, not by a writer."""
        one = pa.struct([(member.name, member.type) for member in self.fields]) if self.fields else self.kind
        return pa.list_(one) if self.repeated else one

    @property
    def mandatory(self) -> bool:
        return self.level is Level.MANDATORY


@dataclass(frozen=True)
class TableSchema:
    """One table: its columns in the model's order and the columns that together identify a row."""

    name: str
    fields: tuple[Field, ...]
    primary_key: tuple[str, ...]
    level: Level = Level.MANDATORY

    @cached_property
    def arrow(self) -> Any:
        """The `pyarrow.Schema` every stored copy of the table has, absent optional columns included."""
        return pa.schema([(field.name, field.type) for field in self.fields])

    @cached_property
    def columns(self) -> Mapping[str, Field]:
        return MappingProxyType({field.name: field for field in self.fields})


def _text(name: str, *values: str, required: bool = False, level: Level = Level.RECOMMENDED) -> Field:
    return Field(name, STRING, required, level, frozenset(values) or None)


def _must(name: str, kind: Any = STRING, *values: str) -> Field:
    """REQUIRED and MANDATORY: the column must be there, and no value of it NULL."""
    return Field(name, kind, required=True, level=Level.MANDATORY, values=frozenset(values) or None)


def _struct(name: str, *fields: Field, level: Level = Level.RECOMMENDED, repeated: bool = False) -> Field:
    return Field(name, level=level, fields=fields, repeated=repeated)


_MANDATORY, _EXPERIMENTAL = Level.MANDATORY, Level.EXPERIMENTAL

_MONEY = (_must("currency_code"), _must("units", INT64), _must("nanos", INT64))

_ADDRESS = (
    _text("address_line"),
    _text("street"),
    _text("building_number"),
    _text("post_office_box"),
    _text("post_code"),
    _text("town"),
    _text("subregion"),
    _text("region_code", level=_MANDATORY),
)

_VERSION = (Field("is_entity_deleted", BOOL), _text("source_system"))

_REGION = (_must("region_code"),)

PARTY = TableSchema(
    "party",
    (
        _must("party_id"),
        _must("validity_start_time", TIMESTAMP),
        *_VERSION,
        _must("type", STRING, "COMPANY", "CONSUMER"),
        _text("name", level=_EXPERIMENTAL),
        _struct("addresses", *_ADDRESS, level=_EXPERIMENTAL, repeated=True),
        Field("birth_date", DATE),
        Field("establishment_date", DATE),
        _text("occupation"),
        _text("gender"),
        _struct("nationalities", *_REGION, repeated=True),
        _struct("residencies", *_REGION, repeated=True),
        Field("exit_date", DATE, level=_MANDATORY),
        Field("join_date", DATE, level=_MANDATORY),
        _struct("assets_value_range", _struct("start_amount", *_MONEY), _struct("end_amount", *_MONEY)),
        _text(
            "civil_status_code",
            "SINGLE", "MARRIED", "LEGALLY_DIVORCED", "DIVORCED", "WIDOW", "STABLE_UNION", "SEPARATED",
            "UNKNOWN",
        ),
        _struct(
            "phone_numbers",
            _text("type", "PERSONAL", "CORPORATE"),
            _text("phone"),
            _text("obfuscated_phone"),
            _text("region_code"),
            level=_EXPERIMENTAL,
            repeated=True,
        ),
        _struct(
            "email_addresses",
            _text("type", "PERSONAL", "CORPORATE"),
            _text("email"),
            _text("obfuscated_email"),
            _text("region_code"),
            level=_EXPERIMENTAL,
            repeated=True,
        ),
        # An ISCED level. Its spelling is not checked: refusing a right value would cost more than it saves.
        _text("education_level_code"),
    ),
    primary_key=("party_id", "validity_start_time"),
)  # fmt: skip

ACCOUNT_PARTY_LINK = TableSchema(
    "account_party_link",
    (
        _must("account_id"),
        _must("party_id"),
        _must("validity_start_time", TIMESTAMP),
        *_VERSION,
        _text("role", "PRIMARY_HOLDER", "SECONDARY_HOLDER", "SUPPLEMENTARY_HOLDER", level=_MANDATORY),
    ),
    primary_key=("account_id", "party_id", "validity_start_time"),
)

TRANSACTION = TableSchema(
    "transaction",
    (
        _must("transaction_id"),
        _must("validity_start_time", TIMESTAMP),
        *_VERSION,
        _must("type", STRING, "WIRE", "CASH", "CHECK", "CARD", "OTHER", "CRYPTO"),
        _must("direction", STRING, "DEBIT", "CREDIT"),
        _must("account_id"),
        _struct(
            "counterparty_account",
            _text("account_id", level=_MANDATORY),
            _text("counterparty_name", level=_EXPERIMENTAL),
            _struct("addresses", *_ADDRESS, level=_EXPERIMENTAL, repeated=True),
            _text("region_code"),
            level=_MANDATORY,
        ),
        Field("book_time", TIMESTAMP, level=_MANDATORY),
        _struct("normalized_booked_amount", *_MONEY, level=_MANDATORY),
        _struct(
            "ip_address",
            _text("type", "V4", "V6"),
            _text("ip"),
            _text("obfuscated_ip"),
            _text("region_code"),
            Field("is_vpn", BOOL),
            level=_EXPERIMENTAL,
        ),
    ),
    primary_key=("transaction_id", "validity_start_time"),
)

RISK_CASE_EVENT = TableSchema(
    "risk_case_event",
    (
        _must("risk_case_event_id"),
        _must("event_time", TIMESTAMP),
        _must(
            "type",
            STRING,
            "AML_SUSPICIOUS_ACTIVITY_START", "AML_SUSPICIOUS_ACTIVITY_END", "AML_PROCESS_START",
            "AML_PROCESS_END", "AML_ALERT_GOOGLE", "AML_ALERT_LEGACY", "AML_ALERT_ADHOC",
            "AML_ALERT_EXPLORATORY", "AML_ALERT_EXTERNAL", "AML_SAR", "AML_EXIT",
        ),
        _must("party_id"),
        _must("risk_case_id"),
        _struct("risk_typology_measurements", _must("risk_typology_id"), repeated=True),
    ),
    primary_key=("risk_case_event_id",),
)  # fmt: skip

PARTY_SUPPLEMENTARY_DATA = TableSchema(
    "party_supplementary_data",
    (
        _must("party_supplementary_data_id"),
        _must("validity_start_time", TIMESTAMP),
        *_VERSION,
        _must("party_id"),
        _struct("supplementary_data_payload", _must("value", FLOAT64), level=_MANDATORY),
    ),
    primary_key=("party_supplementary_data_id", "party_id", "validity_start_time"),
    level=Level.RECOMMENDED,
)

TABLES: Mapping[str, TableSchema] = MappingProxyType(
    {
        table.name: table
        for table in (PARTY, ACCOUNT_PARTY_LINK, TRANSACTION, RISK_CASE_EVENT, PARTY_SUPPLEMENTARY_DATA)
    }
)
"""The tables a Dataset's `table_specs` may name, parties first, in the order they are best imported."""
