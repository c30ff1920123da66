"""Deleting keys and versions, and the record of what was deleted.

A version can be deleted once it holds no key and if it never held an imported one; a key once it has no
versions. The name of a deleted key is retired: it is never used again, so that what it protected cannot be
taken for something else's (Cloud KMS DeleteCryptoKey, RetiredResource).
"""

from __future__ import annotations

import uuid
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from keystead.api.call import Call
from keystead.api.clock import Clock
from keystead.api.errors import AlreadyExists, FailedPrecondition
from keystead.api.method import LogKind, method
from keystead.api.operations import OperationRunner, Task
from keystead.kms import lifecycle
from keystead.kms.events import Change, KeyEvents
from keystead.kms.messages import (
    DeleteCryptoKeyMetadata,
    DeleteCryptoKeyRequest,
    DeleteCryptoKeyVersionMetadata,
    DeleteCryptoKeyVersionRequest,
    GetRetiredResourceRequest,
    ListRetiredResourcesRequest,
    ListRetiredResourcesResponse,
    RetiredResource,
)
from keystead.kms.service import KEY, KEYS, KMS, LOCATION, RETIRED, RETIREMENTS, VERSION, VERSIONS, key_of

_API = "google.cloud.kms.v1.KeyManagementService"
_KEY_TYPE = "cloudkms.googleapis.com/CryptoKey"


class Deletion:
    """The delete methods of KeyManagementService. The deletion is done by its long-running operation."""

    service = KMS

    def __init__(self, operations: OperationRunner, events: KeyEvents) -> None:
        self._operations = operations
        operations.register(DeleteKey(events, operations.clock), DeleteVersion())

    @method(
        f"{_API}/DeleteCryptoKey",
        http=f"DELETE /v1/{{name={KEY}}}",
        permission="cloudkms.cryptoKeys.delete",
        on="name",
        log=LogKind.ADMIN_WRITE,
    )
    def delete_key(self, call: Call, request: DeleteCryptoKeyRequest) -> operations_pb2.Operation:
        KEYS.require(call.tx, request.name)
        check_no_versions(call.tx, request.name)
        retired = f"{_location_of(request.name)}/retiredResources/{uuid.uuid4()}"
        metadata = DeleteCryptoKeyMetadata(retired_resource=retired)
        return self._start(call, DeleteKey.kind, request.name, metadata, retired.encode())

    @method(
        f"{_API}/DeleteCryptoKeyVersion",
        http=f"DELETE /v1/{{name={VERSION}}}",
        permission="cloudkms.cryptoKeyVersions.delete",
        on="name",
        log=LogKind.ADMIN_WRITE,
    )
    def delete_version(self, call: Call, request: DeleteCryptoKeyVersionRequest) -> operations_pb2.Operation:
        lifecycle.check_deletable(VERSIONS.require(call.tx, request.name).message)
        return self._start(call, DeleteVersion.kind, request.name, DeleteCryptoKeyVersionMetadata(), b"")

    def _start(self, call: Call, kind: str, name: str, metadata: Any, arguments: bytes) -> Any:
        return self._operations.start(
            call.tx,
            KMS,
            kind,
            parent=_location_of(name),
            target=name,
            metadata=metadata,
            call=call,
            arguments=arguments,
        )


class RetiredResources:
    """What was deleted, for good."""

    service = KMS

    @method(
        f"{_API}/GetRetiredResource",
        http=f"GET /v1/{{name={RETIRED}}}",
        permission="cloudkms.retiredResources.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get(self, call: Call, request: GetRetiredResourceRequest) -> RetiredResource:
        return RETIREMENTS.require(call.tx, request.name).message

    @method(
        f"{_API}/ListRetiredResources",
        http=f"GET /v1/{{parent={LOCATION}}}/retiredResources",
        permission="cloudkms.retiredResources.list",
        on="parent",
        log=LogKind.ADMIN_READ,
    )
    def list(self, call: Call, request: ListRetiredResourcesRequest) -> ListRetiredResourcesResponse:
        page = RETIREMENTS.page(call.tx, request, request.parent)
        return ListRetiredResourcesResponse(
            retired_resources=page.items, next_page_token=page.next_page_token, total_size=page.total or 0
        )


class DeleteKey:
    """Removes a key without versions, with its policy, and retires its name."""

    kind = "DeleteCryptoKey"

    def __init__(self, events: KeyEvents, clock: Clock) -> None:
        self._events = events
        self._clock = clock

    def run(self, task: Task) -> None:
        name = task.row.target
        with task.transaction() as tx:
            if KEYS.find(tx, name) is not None:  # else an interrupted run did it
                check_no_versions(tx, name)
                retired = RetiredResource(
                    name=task.row.arguments.decode(), original_resource=name, resource_type=_KEY_TYPE
                )
                retired.delete_time.FromDatetime(self._clock.now())
                RETIREMENTS.insert(tx, retired, parent=_location_of(name), alias=_alias(name))
                tx.resources.delete(name)
                tx.policies.delete(name)
                tx.after_commit(lambda: self._events.publish(name, Change.VERSION_STATE))
            task.succeed(tx)

    def failed(self, tx: Any, row: Any) -> None:
        """Nothing was announced."""

    def response(self, row: Any) -> Message | None:
        """Empty."""


class DeleteVersion:
    """Removes a version that holds no key."""

    kind = "DeleteCryptoKeyVersion"

    def run(self, task: Task) -> None:
        name = task.row.target
        with task.transaction() as tx:
            stored = VERSIONS.find(tx, name)
            if stored is not None:
                lifecycle.check_deletable(stored.message)
                _clear_primary(tx, name)
                tx.resources.delete(name)
            task.succeed(tx)

    def failed(self, tx: Any, row: Any) -> None:
        """Nothing was announced."""

    def response(self, row: Any) -> Message | None:
        """Empty."""


def check_no_versions(tx: Any, key: str) -> None:
    """FAILED_PRECONDITION while a key has versions."""
    left = tx.resources.count(VERSIONS.kind, key)
    if left:
        raise FailedPrecondition(
            f"The request cannot be fulfilled. CryptoKey {key} still has {left} CryptoKeyVersion(s); delete "
            "them first."
        )


def check_not_retired(tx: Any, key: str) -> None:
    """ALREADY_EXISTS for the name of a deleted key."""
    if tx.resources.by_alias(_alias(key)) is not None:
        raise AlreadyExists(f"CryptoKey {key} was deleted; its name cannot be used again.")


def _clear_primary(tx: Any, version: str) -> None:
    key = KEYS.require(tx, key_of(version))
    if key.message.primary.name == version:
        key.message.ClearField("primary")
        KEYS.update(tx, key, due=key.row.due)


def _alias(key: str) -> str:
    return f"retired:{key}"


def _location_of(name: str) -> str:
    return "/".join(name.split("/")[:4])
