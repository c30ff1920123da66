"""A summary counts what a plain loop over the rows counts."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections import Counter, defaultdict
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format, struct_pb2

from keystead.crypto.sealed_file import SealedReader, SealedWriter
from keystead.crypto.secret import SecretBytes
from keystead.financialservices.generator import generate
from keystead.financialservices.ingest import ingest
from keystead.financialservices.sources import TableSources
from keystead.financialservices.summary import summarize
from keystead.financialservices.tables import TABLES

from .samples import arrow, rows_of, source_of, transaction


def stored(source: Any, table: str) -> io.BytesIO:
    sink = io.BytesIO()
    ingest(TABLES[table], source, sink, check=lambda: None)
    return sink


def plain(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of transactions, the long way."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    totals: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for row in rows:
        kinds[row["type"]][row["direction"]] += 1
        money = row["normalized_booked_amount"]
        if money is not None:
            amount = Decimal(money["units"]) + Decimal(money["nanos"]) / 10**9
            totals[money["currency_code"]][row["direction"]] += amount
    times = [row["book_time"] for row in rows if row["book_time"] is not None]
    return {
        "rows": len(rows),
        "by_type": {kind: dict(counts) for kind, counts in kinds.items()},
        "total_amount": {currency: dict(sums) for currency, sums in totals.items()},
        "first_book_time": min(times),
        "last_book_time": max(times),
        "accounts": len({row["account_id"] for row in rows}),
    }


def parsed(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with its texts read as what they stand for."""
    totals = summary["total_amount"]
    return summary | {
        "total_amount": {c: {d: Decimal(text) for d, text in sums.items()} for c, sums in totals.items()},
        "first_book_time": dt.datetime.fromisoformat(summary["first_book_time"]),
        "last_book_time": dt.datetime.fromisoformat(summary["last_book_time"]),
    }


def test_a_generated_dataset_is_summed_up(tmp_path: Path) -> None:
    """Every number equals that of a loop over all rows, and all of it fits a protobuf Struct."""
    generate(tmp_path / "p1" / "d", seed=11, transactions=5_000)
    names = [name for name in TABLES if name != "party_supplementary_data"]
    tables = {name: stored(TableSources(tmp_path).resolve(f"bq://p1.d.{name}"), name) for name in names}
    rows = {name: pq.read_table(pa.BufferReader(raw.getvalue())).to_pylist() for name, raw in tables.items()}
    summary = summarize(tables)
    assert list(summary) == names
    assert parsed(summary["transaction"]) == plain(rows["transaction"])
    for name, column, label in (
        ("party", "type", "by_type"),
        ("account_party_link", "role", "by_role"),
        ("risk_case_event", "type", "by_type"),
    ):
        counts = Counter(row[column] for row in rows[name])
        assert summary[name] == {"rows": len(rows[name]), label: dict(counts)}
    message = json_format.ParseDict(summary, struct_pb2.Struct())
    assert json_format.MessageToDict(message) == json.loads(json.dumps(summary))


def test_amounts_are_exact(tmp_path: Path) -> None:
    """The largest amounts are summed without overflow and the smallest without rounding."""
    largest = {"currency_code": "EUR", "units": 2**63 - 1, "nanos": 999_999_999}
    rows = [transaction(n, normalized_booked_amount=largest) for n in range(5)]
    rows += [transaction(9, direction="CREDIT", normalized_booked_amount={**largest, "units": 0, "nanos": 1})]
    rows += [transaction(10, normalized_booked_amount=None, book_time=None)]
    raw = stored(source_of(tmp_path, "transaction", arrow("transaction", rows)), "transaction")
    summary = summarize({"transaction": raw})["transaction"]
    with localcontext(prec=60):
        exact = 5 * (Decimal(2**63 - 1) + Decimal("0.999999999"))
        assert summary["total_amount"] == {"EUR": {"CREDIT": "0.000000001", "DEBIT": str(exact)}}
        assert parsed(summary) == plain(rows)


@pytest.mark.parametrize(("nanos", "text"), [(0, "11.00"), (500_000_000, "11.50"), (123_000_000, "11.123")])
def test_amounts_have_at_least_two_decimals(tmp_path: Path, nanos: int, text: str) -> None:
    """Money reads as money: two decimals, more only where there are more."""
    money = {"currency_code": "EUR", "units": 11, "nanos": nanos}
    data = arrow("transaction", [transaction(1, normalized_booked_amount=money)])
    raw = stored(source_of(tmp_path, "transaction", data), "transaction")
    assert summarize({"transaction": raw})["transaction"]["total_amount"] == {"EUR": {"DEBIT": text}}


def test_absent_values_are_unspecified(tmp_path: Path) -> None:
    """NULL roles are counted under UNSPECIFIED, and supplementary data by its id."""
    links = rows_of("account_party_link")
    links[0]["role"] = None
    link = stored(
        source_of(tmp_path, "account_party_link", arrow("account_party_link", links)), "account_party_link"
    )
    name = "party_supplementary_data"
    extra = stored(source_of(tmp_path, name, arrow(name, rows_of(name))), name)
    assert summarize({"account_party_link": link, name: extra}) == {
        "account_party_link": {"rows": 3, "by_role": {"PRIMARY_HOLDER": 2, "UNSPECIFIED": 1}},
        name: {"rows": 3, "by_id": {"id_1": 1, "id_2": 1, "id_3": 1}},
    }


class Revoked(Exception):
    """What a lease raises."""


def test_a_sealed_table_is_summed_up_only_under_its_key(tmp_path: Path) -> None:
    """Over a sealed file the summary is the same; once the key is refused, that refusal comes out."""
    source = source_of(tmp_path, "party", arrow("party", rows_of("party")))
    raw = io.BytesIO()
    refused = False
    with SecretBytes.random(32) as key:

        def lease() -> SecretBytes:
            if refused:
                raise Revoked
            return key

        with SealedWriter(raw, lease, b"party") as sink:
            ingest(TABLES["party"], source, sink, check=lambda: None)
        reader = SealedReader(raw, lease, b"party")
        assert summarize({"party": reader}) == {"party": {"rows": 3, "by_type": {"CONSUMER": 3}}}
        assert not reader.closed
        refused = True
        with pytest.raises(Revoked):
            summarize({"party": reader})
