"""Generated data is valid, the same for a seed, and shows the patterns it claims."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.financialservices.digests import JoinKeys
from keystead.financialservices.generator import generate
from keystead.financialservices.sources import TableSources
from keystead.financialservices.tables import TABLES

from .samples import imported

NAMES = ("party", "account_party_link", "transaction", "risk_case_event")


def read(directory: Path) -> dict[str, Any]:
    return {name: pq.read_table(directory / f"{name}.parquet") for name in NAMES}


def test_equal_seeds_give_equal_tables(tmp_path: Path) -> None:
    """The same arguments give the same values; another seed gives others."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, seed=seed, transactions=5_000, markers=["MARK"])
    one, same, other = (read(tmp_path / name) for name in "abc")
    assert one == same
    assert all(one[name] != other[name] for name in NAMES)


def test_both_formats_hold_the_same_data(tmp_path: Path) -> None:
    """Parquet and CSV of one seed are imported as the same tables."""
    generate(tmp_path / "parquet" / "p1" / "d", seed=3, transactions=3_000, file_format="parquet")
    generate(tmp_path / "csv" / "p1" / "d", seed=3, transactions=3_000, file_format="csv")
    for name in NAMES:
        tables = [
            imported(TableSources(tmp_path / file_format).resolve(f"bq://p1.d.{name}"), name)
            for file_format in ("parquet", "csv")
        ]
        assert tables[0] == tables[1], name


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    transactions=st.integers(100, 4_000),
    parties=st.one_of(st.none(), st.integers(20, 300)),
)
def test_generated_data_passes_every_check(
    tmp_path_factory: pytest.TempPathFactory, seed: int, transactions: int, parties: int | None
) -> None:
    """Whatever the size and seed: the number of transactions is exact, and nothing fails validation."""
    root = tmp_path_factory.mktemp("generated")
    generate(root / "p1" / "d", seed=seed, transactions=transactions, parties=parties)
    keys = JoinKeys()
    tables = {
        name: imported(TableSources(root).resolve(f"bq://p1.d.{name}"), name, keys)
        for name in TABLES
        if name in NAMES
    }
    assert keys.failures() == []
    assert tables["transaction"].num_rows == transactions
    assert "AML_EXIT" in tables["risk_case_event"].column("type").to_pylist()


def test_markers_are_in_every_table_and_row_group(tmp_path: Path) -> None:
    """Each marker names a party, is another's occupation, and is in every row group of transactions."""
    markers = [f"MARKER-{number}" for number in range(5)]
    generate(tmp_path, seed=4, transactions=20_000, markers=markers)
    tables = read(tmp_path)
    for marker in markers:
        assert tables["party"].column("name").to_pylist().count(marker) >= 1
        assert tables["party"].column("occupation").to_pylist().count(marker) >= 1
        assert f"core-banking {marker}" in tables["account_party_link"].column("source_system").to_pylist()
        cases = tables["risk_case_event"].column("risk_case_id").to_pylist()
        assert any(case.endswith(f"-{marker}") for case in cases)
    file = pq.ParquetFile(tmp_path / "transaction.parquet")
    assert file.num_row_groups >= 4
    for index in range(file.num_row_groups):
        group = file.read_row_group(index)
        names = Counter(
            pc.struct_field(group.column("counterparty_account"), "counterparty_name").to_pylist()
        )
        ids = [text.rsplit("-", 1)[0] for text in group.column("transaction_id").to_pylist()]
        for marker in markers:
            assert names[marker] == 1
            assert ids.count(marker) == 1


def test_customers_act_only_while_they_are_customers(tmp_path: Path) -> None:
    """No transaction predates the join of the account's owner or follows the exit."""
    generate(tmp_path, seed=5, transactions=20_000, parties=150)
    tables = read(tmp_path)
    links = tables["account_party_link"].to_pylist()
    owner = {row["account_id"]: row["party_id"] for row in links if row["role"] == "PRIMARY_HOLDER"}
    assert set(owner) == {row["account_id"] for row in links}
    joined: dict[str, dt.date] = {}
    left: dict[str, dt.datetime] = {}
    for row in tables["party"].to_pylist():
        joined[row["party_id"]] = row["join_date"]
        if row["exit_date"]:
            left[row["party_id"]] = row["validity_start_time"]
    assert left
    end = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    transactions = tables["transaction"].select(["account_id", "book_time"]).to_pylist()
    for row in transactions:
        party = owner[row["account_id"]]
        assert joined[party] <= row["book_time"].date()
        assert row["book_time"] < left.get(party, end)


def test_transfers_inside_the_bank_have_two_sides(tmp_path: Path) -> None:
    """Every row with a counterparty account of the bank has its mirror image."""
    generate(tmp_path, seed=6, transactions=3_000)
    rows = read(tmp_path)["transaction"].to_pylist()
    sides: Counter[tuple[object, ...]] = Counter()
    for row in rows:
        other = row["counterparty_account"]["account_id"]
        if other is not None:
            amount = tuple(row["normalized_booked_amount"].values())
            debit = row["direction"] == "DEBIT"
            pair = (row["account_id"], other) if debit else (other, row["account_id"])
            sides[row["book_time"], amount, pair] += 1 if debit else -1
    assert len(sides) > 50
    assert not any(sides.values())


def test_cases_follow_the_life_of_a_risk_case(tmp_path: Path) -> None:
    """A case starts once, ends at most once and later; exits follow a suspicious period before the start."""
    generate(tmp_path, seed=8, transactions=60_000)
    cases: dict[str, dict[str, dt.datetime]] = {}
    for row in read(tmp_path)["risk_case_event"].to_pylist():
        events = cases.setdefault(row["risk_case_id"], {})
        assert row["type"] not in events
        events[row["type"]] = row["event_time"]
    exits = [events for events in cases.values() if "AML_EXIT" in events]
    assert 0 < len(exits) < len(cases)
    for events in cases.values():
        assert events["AML_PROCESS_START"] < events.get(
            "AML_PROCESS_END", dt.datetime.max.replace(tzinfo=dt.UTC)
        )
    for events in exits:
        assert events["AML_SUSPICIOUS_ACTIVITY_START"] < events["AML_SUSPICIOUS_ACTIVITY_END"]
        assert events["AML_SUSPICIOUS_ACTIVITY_END"] < events["AML_PROCESS_START"]
        assert events["AML_PROCESS_START"] < events["AML_SAR"] < events["AML_EXIT"]


def test_launderers_stand_out(tmp_path: Path) -> None:
    """Parties that were exited deposit much more cash just below 10,000, or wire more to risky countries."""
    generate(tmp_path, seed=9, transactions=60_000)
    tables = read(tmp_path)
    events = tables["risk_case_event"].to_pylist()
    guilty = {row["party_id"] for row in events if row["type"] == "AML_EXIT"}
    links = tables["account_party_link"].to_pylist()
    theirs = {row["account_id"] for row in links if row["party_id"] in guilty}
    suspicious = [0, 0]
    for row in tables["transaction"].to_pylist():
        structuring = row["type"] == "CASH" and 8_000 <= row["normalized_booked_amount"]["units"] < 10_000
        risky = row["type"] == "WIRE" and row["counterparty_account"]["region_code"] in ("KP", "IR", "MM")
        if structuring or risky:
            suspicious[row["account_id"] in theirs] += 1
    share = len(theirs) / len({row["account_id"] for row in links})
    assert share < 0.05
    assert suspicious[1] > 5 * share * sum(suspicious)


def test_progress_is_told_to_the_end(tmp_path: Path) -> None:
    """Progress names each table and reaches its number of rows."""
    told: dict[str, list[tuple[int, int]]] = {}

    def progress(table: str, done: int, of: int) -> None:
        told.setdefault(table, []).append((done, of))

    generate(tmp_path, seed=1, transactions=5_000, progress=progress)
    assert set(told) == set(NAMES)
    for name, steps in told.items():
        assert steps == sorted(steps)
        assert steps[-1] == (read(tmp_path)[name].num_rows,) * 2
    assert len(told["transaction"]) == 4


@pytest.mark.parametrize(
    "wrong",
    [{"transactions": 99}, {"parties": 19}, {"markers": ["m"] * 400}],
)
def test_too_little_data_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Numbers too small to hold the patterns or the markers are a ValueError before anything is written."""
    with pytest.raises(ValueError, match=r"too many|at least"):
        generate(tmp_path / "out", **({"seed": 1, "transactions": 1_000} | wrong))
    assert not (tmp_path / "out").exists()


def test_files_are_of_the_model(tmp_path: Path) -> None:
    """Every column written is one of the model, of its type where it is not a part of a struct."""
    generate(tmp_path, seed=1, transactions=500)
    for name, table in read(tmp_path).items():
        for field in table.schema:
            assert field.name in TABLES[name].columns
            if not pa.types.is_struct(field.type):
                assert field.type == TABLES[name].arrow.field(field.name).type
