"""ImportRegisteredParties and ExportRegisteredParties: which parties predictions may be made for.

SECURITY: the list, what was asked of an import, and its counts are sealed under the instance's key. An import
writes the new list as a new generation of files beside the old one, and one transaction changes over; so a
crash leaves the old list or the new one. Input and output tables are the customer's own.

How a list changes is `registration`; where output goes is `destinations`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.longrunning import operations_pb2

from keystead.api import names
from keystead.api.call import Call
from keystead.api.clock import Clock
from keystead.api.errors import Aborted, NotFound, bad_field
from keystead.api.method import LogKind, method
from keystead.api.operations import Task
from keystead.cmek.lease import Lease
from keystead.financialservices import lifecycle, registration
from keystead.financialservices.changes import Change, Changes
from keystead.financialservices.customer_data import Body, CustomerData, StoredFile, generation_of
from keystead.financialservices.destinations import TableDestinations, require_disposition
from keystead.financialservices.messages import (
    ExportRegisteredPartiesRequest,
    ExportRegisteredPartiesResponse,
    ImportRegisteredPartiesRequest,
    ImportRegisteredPartiesResponse,
    LineOfBusiness,
)
from keystead.financialservices.service import (
    AML,
    API,
    INSTANCE,
    INSTANCES,
    OPERATION_RESULT,
    REGISTERED_PARTIES,
)
from keystead.financialservices.sources import TableNotFoundError, TableSource, TableSources, TableSpecError
from keystead.store.rows import Resource

_FILE = "parties.parquet"
_REQUEST = "RegisteredPartiesRequest"
_MODES = ImportRegisteredPartiesRequest.UpdateMode
_REPLACE, _APPEND = _MODES.Value("REPLACE"), _MODES.Value("APPEND")
_LINES = {int(LineOfBusiness.COMMERCIAL): "commercial", int(LineOfBusiness.RETAIL): "retail"}


class RegisteredParties:
    """The methods of instances that concern registered parties."""

    service = AML

    def __init__(
        self,
        store: Any,
        customer: CustomerData,
        changes: Changes,
        sources: TableSources,
        destinations: TableDestinations,
    ) -> None:
        self._store = store
        self._customer = customer
        self._changes = changes
        self._sources = sources
        self._destinations = destinations

    @method(
        f"{API}/ImportRegisteredParties",
        http=f"POST /v1/{{name={INSTANCE}}}:importRegisteredParties",
        body="*",
        permission="financialservices.v1instances.importRegisteredParties",
        on="name",
        log=LogKind.DATA_WRITE,
        redact=("party_tables",),
        own_transaction=True,
    )
    def import_parties(self, call: Call, request: ImportRegisteredPartiesRequest) -> operations_pb2.Operation:
        if request.mode not in {_REPLACE, _APPEND}:
            raise bad_field("mode", "It must be REPLACE or APPEND.")
        _line(request)
        if not request.party_tables:
            raise bad_field("party_tables", "At least one table is required.")
        for index, spec in enumerate(request.party_tables):
            _resolve(self._sources, spec, index, must_exist=False)
        change = Change(ImportRegisteredParties.kind, "importRegisteredParties", request.name)
        return self._commit(call, change, request)

    @method(
        f"{API}/ExportRegisteredParties",
        http=f"POST /v1/{{name={INSTANCE}}}:exportRegisteredParties",
        body="*",
        permission="financialservices.v1instances.exportRegisteredParties",
        on="name",
        log=LogKind.DATA_READ,
        redact=("dataset.table_uri",),
        own_transaction=True,
    )
    def export_parties(self, call: Call, request: ExportRegisteredPartiesRequest) -> operations_pb2.Operation:
        _line(request)
        require_disposition(request.dataset.write_disposition)
        try:
            self._destinations.resolve(request.dataset.table_uri)
        except TableSpecError as error:
            raise bad_field("dataset.table_uri", error.message) from None
        change = Change(ExportRegisteredParties.kind, "exportRegisteredParties", request.name)
        return self._commit(call, change, request)

    def _commit(self, call: Call, change: Change, request: Any) -> operations_pb2.Operation:
        """The request goes with its operation, sealed."""
        with self._store.read() as tx:
            lifecycle.require_active(INSTANCES.require(tx, request.name).message)
        with self._customer.lease(request.name) as lease:
            body = Body(request.SerializeToString())
            sealed = self._customer.seal(lease, request.name, _REQUEST, body)

        def announce(tx: Any) -> None:
            lifecycle.require_active(INSTANCES.require(tx, request.name).message)

        return self._changes.commit(call, change, announce, arguments=sealed)


class _PartiesWork:
    """What both operations have in common: the sealed request and the stored list."""

    def __init__(self, store: Any, customer: CustomerData) -> None:
        self._store = store
        self._customer = customer

    def _request(self, task: Task, lease: Lease, kind: Any) -> Any:
        body = self._customer.unseal(lease, task.row.target, _REQUEST, task.row.arguments)
        return kind.FromString(body.message)

    def _stored(self, instance: str, line: str) -> Resource | None:
        with self._store.read() as tx:
            row: Resource | None = tx.resources.get(_list_name(instance, line))
        return row

    def _table(self, lease: Lease, instance: str, row: Resource | None) -> Any:
        """The list as it is stored; empty before the first import."""
        if row is None:
            return registration.REGISTERED.empty_table()
        body = self._customer.open(lease, row)
        with self._customer.open_file(lease, instance, body, _FILE) as file:
            return pq.read_table(pa.PythonFile(file, mode="r"), use_threads=False)

    def _check(self, task: Task, lease: Lease) -> Callable[[], None]:
        def check() -> None:
            task.check()
            lease.key()

        return check


class ImportRegisteredParties(_PartiesWork):
    """Changes the list of a line of business as registration tables say.

    minimum: how long a party stays registered at least. The hosted service has such a time for its billing;
    here it is zero unless a deployment wants one.
    """

    kind = "ImportRegisteredParties"

    def __init__(
        self,
        store: Any,
        clock: Clock,
        customer: CustomerData,
        sources: TableSources,
        *,
        minimum: dt.timedelta = dt.timedelta(0),
    ) -> None:
        super().__init__(store, customer)
        self._clock = clock
        self._sources = sources
        self._minimum = minimum

    def run(self, task: Task) -> None:
        instance = task.row.target
        with self._customer.lease(instance) as lease:
            request = self._request(task, lease, ImportRegisteredPartiesRequest)
            line = _line(request)
            before = self._stored(instance, line)
            table, counts = self._merged(task, lease, request, before)
            result = self._result(lease, task, instance, counts)
            after = None
            if not request.validate_only:
                after = self._write(lease, instance, line, table)
        try:
            self._change_over(task, instance, result, before, after)
        except BaseException:
            self._customer.remove(generation_of(after) if after is not None else "")
            raise
        if after is not None and before is not None:
            self._customer.remove(generation_of(before))

    def failed(self, tx: Any, row: Any) -> None:
        """Nothing was announced."""

    def response(self, row: Any) -> ImportRegisteredPartiesResponse:
        instance = row.target
        with self._store.read() as tx:
            result = tx.resources.get(_result_name(row.name))
        if result is None:
            raise NotFound(f"The result of {row.name} was deleted with its instance.")
        with self._customer.lease(instance) as lease:
            message = self._customer.open(lease, result).message
        return ImportRegisteredPartiesResponse.FromString(message)

    def _merged(
        self, task: Task, lease: Lease, request: Any, before: Resource | None
    ) -> tuple[Any, registration.Counts]:
        sources = [
            _resolve(self._sources, spec, index, must_exist=True)
            for index, spec in enumerate(request.party_tables)
        ]
        commercial = request.line_of_business == LineOfBusiness.COMMERCIAL
        incoming = registration.read_parties(
            [source for source in sources if source is not None],
            commercial=commercial,
            check=self._check(task, lease),
        )
        registered = self._table(lease, request.name, before)
        replace = request.mode == _REPLACE
        return registration.merge(
            registered, incoming, replace=replace, now=self._clock.now(), minimum=self._minimum
        )

    def _result(self, lease: Lease, task: Task, instance: str, counts: registration.Counts) -> Resource:
        response = ImportRegisteredPartiesResponse(**dataclasses.asdict(counts))
        name = _result_name(task.row.name)
        sealed = self._customer.seal(lease, name, OPERATION_RESULT, Body(response.SerializeToString()))
        sort = names.last_of(task.row.name)
        return Resource(name, OPERATION_RESULT, parent=instance, sort=sort, body=b"", sealed=sealed)

    def _write(self, lease: Lease, instance: str, line: str, table: Any) -> Resource:
        """The new list as a row and its file, in a generation of its own."""
        generation = self._customer.new_generation()
        name = _list_name(instance, line)
        try:
            with self._customer.create_file(lease, instance, generation, _FILE) as out:
                pq.write_table(table, pa.PythonFile(out, mode="w"), compression="zstd")
                size = out.tell()
            file = StoredFile(_FILE, out.file_id, size, table.num_rows)
            body = Body(b"", generation, (file,))
            sealed = self._customer.seal(lease, name, REGISTERED_PARTIES, body)
        except BaseException:
            self._customer.remove(generation)
            raise
        return Resource(
            name, REGISTERED_PARTIES, parent=instance, sort=line, body=b"", sealed=sealed, alias=body.alias
        )

    def _change_over(
        self, task: Task, instance: str, result: Resource, before: Resource | None, after: Resource | None
    ) -> None:
        with task.transaction() as tx:
            lifecycle.require_active(INSTANCES.require(tx, instance).message)
            tx.resources.insert(result)
            if after is not None and before is not None:
                tx.resources.update(dataclasses.replace(after, revision=before.revision))
            elif after is not None and not tx.resources.insert(after):
                raise Aborted("Another import of registered parties was faster. Please retry.")
            task.succeed(tx)


class ExportRegisteredParties(_PartiesWork):
    """Writes the list of a line of business to a table of the customer's."""

    kind = "ExportRegisteredParties"

    def __init__(self, store: Any, customer: CustomerData, destinations: TableDestinations) -> None:
        super().__init__(store, customer)
        self._destinations = destinations

    def run(self, task: Task) -> None:
        instance = task.row.target
        with self._customer.lease(instance) as lease:
            request = self._request(task, lease, ExportRegisteredPartiesRequest)
            table = self._table(lease, instance, self._stored(instance, _line(request)))
            self._check(task, lease)()
            destination = self._destinations.resolve(request.dataset.table_uri)
            self._destinations.write(destination, request.dataset.write_disposition, table, task.row.name)
        with task.transaction() as tx:
            task.succeed(tx)

    def failed(self, tx: Any, row: Any) -> None:
        """Nothing was announced."""

    def response(self, row: Any) -> ExportRegisteredPartiesResponse:
        return ExportRegisteredPartiesResponse()


def _line(request: Any) -> str:
    """The line of business of a request, `retail` or `commercial`; INVALID_ARGUMENT without one."""
    line = _LINES.get(request.line_of_business)
    if line is None:
        raise bad_field("line_of_business", "It must be COMMERCIAL or RETAIL.")
    return line


def _resolve(sources: TableSources, spec: str, index: int, *, must_exist: bool) -> TableSource | None:
    """The input that a request names; no error quotes it."""
    try:
        return sources.resolve(spec)
    except TableSpecError:
        raise bad_field(
            f"party_tables[{index}]",
            "It must be of the form bq://projectId.bqDatasetId.tableId and mean one table.",
        ) from None
    except TableNotFoundError:
        if must_exist:
            raise NotFound(f"Not found: the input table given as party_tables[{index}].") from None
        return None


def _list_name(instance: str, line: str) -> str:
    return f"{instance}/registeredParties/{line}"


def _result_name(operation: str) -> str:
    return f"{operation}/result"
