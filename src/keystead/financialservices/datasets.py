"""Datasets: create, get, list, update, delete, and Keystead's own summary.

SECURITY: a dataset is customer data as a whole. Every read of it, List and the response of its operations
included, needs the lease on the instance's key; without it not even its labels are answered. No log holds
any of it either.

Its row shows name, times and state; how the rest is kept is `customer_data`, how its tables are imported is
`imports`.
"""

from __future__ import annotations

import zoneinfo
from contextlib import ExitStack
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import struct_pb2

from keystead.api import masks, names
from keystead.api.call import Call
from keystead.api.errors import AlreadyExists, InvalidArgument, NotFound, bad_field
from keystead.api.method import LogKind, method
from keystead.api.operations import Task
from keystead.cmek.lease import Lease
from keystead.financialservices import lifecycle
from keystead.financialservices.changes import Change, Changes
from keystead.financialservices.customer_data import Body, CustomerData, generation_of
from keystead.financialservices.failures import DatasetValidationError
from keystead.financialservices.imports import ImportDataset, object_name
from keystead.financialservices.messages import (
    CreateDatasetRequest,
    Dataset,
    DeleteDatasetRequest,
    GetDatasetRequest,
    ListDatasetsRequest,
    ListDatasetsResponse,
    UpdateDatasetRequest,
)
from keystead.financialservices.service import AML, API, DATASET, DATASETS, INSTANCE, INSTANCES, instance_of
from keystead.financialservices.sources import TableNotFoundError, TableSources, TableSpecError
from keystead.financialservices.summary import summarize
from keystead.financialservices.tables import TABLES
from keystead.financialservices.validation import missing_tables
from keystead.kms.lifecycle import check_labels
from keystead.store.collection import Stored

# Of a dataset, the fields that its row shows.
_METADATA = ("name", "create_time", "update_time", "state")
_CONTENT = ("labels", "table_specs", "date_range", "time_zone")


class Datasets:
    """The dataset methods of AML."""

    service = AML

    def __init__(self, store: Any, customer: CustomerData, changes: Changes, sources: TableSources) -> None:
        self._store = store
        self._customer = customer
        self._changes = changes
        self._sources = sources

    @method(
        f"{API}/CreateDataset",
        http=f"POST /v1/{{parent={INSTANCE}}}/datasets",
        body="dataset",
        permission="financialservices.v1datasets.create",
        on="parent",
        log=LogKind.DATA_WRITE,
        redact=("dataset", "response"),
        own_transaction=True,
    )
    def create(self, call: Call, request: CreateDatasetRequest) -> operations_pb2.Operation:
        names.require_id("dataset_id", request.dataset_id, names.AIP_ID)
        name = f"{request.parent}/datasets/{request.dataset_id}"
        change = Change(ImportDataset.kind, "create", name, request.request_id)
        if (earlier := self._changes.earlier(call, change)) is not None:
            return earlier
        content = Dataset()
        content.CopyFrom(request.dataset)
        for field in _METADATA:
            content.ClearField(field)
        check_dataset(content, self._sources)
        with self._store.read() as tx:
            lifecycle.require_active(INSTANCES.require(tx, request.parent).message)
            if DATASETS.find(tx, name) is not None:
                raise AlreadyExists(f"Dataset {name} already exists.")
        body = Body(content.SerializeToString(), self._customer.new_generation())
        with self._customer.lease(name) as lease:
            sealed = self._customer.seal(lease, name, DATASETS.kind, body)
        shown = Dataset(name=name)
        lifecycle.created(shown, call.now)

        def announce(tx: Any) -> None:
            lifecycle.require_active(INSTANCES.require(tx, request.parent).message)
            DATASETS.insert(tx, shown, parent=request.parent, sealed=sealed, alias=body.alias)

        return self._changes.commit(call, change, announce, arguments=body.generation.encode())

    @method(
        f"{API}/GetDataset",
        http=f"GET /v1/{{name={DATASET}}}",
        permission="financialservices.v1datasets.get",
        on="name",
        log=LogKind.DATA_READ,
        redact=_CONTENT,
        own_transaction=True,
    )
    def get(self, call: Call, request: GetDatasetRequest) -> Dataset:
        return self.read(request.name)

    @method(
        f"{API}/ListDatasets",
        http=f"GET /v1/{{parent={INSTANCE}}}/datasets",
        permission="financialservices.v1datasets.list",
        on="parent",
        log=LogKind.DATA_READ,
        redact=("datasets", "filter"),
        own_transaction=True,
    )
    def list(self, call: Call, request: ListDatasetsRequest) -> ListDatasetsResponse:
        with self._store.read() as tx:
            lifecycle.require_active(INSTANCES.require(tx, request.parent).message)
        with self._customer.lease(request.parent) as lease, self._store.read() as tx:
            page = DATASETS.page(
                tx, request, request.parent, complete=lambda _, stored: self._complete(lease, stored)[0]
            )
            lease.key()
        return ListDatasetsResponse(datasets=page.items, next_page_token=page.next_page_token)

    @method(
        f"{API}/UpdateDataset",
        http=f"PATCH /v1/{{dataset.name={DATASET}}}",
        body="dataset",
        permission="financialservices.v1datasets.update",
        on="dataset.name",
        log=LogKind.DATA_WRITE,
        redact=(
            "dataset.labels",
            "dataset.table_specs",
            "dataset.date_range",
            "dataset.time_zone",
            "response",
        ),
        own_transaction=True,
    )
    def update(self, call: Call, request: UpdateDatasetRequest) -> operations_pb2.Operation:
        name = request.dataset.name
        change = Change(UpdateDataset.kind, "update", name, request.request_id)
        if (earlier := self._changes.earlier(call, change)) is not None:
            return earlier
        stored = self._require(name)
        lifecycle.require_active(stored.message)
        with self._customer.lease(name) as lease:
            dataset, body = self._complete(lease, stored)
            # Without a mask all fields are overwritten, of which only the labels can be.
            masks.apply(
                dataset,
                request.dataset,
                request.update_mask if request.update_mask.paths else [masks.WILDCARD],
                mutable=("labels",),
                immutable=("table_specs", "date_range", "time_zone"),
            )
            _check_labels(dataset.labels)
            for field in _METADATA:
                dataset.ClearField(field)
            body = Body(dataset.SerializeToString(), body.generation, body.files)
            sealed = self._customer.seal(lease, name, DATASETS.kind, body)

        def announce(tx: Any) -> None:
            lifecycle.require_active(INSTANCES.require(tx, instance_of(name)).message)
            stored.message.update_time.FromDatetime(call.now)
            DATASETS.update(tx, stored, sealed=sealed)

        return self._changes.commit(call, change, announce)

    @method(
        f"{API}/DeleteDataset",
        http=f"DELETE /v1/{{name={DATASET}}}",
        permission="financialservices.v1datasets.delete",
        on="name",
        log=LogKind.DATA_WRITE,
        own_transaction=True,
    )
    def delete(self, call: Call, request: DeleteDatasetRequest) -> operations_pb2.Operation:
        change = Change(DeleteDataset.kind, "delete", request.name, request.request_id)
        if (earlier := self._changes.earlier(call, change)) is not None:
            return earlier

        def announce(tx: Any) -> None:
            lifecycle.require_active(INSTANCES.require(tx, instance_of(request.name)).message)
            stored = DATASETS.require(tx, request.name)
            lifecycle.deleting(stored.message, call.now)
            DATASETS.update(tx, stored)

        return self._changes.commit(call, change, announce)

    @method(
        "keystead.financialservices.v1.Datasets/SummarizeDataset",
        http=f"GET /v1/{{name={DATASET}}}:summarize",
        permission="financialservices.v1datasets.get",
        on="name",
        log=LogKind.DATA_READ,
        redact=("*",),
        own_transaction=True,
    )
    def summarize(self, call: Call, request: GetDatasetRequest) -> struct_pb2.Struct:
        """Counts per table, read from the sealed files (see `summary.summarize`)."""
        stored = self._require(request.name)
        lifecycle.require_active(stored.message)
        answer = struct_pb2.Struct()
        with self._customer.lease(request.name) as lease, ExitStack() as opened:
            body = self._customer.open(lease, stored.row)
            tables = {
                table: opened.enter_context(
                    self._customer.open_file(lease, request.name, body, object_name(table))
                )
                for table in TABLES
                if any(file.name == object_name(table) for file in body.files)
            }
            answer.update(summarize(tables))
            lease.key()
        return answer

    def read(self, name: str) -> Dataset:
        """A dataset in full. Raises NotFound, and the refusal of the key."""
        stored = self._require(name)
        with self._customer.lease(name) as lease:
            return self._complete(lease, stored)[0]

    def _require(self, name: str) -> Stored:
        """The row of a dataset, unless its instance is on its way out."""
        with self._store.read() as tx:
            lifecycle.require_active(INSTANCES.require(tx, instance_of(name)).message)
            return DATASETS.require(tx, name)

    def _complete(self, lease: Lease, stored: Stored) -> tuple[Dataset, Body]:
        """The dataset with what its row shows and what it keeps sealed."""
        body = self._customer.open(lease, stored.row)
        dataset = Dataset.FromString(body.message)
        dataset.MergeFrom(stored.message)
        return dataset, body


def check_dataset(dataset: Any, sources: TableSources) -> None:
    """The rules for a new dataset. Whether its tables are there, and what is in them, the import finds out.

    No error quotes what the caller sent: errors are recorded in logs, and a dataset is customer data.
    """
    _check_labels(dataset.labels)
    specs = dataset.table_specs
    if set(specs) - set(TABLES):
        raise bad_field("dataset.table_specs", f"Its keys are the names of tables: {', '.join(TABLES)}.")
    if missing := missing_tables(specs):
        refused = DatasetValidationError(missing)
        raise InvalidArgument(refused.message, *refused.details)
    for table, spec in specs.items():
        try:
            sources.resolve(spec)
        except TableSpecError:
            raise bad_field(
                f"dataset.table_specs[{table}]",
                "It must be of the form bq://projectId.bqDatasetId.tableId and mean one table.",
            ) from None
        except TableNotFoundError:
            continue  # the import's own answer
    _check_range(dataset)
    if dataset.time_zone.id:
        try:
            zoneinfo.ZoneInfo(dataset.time_zone.id)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise bad_field("dataset.time_zone", "It must be an IANA time zone, `Europe/Berlin`.") from None


def _check_labels(labels: Any) -> None:
    try:
        check_labels(labels)
    except InvalidArgument:
        raise bad_field("dataset.labels", "There are too many, or one of them is not valid.") from None


def _check_range(dataset: Any) -> None:
    span = dataset.date_range
    if not (dataset.HasField("date_range") and span.HasField("start_time") and span.HasField("end_time")):
        raise bad_field("dataset.date_range", "Its start_time and end_time are required.")
    start, end = ((stamp.seconds, stamp.nanos) for stamp in (span.start_time, span.end_time))
    if start >= end:
        raise bad_field("dataset.date_range", "Its start_time must be before its end_time.")


class UpdateDataset:
    """Nothing is left to do: an update is made in the transaction that announces it."""

    kind = "UpdateDataset"

    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets

    def run(self, task: Task) -> None:
        with task.transaction() as tx:
            task.succeed(tx)

    def failed(self, tx: Any, row: Any) -> None:
        """The update stands."""

    def response(self, row: Any) -> Dataset:
        return self._datasets.read(row.target)


class DeleteDataset:
    """Removes a dataset and its files. Needs no key."""

    kind = "DeleteDataset"

    def __init__(self, customer: CustomerData) -> None:
        self._customer = customer

    def run(self, task: Task) -> None:
        with task.transaction() as tx:
            stored = DATASETS.find(tx, task.row.target)
            if stored is None:
                raise NotFound(f"Dataset {task.row.target} was deleted.")
            tx.resources.delete(task.row.target)
            task.succeed(tx)
        self._customer.remove(generation_of(stored.row))

    def failed(self, tx: Any, row: Any) -> None:
        """It stays as it is: a deletion can be asked for again only of an ACTIVE dataset."""
        stored = DATASETS.find(tx, row.target)
        if stored is not None and stored.message.state == lifecycle.DELETING:
            stored.message.state = lifecycle.ACTIVE
            DATASETS.update(tx, stored)

    def response(self, row: Any) -> None:
        return None
