"""Deleting keys and versions: what may go, what is remembered of it, and that its name never returns."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from google.longrunning import operations_pb2

from keystead.api.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CreateCryptoKeyVersionRequest,
    DeleteCryptoKeyMetadata,
    DeleteCryptoKeyRequest,
    DeleteCryptoKeyVersionMetadata,
    DeleteCryptoKeyVersionRequest,
    GetCryptoKeyRequest,
    GetCryptoKeyVersionRequest,
    GetRetiredResourceRequest,
    ListRetiredResourcesRequest,
)
from tests.platform import LOCATION, Platform

KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
FIRST = f"{KEY}/cryptoKeyVersions/1"
ADMIN = "user:admin@example.com"


def delete_version(platform: Platform, name: str = FIRST, principal: str = "user:owner@example.com") -> Any:
    return platform.call("DeleteCryptoKeyVersion", DeleteCryptoKeyVersionRequest(name=name), principal)


def delete_key(platform: Platform, name: str = KEY, principal: str = "user:owner@example.com") -> Any:
    return platform.call("DeleteCryptoKey", DeleteCryptoKeyRequest(name=name), principal)


def finished(platform: Platform, operation: Any) -> Any:
    request = operations_pb2.GetOperationRequest(name=operation.name)
    found = platform.call("GetOperation", request)
    assert found.done
    return found


def destroy_now(platform: Platform, name: str = FIRST) -> None:
    platform.destroy(name)
    platform.clock.advance(dt.timedelta(days=31))
    platform.schedule.run_due(platform.clock.now())


def retired(platform: Platform) -> list[Any]:
    request = ListRetiredResourcesRequest(parent=LOCATION)
    return list(platform.call("ListRetiredResources", request).retired_resources)


def test_a_destroyed_version_is_deleted_and_its_number_never_used_again(platform: Platform) -> None:
    """The operation ends with Empty; the version is gone, and the next one is number 2."""
    platform.key()
    destroy_now(platform)
    done = finished(platform, delete_version(platform))
    assert done.response.type_url.endswith("google.protobuf.Empty")
    assert done.metadata.Is(DeleteCryptoKeyVersionMetadata.DESCRIPTOR)
    with pytest.raises(NotFound):
        platform.call("GetCryptoKeyVersion", GetCryptoKeyVersionRequest(name=FIRST))
    key = platform.call("GetCryptoKey", GetCryptoKeyRequest(name=KEY))
    assert not key.HasField("primary")
    made = platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
    assert made.name == f"{KEY}/cryptoKeyVersions/2"


@pytest.mark.parametrize("state", ["ENABLED", "DISABLED", "DESTROY_SCHEDULED"])
def test_a_version_that_holds_a_key_cannot_be_deleted(platform: Platform, state: str) -> None:
    """FAILED_PRECONDITION in every state that holds a key, and nothing changes."""
    platform.key()
    if state == "DESTROY_SCHEDULED":
        platform.destroy(FIRST)
    else:
        platform.set_state(FIRST, state)
    with pytest.raises(FailedPrecondition):
        delete_version(platform)
    assert platform.call("GetCryptoKeyVersion", GetCryptoKeyVersionRequest(name=FIRST)).name == FIRST


def test_a_key_without_versions_is_deleted_and_its_name_retired(platform: Platform) -> None:
    """The metadata names the record; the record says what was deleted and when; the name is refused."""
    platform.key()
    platform.grant(KEY, ADMIN, "roles/cloudkms.viewer")
    destroy_now(platform)
    delete_version(platform)
    operation = delete_key(platform)
    metadata = DeleteCryptoKeyMetadata()
    assert finished(platform, operation).metadata.Unpack(metadata)
    with pytest.raises(NotFound):
        platform.call("GetCryptoKey", GetCryptoKeyRequest(name=KEY))
    (record,) = retired(platform)
    assert record.name == metadata.retired_resource
    assert record.original_resource == KEY
    assert record.resource_type == "cloudkms.googleapis.com/CryptoKey"
    assert record.delete_time.ToDatetime(dt.UTC) == platform.clock.now()
    assert platform.call("GetRetiredResource", GetRetiredResourceRequest(name=record.name)) == record
    with pytest.raises(AlreadyExists):
        platform.key()
    with platform.store.read() as tx:
        assert tx.policies.get(KEY) is None


def test_a_key_with_versions_cannot_be_deleted(platform: Platform) -> None:
    """FAILED_PRECONDITION while a version is left, destroyed or not."""
    platform.key()
    with pytest.raises(FailedPrecondition):
        delete_key(platform)
    destroy_now(platform)
    with pytest.raises(FailedPrecondition):
        delete_key(platform)
    assert retired(platform) == []


def test_a_key_that_never_had_a_version_is_deleted(platform: Platform) -> None:
    """skip_initial_version_creation leaves a key that can go at once."""
    platform.ring()
    platform.call(
        "CreateCryptoKey",
        CreateCryptoKeyRequest(
            parent=f"{LOCATION}/keyRings/ring",
            crypto_key_id="key",
            crypto_key={"purpose": "ENCRYPT_DECRYPT"},
            skip_initial_version_creation=True,
        ),
    )
    finished(platform, delete_key(platform))
    assert [record.original_resource for record in retired(platform)] == [KEY]


def test_what_does_not_exist_cannot_be_deleted(platform: Platform) -> None:
    """NOT_FOUND for a missing key or version, INVALID_ARGUMENT for a name that is none."""
    platform.ring()
    for call in (lambda: delete_key(platform), lambda: delete_version(platform)):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(InvalidArgument):
        delete_key(platform, "projects/p1/nothing")


def test_deleting_needs_its_permission(platform: Platform) -> None:
    """A viewer may not delete; an admin of Cloud KMS may, and may look at what was retired."""
    platform.key()
    destroy_now(platform)
    platform.grant("projects/p1", ADMIN, "roles/cloudkms.viewer")
    with pytest.raises(PermissionDenied):
        delete_version(platform, principal=ADMIN)
    with pytest.raises(PermissionDenied):
        delete_key(platform, principal=ADMIN)
    platform.grant("projects/p1", ADMIN, "roles/cloudkms.admin")
    delete_version(platform, principal=ADMIN)
    delete_key(platform, principal=ADMIN)
    request = ListRetiredResourcesRequest(parent=LOCATION)
    assert len(platform.call("ListRetiredResources", request, ADMIN).retired_resources) == 1
