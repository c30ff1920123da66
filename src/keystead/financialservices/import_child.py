"""The import of a dataset's tables, as it is done in a child process of its own (`cmek.child`).

SECURITY: here customers' files are parsed, and nothing else is. The process has the KEK under its lease, and
descriptors of the files the server opened for it: the input to read, and for each table one to seal into.
What it tells of the data is counts and the names of failed checks.

`imports` is the server's half. A child gets its files by number: first those it writes, in the order of the
tables, then the parts of each table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from keystead.api.errors import InvalidArgument
from keystead.cmek.lease import Lease
from keystead.cmek.sealed_store import object_writer
from keystead.cmek.worker import Worker
from keystead.crypto.secret import SecretBytes
from keystead.financialservices import flatcsv
from keystead.financialservices.digests import JoinKeys
from keystead.financialservices.failures import DatasetValidationError, ValidationFailure
from keystead.financialservices.ingest import ingest
from keystead.financialservices.sources import TableSource
from keystead.financialservices.tables import TABLES, TableSchema


@dataclass(frozen=True, slots=True)
class TableJob:
    """One table: the object to seal it as, and its input."""

    table: str
    object: str
    file_format: Literal["parquet", "csv"]
    parts: Sequence[str]


@dataclass(frozen=True, slots=True)
class ImportJob:
    """All tables of a dataset, whose name and generation of files the objects are bound to."""

    resource: str
    generation: str
    tables: Sequence[TableJob]

    def encode(self) -> Any:
        """The job as a JSON value."""
        return dataclasses.asdict(self)

    @staticmethod
    def decode(value: Any) -> ImportJob:
        tables = [TableJob(**table) for table in value["tables"]]
        return ImportJob(value["resource"], value["generation"], tables)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an input table, opened by the server each time it is wanted."""

    name: str
    descriptor: Callable[[], int]

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        return os.fdopen(self.descriptor(), mode)


def work(worker: Worker) -> Any:
    """Import all tables: `[file id in hex, bytes, rows]` of each, in their order.

    Progress is told as `[table, rows so far]`. Raises InvalidArgument with every check that failed in any of
    them, OSError and KeyUnavailableError.
    """
    job = ImportJob.decode(worker.job)
    keys, files = JoinKeys(), []
    failures: list[ValidationFailure] = []
    for number, source in enumerate(_sources(job, worker)):
        try:
            files.append(_import(worker, job, number, source, keys))
        except DatasetValidationError as error:
            failures += error.failures
    if failures := failures or keys.failures():
        refused = DatasetValidationError(failures)
        raise InvalidArgument(refused.message, *refused.details)
    return files


def _sources(job: ImportJob, worker: Worker) -> Iterator[TableSource]:
    number = len(job.tables)
    for table in job.tables:
        parts = []
        for name in table.parts:
            parts.append(_Part(name, partial(worker.open, number)))
            number += 1
        yield TableSource(table.table, tuple(parts), table.file_format)


def _import(worker: Worker, job: ImportJob, number: int, source: TableSource, keys: JoinKeys) -> list[Any]:
    given, check = job.tables[number], partial(_alive, worker.lease)
    with (
        os.fdopen(worker.open(number), "wb", buffering=0) as raw,
        object_writer(raw, worker.lease, job.resource, job.generation, given.object) as out,
    ):
        report = ingest(
            TABLES[given.table],
            source,
            out,
            check=check,
            progress=lambda rows: worker.progress([given.table, rows]),
            keys=keys,
        )
        size = out.tell()
    return [out.file_id.hex(), size, report.rows]


def _alive(lease: Lease) -> None:
    lease.key()


@dataclass(frozen=True, slots=True)
class _Sample:
    """A part that is no file."""

    name: str
    content: bytes

    def open(self, mode: Literal["rb"], /) -> BinaryIO:
        del mode  # there is one only
        return io.BytesIO(self.content)


_SAMPLE: Final = TABLES["party"]


def prepare() -> None:
    """Import a line of nothing, from either format. Libraries load parts of themselves when these are first
    used, which this process may not be able to do once it is nobody."""
    line = _Sample("line.csv", _csv_line(_SAMPLE))
    formats: dict[Literal["parquet", "csv"], _Sample] = {"csv": line, "parquet": _as_parquet(line)}
    for file_format, part in formats.items():
        with contextlib.suppress(DatasetValidationError):
            _rehearse(TableSource("", (part,), file_format))


def _rehearse(source: TableSource) -> None:
    with SecretBytes.random() as key, io.FileIO(os.devnull, "wb") as raw:
        lease = Lease(key, SecretBytes.random, float("inf"))
        with object_writer(raw, lease, "", "", "") as out:
            ingest(_SAMPLE, source, out, check=partial(_alive, lease), keys=JoinKeys())


def _csv_line(table: TableSchema) -> bytes:
    values = {}
    for name, field in flatcsv.leaves(table.fields).items():
        instant = "2020-01-01 00:00:00 UTC" if pa.types.is_timestamp(field.kind) else ""
        values[name] = "[]" if field.repeated else instant
    return f"{','.join(values)}\n{','.join(values.values())}\n".encode()


def _as_parquet(line: _Sample) -> _Sample:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_batches(flatcsv.read(line, _SAMPLE)), sink)
    return _Sample("line.parquet", sink.getvalue())
