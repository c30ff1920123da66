"""The list of registered parties of one line of business, and how an import changes it: tables in, table out.

Facts: AML AI "Register your customers" and the reference of the registration tables. It reads and writes no
file and knows no resource.

Columns (all text, as the documented export has them): `party_id`; `party_size`, SMALL or LARGE in commercial
banking and NULL in retail; `earliest_remove_time`; `party_with_prediction_intent`; and
`registration_or_uptier_time`. Times are RFC 3339 in UTC with microseconds, so they order as text.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from keystead.api.errors import InvalidArgument
from keystead.financialservices.failures import DatasetValidationError, Reason, ValidationFailure
from keystead.financialservices.sources import TableSource
from keystead.financialservices.tables import STRING, Field, Level, TableSchema
from keystead.financialservices.validation import TableChecks, check_shape, conform

REGISTERED: Final = pa.schema(
    [
        (name, STRING)
        for name in (
            "party_id", "party_size", "earliest_remove_time", "party_with_prediction_intent",
            "registration_or_uptier_time",
        )
    ]
)  # fmt: skip

_PARTY_ID = Field("party_id", required=True, level=Level.MANDATORY)
_SIZES = frozenset({"SMALL", "LARGE"})
_RETAIL = TableSchema("party_registration", (_PARTY_ID,), ("party_id",))
_COMMERCIAL = TableSchema(
    "party_registration",
    (_PARTY_ID, Field("party_size", required=True, level=Level.MANDATORY, values=_SIZES)),
    ("party_id",),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What an import did, as ImportRegisteredPartiesResponse counts it."""

    parties_added: int
    parties_removed: int
    parties_total: int
    parties_failed_to_remove: int
    parties_uptiered: int
    parties_downtiered: int
    parties_failed_to_downtier: int


def read_parties(sources: Iterable[TableSource], *, commercial: bool, check: Callable[[], None]) -> Any:
    """The union of registration tables: `party_id`, each once, and `party_size` (LARGE where they differ).

    `check` is called for each batch. Raises InvalidArgument with one ErrorInfo per failed check.
    """
    schema = _COMMERCIAL if commercial else _RETAIL
    batches: list[Any] = []
    failures: list[ValidationFailure] = []
    for source in sources:
        try:
            failures += _read(source, schema, batches, check)
        except DatasetValidationError as error:
            failures += error.failures
    if failures:
        refused = DatasetValidationError(failures)
        sizes = any(f.reason is Reason.UNSUPPORTED_VALUE for f in failures)
        raise InvalidArgument(
            "Invalid party_size present in table." if sizes else refused.message, *refused.details
        )
    table = pa.Table.from_batches(batches, schema.arrow)
    if not commercial:
        table = table.append_column("party_size", pa.nulls(table.num_rows, STRING))
    # "LARGE" sorts before "SMALL".
    grouped = table.group_by("party_id", use_threads=False).aggregate([("party_size", "min")])
    return pa.table({"party_id": grouped["party_id"], "party_size": grouped["party_size_min"]})


def _read(
    source: TableSource, schema: TableSchema, batches: list[Any], check: Callable[[], None]
) -> list[ValidationFailure]:
    if wrong := check_shape(schema, source.schema(schema)):
        return wrong
    checks = TableChecks(schema)
    for raw in source.batches(schema):
        check()
        batch = conform(schema, raw)
        checks.add(batch)
        batches.append(batch)
    # No party at all is a list too: replacing by it removes everyone.
    return [failed for failed in checks.failures() if failed.reason is not Reason.EMPTY_TABLE]


def merge(
    registered: Any, incoming: Any, *, replace: bool, now: dt.datetime, minimum: dt.timedelta
) -> tuple[Any, Counts]:
    """The list after an import, and what changed.

    A party stays registered, and in its tier, for at least `minimum` after it was registered or uptiered;
    until then removing or downtiering it fails, which is counted and is no error.
    """
    registered, incoming = registered.combine_chunks(), incoming.combine_chunks()
    ids, sizes = _column(registered, "party_id"), _column(registered, "party_size")
    earliest = _column(registered, "earliest_remove_time")
    place = pc.index_in(ids, value_set=_column(incoming, "party_id"))
    wanted = pc.take(_column(incoming, "party_size"), place)
    present, free = pc.is_valid(place), pc.less_equal(earliest, rfc3339(now))
    absent = pc.invert(present) if replace else pc.and_(present, pc.invert(present))
    uptier = _both(pc.equal(sizes, "SMALL"), pc.equal(wanted, "LARGE"))
    downtier = _both(pc.equal(sizes, "LARGE"), pc.equal(wanted, "SMALL"))
    lowered = pc.and_(downtier, free)
    removed = pc.and_(absent, free)
    later = rfc3339(now + minimum)
    since = _column(registered, "registration_or_uptier_time")
    kept = pa.table(
        [
            ids,
            pc.if_else(uptier, "LARGE", pc.if_else(lowered, "SMALL", sizes)),
            pc.if_else(uptier, later, earliest),
            _column(registered, "party_with_prediction_intent"),
            pc.if_else(uptier, rfc3339(now), since),
        ],
        schema=REGISTERED,
    ).filter(pc.invert(removed))
    fresh = _fresh(incoming, ids, rfc3339(now), later)
    table = pa.concat_tables([kept, fresh])
    counts = Counts(
        parties_added=fresh.num_rows,
        parties_removed=_count(removed),
        parties_total=table.num_rows,
        parties_failed_to_remove=_count(absent) - _count(removed),
        parties_uptiered=_count(uptier),
        parties_downtiered=_count(lowered),
        parties_failed_to_downtier=_count(downtier) - _count(lowered),
    )
    return table, counts


def _fresh(incoming: Any, known: Any, since: str, earliest: str) -> Any:
    new = incoming.filter(pc.invert(pc.is_in(_column(incoming, "party_id"), value_set=known)))
    rows = new.num_rows
    return pa.table(
        [
            new["party_id"],
            new["party_size"],
            pa.repeat(pa.scalar(earliest, STRING), rows),
            pa.repeat(pa.scalar("false", STRING), rows),
            pa.repeat(pa.scalar(since, STRING), rows),
        ],
        schema=REGISTERED,
    )


def _column(table: Any, name: str) -> Any:
    column = table[name].combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)


def _both(left: Any, right: Any) -> Any:
    return pc.fill_null(pc.and_kleene(left, right), False)


def _count(mask: Any) -> int:
    return int(pc.sum(mask).as_py() or 0)


def rfc3339(moment: dt.datetime) -> str:
    """`2026-01-01T00:00:00.000000Z`: always as long, so that texts order as times."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
