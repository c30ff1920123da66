"""Input tables are found below the root and nowhere else, and damaged ones are reported without quoting."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.financialservices.failures import DatasetValidationError, Reason
from keystead.financialservices.sources import (
    BATCH_ROWS,
    TableNotFoundError,
    TableSource,
    TableSources,
    TableSpecError,
)
from keystead.financialservices.tables import TABLES

from .samples import arrow, imported, party, put, rows_of, source_of, transaction

SECRET = "canary-customer-value"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "proj.data.party",
        "bq:proj.data.party",
        "gs://proj.data.party",
        "bq://proj.data",
        "bq://proj.data.party.more",
        "bq://proj.data.",
        "bq://..data.party",
        "bq://proj.data.../../etc/passwd",
        "bq://proj.data/../party.x",
        "bq://proj.data.par/ty",
        "bq://proj.data.par\\ty",
        "bq://proj.data.par\x00ty",
        "bq://proj.data.party\n",
        " bq://proj.data.party",
        "bq://proj.da-ta.party",
        "bq://Proj.data.party",
        "bq://proj.data.pärty",
        "bq://proj.data.-party",
        "bq://%2e%2e.data.party",
    ],
)
def test_other_forms_than_project_dataset_table_are_refused(tmp_path: Path, uri: str) -> None:
    """Only bq://project.dataset.table is a table specification."""
    with pytest.raises(TableSpecError):
        TableSources(tmp_path).resolve(uri)


@given(text=st.text(alphabet="./\\~ab%0\x00\n-_:", max_size=30))
def test_no_text_resolves_outside_the_root(text: str) -> None:
    """Whatever is asked for, the answer is an error when the root is empty."""
    with pytest.raises((TableSpecError, TableNotFoundError)):
        TableSources(Path("/nonexistent/root")).resolve(f"bq://{text}")


def test_a_table_is_found_as_parquet_csv_and_folder(tmp_path: Path) -> None:
    """One file of either format, or a folder of parts in the order of their names, stands for a table."""
    data = arrow("party", rows_of("party"))
    for file_format in ("parquet", "csv"):
        put(tmp_path, "party", data, file_format, name=f"one_{file_format}")
        put(tmp_path, "party", data, file_format, name=f"many_{file_format}/part-2")
        put(tmp_path, "party", data, file_format, name=f"many_{file_format}/part-10")
    (tmp_path / "proj/data/many_csv/_SUCCESS").touch()
    sources = TableSources(tmp_path)
    for file_format in ("parquet", "csv"):
        one = sources.resolve(f"bq://proj.data.one_{file_format}")
        many = sources.resolve(f"bq://proj.data.many_{file_format}")
        assert [part.name for part in one.parts] == [f"one_{file_format}.{file_format}"]
        assert [part.stem for part in many.parts] == ["part-10", "part-2"]
        assert one.file_format == many.file_format == file_format
        assert many.size_bytes == 2 * one.size_bytes > 0
        assert "party_id" in one.columns


def test_a_missing_table_is_not_found(tmp_path: Path) -> None:
    """A table nothing stands for is NOT_FOUND, and so is every table when no root is configured."""
    (tmp_path / "proj/data/empty").mkdir(parents=True)
    for uri in ("bq://proj.data.party", "bq://proj.data.empty", "bq://other.data.party"):
        with pytest.raises(TableNotFoundError):
            TableSources(tmp_path).resolve(uri)
    with pytest.raises(TableNotFoundError):
        TableSources(None).resolve("bq://proj.data.party")


def test_two_files_for_one_table_are_refused(tmp_path: Path) -> None:
    """Which of two files is meant is never guessed."""
    data = arrow("party", rows_of("party"))
    put(tmp_path, "party", data)
    put(tmp_path, "party", data, "csv")
    with pytest.raises(TableSpecError, match="Ambiguous"):
        TableSources(tmp_path).resolve("bq://proj.data.party")


def test_symbolic_links_out_of_the_root_are_refused(tmp_path: Path) -> None:
    """A link to a file, a folder or a part outside the root reads nothing; one that stays inside is fine."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    data = arrow("party", rows_of("party"))
    put(outside, "party", data)
    put(root, "party", data, name="inside")
    put(root, "party", data, name="parts/a")
    here, there = root / "proj/data", outside / "proj/data"
    (here / "file.parquet").symlink_to(there / "party.parquet")
    (here / "folder").symlink_to(there)
    (here / "parts/b.parquet").symlink_to(there / "party.parquet")
    (root / "linked").symlink_to(outside / "proj")
    (here / "loop.parquet").symlink_to(here / "loop.parquet")
    (here / "alias.parquet").symlink_to(here / "inside.parquet")
    os.mkfifo(here / "pipe.parquet")
    sources = TableSources(root)
    for name in ("proj.data.file", "proj.data.folder", "proj.data.parts", "linked.data.party",
                 "proj.data.loop", "proj.data.pipe"):  # fmt: skip
        with pytest.raises(TableNotFoundError):
            sources.resolve(f"bq://{name}")
    assert sources.resolve("bq://proj.data.alias").parts == (here / "inside.parquet",)


def test_batches_are_bounded(tmp_path: Path) -> None:
    """However large the row groups and files are, a batch has at most BATCH_ROWS rows, in order."""
    count = BATCH_ROWS * 2 + 5
    ids = pa.array([f"P{number}" for number in range(count)])
    for file_format in ("parquet", "csv"):
        root = tmp_path / file_format
        source = source_of(root, "party", pa.table({"party_id": ids, "ignored": ids}), file_format)
        batches = list(source.batches(TABLES["party"]))
        assert max(batch.num_rows for batch in batches) <= BATCH_ROWS
        assert pa.Table.from_batches(batches) == pa.table({"party_id": ids})


def test_csv_reads_back_what_parquet_holds(tmp_path: Path) -> None:
    """Structs, arrays, NULLs, empty texts, quotes, line breaks and Namibia survive the CSV form."""
    for table in TABLES:
        data = arrow(table, rows_of(table))
        as_csv = imported(source_of(tmp_path / "c", table, data, "csv"), table)
        as_parquet = imported(source_of(tmp_path / "p", table, data), table)
        assert as_csv == as_parquet, table
        assert as_csv.num_rows == 3
        assert as_csv.column("validity_start_time" if table != "risk_case_event" else "event_time")[0].as_py()


def test_csv_takes_the_instants_bigquery_exports(tmp_path: Path) -> None:
    """`2025-01-02 03:04:05 UTC`, a Z and a zone offset name the same instant."""
    path = tmp_path / "proj/data/party.csv"
    path.parent.mkdir(parents=True)
    path.write_text(
        "party_id,validity_start_time\na,2025-01-02 03:04:05 UTC\nb,2025-01-02T03:04:05Z\n"
        "c,2025-01-02 04:04:05.000000+01:00\n"
    )
    source = TableSources(tmp_path).resolve("bq://proj.data.party")
    (batch,) = source.batches(TABLES["party"])
    assert len(set(batch.column("validity_start_time").to_pylist())) == 1


def refused(source: TableSource, table: str = "party") -> DatasetValidationError:
    """The error of reading, having looked for the canary wherever an error shows itself."""
    with pytest.raises(DatasetValidationError) as caught:
        imported(source, table)
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + str([str(d) for d in error.details])
    shown += logging.Formatter().formatException((type(error), error, error.__traceback__))
    assert SECRET not in shown
    assert error.__context__ is None
    return error


CSV_HEADER = b"party_id,validity_start_time,type,exit_date,join_date,nationalities\n"
S = SECRET.encode()


@pytest.mark.parametrize(
    ("content", "reason", "field"),
    [
        (b"", Reason.COLUMN_EXISTENCE, "party_id"),
        (CSV_HEADER + S + b",2025-01-01T00:00:00Z\n", Reason.UNREADABLE_INPUT, ""),
        (CSV_HEADER + b"\xff" + S + b",,,,,\n", Reason.UNSUPPORTED_DATA_TYPE, "party_id"),
        (CSV_HEADER + b"\xff\xfe" + S, Reason.UNREADABLE_INPUT, ""),
        (b"\xff" + S, Reason.UNREADABLE_INPUT, ""),
        (CSV_HEADER + b"a," + S + b",CONSUMER,,,\n", Reason.UNSUPPORTED_DATA_TYPE, "validity_start_time"),
        (CSV_HEADER + b"a,2025-01-01 00:00:00,CONSUMER,,," + S, Reason.UNSUPPORTED_DATA_TYPE, None),
        (CSV_HEADER + b"a,,," + S + b",,\n", Reason.UNSUPPORTED_DATA_TYPE, "exit_date"),
        (CSV_HEADER + b"a,,,,," + S + b"\n", Reason.UNSUPPORTED_DATA_TYPE, "nationalities"),
        (CSV_HEADER + b'a,,,,,"[""' + S + b'""]"\n', Reason.UNSUPPORTED_DATA_TYPE, "nationalities"),
        (CSV_HEADER + b'a,,,,,"{""region_code"": 1}"\n', Reason.UNSUPPORTED_DATA_TYPE, "nationalities"),
        (b"other,exit_date\n" + S + b"," + S + b"\n", Reason.COLUMN_EXISTENCE, "party_id"),
        (b"other," + CSV_HEADER + S + b",a,,," + S + b",,\n", Reason.UNSUPPORTED_DATA_TYPE, "exit_date"),
        (b"party_id,party_id\n" + S + b",b\n", Reason.COLUMN_EXISTENCE, "party_id"),
        (S * 100_000, Reason.UNREADABLE_INPUT, ""),
    ],
)
def test_damaged_csv_is_reported_without_values(
    tmp_path: Path, content: bytes, reason: Reason, field: str | None
) -> None:
    """Whatever is wrong in a CSV file becomes a validation failure, and nothing of it is quoted."""
    path = tmp_path / "proj/data/party.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    error = refused(TableSources(tmp_path).resolve("bq://proj.data.party"))
    assert error.failures[0].reason is reason
    assert field is None or error.failures[0].field == field


def test_damaged_parquet_is_reported_without_values(tmp_path: Path) -> None:
    """A Parquet file cut short, overwritten anywhere or of other content becomes a validation failure."""
    rows = [party(number, name=SECRET) for number in range(200)]
    whole = source_of(tmp_path, "party", arrow("party", rows))
    good = whole.parts[0].read_bytes()
    assert imported(whole, "party").num_rows == 200
    damaged = [b"", b"PAR1", b"PAR1" + SECRET.encode() * 50, good[: len(good) // 2], good[:-8], good[4:]]
    damaged += [b"version https://git-lfs.github.com/spec/v1\noid sha256:" + SECRET.encode()]
    for content in damaged:
        whole.parts[0].write_bytes(content)
        error = refused(TableSources(tmp_path).resolve("bq://proj.data.party"))
        assert [failure.reason for failure in error.failures] == [Reason.UNREADABLE_INPUT]


def test_damaged_pages_never_raise_anything_but_validation_errors(tmp_path: Path) -> None:
    """Flipping any byte of a Parquet file gives a table, or a validation failure: no other exception."""
    source = source_of(tmp_path, "party", arrow("party", [party(n, name=SECRET) for n in range(30)]))
    good = source.parts[0].read_bytes()
    refusals = 0
    for position in range(4, len(good), 37):
        source.parts[0].write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        try:
            imported(source, "party")
        except DatasetValidationError as error:
            refusals += 1
            assert SECRET not in str(error) + str([str(detail) for detail in error.details])
    assert refusals > 0


def test_text_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    """A Parquet file that claims to hold text but holds other bytes fails by its column."""
    raw = pa.array([b"\xff" + SECRET.encode()])
    text = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    source = source_of(tmp_path, "party", arrow("party", rows_of("party", 1)).set_column(0, "party_id", text))
    (failure,) = refused(source).failures
    assert (failure.reason, failure.field) == (Reason.UNSUPPORTED_DATA_TYPE, "party_id")


def test_a_vanished_or_unreadable_file_is_reported(tmp_path: Path) -> None:
    """A file that is gone when it is read is a validation failure that says so."""
    source = source_of(tmp_path, "party", arrow("party", rows_of("party")))
    source.parts[0].unlink()
    (failure,) = refused(source).failures
    assert failure.reason is Reason.UNREADABLE_INPUT
    assert "No such file" in failure.description


def test_parts_must_have_the_same_columns(tmp_path: Path) -> None:
    """A part with other columns than the first fails the table instead of being filled with NULL."""
    put(tmp_path, "party", arrow("party", rows_of("party")), name="party/a")
    shorter = arrow("party", rows_of("party"))
    for column, reason in (("occupation", Reason.UNREADABLE_INPUT), ("type", Reason.COLUMN_EXISTENCE)):
        put(tmp_path, "party", shorter.drop_columns([column]), name="party/b")
        error = refused(TableSources(tmp_path).resolve("bq://proj.data.party"))
        assert error.failures[0].reason is reason


def test_duplicate_parquet_columns_are_refused(tmp_path: Path) -> None:
    """A column that is there twice is refused: which of the two is meant is not guessed."""
    ids = pa.array(["a"])
    data = pa.Table.from_arrays([ids, ids], names=["party_id", "party_id"])
    path = tmp_path / "proj/data/party.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(data, path)
    (failure,) = refused(TableSources(tmp_path).resolve("bq://proj.data.party")).failures
    assert (failure.reason, failure.field) == (Reason.COLUMN_EXISTENCE, "party_id")


def test_a_struct_of_absent_members_reads_as_absent(tmp_path: Path) -> None:
    """In CSV, a struct whose every member is NULL is a NULL struct, as it was in Parquet."""
    rows = [transaction(1, counterparty_account=None), transaction(2)]
    data = arrow("transaction", rows)
    table = imported(source_of(tmp_path, "transaction", data, "csv"), "transaction")
    assert table.column("counterparty_account").to_pylist()[0] is None
    assert table.column("counterparty_account").to_pylist()[1]["counterparty_name"] == "Shop"
