"""Import of one input table: read, check, and write as Parquet to a sink.

SECURITY: customer data goes from the source through memory to the sink and nowhere else: no temporary file,
no spill, no value in an error. The sink seals what it gets; this module needs of it only `write`, in order.

After any failure the sink holds an unfinished file, without the footer that would make it readable: the
caller throws it away. Checks are `validation` and `digests`; what a table must look like is `tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from keystead.financialservices.digests import JoinKeys, PrimaryKeys
from keystead.financialservices.failures import DatasetValidationError
from keystead.financialservices.sources import TableSource
from keystead.financialservices.tables import Field, TableSchema
from keystead.financialservices.validation import TableChecks, check_shape, conform

ROW_GROUP_ROWS: Final = 131_072

# Columns of as many different values as rows: a dictionary of them would be built only to be given up.
_WITHOUT_DICTIONARY: Final = frozenset(
    {"transaction_id", "risk_case_event_id", "name", "phone", "email", "units", "nanos"}
)


class Sink(Protocol):
    """What an import needs of the file it writes: every writable binary file has it, a sealed one too."""

    def write(self, data: memoryview, /) -> int | None: ...


@dataclass(frozen=True, slots=True)
class TableReport:
    """What was imported: rows, bytes of Parquet given to the sink, and optional columns the input lacks."""

    table: str
    rows: int
    written_bytes: int
    absent_columns: tuple[str, ...]


class _Appender:
    """What pyarrow sees of the sink: append only, its own count of bytes, and deaf once abandoned.

    A ParquetWriter writes its footer even when it is only garbage collected; after a failure that must
    neither reach the sink nor raise from a destructor.
    """

    closed = False

    def __init__(self, raw: Sink) -> None:
        self._raw = raw
        self._abandoned = False
        self.position = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if not self._abandoned:
            self._write_all(view)
        self.position += view.nbytes
        return view.nbytes

    def _write_all(self, view: memoryview) -> None:
        while view.nbytes:
            # An unbuffered file may take less than it is given.
            written = self._raw.write(view)
            if not written:
                raise BlockingIOError("an import needs a blocking file to write to")
            view = view[written:]

    def tell(self) -> int:
        return self.position

    def flush(self) -> None:
        """Nothing to do: the owner of the raw sink finishes it."""

    def close(self) -> None:
        """The raw sink stays open: it belongs to the caller."""

    def abandon(self) -> None:
        self._abandoned = True


class _Rows:
    """The Parquet file being written: batches in, row groups of ROW_GROUP_ROWS out."""

    def __init__(self, table: TableSchema, raw: Sink) -> None:
        self._sink = _Appender(raw)
        self._pending: list[Any] = []
        self._pending_rows = 0
        self._schema = table.arrow
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"),
            table.arrow,
            compression="zstd",
            use_dictionary=_dictionary_columns(table.fields),
        )

    def add(self, batch: Any) -> None:
        while batch.num_rows:
            taken = batch.slice(0, ROW_GROUP_ROWS - self._pending_rows)
            self._pending.append(taken)
            self._pending_rows += taken.num_rows
            if self._pending_rows == ROW_GROUP_ROWS:
                self._write_row_group()
            batch = batch.slice(taken.num_rows)

    def _write_row_group(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending, self._schema))
            self._pending, self._pending_rows = [], 0

    def finish(self) -> int:
        """Writes the rest and the footer; the bytes written in all."""
        self._write_row_group()
        self._writer.close()
        return self._sink.position

    def abandon(self) -> None:
        self._sink.abandon()
        self._pending = []
        self._writer.close()


def _dictionary_columns(fields: tuple[Field, ...], prefix: str = "") -> list[str]:
    """Parquet paths of the columns worth a dictionary."""
    paths = []
    for field in fields:
        path = f"{prefix}{field.name}" + (".list.element" if field.repeated else "")
        if field.fields:
            paths += _dictionary_columns(field.fields, f"{path}.")
        elif field.name not in _WITHOUT_DICTIONARY and not pa.types.is_boolean(field.kind):
            paths.append(path)
    return paths


def _checked(
    table: TableSchema, source: TableSource, check: Callable[[], None], keys: JoinKeys | None
) -> Iterator[Any]:
    """The conformed batches of a table, all of them even when one fails: failures are counted to the end.

    Raises DatasetValidationError at the end, or at the first value that does not fit its type.
    """
    checks, primary = TableChecks(table), PrimaryKeys(table)
    for raw in source.batches(table):
        check()
        batch = conform(table, raw)
        checks.add(batch)
        primary.add(batch)
        if keys is not None:
            keys.add(table, batch)
        yield batch
    if failures := checks.failures() + primary.failures():
        raise DatasetValidationError(failures)


def ingest(
    table: TableSchema,
    source: TableSource,
    sink: Sink,
    *,
    check: Callable[[], None],
    progress: Callable[[int], None] | None = None,
    keys: JoinKeys | None = None,
) -> TableReport:
    """Imports `source` as `table` into `sink`, as Parquet (zstd) of exactly the columns of the model.

    `check` is called before each batch and before the footer, and whatever it raises ends the import; so
    does what `sink.write` raises. `progress` is told the rows done so far. `keys`, shared by the tables of a
    dataset, collects what `JoinKeys.failures` needs. Memory: two row groups and 16 bytes a row. Neither
    closes nor seeks `sink`.

    Raises DatasetValidationError with every check that failed. A wrong or missing column ends the import
    before its first row; failing values are counted to the end of the table.
    """
    shape = source.schema(table)
    if wrong := check_shape(table, shape):
        raise DatasetValidationError(wrong)
    output = _Rows(table, sink)
    try:
        rows = 0
        for batch in _checked(table, source, check, keys):
            output.add(batch)
            rows += batch.num_rows
            if progress is not None:
                progress(rows)
        check()
        written = output.finish()
    except BaseException:
        output.abandon()
        raise
    absent = tuple(field.name for field in table.fields if field.name not in shape.names)
    return TableReport(table.name, rows, written, absent)
