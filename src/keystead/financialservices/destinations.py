"""Where output tables are written: the customer's own tables, below the root that `sources` reads from.

Output is the customer's, in the customer's place: AML AI does not encrypt it (documentation, "Customer
Data"). A table appears as a whole or not at all. A destination is named and confined as an input is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from keystead.api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from keystead.financialservices.messages import BigQueryDestination
from keystead.financialservices.sources import TABLE_SPEC, TableNotFoundError, TableSources, TableSpecError

WRITE_EMPTY = BigQueryDestination.WriteDisposition.Value("WRITE_EMPTY")
WRITE_TRUNCATE = BigQueryDestination.WriteDisposition.Value("WRITE_TRUNCATE")

# Names the operation that wrote a table: run again after a crash, it knows its own output.
_WRITER = b"keystead.operation"


@dataclass(frozen=True, slots=True)
class TableDestination:
    """A place for one table: `path` is in an existing directory below the root."""

    uri: str
    path: Path


class TableDestinations:
    """The tables below `root`; without a root there are none."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def resolve(self, uri: str) -> TableDestination:
        """The place `bq://project.dataset.table` names. Raises TableSpecError, and NotFound where the dataset
        does not exist or lies outside the root."""
        match = TABLE_SPEC.fullmatch(uri)
        if match is None:
            raise TableSpecError(
                "Invalid table specification: it must be of the form bq://projectId.bqDatasetId.tableId."
            )
        root = self._root.resolve() if self._root is not None else None
        folder = root / match["project"] / match["dataset"] if root is not None else None
        if root is None or folder is None or not folder.is_dir():
            raise NotFound("Not found: the dataset of the output table. It must exist.")
        folder = folder.resolve()
        if not folder.is_relative_to(root):
            raise NotFound("Not found: the dataset of the output table. It must exist.")
        return TableDestination(uri, folder / f"{match['table']}.parquet")

    def write(self, destination: TableDestination, disposition: int, table: Any, operation: str) -> None:
        """Put `table` there. With WRITE_EMPTY, AlreadyExists if the table is there and has rows.

        Done again by the same operation, it changes nothing. Raises FailedPrecondition where the table is
        kept in another form than one Parquet file, OSError for a full disk.
        """
        path = destination.path
        if self._is_ours(path, operation):
            return
        if self._exists_elsewhere(destination):
            raise FailedPrecondition("The output table is not kept as one Parquet file; it is not replaced.")
        if disposition == WRITE_EMPTY and _has_rows(path):
            raise AlreadyExists("Already Exists: the output table, and it contains data.")
        partial = path.with_name(f".{path.name}.{operation.rsplit('/', 1)[-1]}.partial")
        marked = table.replace_schema_metadata({_WRITER: operation.encode()})
        try:
            with partial.open("wb") as raw:
                pq.write_table(marked, raw)
                raw.flush()
                os.fsync(raw.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @staticmethod
    def _is_ours(path: Path, operation: str) -> bool:
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (OSError, pa.ArrowException):
            return False
        return bool(metadata.get(_WRITER) == operation.encode())

    def _exists_elsewhere(self, destination: TableDestination) -> bool:
        try:
            source = TableSources(self._root).resolve(destination.uri)
        except TableNotFoundError:
            return False
        except TableSpecError:
            return True  # more than one form
        return source.parts != (destination.path,)


def _has_rows(path: Path) -> bool:
    try:
        return bool(pq.read_metadata(path).num_rows)
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException):
        return True  # whatever it is, it is not an empty table


def require_disposition(disposition: int) -> None:
    """INVALID_ARGUMENT unless the write disposition is one of the two."""
    if disposition not in {WRITE_EMPTY, WRITE_TRUNCATE}:
        raise InvalidArgument("The field dataset.write_disposition must be WRITE_EMPTY or WRITE_TRUNCATE.")
