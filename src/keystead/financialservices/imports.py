"""The import of a dataset: every input table checked, and kept as a sealed file of the instance.

SECURITY: customer data goes from the input through the memory of a child process into sealed files; this
process opens those files and reads none of it. The operation's row holds no more than the generation of the
files; its error names tables, columns and counts, never a value.

The import is run from the start each time: it first removes what an interrupted run left. Nothing of it can
be read before the one transaction that makes the dataset ACTIVE.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from keystead.api.clock import Clock
from keystead.api.errors import NotFound
from keystead.api.operations import Task
from keystead.cmek.child import run_child
from keystead.cmek.lease import Lease
from keystead.cmek.sealed_store import SealedStore
from keystead.financialservices import lifecycle
from keystead.financialservices.customer_data import Body, CustomerData, StoredFile, alias_of
from keystead.financialservices.flatcsv import Part
from keystead.financialservices.import_child import ImportJob, TableJob
from keystead.financialservices.messages import Dataset
from keystead.financialservices.service import DATASETS
from keystead.financialservices.sources import TableNotFoundError, TableSource, TableSources
from keystead.financialservices.tables import TABLES
from keystead.store.collection import Stored

log = logging.getLogger(__name__)

CHILD: Final = "keystead.financialservices.import_child"


def object_name(table: str) -> str:
    """The name of the sealed file that holds a table."""
    return f"{table}.parquet"


class ImportDataset:
    """The work of CreateDataset. `read` answers the dataset as it is, while its key allows it."""

    kind = "CreateDataset"

    def __init__(
        self,
        store: Any,
        clock: Clock,
        customer: CustomerData,
        files: SealedStore,
        sources: TableSources,
        *,
        read: Callable[[str], Dataset],
    ) -> None:
        self._store = store
        self._clock = clock
        self._customer = customer
        self._files = files
        self._sources = sources
        self._read = read

    def run(self, task: Task) -> None:
        name, generation = task.row.target, task.row.arguments.decode()
        with self._store.read() as tx:
            stored = _announced(tx, name, generation)
        with self._customer.lease(name) as lease:
            body = self._customer.open(lease, stored.row)
            self._customer.remove(generation)
            files = self._import(task, lease, name, body)
            body = Body(body.message, generation, tuple(files))
            sealed = self._customer.seal(lease, name, DATASETS.kind, body)
            lease.key()
        with task.transaction() as tx:
            stored = _announced(tx, name, generation)
            lifecycle.activated(stored.message, self._clock.now())
            DATASETS.update(tx, stored, sealed=sealed)
            task.succeed(tx)

    def failed(self, tx: Any, row: Any) -> None:
        """No dataset is left of a failed import, and no file."""
        generation = row.arguments.decode()
        stored = DATASETS.find(tx, row.target)
        if stored is not None and stored.row.alias == alias_of(generation):
            tx.resources.delete(row.target)
        tx.after_commit(lambda: self._customer.remove(generation))

    def response(self, row: Any) -> Dataset:
        return self._read(row.target)

    def _import(self, task: Task, lease: Lease, name: str, body: Body) -> list[StoredFile]:
        """All tables, or every check that failed in any of them."""
        specs = Dataset.FromString(body.message).table_specs
        sources = {table: self._source(table, specs[table]) for table in TABLES if table in specs}
        tables = [
            TableJob(table, object_name(table), source.file_format, [_shown(part) for part in source.parts])
            for table, source in sources.items()
        ]
        job = ImportJob(name, body.generation, tables)
        with ExitStack() as open_files:
            partials = [
                open_files.enter_context(self._files.partial(body.generation, table.object))
                for table in tables
            ]
            found = run_child(
                CHILD,
                job.encode(),
                lease,
                files=[
                    *(partial(os.dup, made.raw.fileno()) for made in partials),
                    *(partial(open_part, part) for source in sources.values() for part in source.parts),
                ],
                check=task.check,
                progress=note_progress,
            )
            for made in partials:
                made.commit()
        return [
            StoredFile(table.object, bytes.fromhex(file_id), int(size), int(rows))
            for table, (file_id, size, rows) in zip(tables, found, strict=True)
        ]

    def _source(self, table: str, spec: str) -> TableSource:
        """The input of a table. The error is kept in clear with the operation: it does not quote the spec."""
        try:
            return self._sources.resolve(spec)
        except TableNotFoundError:
            raise NotFound(f"Not found: the input table given as '{table}' in table_specs.") from None


def _shown(part: Part) -> str:
    """The name of a part as text, whatever bytes it has on the disk."""
    return os.fsencode(part.name).decode(errors="replace")


def open_part(part: Part) -> int:
    """A descriptor of a part of an input table, to be read only. Raises OSError."""
    with part.open("rb") as file:
        return os.dup(file.fileno())


def note_progress(progress: Any) -> None:
    """Told by the child process after each batch: `[table, rows so far]`."""
    table, rows = progress
    log.debug("imported %s: %d rows so far", TABLES[table].name, int(rows))


def _announced(tx: Any, name: str, generation: str) -> Stored:
    """The dataset that this operation announced, and not a later one of the same name."""
    stored = DATASETS.find(tx, name)
    if stored is None or stored.row.alias != alias_of(generation):
        raise NotFound(f"Dataset {name} was deleted.")
    return stored
