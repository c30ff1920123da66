"""Where the input tables of a dataset are read from.

SECURITY: a table name from a request can reach no file outside the configured root: every part of it is
matched whole against a pattern without dots and slashes, and the file that is found must still lie below the
root once all symbolic links are followed. What is wrong inside a file is reported without quoting it.

A dataset names its tables `bq://project.dataset.table`. Keystead has no BigQuery; a directory stands for it:

    ROOT/<project>/<dataset>/<table>.parquet
    ROOT/<project>/<dataset>/<table>.csv        (form: see `flatcsv`)
    ROOT/<project>/<dataset>/<table>/           parts, all *.parquet or all *.csv, in the order of their names

This module finds and reads; it copies nothing (`ingest`) and judges no value (`validation`). The input stays
the customer's: it is encrypted, or not, where the customer put it.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from keystead.api.errors import InvalidArgument, NotFound
from keystead.financialservices import flatcsv
from keystead.financialservices.failures import DatasetValidationError, Reason, failure, unreadable
from keystead.financialservices.flatcsv import Part
from keystead.financialservices.tables import TableSchema
from keystead.financialservices.validation import check_shape

BATCH_ROWS: Final = 65_536

TABLE_SPEC: Final = re.compile(
    r"bq://(?P<project>[a-z][a-z0-9-]{0,61}[a-z0-9]|[0-9]{1,19})"
    r"\.(?P<dataset>[A-Za-z0-9_]{1,255})"
    r"\.(?P<table>[A-Za-z0-9_][A-Za-z0-9_-]{0,239})",
    re.ASCII,
)
_FORMATS: Final[tuple[Literal["parquet", "csv"], ...]] = ("parquet", "csv")


class TableSpecError(InvalidArgument):
    """The table specification is not `bq://project.dataset.table`, or could mean more than one table."""


class TableNotFoundError(NotFound):
    """No file stands for the table, or none that may be read."""


@dataclass(frozen=True)
class TableSource:
    """One input table: `parts` are regular files, read in order. Those that `TableSources` finds are paths
    below the root."""

    uri: str
    parts: tuple[Part, ...]
    file_format: Literal["parquet", "csv"]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files as they lie there, compressed or not."""
        return sum(map(_size, self.parts))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The column names of the first part, as written in it. Raises DatasetValidationError."""
        return self._names(self.parts[0], self.uri)

    def schema(self, table: TableSchema) -> Any:
        """The Arrow schema of those columns that `table` knows. Raises DatasetValidationError.

        All parts must have the same columns of the model, and none twice.
        """
        first, *others = (self._part_schema(part, table) for part in self.parts)
        for part, other in zip(self.parts[1:], others, strict=True):
            if other != first:
                failures = check_shape(table, other)
                differs = f"the columns of {part.name} are not those of {self.parts[0].name}"
                raise DatasetValidationError(failures) if failures else unreadable(table.name, differs)
        return first

    def batches(self, table: TableSchema) -> Iterator[Any]:
        """Record batches of at most BATCH_ROWS rows with the columns that `schema` gives.

        Memory is bounded by the batch and one page per column, whatever the size of the file. Raises
        DatasetValidationError for a damaged file.
        """
        for part in self.parts:
            opened = flatcsv.read(part, table) if self.file_format == "csv" else _read_parquet(part, table)
            for batch in _guarded(opened, part, table.name):
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS)

    def _names(self, part: Part, table: str) -> tuple[str, ...]:
        if self.file_format == "csv":
            return tuple(_attempt(lambda: flatcsv.header(part), part, table))
        return tuple(_attempt(lambda: _read_schema(part), part, table).names)

    def _part_schema(self, part: Part, table: TableSchema) -> Any:
        names = self._names(part, table.name)
        known = set(flatcsv.leaves(table.fields)) if self.file_format == "csv" else set(table.columns)
        twice = [name for name, count in Counter(names).items() if count > 1 and name in known]
        if twice:
            reason = Reason.COLUMN_EXISTENCE
            raise DatasetValidationError(
                [failure(reason, table.name, name, detail="twice") for name in twice]
            )
        if self.file_format == "csv":
            return flatcsv.nested_schema(table, names)
        schema = _attempt(lambda: _read_schema(part), part, table.name)
        return pa.schema([(name, schema.field(name).type) for name in names if name in known])


def _size(part: Part) -> int:
    with part.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def _read_schema(part: Part) -> Any:
    with part.open("rb") as file:
        return pq.read_schema(file)


def _read_parquet(part: Part, table: TableSchema) -> Iterator[Any]:
    # A buffer size turns on streaming of column chunks: a row group larger than memory is read by pages.
    with part.open("rb") as raw, pq.ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False) as file:
        wanted = [name for name in file.schema_arrow.names if name in table.columns]
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=wanted)


def _guarded(batches: Iterator[Any], part: Part, table: str) -> Iterator[Any]:
    while (batch := _attempt(lambda: next(batches, None), part, table)) is not None:
        yield batch


def _attempt(act: Callable[[], Any], part: Part, table: str) -> Any:
    """`act()`, with whatever a reader says about the file replaced by a failure that quotes nothing."""
    refusal: DatasetValidationError
    try:
        return act()
    except DatasetValidationError:
        raise
    except (pa.ArrowException, OSError, UnicodeError, csv.Error) as error:
        code = error.errno if isinstance(error, OSError) else None
        why = os.strerror(code) if code else "it is damaged, or not of the format its name says"
        refusal = unreadable(table, f"{part.name}: {why}")
    raise refusal


class TableSources:
    """The tables below `root`; without a root there are none."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def resolve(self, uri: str) -> TableSource:
        """The source that `bq://project.dataset.table` names.

        Raises TableSpecError for any other text and for a name two files stand for, TableNotFoundError when
        nothing stands for it or what does lies outside the root.
        """
        match = TABLE_SPEC.fullmatch(uri)
        if match is None:
            raise TableSpecError(
                "Invalid table specification: it must be of the form bq://projectId.bqDatasetId.tableId."
            )
        if self._root is None:
            raise TableNotFoundError(f"Not found: Table {uri}: no directory of input tables is configured.")
        root = self._root.resolve()
        base = root / match["project"] / match["dataset"]
        found = [source for source in self._candidates(uri, root, base, match["table"]) if source.parts]
        if len(found) > 1:
            raise TableSpecError(f"Ambiguous table specification: more than one input stands for {uri}.")
        if not found:
            raise TableNotFoundError(f"Not found: Table {uri}.")
        return found[0]

    @staticmethod
    def _candidates(uri: str, root: Path, base: Path, table: str) -> Iterator[TableSource]:
        for kind in _FORMATS:
            yield TableSource(uri, _readable(root, [base / f"{table}.{kind}"]), kind)
        folder = base / table
        if _below(root, folder) is not None and folder.is_dir():
            for kind in _FORMATS:
                yield TableSource(uri, _readable(root, sorted(folder.glob(f"*.{kind}"))), kind)


def _readable(root: Path, paths: list[Path]) -> tuple[Path, ...]:
    """The files to read; none at all if one of them may not be read, for half a table is worse than none."""
    real = [_below(root, path) for path in paths if not path.name.startswith(".")]
    files = tuple(path for path in real if path is not None and path.is_file())
    return files if len(files) == len(real) else ()


def _below(root: Path, path: Path) -> Path | None:
    """The file `path` really is, if it exists and lies below `root` (itself resolved)."""
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of symbolic links
        return None
    return real if real.is_relative_to(root) else None
