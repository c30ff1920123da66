"""Small valid tables of the AML input data model, and the way from rows to an import."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from keystead.financialservices import flatcsv
from keystead.financialservices.digests import JoinKeys
from keystead.financialservices.ingest import ingest
from keystead.financialservices.sources import TableSource, TableSources
from keystead.financialservices.tables import TABLES

THEN = dt.datetime(2025, 3, 1, 12, 30, 0, 123456, tzinfo=dt.UTC)


def party(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "party_id": f"P{number}",
        "validity_start_time": THEN,
        "is_entity_deleted": False,
        "type": "CONSUMER",
        "name": 'Ada "the first"\nLovelace',
        "occupation": "",
        "nationalities": [{"region_code": "NA"}],
        "residencies": [],
        "exit_date": None,
        "join_date": dt.date(2020, 1, 2),
        "assets_value_range": {
            "start_amount": {"currency_code": "EUR", "units": 1, "nanos": 0},
            "end_amount": None,
        },
    }
    return row | changes


def link(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "account_id": f"A{number}",
        "party_id": f"P{number}",
        "validity_start_time": THEN,
        "role": "PRIMARY_HOLDER",
    }
    return row | changes


def transaction(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "transaction_id": f"T{number}",
        "validity_start_time": THEN,
        "type": "WIRE",
        "direction": "DEBIT",
        "account_id": "A1",
        "counterparty_account": {"account_id": None, "counterparty_name": "Shop", "region_code": "DE"},
        "book_time": THEN + dt.timedelta(hours=number),
        "normalized_booked_amount": {"currency_code": "EUR", "units": 10 + number, "nanos": 500_000_000},
    }
    return row | changes


def event(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "risk_case_event_id": f"E{number}",
        "event_time": THEN,
        "type": "AML_PROCESS_START",
        "party_id": "P1",
        "risk_case_id": f"C{number}",
    }
    return row | changes


def supplement(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "party_supplementary_data_id": f"id_{number}",
        "validity_start_time": THEN,
        "party_id": "P1",
        "supplementary_data_payload": {"value": 0.5},
    }
    return row | changes


SAMPLES = {
    "party": party,
    "account_party_link": link,
    "transaction": transaction,
    "risk_case_event": event,
    "party_supplementary_data": supplement,
}


def rows_of(table: str, count: int = 3) -> list[dict[str, Any]]:
    return [SAMPLES[table](number) for number in range(1, count + 1)]


def arrow(table: str, rows: Sequence[dict[str, Any]]) -> Any:
    """The rows as Arrow, with the columns of the first row (structs with all their members)."""
    fields = [TABLES[table].arrow.field(name) for name in (rows[0] if rows else SAMPLES[table](1))]
    return pa.Table.from_pylist(list(rows), pa.schema(fields))


def put(root: Path, table: str, data: Any, file_format: str = "parquet", name: str | None = None) -> str:
    """Writes an Arrow table as `bq://proj.data.<table>`; the specification."""
    path = root / "proj" / "data" / f"{name or table}.{file_format}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if file_format == "csv":
        batches = data.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], data.schema)]
        flat = [flatcsv.flatten(batch) for batch in batches]
        pacsv.write_csv(pa.Table.from_batches(flat), str(path))
    else:
        pq.write_table(data, str(path))
    return f"bq://proj.data.{table}"


def source_of(root: Path, table: str, data: Any, file_format: str = "parquet") -> TableSource:
    return TableSources(root).resolve(put(root, table, data, file_format))


def imported(source: TableSource, table: str, keys: JoinKeys | None = None) -> Any:
    """The table as it was written to the sink."""
    sink = io.BytesIO()
    ingest(TABLES[table], source, sink, check=lambda: None, keys=keys)
    return pq.read_table(pa.BufferReader(sink.getvalue()))
