"""What is in an imported dataset, in numbers: read by streaming, answered as plain JSON values.

Owns the counting only. It opens nothing: whoever asks has the tables open, under a lease on the key, and if
the lease ends while it counts, what the file raises ends the counting. It says nothing about one party or
one transaction.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_BATCH_ROWS: Final = 65_536
_UNSPECIFIED: Final = "UNSPECIFIED"

Json = dict[str, Any]


class Readable(Protocol):
    """What a summary needs of a table: every readable, seekable binary file has it, a sealed one too."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


def summarize(tables: Mapping[str, Readable]) -> Json:
    """Counts per table, keyed by table name; `tables` are seekable readers of the Parquet `ingest` wrote.

    Fits google.protobuf.Struct: text, integers below 2^53, objects. Money is decimal text (a double would
    round it), times are RFC 3339 in UTC, or None in an empty table. Rows are counted, not entities: every
    version of a bitemporal row is one. Whatever a reader raises passes through.
    """
    return {
        name: _SUMMARIES[name](pq.ParquetFile(pa.PythonFile(raw, mode="r"))) for name, raw in tables.items()
    }


def _batches(file: Any, *columns: str) -> Iterator[Any]:
    # One thread: the reads go to one Python object, and its exceptions should come out where they happen.
    yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns), use_threads=False)


def _counted_by(column: str, label: str) -> Callable[[Any], Json]:
    def summary(file: Any) -> Json:
        counts: Counter[str] = Counter()
        for batch in _batches(file, column):
            for entry in pc.value_counts(batch.column(0)).to_pylist():
                counts[entry["values"] or _UNSPECIFIED] += entry["counts"]
        return {"rows": file.metadata.num_rows, label: dict(sorted(counts.items()))}

    return summary


def _transactions(file: Any) -> Json:
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    accounts: set[str] = set()
    first: dt.datetime | None = None
    last: dt.datetime | None = None
    columns = ("type", "direction", "account_id", "book_time", "normalized_booked_amount")
    for batch in _batches(file, *columns):
        _add_amounts(batch, kinds, totals)
        accounts.update(pc.unique(batch.column("account_id")).to_pylist())
        ends = pc.min_max(batch.column("book_time")).as_py()
        first = min((time for time in (first, ends["min"]) if time is not None), default=None)
        last = max((time for time in (last, ends["max"]) if time is not None), default=None)
    return {
        "rows": file.metadata.num_rows,
        "by_type": {kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())},
        "total_amount": {
            currency: {direction: _money(nanos) for direction, nanos in sorted(sums.items())}
            for currency, sums in sorted(totals.items())
        },
        "first_book_time": _rfc3339(first),
        "last_book_time": _rfc3339(last),
        "accounts": len(accounts),
    }


def _add_amounts(batch: Any, kinds: dict[str, Counter[str]], totals: dict[str, Counter[str]]) -> None:
    amount = batch.column("normalized_booked_amount")
    units = pc.struct_field(amount, "units").fill_null(0)
    # Units go up to 2^63: summed in halves, no sum of a batch can overflow.
    grouped = (
        pa.table(
            {
                "type": batch.column("type"),
                "direction": batch.column("direction"),
                "currency": pc.struct_field(amount, "currency_code"),
                "high": pc.shift_right(units, 32),
                "low": pc.bit_wise_and(units, 0xFFFFFFFF),
                "nanos": pc.struct_field(amount, "nanos").fill_null(0),
            }
        )
        .group_by(["type", "direction", "currency"], use_threads=False)
        .aggregate([("high", "sum"), ("low", "sum"), ("nanos", "sum"), ([], "count_all")])
    )
    for row in grouped.to_pylist():
        kinds[row["type"]][row["direction"]] += row["count_all"]
        if row["currency"] is not None:
            units_sum = (row["high_sum"] << 32) + row["low_sum"]
            totals[row["currency"]][row["direction"]] += units_sum * 10**9 + row["nanos_sum"]


def _money(nanos: int) -> str:
    """Decimal text of an amount in 1e-9 units, with two to nine decimals."""
    whole, fraction = divmod(nanos, 10**9)
    return f"{whole}.{f'{fraction:09d}'.rstrip('0').ljust(2, '0')}"


def _rfc3339(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


_SUMMARIES: Final[Mapping[str, Callable[[Any], Json]]] = {
    "party": _counted_by("type", "by_type"),
    "account_party_link": _counted_by("role", "by_role"),
    "transaction": _transactions,
    "risk_case_event": _counted_by("type", "by_type"),
    "party_supplementary_data": _counted_by("party_supplementary_data_id", "by_id"),
}
