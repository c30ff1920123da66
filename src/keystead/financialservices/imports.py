"""The import of a dataset: every input table checked, and kept as a sealed file of the instance.

SECURITY: customer data goes from the input through memory into sealed files. The operation's row holds no
more than the generation of the files; its error names tables, columns and counts, never a value.

The import is run from the start each time: it first removes what an interrupted run left. Nothing of it can
be read before the one transaction that makes the dataset ACTIVE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keystead.api.clock import Clock
from keystead.api.errors import InvalidArgument, NotFound
from keystead.api.operations import Task
from keystead.cmek.lease import Lease
from keystead.financialservices import lifecycle
from keystead.financialservices.customer_data import Body, CustomerData, StoredFile, alias_of
from keystead.financialservices.digests import JoinKeys
from keystead.financialservices.failures import DatasetValidationError, ValidationFailure
from keystead.financialservices.ingest import ingest
from keystead.financialservices.messages import Dataset
from keystead.financialservices.service import DATASETS
from keystead.financialservices.sources import TableNotFoundError, TableSource, TableSources
from keystead.financialservices.tables import TABLES, TableSchema
from keystead.store.collection import Stored


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
        sources: TableSources,
        read: Callable[[str], Dataset],
    ) -> None:
        self._store = store
        self._clock = clock
        self._customer = customer
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
        keys, files = JoinKeys(), []
        failures: list[ValidationFailure] = []

        def check() -> None:
            task.check()
            lease.key()

        for table, source in sources.items():
            try:
                files.append(
                    self._table(TABLES[table], source, lease, name, body.generation, keys=keys, check=check)
                )
            except DatasetValidationError as error:
                failures += error.failures
        if failures := failures or keys.failures():
            refused = DatasetValidationError(failures)
            raise InvalidArgument(refused.message, *refused.details)
        return files

    def _table(
        self,
        table: TableSchema,
        source: TableSource,
        lease: Lease,
        name: str,
        generation: str,
        *,
        keys: JoinKeys,
        check: Callable[[], None],
    ) -> StoredFile:
        file = object_name(table.name)
        with self._customer.create_file(lease, name, generation, file) as out:
            report = ingest(table, source, out, check=check, keys=keys)
            size = out.tell()
        return StoredFile(file, out.file_id, size, report.rows)

    def _source(self, table: str, spec: str) -> TableSource:
        """The input of a table. The error is kept in clear with the operation: it does not quote the spec."""
        try:
            return self._sources.resolve(spec)
        except TableNotFoundError:
            raise NotFound(f"Not found: the input table given as '{table}' in table_specs.") from None


def _announced(tx: Any, name: str, generation: str) -> Stored:
    """The dataset that this operation announced, and not a later one of the same name."""
    stored = DATASETS.find(tx, name)
    if stored is None or stored.row.alias != alias_of(generation):
        raise NotFound(f"Dataset {name} was deleted.")
    return stored
