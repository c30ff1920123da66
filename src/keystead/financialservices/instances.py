"""Instances: create, get, list, update, delete.

An instance is the unit of encryption: one customer's key, given at creation and never changed, under which
everything in the instance is sealed. Its own message is metadata and readable without the key. What is in an
instance is served by `datasets` and `registered_parties`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection as Names
from typing import Any

from google.longrunning import operations_pb2

from keystead.api import masks, names
from keystead.api.call import Call
from keystead.api.clock import Clock
from keystead.api.errors import AlreadyExists, bad_field
from keystead.api.method import LogKind, method
from keystead.api.operations import Task
from keystead.cmek.answers import KeyUnavailableError
from keystead.financialservices import lifecycle
from keystead.financialservices.changes import Change, Changes
from keystead.financialservices.customer_data import CustomerData, generation_of
from keystead.financialservices.messages import (
    CreateInstanceRequest,
    DeleteInstanceRequest,
    GetInstanceRequest,
    Instance,
    ListInstancesRequest,
    ListInstancesResponse,
    UpdateInstanceRequest,
)
from keystead.financialservices.service import (
    AML,
    API,
    DATASETS,
    INSTANCE,
    INSTANCES,
    LOCATION,
    OPERATION_RESULT,
    REGIONS,
    REGISTERED_PARTIES,
)
from keystead.financialservices.wording import require_key_name
from keystead.kms.lifecycle import check_labels
from keystead.kms.service import key_of
from keystead.store.collection import Stored
from keystead.store.rows import KeychainRow

_CHILDREN = (DATASETS.kind, REGISTERED_PARTIES, OPERATION_RESULT)


class Instances:
    """The instance methods of AML. `regions` are those that this deployment serves."""

    service = AML

    def __init__(
        self, store: Any, customer: CustomerData, changes: Changes, *, regions: Names[str] = REGIONS
    ) -> None:
        self._store = store
        self._customer = customer
        self._changes = changes
        self._regions = frozenset(regions)

    @method(
        f"{API}/CreateInstance",
        http=f"POST /v1/{{parent={LOCATION}}}/instances",
        body="instance",
        permission="financialservices.v1instances.create",
        on="parent",
        log=LogKind.DATA_WRITE,
        own_transaction=True,
    )
    def create(self, call: Call, request: CreateInstanceRequest) -> operations_pb2.Operation:
        self._require_region(request.parent)
        names.require_id("instance_id", request.instance_id, names.AIP_ID)
        name = f"{request.parent}/instances/{request.instance_id}"
        change = Change(CreateInstance.kind, "create", name, request.request_id)
        if (earlier := self._changes.earlier(call, change)) is not None:
            return earlier
        require_key_name(request.instance.kms_key, names.location_of(name))
        check_labels(request.instance.labels)
        with self._store.read() as tx:
            if INSTANCES.find(tx, name) is not None:
                raise AlreadyExists(f"Instance {name} already exists.")
        keychain = self._new_key(name, request.instance.kms_key)
        instance = Instance(name=name, kms_key=keychain.kms_key, labels=request.instance.labels)
        lifecycle.created(instance, call.now)

        def announce(tx: Any) -> None:
            INSTANCES.insert(tx, instance, parent=request.parent)
            tx.keychains.insert(keychain)
            # No lease of a deleted instance of the same name may be taken for this one's.
            tx.after_commit(lambda: self._customer.keychain.forget(name))

        return self._changes.commit(call, change, announce)

    @method(
        f"{API}/GetInstance",
        http=f"GET /v1/{{name={INSTANCE}}}",
        permission="financialservices.v1instances.get",
        on="name",
        log=LogKind.DATA_READ,
    )
    def get(self, call: Call, request: GetInstanceRequest) -> Instance:
        return INSTANCES.require(call.tx, request.name).message

    @method(
        f"{API}/ListInstances",
        http=f"GET /v1/{{parent={LOCATION}}}/instances",
        permission="financialservices.v1instances.list",
        on="parent",
        log=LogKind.DATA_READ,
    )
    def list(self, call: Call, request: ListInstancesRequest) -> ListInstancesResponse:
        self._require_region(request.parent)
        page = INSTANCES.page(call.tx, request, request.parent)
        return ListInstancesResponse(instances=page.items, next_page_token=page.next_page_token)

    @method(
        f"{API}/UpdateInstance",
        http=f"PATCH /v1/{{instance.name={INSTANCE}}}",
        body="instance",
        permission="financialservices.v1instances.update",
        on="instance.name",
        log=LogKind.DATA_WRITE,
        own_transaction=True,
    )
    def update(self, call: Call, request: UpdateInstanceRequest) -> operations_pb2.Operation:
        change = Change(UpdateInstance.kind, "update", request.instance.name, request.request_id)
        if (earlier := self._changes.earlier(call, change)) is not None:
            return earlier

        def announce(tx: Any) -> None:
            stored = INSTANCES.require(tx, request.instance.name)
            lifecycle.require_active(stored.message)
            # Without a mask all fields are overwritten, of which only the labels can be (API reference).
            masks.apply(
                stored.message,
                request.instance,
                request.update_mask if request.update_mask.paths else [masks.WILDCARD],
                mutable=("labels",),
                immutable=("kms_key",),
            )
            check_labels(stored.message.labels)
            stored.message.update_time.FromDatetime(call.now)
            INSTANCES.update(tx, stored)

        return self._changes.commit(call, change, announce)

    @method(
        f"{API}/DeleteInstance",
        http=f"DELETE /v1/{{name={INSTANCE}}}",
        permission="financialservices.v1instances.delete",
        on="name",
        log=LogKind.DATA_WRITE,
        own_transaction=True,
    )
    def delete(self, call: Call, request: DeleteInstanceRequest) -> operations_pb2.Operation:
        change = Change(DeleteInstance.kind, "delete", request.name, request.request_id)
        if (earlier := self._changes.earlier(call, change)) is not None:
            return earlier

        def announce(tx: Any) -> None:
            stored = INSTANCES.require(tx, request.name)
            lifecycle.deleting(stored.message, call.now)
            INSTANCES.update(tx, stored)

        return self._changes.commit(call, change, announce)

    def _new_key(self, name: str, kms_key: str) -> KeychainRow:
        """A KEK wrapped by the customer's key. The key is then known by the name that the key service gave
        it: a caller may have named its project by number."""
        try:
            row = self._customer.keychain.create(name, kms_key)
        except KeyUnavailableError as error:
            raise self._customer.refusal(error, name) from error
        return dataclasses.replace(row, kms_key=key_of(row.key_version))

    def _require_region(self, location_name: str) -> None:
        location = names.location_of(location_name)
        if location not in self._regions:
            raise bad_field(
                "parent",
                f"It must be one of {', '.join(sorted(self._regions))}.",
                f"AML AI is not available in location '{location}'.",
            )


class _InstanceWork:
    """What the operations on instances have in common."""

    def __init__(self, store: Any, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def response(self, row: Any) -> Instance | None:
        with self._store.read() as tx:
            return INSTANCES.require(tx, row.target).message

    def _activate(self, tx: Any, stored: Stored) -> None:
        lifecycle.activated(stored.message, self._clock.now())
        INSTANCES.update(tx, stored)


class CreateInstance(_InstanceWork):
    """Makes an announced instance usable."""

    kind = "CreateInstance"

    def __init__(self, store: Any, clock: Clock, customer: CustomerData) -> None:
        super().__init__(store, clock)
        self._customer = customer

    def run(self, task: Task) -> None:
        with task.transaction() as tx:
            self._activate(tx, INSTANCES.require(tx, task.row.target))
            task.succeed(tx)

    def failed(self, tx: Any, row: Any) -> None:
        stored = INSTANCES.find(tx, row.target)
        if stored is not None and stored.message.state == lifecycle.CREATING:
            tx.resources.delete(row.target)
            tx.keychains.delete(row.target)
            tx.after_commit(lambda: self._customer.keychain.forget(row.target))


class UpdateInstance(_InstanceWork):
    """Nothing is left to do: an update is made in the transaction that announces it."""

    kind = "UpdateInstance"

    def run(self, task: Task) -> None:
        with task.transaction() as tx:
            task.succeed(tx)

    def failed(self, tx: Any, row: Any) -> None:
        """The update stands."""


class DeleteInstance(_InstanceWork):
    """Removes an instance and all that is in it. Needs no key.

    One transaction removes every row and, with the wrapped KEK, the last way to read the files; only then
    are they deleted. What a crash leaves of them, nobody owns, and the sweep at the next start removes.
    """

    kind = "DeleteInstance"

    def __init__(self, store: Any, clock: Clock, customer: CustomerData) -> None:
        super().__init__(store, clock)
        self._customer = customer

    def run(self, task: Task) -> None:
        name = task.row.target
        generations: list[str] = []
        with task.transaction() as tx:
            tx.after_commit(lambda: self._customer.keychain.forget(name))
            for kind in _CHILDREN:
                for row in tx.resources.list(kind, name):
                    generations.append(generation_of(row))
                    tx.resources.delete(row.name)
            tx.keychains.delete(name)
            tx.resources.delete(name)
            task.succeed(tx)
        for generation in generations:
            self._customer.remove(generation)

    def failed(self, tx: Any, row: Any) -> None:
        stored = INSTANCES.find(tx, row.target)
        if stored is not None and stored.message.state == lifecycle.DELETING:
            self._activate(tx, stored)

    def response(self, row: Any) -> None:
        return None
