"""Checks of input tables that one batch can decide: shape, types, NULLs, allowed values, amounts.

What spans rows or tables (keys, joins) is counted by `digests`; how a failure is reported is `failures`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from keystead.financialservices.failures import DatasetValidationError, Reason, ValidationFailure, failure
from keystead.financialservices.tables import TABLES, TRANSACTION, Field, Level, TableSchema

MAX_SUPPLEMENTARY_IDS: Final = 100
_MAX_NANOS = 999_999_999
# Distinct currencies and ids remembered while streaming; one more than enough is already a failure.
_MAX_DISTINCT = 1000


def missing_tables(given: Iterable[str]) -> list[ValidationFailure]:
    """TABLE_EXISTENCE for every mandatory table that `given` (keys of `table_specs`) leaves out."""
    names = set(given)
    return [
        failure(Reason.TABLE_EXISTENCE, table.name)
        for table in TABLES.values()
        if table.level is Level.MANDATORY and table.name not in names
    ]


def check_shape(table: TableSchema, schema: Any) -> list[ValidationFailure]:
    """COLUMN_EXISTENCE and UNSUPPORTED_DATA_TYPE of an input that has the Arrow `schema`.

    Columns the model does not know are allowed (and dropped later); a RECOMMENDED or EXPERIMENTAL one may
    be missing. Integers of any width, date64 and timestamps of any unit are accepted where the value fits;
    a timestamp without time zone is not an instant and is refused.
    """
    return _missing_or_mistyped(table.name, table.fields, {column.name: column.type for column in schema}, "")


def _missing_or_mistyped(
    table: str, fields: Iterable[Field], present: Mapping[str, Any], prefix: str
) -> list[ValidationFailure]:
    failures = []
    for field in fields:
        path = f"{prefix}{field.name}"
        if field.name not in present:
            if field.mandatory:
                failures.append(failure(Reason.COLUMN_EXISTENCE, table, path))
        else:
            failures += _mistyped(table, field, present[field.name], path)
    return failures


def _mistyped(table: str, field: Field, found: Any, path: str) -> list[ValidationFailure]:
    types = pa.types
    if types.is_null(found):  # a column of nothing but NULLs has no type of its own
        return []
    wrong = [failure(Reason.UNSUPPORTED_DATA_TYPE, table, path, detail=type_name(field))]
    if field.repeated:
        if not (types.is_list(found) or types.is_large_list(found)):
            return wrong
        found = found.value_type
    if not field.fields:
        return [] if _holds(field, found) else wrong
    if not types.is_struct(found):
        return wrong
    members = {found.field(i).name: found.field(i).type for i in range(found.num_fields)}
    return _missing_or_mistyped(table, field.fields, members, f"{path}.")


def _holds(field: Field, found: Any) -> bool:
    types = pa.types
    if types.is_dictionary(found):
        found = found.value_type
    if types.is_string(field.kind):
        return bool(types.is_string(found) or types.is_large_string(found) or types.is_string_view(found))
    if types.is_timestamp(field.kind):
        return bool(types.is_timestamp(found) and found.tz is not None)
    if types.is_integer(field.kind):
        return bool(types.is_integer(found))
    if types.is_floating(field.kind):
        return bool(types.is_floating(found) or types.is_integer(found))
    if types.is_date(field.kind):
        return bool(types.is_date(found))
    return bool(found == field.kind)


def type_name(field: Field) -> str:
    """The BigQuery name of the field's type, as the AML reference writes it."""
    if field.fields:
        return "STRUCT"
    kinds = {"string": "STRING", "int64": "INT64", "double": "FLOAT64", "bool": "BOOL", "date32[day]": "DATE"}
    return kinds.get(str(field.kind), "TIMESTAMP")


def conform(table: TableSchema, batch: Any) -> Any:
    """`batch` with exactly the columns, order and types of `table.arrow`; `check_shape` must have passed.

    Unknown columns are dropped, absent optional ones are NULL, instants are cut to microseconds. Raises
    DatasetValidationError for a value that does not fit the type, or text that is not UTF-8.
    """
    columns = []
    present = {name: index for index, name in enumerate(batch.schema.names)}
    for field in table.fields:
        index = present.get(field.name)
        if index is None:
            columns.append(pa.nulls(batch.num_rows, field.type))
        else:
            columns.append(_cast(table, field, batch.column(index)))
    return pa.RecordBatch.from_arrays(columns, schema=table.arrow)


def _cast(table: TableSchema, field: Field, column: Any) -> Any:
    problem: ValidationFailure | None = None
    try:
        if column.type != field.type:
            options = pc.CastOptions(target_type=field.type, allow_time_truncate=True)
            column = pc.cast(column, options=options)
        # Parquet readers trust the file about UTF-8 and offsets; everything after this point does not.
        column.validate(full=True)
    except pa.ArrowException:
        problem = failure(Reason.UNSUPPORTED_DATA_TYPE, table.name, field.name, detail=type_name(field))
    if problem is not None:
        raise DatasetValidationError([problem])
    return column


class TableChecks:
    """The checks of one table that look at values, summed over its batches (which must be conformed)."""

    def __init__(self, table: TableSchema) -> None:
        self._table = table
        self._rows = 0
        self._counts: Counter[tuple[Reason, str]] = Counter()
        self._details: dict[str, str] = {}
        self._currencies: Counter[str] = Counter()
        self._supplementary_ids: set[str] = set()
        self._allowed: dict[frozenset[str], Any] = {}

    def add(self, batch: Any) -> None:
        self._rows += batch.num_rows
        for field in self._table.fields:
            self._check(field, batch.column(field.name), field.name, 0)
        if self._table is TRANSACTION:
            self._check_amounts(batch.column("normalized_booked_amount"))
        if self._table.name == "party_supplementary_data":
            self._check_supplementary(batch.column("party_supplementary_data_id"))

    def failures(self) -> list[ValidationFailure]:
        """Everything that failed in the table, to be asked once, after the last batch."""
        name = self._table.name
        failures = [
            failure(reason, name, path, count, self._details.get(path, ""))
            for (reason, path), count in self._counts.items()
        ]
        if self._rows == 0:
            failures.append(failure(Reason.EMPTY_TABLE, name))
        if len(self._currencies) > 1:
            minority = self._currencies.total() - max(self._currencies.values())
            path = "normalized_booked_amount.currency_code"
            failures.append(failure(Reason.UNNORMALIZED_BOOKED_AMOUNT_CURRENCY, name, path, minority))
        if (distinct := len(self._supplementary_ids)) > MAX_SUPPLEMENTARY_IDS:
            reason = Reason.EXCESSIVE_PARTY_SUPPLEMENTARY_DATA_IDS
            failures.append(failure(reason, name, "party_supplementary_data_id", distinct))
        return failures

    def _count(self, reason: Reason, path: str, count: int | None) -> None:
        if count:
            self._counts[reason, path] += count

    def _check(self, field: Field, values: Any, path: str, absent: int) -> None:
        """`absent`: how many of the values are NULL only because the STRUCT around them is."""
        if field.required:
            self._count(Reason.NOT_NULL_COLUMN_WITH_NULLS, path, values.null_count - absent)
        if values.null_count == len(values):
            return
        if field.repeated:
            values = pc.list_flatten(values)
        if field.fields:
            for member in field.fields:
                nested = pc.struct_field(values, member.name)
                self._check(member, nested, f"{path}.{member.name}", values.null_count)
        elif field.values is not None:
            allowed = self._allowed.setdefault(field.values, pa.array(sorted(field.values)))
            known = pc.sum(pc.is_in(values, value_set=allowed, skip_nulls=True)).as_py() or 0
            self._details[path] = ", ".join(f'"{value}"' for value in sorted(field.values))
            self._count(Reason.UNSUPPORTED_VALUE, path, len(values) - values.null_count - known)
        elif pa.types.is_floating(field.kind):
            self._count(Reason.NAN_VALUE_IN_FLOAT_COLUMN, path, pc.sum(pc.is_nan(values)).as_py())
        if field.name == "nanos":
            self._details[path] = "0..999999999"
            excess = pc.sum(pc.greater(values, _MAX_NANOS)).as_py()
            self._count(Reason.UNSUPPORTED_VALUE, path, excess)

    def _check_amounts(self, amounts: Any) -> None:
        units, nanos = pc.struct_field(amounts, "units"), pc.struct_field(amounts, "nanos")
        negative = pc.sum(pc.or_kleene(pc.less(units, 0), pc.less(nanos, 0))).as_py()
        path = "normalized_booked_amount"
        self._count(Reason.NEGATIVE_TRANSACTION_NORMALIZED_BOOKED_AMOUNT, path, negative)
        currencies = pc.value_counts(pc.struct_field(amounts, "currency_code").drop_null())
        for entry in currencies.slice(0, _MAX_DISTINCT).to_pylist():
            if entry["values"] in self._currencies or len(self._currencies) < _MAX_DISTINCT:
                self._currencies[entry["values"]] += entry["counts"]

    def _check_supplementary(self, ids: Any) -> None:
        ids = ids.drop_null()
        malformed = pc.sum(pc.invert(pc.match_substring_regex(ids, "^[a-zA-Z0-9][a-zA-Z0-9_]*$"))).as_py()
        path = "party_supplementary_data_id"
        self._count(Reason.SUPPLEMENTARY_DATA_COLUMN_NAMES, path, malformed)
        room = _MAX_DISTINCT - len(self._supplementary_ids)
        self._supplementary_ids.update(pc.unique(ids).slice(0, room).to_pylist())
