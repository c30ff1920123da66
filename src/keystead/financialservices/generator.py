"""Made-up input data of AML AI: four tables over 24 months, the same for the same seed.

For demonstrations, benchmarks and tests: customers with accounts, their payments, some of them launderers,
and what the bank's investigators made of it. The patterns are plain (structuring, pass-through), so how well
a model finds them says nothing about a model on real data. No value is taken from a real person or bank.

`markers` put recognisable texts into the data, so that a search of everything a service has written can tell
whether customer data leaked. What happens is drawn in `population`; this module puts it into words and files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from keystead.financialservices import flatcsv
from keystead.financialservices.population import (
    COUNTERPARTIES,
    DAY,
    DIRECTIONS,
    END,
    NEVER,
    REGIONS,
    START,
    TYPES,
    Bank,
    Bools,
    Ints,
    Transactions,
    laundering,
    ordinary,
    populate,
    regions,
)  # fmt: skip
from keystead.financialservices.tables import TABLES, TIMESTAMP

FileFormat = Literal["parquet", "csv"]
Progress = Callable[[str, int, int], None]

_CURRENCY = "EUR"
_CHUNK_ROWS: Final = 131_072
_PARTY_CHUNK_ROWS: Final = 4_096

_FIRST = ("Ada", "Ben", "Clara", "David", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Liam",
          "Mara", "Noah", "Olga", "Paul", "Rosa", "Samir", "Tilda", "Viktor")  # fmt: skip
_LAST = ("Adler", "Becker", "Costa", "Dubois", "Engel", "Fischer", "Garcia", "Horvat", "Ivanova", "Jansen",
         "Kowalski", "Lang", "Moreau", "Novak", "Olsen", "Petrov", "Rossi", "Schmidt", "Tanaka",
         "Weber")  # fmt: skip
_TRADE = ("Bakery", "Builders", "Cargo", "Electronics", "Fashion", "Foods", "Garage", "Hotel", "Imports",
          "Jewellers", "Logistics", "Media", "Metals", "Pharma", "Software", "Travel")  # fmt: skip
_OCCUPATIONS = ("accountant", "baker", "carpenter", "driver", "engineer", "farmer", "nurse", "retired",
                "sales", "student", "teacher", "")  # fmt: skip
_CIVIL = ("SINGLE", "MARRIED", "DIVORCED", "WIDOW", "UNKNOWN")
_TYPOLOGIES = ("structuring", "pass-through")


def generate(
    directory: Path,
    *,
    seed: int,
    transactions: int = 1_000_000,
    parties: int | None = None,
    markers: Sequence[str] = (),
    file_format: FileFormat = "parquet",
    progress: Progress | None = None,
) -> None:
    """Writes party, account_party_link, transaction and risk_case_event as files into `directory`.

    `transactions` (at least 100) is exact; `parties` (at least 20) is by default one for 120 transactions.
    Equal arguments give equal values. Each of `markers` becomes the name of a party, the occupation of
    another, part of a source system and of a risk case id while there are cases, and in every row group of
    transactions a counterparty name and the beginning of a transaction id. `progress(table, rows, of)` is
    called after each chunk. Existing files are replaced; memory does not grow with `transactions`.

    Raises ValueError for numbers too small, also for the number of markers.
    """
    parties = max(50, transactions // 120) if parties is None else parties
    chunk = min(_CHUNK_ROWS, max(1_000, transactions // 4))
    if transactions < 100 or parties < 20:
        raise ValueError("at least 100 transactions and 20 parties are needed")
    if len(markers) * 4 > min(parties, chunk, transactions):
        raise ValueError("too many markers for so little data")
    directory.mkdir(parents=True, exist_ok=True)
    seeds = np.random.SeedSequence(seed)
    rng = np.random.default_rng(seeds)
    bank = populate(rng, parties, transactions)
    for table, batch in (
        ("party", _party(rng, bank, markers)),
        ("account_party_link", _account_party_link(rng, bank, markers)),
        ("risk_case_event", _risk_case_event(bank, markers)),
    ):
        with _Output(directory, table, file_format, batch.num_rows, progress) as output:
            for start in range(0, batch.num_rows, _PARTY_CHUNK_ROWS):
                output.write(batch.slice(start, _PARTY_CHUNK_ROWS))
    with _Output(directory, "transaction", file_format, transactions, progress) as output:
        _write_transactions(output, seeds, bank, chunk, markers)


class _Output:
    """One table's file; each batch becomes a row group."""

    def __init__(
        self, directory: Path, table: str, file_format: FileFormat, total: int, progress: Progress | None
    ) -> None:
        self._path = directory / f"{table}.{file_format}"
        self._table = table
        self._csv = file_format == "csv"
        self.total = total
        self._rows = 0
        self._progress = progress
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def write(self, batch: Any) -> None:
        if self._csv:
            batch = flatcsv.flatten(batch)
        if self._writer is None:
            make = pacsv.CSVWriter if self._csv else pq.ParquetWriter
            self._writer = make(str(self._path), batch.schema)
        self._writer.write_batch(batch)
        self._rows += batch.num_rows
        if self._progress is not None:
            self._progress(self._table, self._rows, self.total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def _batch(table: str, columns: dict[str, Any]) -> Any:
    known = TABLES[table].columns
    arrays = {
        name: column if isinstance(column, pa.Array) else pa.array(column, known[name].type)
        for name, column in columns.items()
    }
    return pa.RecordBatch.from_pydict(arrays)


def _ids(prefix: str, numbers: Ints, width: int) -> Any:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(prefix, digits, "")


def _instants(times: Ints) -> Any:
    return pa.array(times).cast(TIMESTAMP)


def _dates(times: Ints, absent: Bools) -> Any:
    return pa.array((times // DAY).astype(np.int32), mask=absent).cast(pa.date32())


def _pick(pool: Sequence[str] | Any, choices: Ints) -> Any:
    """pool[choice], or NULL for -1."""
    values = pool if isinstance(pool, pa.Array) else pa.array(pool, pa.string())
    return values.take(pa.array(choices, mask=choices < 0))


def _with(values: Any, rows: Sequence[int], texts: Sequence[str]) -> Any:
    """`values` with `texts` in `rows` (ascending) instead."""
    mask = np.zeros(len(values), dtype=bool)
    mask[list(rows)] = True
    return pc.replace_with_mask(values, pa.array(mask), pa.array(texts, pa.string()))


def _spread(markers: Sequence[str], rows: int, shift: int) -> list[int]:
    """One row for each marker, evenly over all; different shifts (0 to 3) give different rows."""
    return [(index * 4 + shift) * rows // (4 * len(markers)) for index in range(len(markers))]


def _party(rng: np.random.Generator, bank: Bank, markers: Sequence[str]) -> Any:
    count = len(bank.company)
    last = _pick(_LAST, rng.integers(0, len(_LAST), count))
    person = pc.binary_join_element_wise(_pick(_FIRST, rng.integers(0, len(_FIRST), count)), last, " ")
    firm = pc.binary_join_element_wise(last, _pick(_TRADE, rng.integers(0, len(_TRADE), count)), "Ltd", " ")
    company = pa.array(bank.company)
    names = _with(pc.if_else(company, firm, person), _spread(markers, count, 0), markers)
    occupations = _pick(_OCCUPATIONS, np.where(bank.company, -1, rng.integers(0, len(_OCCUPATIONS), count)))
    born = bank.join - rng.integers(18 * 365, 70 * 365, count) * DAY
    home = [[{"region_code": REGIONS[region]}] for region in regions(rng, count, 0.12)]
    assets = rng.lognormal(10.0, 1.2, count).astype(np.int64)
    columns = {
        "party_id": _ids("P", np.arange(count), 8),
        "validity_start_time": _instants(bank.join),
        "is_entity_deleted": np.zeros(count, dtype=bool),
        "source_system": ["crm"] * count,
        "type": _pick(("CONSUMER", "COMPANY"), bank.company.astype(np.int64)),
        "name": names,
        "birth_date": _dates(born, bank.company),
        "establishment_date": _dates(born, ~bank.company),
        "occupation": _with(occupations, _spread(markers, count, 2), markers),
        "nationalities": home,
        "residencies": [[{"region_code": REGIONS[0]}]] * count,
        "exit_date": pa.nulls(count, pa.date32()),
        "join_date": _dates(bank.join, np.zeros(count, dtype=bool)),
        "assets_value_range": [
            {"start_amount": _money(units // 2), "end_amount": _money(units)} for units in assets.tolist()
        ],
        "civil_status_code": _pick(_CIVIL, np.where(bank.company, -1, rng.integers(0, len(_CIVIL), count))),
    }
    batch = _batch("party", columns)
    return pa.concat_batches([batch, _exited(batch, bank)])


def _money(units: int) -> dict[str, Any]:
    return {"currency_code": _CURRENCY, "units": units, "nanos": 0}


def _exited(batch: Any, bank: Bank) -> Any:
    """A second version of every party that was exited, valid from that day."""
    gone = np.flatnonzero(bank.exit != NEVER)
    rows = batch.take(pa.array(gone))
    changed = {
        "validity_start_time": _instants(bank.exit[gone]),
        "exit_date": _dates(bank.exit[gone], np.zeros(len(gone), dtype=bool)),
    }
    for name, column in changed.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def _account_party_link(rng: np.random.Generator, bank: Bank, markers: Sequence[str]) -> Any:
    accounts = np.arange(len(bank.owner))
    shared = np.flatnonzero(rng.random(len(accounts)) < 0.1)
    others = (bank.owner[shared] + rng.integers(1, len(bank.join), len(shared))) % len(bank.join)
    account = np.concatenate([accounts, shared])
    party = np.concatenate([bank.owner, others])
    since = np.maximum(bank.join[bank.owner[account]], bank.join[party])
    systems = pa.array(["core-banking"] * len(account))
    texts = [f"core-banking {marker}" for marker in markers]
    columns = {
        "account_id": _ids("A", account, 9),
        "party_id": _ids("P", party, 8),
        "validity_start_time": _instants(since),
        "is_entity_deleted": np.zeros(len(account), dtype=bool),
        "source_system": _with(systems, _spread(markers, len(account), 1), texts),
        "role": ["PRIMARY_HOLDER"] * len(accounts) + ["SECONDARY_HOLDER"] * len(shared),
    }
    return _batch("account_party_link", columns)


def _risk_case_event(bank: Bank, markers: Sequence[str]) -> Any:
    cases, who = bank.cases, bank.launderers
    every, found = np.arange(len(cases.party)), np.flatnonzero(cases.guilty >= 0)
    steps: list[tuple[str, Ints, Ints]] = [
        ("AML_SUSPICIOUS_ACTIVITY_START", found, who.begin[cases.guilty[found]]),
        ("AML_SUSPICIOUS_ACTIVITY_END", found, who.finish[cases.guilty[found]]),
        ("AML_ALERT_LEGACY", every, cases.alert),
        ("AML_PROCESS_START", every, cases.start),
        ("AML_SAR", found, cases.sar[found]),
        ("AML_EXIT", found, cases.exit[found]),
        ("AML_PROCESS_END", every, cases.finish),
    ]
    case = np.concatenate([rows for _, rows, _ in steps])
    time = np.concatenate([times for _, _, times in steps])
    step = np.repeat(np.arange(len(steps)), [len(rows) for _, rows, _ in steps])
    # The records begin and end with the data; what an unopened case would say is not known yet.
    order = np.argsort(time, kind="stable")
    order = order[(time[order] < END) & (cases.start[case[order]] < END)]
    case, time, step = case[order], time[order], step[order]
    measured = [
        [{"risk_typology_id": _TYPOLOGIES[guilty % 2]}] if steps[kind][0] in ("AML_SAR", "AML_EXIT") else []
        for kind, guilty in zip(step.tolist(), cases.guilty[case].tolist(), strict=True)
    ]
    columns = {
        "risk_case_event_id": _ids("RCE", np.arange(len(case)), 8),
        "event_time": _instants(time),
        "type": _pick([name for name, _, _ in steps], step),
        "party_id": _ids("P", cases.party[case], 8),
        "risk_case_id": _pick(_case_ids(cases.start, markers), case),
        "risk_typology_measurements": measured,
    }
    return _batch("risk_case_event", columns)


def _case_ids(starts: Ints, markers: Sequence[str]) -> list[str]:
    labels = [f"RC{index:06d}" for index in range(len(starts))]
    for index, marker in zip(np.flatnonzero(starts < END).tolist(), markers, strict=False):
        labels[index] += f"-{marker}"
    return labels


def _write_transactions(
    output: _Output, seeds: np.random.SeedSequence, bank: Bank, chunk: int, markers: Sequence[str]
) -> None:
    """Chunk after chunk in the order of time, each drawn from a seed of its own."""
    total = output.total
    chunks = -(-total // chunk)
    planned_seed, *chunk_seeds = seeds.spawn(chunks + 1)
    planned = laundering(np.random.default_rng(planned_seed), bank)
    everyday = total - len(planned.time)
    pools = _Pools(bank)
    written = 0
    for index, chunk_seed in enumerate(chunk_seeds):
        rng = np.random.default_rng(chunk_seed)
        begin, end = (START + (END - START) * part // chunks for part in (index, index + 1))
        rows = everyday * (index + 1) // chunks - everyday * index // chunks
        now = np.flatnonzero((planned.time >= begin) & (planned.time < end))
        batch = ordinary(rng, bank, rows, begin, end).joined(planned.taken(now)).sorted()
        output.write(pools.batch(batch, written, f"{index:05d}", markers))
        written += len(batch.time)


class _Pools:
    """The texts that transactions are put together from, by index."""

    def __init__(self, bank: Bank) -> None:
        self._account_ids = _ids("A", np.arange(len(bank.owner)), 9)
        numbers = np.arange(COUNTERPARTIES)
        trade, last = _pick(_TRADE, numbers % len(_TRADE)), _pick(_LAST, numbers // 16 % len(_LAST))
        self._names = pc.binary_join_element_wise(last, trade, _ids("", numbers, 4), " ")

    def batch(self, rows: Transactions, first: int, chunk: str, markers: Sequence[str]) -> Any:
        """The record batch of `rows`, numbered from `first`."""
        count = len(rows.time)
        ids = _ids("T", np.arange(first, first + count), 10)
        marked = [f"{marker}-{chunk}" for marker in markers]
        names = _with(_pick(self._names, rows.counterparty), _spread(markers, count, 3), markers)
        counterparty = {
            "account_id": _pick(self._account_ids, rows.other_account),
            "counterparty_name": names,
            "region_code": _pick(REGIONS, rows.region),
        }
        amount = {
            "currency_code": _pick((_CURRENCY,), np.zeros(count, dtype=np.int64)),
            "units": pa.array(rows.cents // 100),
            "nanos": pa.array(rows.cents % 100 * 10_000_000),
        }
        time = _instants(rows.time)
        columns = {
            "transaction_id": _with(ids, _spread(markers, count, 1), marked),
            "validity_start_time": time,
            "is_entity_deleted": np.zeros(count, dtype=bool),
            "source_system": _pick(("core-banking",), np.zeros(count, dtype=np.int64)),
            "type": _pick(TYPES, rows.kind),
            "direction": _pick(DIRECTIONS, rows.direction),
            "account_id": _pick(self._account_ids, rows.account),
            "counterparty_account": _struct(counterparty),
            "book_time": time,
            "normalized_booked_amount": _struct(amount),
        }
        return _batch("transaction", columns)


def _struct(members: dict[str, Any]) -> Any:
    return pa.StructArray.from_arrays(list(members.values()), names=list(members))
