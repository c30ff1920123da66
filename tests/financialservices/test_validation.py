"""An import says everything that is wrong with a table, by reason, column and count."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.rpc import error_details_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.financialservices.digests import Digester, JoinKeys, PrimaryKeys
from keystead.financialservices.failures import DatasetValidationError, Reason
from keystead.financialservices.tables import TABLES
from keystead.financialservices.validation import MAX_SUPPLEMENTARY_IDS, missing_tables

from .samples import SAMPLES, arrow, event, imported, link, party, rows_of, source_of, supplement, transaction

Found = set[tuple[Reason, str, int]]


def found(tmp_path: Path, table: str, data: Any) -> Found:
    """(reason, field, count) of every check that fails."""
    try:
        imported(source_of(tmp_path, table, data), table)
    except DatasetValidationError as error:
        return {(failure.reason, failure.field, failure.count) for failure in error.failures}
    return set()


@pytest.mark.parametrize("table", SAMPLES)
def test_valid_tables_are_written_with_the_columns_of_the_model(tmp_path: Path, table: str) -> None:
    """What comes out has every row and value that went in, and exactly the model's columns."""
    data = arrow(table, rows_of(table))
    written = imported(source_of(tmp_path, table, data), table)
    assert written.schema.remove_metadata() == TABLES[table].arrow
    assert written.select(data.schema.names).to_pylist() == data.to_pylist()


ABSENT = [
    ("party", "exit_date"),
    ("party", "party_id"),
    ("account_party_link", "role"),
    ("transaction", "book_time"),
    ("transaction", "normalized_booked_amount"),
    ("risk_case_event", "type"),
    ("party_supplementary_data", "supplementary_data_payload"),
]


@pytest.mark.parametrize(("table", "column"), ABSENT)
def test_a_missing_mandatory_column_is_reported(tmp_path: Path, table: str, column: str) -> None:
    """COLUMN_EXISTENCE names each MANDATORY column that is not there."""
    data = arrow(table, rows_of(table)).drop_columns([column])
    assert found(tmp_path, table, data) == {(Reason.COLUMN_EXISTENCE, column, 1)}


def test_a_missing_member_of_a_struct_is_reported(tmp_path: Path) -> None:
    """COLUMN_EXISTENCE reaches into structs; members that are only RECOMMENDED may be missing."""
    data = arrow("transaction", rows_of("transaction"))
    count = data.num_rows
    partial = pa.array([{"units": 1, "nanos": 0}] * count)
    wrong = data.set_column(7, "normalized_booked_amount", partial)
    expected = {(Reason.COLUMN_EXISTENCE, "normalized_booked_amount.currency_code", 1)}
    assert found(tmp_path, "transaction", wrong) == expected
    bare = pa.array([{"account_id": "A1"}] * count)
    column = data.schema.names.index("counterparty_account")
    written = imported(
        source_of(tmp_path, "transaction", data.set_column(column, "counterparty_account", bare)),
        "transaction",
    )
    assert written.column("counterparty_account").to_pylist()[0]["region_code"] is None


WRONG_TYPES = [
    ("party", "party_id", pa.array([1])),
    ("party", "validity_start_time", pa.array([dt.datetime(2025, 1, 1)])),
    ("party", "validity_start_time", pa.array(["2025-01-01T00:00:00Z"])),
    ("party", "is_entity_deleted", pa.array(["false"])),
    ("party", "join_date", pa.array(["2025-01-01"])),
    ("party", "nationalities", pa.array(["DE"])),
    ("party", "nationalities", pa.array([{"region_code": "DE"}])),
    ("party", "assets_value_range", pa.array([5])),
    ("party_supplementary_data", "party_id", pa.array([b"P1"])),
]


@pytest.mark.parametrize(("table", "column", "values"), WRONG_TYPES)
def test_a_column_of_another_type_is_reported(tmp_path: Path, table: str, column: str, values: Any) -> None:
    """UNSUPPORTED_DATA_TYPE names each column whose type cannot be what the model wants."""
    data = arrow(table, rows_of(table, 1))
    data = data.set_column(data.schema.names.index(column), column, values)
    assert found(tmp_path, table, data) == {(Reason.UNSUPPORTED_DATA_TYPE, column, 1)}


def test_equivalent_types_are_taken(tmp_path: Path) -> None:
    """Dictionary, large and view texts, narrow integers and other units of time become the model's types."""
    data = arrow("transaction", rows_of("transaction"))
    other = data
    casts = {
        "transaction_id": pa.large_string(),
        "type": pa.dictionary(pa.int8(), pa.string()),
        "book_time": pa.timestamp("ns", tz="Europe/Berlin"),
        "normalized_booked_amount": pa.struct(
            [
                ("nanos", pa.int32()),
                ("units", pa.int16()),
                ("currency_code", pa.string()),
                ("extra", pa.int8()),
            ]
        ),
    }
    for name, kind in casts.items():
        index = other.schema.names.index(name)
        if name == "normalized_booked_amount":
            column = pa.array(other.column(name).to_pylist(), kind)
        else:
            column = other.column(name).combine_chunks().cast(kind)
        other = other.set_column(index, name, column)
    one = imported(source_of(tmp_path / "a", "transaction", data), "transaction")
    assert imported(source_of(tmp_path / "b", "transaction", other), "transaction") == one


def test_unknown_columns_are_dropped(tmp_path: Path) -> None:
    """A column the model does not have is not imported, whatever it holds."""
    data = arrow("party", rows_of("party")).append_column("password", pa.array(["x", "y", "z"]))
    assert "password" not in imported(source_of(tmp_path, "party", data), "party").schema.names


def amount(**changes: Any) -> dict[str, Any]:
    return {"normalized_booked_amount": {"currency_code": "EUR", "units": 1, "nanos": 0} | changes}


NULL, VALUE = Reason.NOT_NULL_COLUMN_WITH_NULLS, Reason.UNSUPPORTED_VALUE
NEGATIVE = Reason.NEGATIVE_TRANSACTION_NORMALIZED_BOOKED_AMOUNT
MONEY = "normalized_booked_amount"

BAD_ROWS: list[tuple[str, list[dict[str, Any]], Found]] = [
    ("party", [party(1, party_id=None), party(2)], {(NULL, "party_id", 1)}),
    ("party", [party(1, type=None), party(2, type="PERSON")], {(NULL, "type", 1), (VALUE, "type", 1)}),
    ("party", [party(1, civil_status_code="LONELY")], {(VALUE, "civil_status_code", 1)}),
    ("party", [party(1, nationalities=[{"region_code": None}])], {(NULL, "nationalities.region_code", 1)}),
    (
        "party",
        [party(1, assets_value_range={"start_amount": {"currency_code": None, "units": 1, "nanos": 0}})],
        {(NULL, "assets_value_range.start_amount.currency_code", 1)},
    ),
    ("account_party_link", [link(1, role="OWNER"), link(2, role=None)], {(VALUE, "role", 1)}),
    ("transaction", [transaction(1, type="GIFT"), transaction(2, type="wire")], {(VALUE, "type", 2)}),
    ("transaction", [transaction(1, direction="")], {(VALUE, "direction", 1)}),
    ("transaction", [transaction(1, **amount(units=None))], {(NULL, f"{MONEY}.units", 1)}),
    ("transaction", [transaction(1, **amount(units=-1)), transaction(2)], {(NEGATIVE, MONEY, 1)}),
    ("transaction", [transaction(1, **amount(nanos=-1))], {(NEGATIVE, MONEY, 1)}),
    ("transaction", [transaction(1, **amount(nanos=10**9))], {(VALUE, f"{MONEY}.nanos", 1)}),
    (
        "transaction",
        [transaction(1), transaction(2), transaction(3, **amount(currency_code="USD"))],
        {(Reason.UNNORMALIZED_BOOKED_AMOUNT_CURRENCY, f"{MONEY}.currency_code", 1)},
    ),
    (
        "transaction",
        [transaction(1), transaction(1), transaction(1), transaction(2)],
        {(Reason.DUPLICATE_PRIMARY_KEY, "transaction_id, validity_start_time", 2)},
    ),
    ("risk_case_event", [event(1, type="AML_OOPS"), event(2, risk_case_id=None)],
     {(VALUE, "type", 1), (NULL, "risk_case_id", 1)}),
    ("risk_case_event", [event(1), event(1)], {(Reason.DUPLICATE_PRIMARY_KEY, "risk_case_event_id", 1)}),
    (
        "party_supplementary_data",
        [supplement(1, supplementary_data_payload={"value": float("nan")})],
        {(Reason.NAN_VALUE_IN_FLOAT_COLUMN, "supplementary_data_payload.value", 1)},
    ),
    (
        "party_supplementary_data",
        [supplement(1, party_supplementary_data_id=text) for text in ("_x", "a-b", "", "9_ok")],
        {(Reason.SUPPLEMENTARY_DATA_COLUMN_NAMES, "party_supplementary_data_id", 3)},
    ),
    (
        "party_supplementary_data",
        [supplement(number) for number in range(MAX_SUPPLEMENTARY_IDS + 2)],
        {(Reason.EXCESSIVE_PARTY_SUPPLEMENTARY_DATA_IDS, "party_supplementary_data_id", 102)},
    ),
    ("party", [], {(Reason.EMPTY_TABLE, "", 1)}),
    ("party_supplementary_data", [], {(Reason.EMPTY_TABLE, "", 1)}),
]  # fmt: skip


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
@pytest.mark.parametrize(("table", "rows", "expected"), BAD_ROWS)
def test_bad_values_are_counted(
    tmp_path: Path, table: str, rows: list[dict[str, Any]], expected: Found, file_format: str
) -> None:
    """Every check reports its reason, its field and how often it failed, from either format."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    data = arrow(table, [{name: row.get(name) for name in columns} for row in rows])
    with pytest.raises(DatasetValidationError) as caught:
        imported(source_of(tmp_path, table, data, file_format), table)
    got = {(failure.reason, failure.field, failure.count) for failure in caught.value.failures}
    assert got == expected
    assert all(failure.table == table for failure in caught.value.failures)


def test_versions_of_a_row_are_no_duplicates(tmp_path: Path) -> None:
    """The same id at another validity_start_time is another row: tables are bitemporal."""
    later = dt.datetime(2025, 4, 1, tzinfo=dt.UTC)
    rows = [transaction(1), transaction(1, validity_start_time=later)]
    assert found(tmp_path, "transaction", arrow("transaction", rows)) == set()


def test_failures_become_the_details_of_the_status(tmp_path: Path) -> None:
    """Each failure is one google.rpc.ErrorInfo with the documented metadata, and holds no value."""
    rows = [transaction(1, type="secret-type"), transaction(2, type=None)]
    with pytest.raises(DatasetValidationError) as caught:
        imported(source_of(tmp_path, "transaction", arrow("transaction", rows)), "transaction")
    error = caught.value
    infos = [detail for detail in error.details if isinstance(detail, error_details_pb2.ErrorInfo)]
    assert len(infos) == len(error.details) == 2
    assert {info.domain for info in infos} == {"financialservices.googleapis.com"}
    details = {info.reason: dict(info.metadata) for info in infos}
    assert details["NOT_NULL_COLUMN_WITH_NULLS"] == {
        "count": "1",
        "data_table": "transaction",
        "data_field": "type",
        "description": "One or more NOT NULL columns contain one or more null values.",
        "test": "type IS NULL",
    }
    values = '"CARD", "CASH", "CHECK", "CRYPTO", "OTHER", "WIRE"'
    assert details["UNSUPPORTED_VALUE"]["test"] == f"type NOT IN ({values})"
    assert "secret-type" not in str(error) + str(details)
    assert error.status == "FAILED_PRECONDITION"


def test_missing_mandatory_tables_are_reported() -> None:
    """TABLE_EXISTENCE names the mandatory tables a dataset leaves out, and not the optional one."""
    failures = missing_tables(["party", "transaction"])
    assert [(failure.reason, failure.table) for failure in failures] == [
        (Reason.TABLE_EXISTENCE, "account_party_link"),
        (Reason.TABLE_EXISTENCE, "risk_case_event"),
    ]
    assert missing_tables(name for name in TABLES if name != "party_supplementary_data") == []


IDS = st.one_of(st.none(), st.text(alphabet="ab\x00é", max_size=3))
LINES = st.lists(
    st.tuples(
        IDS,
        st.sampled_from(["WIRE", "CASH", "NOPE", None]),
        st.one_of(st.none(), st.integers(-5, 5)),
        st.one_of(st.none(), st.integers(-2, 2), st.just(10**9)),
        st.sampled_from(["EUR", "USD"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES)
def test_counts_are_those_of_a_plain_loop(tmp_path: Path, lines: list[tuple[Any, ...]]) -> None:
    """Vectorised checks count what a loop over the rows counts, for any mixture of faults."""
    rows = [
        transaction(
            1, transaction_id=key, type=kind, **amount(units=units, nanos=nanos, currency_code=currency)
        )
        for key, kind, units, nanos, currency in lines
    ]
    keys = [key or "" for key, *_ in lines]  # NULL keys are reported as NULL; as keys they count as empty
    currencies = [currency for *_, currency in lines]
    expected = {
        (NULL, "transaction_id", sum(key is None for key, *_ in lines)),
        (NULL, "type", sum(kind is None for _, kind, *_ in lines)),
        (NULL, f"{MONEY}.units", sum(units is None for _, _, units, *_ in lines)),
        (NULL, f"{MONEY}.nanos", sum(nanos is None for *_, nanos, _ in lines)),
        (VALUE, "type", sum(kind == "NOPE" for _, kind, *_ in lines)),
        (VALUE, f"{MONEY}.nanos", sum(nanos == 10**9 for *_, nanos, _ in lines)),
        (NEGATIVE, MONEY, sum((units or 0) < 0 or (nanos or 0) < 0 for _, _, units, nanos, _ in lines)),
        (
            Reason.UNNORMALIZED_BOOKED_AMOUNT_CURRENCY,
            f"{MONEY}.currency_code",
            min(currencies.count("EUR"), currencies.count("USD")),
        ),
        (
            Reason.DUPLICATE_PRIMARY_KEY,
            "transaction_id, validity_start_time",
            len(keys) - len(set(keys)),
        ),
    }
    assert found(tmp_path, "transaction", arrow("transaction", rows)) == {one for one in expected if one[2]}


@given(texts=st.lists(st.text(max_size=12), max_size=40), start=st.integers(0, 5))
def test_digests_are_equal_exactly_for_equal_texts(texts: list[str], start: int) -> None:
    """Digests tell texts apart as equality does, whatever slice of an array they are in."""
    digests = Digester().texts(pa.array(texts, pa.string())[start:]).tolist()
    assert len(digests) == len(texts[start:])
    pairs = dict(zip(texts[start:], digests, strict=True))
    assert [pairs[text] for text in texts[start:]] == digests
    assert len(set(digests)) == len(set(texts[start:]))


def test_duplicates_are_found_across_batches() -> None:
    """A key in one batch and again in a later one is a duplicate, among very many that are not."""
    table = TABLES["risk_case_event"]
    keys = PrimaryKeys(table)
    for part in range(4):
        ids = [f"event-{number}" for number in range(part * 50_000, part * 50_000 + 50_001)]
        keys.add(pa.RecordBatch.from_pydict({"risk_case_event_id": pa.array(ids)}))
    (failure,) = keys.failures()
    assert failure.count == 3


def test_references_must_resolve(tmp_path: Path) -> None:
    """Ids that no row of the table they refer to has are counted, whatever the order of the imports."""
    data = {
        "transaction": [transaction(n, account_id=f"A{n % 3}") for n in range(9)],
        "risk_case_event": [event(1), event(2, party_id="nobody"), event(3, party_id=None)],
        "account_party_link": [link(1), link(2), link(3, party_id="P9")],
        "party_supplementary_data": [supplement(1), supplement(2, party_id="nobody")],
        "party": [party(1), party(2)],
    }
    keys = JoinKeys()
    for table, rows in data.items():
        source = source_of(tmp_path, table, arrow(table, rows))
        try:
            imported(source, table, keys)
        except DatasetValidationError as error:
            assert [failure.reason for failure in error.failures] == [NULL]
    assert {(f.reason, f.table, f.field, f.count) for f in keys.failures()} == {
        (Reason.JOINABILITY_ISSUE_ACCOUNT_ID, "transaction", "account_id", 3),
        (Reason.JOINABILITY_ISSUE_PARTY_ID, "risk_case_event", "party_id", 1),
        (Reason.JOINABILITY_ISSUE_PARTY_ID, "account_party_link", "party_id", 1),
        (Reason.JOINABILITY_ISSUE_PARTY_ID, "party_supplementary_data", "party_id", 1),
    }
