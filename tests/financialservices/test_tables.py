"""The input data model holds together and says what the reference says."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from keystead.financialservices.tables import TABLES, Field, Level, TableSchema


def walk(fields: tuple[Field, ...]) -> Iterator[Field]:
    for field in fields:
        yield field
        yield from walk(field.fields)


def test_the_tables_are_those_a_dataset_may_name() -> None:
    """A Dataset's table_specs may name exactly the five tables of the API's documentation."""
    assert list(TABLES) == [
        "party",
        "account_party_link",
        "transaction",
        "risk_case_event",
        "party_supplementary_data",
    ]
    optional = [table.name for table in TABLES.values() if table.level is not Level.MANDATORY]
    assert optional == ["party_supplementary_data"]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_keys_are_required_columns(table: TableSchema) -> None:
    """Every column of a primary key exists, is REQUIRED, MANDATORY and a text or an instant."""
    for name in table.primary_key:
        field = table.columns[name]
        assert field.required
        assert field.mandatory
        assert pa.types.is_string(field.type) or pa.types.is_timestamp(field.type)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_fields_are_well_formed(table: TableSchema) -> None:
    """Names are unique, allowed values are those of texts, and a REQUIRED column is MANDATORY."""
    assert len(table.columns) == len(table.fields) == len(table.arrow)
    for field in walk(table.fields):
        assert field.values is None or pa.types.is_string(field.kind)
        assert not field.required or field.mandatory
        assert pa.types.is_list(field.type) == field.repeated


def test_transaction_is_as_the_reference_has_it() -> None:
    """Types, allowed values and nested columns of transaction match the AML input data model."""
    table = TABLES["transaction"]
    assert table.columns["type"].values == {"WIRE", "CASH", "CHECK", "CARD", "OTHER", "CRYPTO"}
    assert table.columns["direction"].values == {"DEBIT", "CREDIT"}
    assert table.arrow.field("book_time").type == pa.timestamp("us", tz="UTC")
    amount = table.arrow.field("normalized_booked_amount").type
    assert [(amount.field(i).name, str(amount.field(i).type)) for i in range(3)] == [
        ("currency_code", "string"),
        ("units", "int64"),
        ("nanos", "int64"),
    ]
    assert table.primary_key == ("transaction_id", "validity_start_time")


def test_roles_and_case_events_are_as_the_reference_has_them() -> None:
    """The values that carry labels and ownership are exactly the documented ones."""
    assert TABLES["account_party_link"].columns["role"].values == {
        "PRIMARY_HOLDER",
        "SECONDARY_HOLDER",
        "SUPPLEMENTARY_HOLDER",
    }
    events = TABLES["risk_case_event"].columns["type"].values
    assert events is not None
    assert len(events) == 11
    assert {"AML_PROCESS_START", "AML_PROCESS_END", "AML_SAR", "AML_EXIT"} <= events
