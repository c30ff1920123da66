"""The CSV form of an input table: members of a STRUCT as dotted columns, an ARRAY as JSON text.

    transaction_id,...,normalized_booked_amount.currency_code,normalized_booked_amount.units
    party_id,...,"nationalities"  ->  "[{""region_code"":""DE""}]"

An unquoted empty field is NULL, a quoted one the empty string. A STRUCT whose members are all NULL reads as
a NULL STRUCT. Instants are ISO 8601 with a zone offset, or end in " UTC" as BigQuery exports them. UTF-8,
comma, double quotes, a header line; line breaks inside quotes are allowed.

Owns both directions, so that what is written here is read back the same. It checks types only as far as
reading needs them; `validation` judges the table.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final, Literal, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from keystead.financialservices.failures import DatasetValidationError, Reason, failure, unreadable
from keystead.financialservices.tables import Field, TableSchema
from keystead.financialservices.validation import type_name

_BLOCK_BYTES: Final = 4 << 20
_MAX_HEADER_BYTES: Final = 1 << 20
_COLUMN_OF_ERROR: Final = re.compile(r"^In CSV column #(\d+): ")


def leaves(fields: Sequence[Field], prefix: str = "") -> dict[str, Field]:
    """Dotted column name -> field, for every column the CSV form of these fields may have."""
    found: dict[str, Field] = {}
    for field in fields:
        path = f"{prefix}{field.name}"
        if field.fields and not field.repeated:
            found |= leaves(field.fields, f"{path}.")
        else:
            found[path] = field
    return found


class Part(Protocol):
    """A file of an input table: a path is one; another process may be given only the file behind it."""

    @property
    def name(self) -> str:
        """What errors call it."""

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        """The file, anew and from its start; the caller closes it. Raises OSError."""


def header(part: Part) -> list[str]:
    """The column names of the file's first line. Raises OSError, UnicodeError or csv.Error."""
    with part.open("rb") as file:
        # Bounded: a file without a line break must not be read whole to find that out.
        line = file.readline(_MAX_HEADER_BYTES)
    return next(csv.reader([line.decode("utf-8-sig")]), [])


def nested_schema(table: TableSchema, names: Sequence[str]) -> Any:
    """The Arrow schema a file with these dotted columns has once its STRUCTs are put together."""
    given = set(names)
    return pa.schema(
        [(field.name, kind) for field in table.fields if (kind := _nested_type(field, "", given)) is not None]
    )


def _nested_type(field: Field, prefix: str, given: set[str]) -> Any | None:
    path = f"{prefix}{field.name}"
    if not field.fields or field.repeated:
        return field.type if path in given else None
    members = [(member.name, _nested_type(member, f"{path}.", given)) for member in field.fields]
    present = [(name, kind) for name, kind in members if kind is not None]
    return pa.struct(present) if present else None


def read(part: Part, table: TableSchema) -> Iterator[Any]:
    """Record batches of the nested columns of `table` that the file has, a few MiB at a time.

    Raises DatasetValidationError for text that is not of its column's type, and for what is no CSV; lets
    OSError through. Never names a value.
    """
    names = header(part)
    known = leaves(table.fields)
    wanted = [name for name in names if name in known]
    with part.open("rb") as file:
        reader = _next_or_refuse(lambda: _open(file, wanted, known), table, names)
        while (flat := _next_or_refuse(lambda: next(reader, None), table, names)) is not None:
            if flat.num_rows:
                yield _nest(table, flat)


def _open(file: BinaryIO, wanted: list[str], known: Mapping[str, Field]) -> Any:
    return pacsv.open_csv(
        file,
        read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            include_columns=wanted,
            column_types={name: _text_or_own_type(known[name]) for name in wanted},
            null_values=[""],  # not the default list: NA is Namibia
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _text_or_own_type(field: Field) -> Any:
    return pa.string() if field.repeated or pa.types.is_timestamp(field.kind) else field.kind


def _next_or_refuse(act: Callable[[], Any], table: TableSchema, names: Sequence[str]) -> Any:
    refusal: DatasetValidationError | None = None
    try:
        return act()
    except pa.ArrowException as error:
        # The text of `error` quotes the line; only the number of the column is taken from it.
        match = _COLUMN_OF_ERROR.match(str(error))
        refusal = _refusal(table, names[int(match.group(1))] if match else "")
    raise refusal


def _refusal(table: TableSchema, path: str) -> DatasetValidationError:
    field = leaves(table.fields).get(path)
    if field is None:
        return unreadable(table.name, "a line is not CSV in UTF-8 with the columns of the header")
    reason = Reason.UNSUPPORTED_DATA_TYPE
    return DatasetValidationError([failure(reason, table.name, path, detail=type_name(field))])


def _nest(table: TableSchema, flat: Any) -> Any:
    columns = {name: flat.column(index) for index, name in enumerate(flat.schema.names)}
    built = {field.name: _assemble(table, field, field.name, columns) for field in table.fields}
    return pa.RecordBatch.from_pydict({name: array for name, array in built.items() if array is not None})


def _assemble(table: TableSchema, field: Field, path: str, columns: Mapping[str, Any]) -> Any | None:
    if field.fields and not field.repeated:
        members = {
            member.name: array
            for member in field.fields
            if (array := _assemble(table, member, f"{path}.{member.name}", columns)) is not None
        }
        if not members:
            return None
        absent = None
        for array in members.values():
            absent = array.is_null() if absent is None else pc.and_(absent, array.is_null())
        return pa.StructArray.from_arrays(list(members.values()), names=list(members), mask=absent)
    text = columns.get(path)
    if text is None or (not field.repeated and not pa.types.is_timestamp(field.kind)):
        return text
    refused = False
    try:
        return _parse_json(text, field) if field.repeated else _parse_instants(text, field)
    except (pa.ArrowException, ValueError, TypeError):
        refused = True  # raised below, where the text that was quoted is no longer the context
    if refused:
        raise _refusal(table, path)
    return None


def _parse_json(text: Any, field: Field) -> Any:
    return pa.array([None if one is None else orjson.loads(one) for one in text.to_pylist()], field.type)


def _parse_instants(text: Any, field: Field) -> Any:
    return pc.replace_substring_regex(text, r" ?UTC$", "Z").cast(field.type)


def flatten(batch: Any) -> Any:
    """The CSV form of a nested record batch, as a record batch of plain columns."""
    columns: dict[str, Any] = {}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        _flatten_into(columns, name, array)
    return pa.RecordBatch.from_pydict(columns)


def _flatten_into(columns: dict[str, Any], path: str, array: Any) -> None:
    if pa.types.is_struct(array.type):
        for index in range(array.type.num_fields):
            name = array.type.field(index).name
            _flatten_into(columns, f"{path}.{name}", pc.struct_field(array, name))
    elif pa.types.is_list(array.type):
        texts = [None if one is None else orjson.dumps(one).decode() for one in array.to_pylist()]
        columns[path] = pa.array(texts, pa.string())
    else:
        columns[path] = array
