"""Instances: what creates one, what does not, and what is left of one that is gone."""

from __future__ import annotations

from pathlib import Path
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
from keystead.financialservices import messages as m
from keystead.financialservices.service import INSTANCES
from keystead.kms.messages import CreateCryptoKeyRequest
from tests.financialservices.aml_world import (
    ADMIN,
    DATASET,
    INSTANCE,
    KEY_RING,
    PARENT,
    VIEWER,
    World,
    aml,
    error_of_call,
    violations,
)
from tests.platform import OWNER, PROJECT

UUID = "0b6b7a0e-7a6f-4c55-9f4c-0a4a3c1d2e3f"


def test_a_new_instance_becomes_active_under_its_key(world: World) -> None:
    """CreateInstance answers an operation that ends with the ACTIVE instance, its key and its labels."""
    key = world.customer_key()
    operation = world.create_instance(key, labels={"team": "aml"})
    metadata = m.OperationMetadata()
    assert operation.metadata.Unpack(metadata)
    assert (metadata.target, metadata.verb, metadata.api_version) == (INSTANCE, "create", "v1")
    assert operation.name.startswith(f"{PARENT}/operations/financialservices-")
    ended = m.Instance()
    assert world.end(operation).response.Unpack(ended)
    assert ended == world.get(INSTANCE)
    assert (ended.kms_key, ended.state, dict(ended.labels)) == (key, m.Instance.State.ACTIVE, {"team": "aml"})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"key": ""}, "always requires the use of CMEK"),
        ({"key": "projects/keys/keyRings/ring/cryptoKeys/key"}, "must be of the form projects/*/locations/*"),
        ({"key": f"{KEY_RING}/cryptoKeys/key/cryptoKeyVersions/1"}, "must be of the form"),
        ({"key": f"{KEY_RING}/cryptoKeys/key/"}, "must be of the form"),
        ({"key": KEY_RING.replace("europe-west4", "us-east1") + "/cryptoKeys/k"}, "must match the location"),
        ({"key": KEY_RING.replace("europe-west4", "global") + "/cryptoKeys/k"}, "must match the location"),
        ({"instance_id": ""}, "instance_id"),
        ({"instance_id": "Bank"}, "instance_id"),
        ({"instance_id": "-bank"}, "instance_id"),
        ({"instance_id": "b" * 64}, "instance_id"),
        ({"parent": f"{PROJECT}/locations/mars-north1"}, "not available in location"),
        ({"parent": f"{PROJECT}/locations/global"}, "not available in location"),
        ({"labels": {"Not Valid": "x"}}, "labels"),
        ({"request_id": "not-a-uuid"}, "request_id"),
        ({"request_id": "00000000-0000-0000-0000-000000000000"}, "request_id"),
    ],
)
def test_a_wrong_request_creates_nothing(world: World, changes: dict[str, Any], text: str) -> None:
    """Every wrong field of CreateInstance is INVALID_ARGUMENT in words that name it, and nothing is made."""
    fields = {"key": world.customer_key(), "instance_id": "bank", **changes}
    with pytest.raises(InvalidArgument, match=r".") as refused:
        world.create_instance(fields.pop("key"), fields.pop("instance_id"), **fields)
    assert text in refused.value.message
    assert_nothing(world)


def assert_nothing(world: World) -> None:
    with world.store.read() as tx:
        assert tx.resources.list_kind("Instance") == []
        assert tx.keychains.list() == []
        assert tx.operations.unfinished() == []


def test_a_key_without_grant_is_refused_in_the_services_words(world: World) -> None:
    """Without the grant, CreateInstance names the agent, the key and the role to give, and makes nothing."""
    key = world.key("key", KEY_RING)
    error = error_of_call(lambda: world.create_instance(key))
    assert isinstance(error, FailedPrecondition)
    assert error.message == (
        f"{world.agent_email} lacks permissions to KMS key {key}. "
        "Grant it roles/cloudkms.cryptoKeyEncrypterDecrypter on the key."
    )
    assert ("KMS_KEY_PERMISSION_DENIED", key) in violations(error)
    assert_nothing(world)


def test_a_disabled_key_is_refused_with_the_details_of_the_key_service(world: World) -> None:
    """A disabled key: FAILED_PRECONDITION with KEY_DISABLED and the version, and nothing is made."""
    key = world.customer_key()
    world.take(key, "disable")
    error = error_of_call(lambda: world.create_instance(key))
    assert isinstance(error, FailedPrecondition)
    assert error.message.startswith(f"The KMS key {key} cannot be used: ")
    assert violations(error) == [("KEY_DISABLED", f"{key}/cryptoKeyVersions/1")]
    assert_nothing(world)


def test_a_key_of_another_purpose_is_refused(world: World) -> None:
    """A key that does not encrypt is FAILED_PRECONDITION before anything is made."""
    world.customer_key()  # for its ring
    request = CreateCryptoKeyRequest(
        parent=KEY_RING,
        crypto_key_id="signer",
        crypto_key={
            "purpose": "ASYMMETRIC_SIGN",
            "version_template": {"algorithm": "EC_SIGN_P256_SHA256"},
        },
        skip_initial_version_creation=True,
    )
    key = world.call("CreateCryptoKey", request).name
    world.grant(key, world.agent(), "roles/cloudkms.cryptoKeyEncrypterDecrypter")
    error = error_of_call(lambda: world.create_instance(key))
    assert isinstance(error, FailedPrecondition)
    assert "crypto_key.purpose" in error.message
    assert_nothing(world)


def test_a_missing_key_is_refused(world: World) -> None:
    """A key that does not exist is refused as one without grant: the agent may not know that it is missing.
    An agent with a grant on the ring is told."""
    world.customer_key()
    missing = f"{KEY_RING}/cryptoKeys/missing"
    assert "lacks permissions" in error_of_call(lambda: world.create_instance(missing)).message
    world.grant(KEY_RING, world.agent(), "roles/cloudkms.cryptoKeyEncrypterDecrypter")
    error = error_of_call(lambda: world.create_instance(missing))
    assert isinstance(error, FailedPrecondition)
    assert error.message.startswith(f"KMS key {missing} not found.")
    assert_nothing(world)


def test_an_instance_exists_once(world: World) -> None:
    """A second instance of the same name is ALREADY_EXISTS, whatever its key."""
    world.instance()
    with pytest.raises(AlreadyExists):
        world.create_instance(world.customer_key("other"))


def test_a_request_id_makes_a_retry_the_same_call(world: World) -> None:
    """The same principal's retry gets the same operation; the id used for something else is refused."""
    key = world.customer_key()
    first = world.create_instance(key, request_id=UUID)
    world.end(first)
    again = world.create_instance(key, request_id=UUID)
    assert again.name == first.name
    assert again.done
    assert again.HasField("response")
    with pytest.raises(InvalidArgument, match="already used"):
        world.create_instance(key, "other", request_id=UUID)


def test_a_key_named_by_project_number_is_known_by_its_id(world: World) -> None:
    """The instance keeps the key's canonical name, so that the guard hears of changes to it."""
    key = world.customer_key()
    with world.store.read() as tx:
        number = tx.resources.get("projects/keys").alias.removeprefix("projects/")
    world.end(world.create_instance(key.replace("projects/keys/", f"projects/{number}/")))
    assert world.get(INSTANCE).kms_key == key
    world.take(key, "disable")
    with pytest.raises(FailedPrecondition):
        world.call("ListDatasets", m.ListDatasetsRequest(parent=INSTANCE))


def test_only_labels_can_be_updated(world: World) -> None:
    """An update changes labels, with or without a mask; the key is immutable, but may be repeated."""
    key = world.customer_key()
    world.instance(key)
    for fields, mask in (({"labels": {"a": "1"}}, []), ({"labels": {"a": "1"}, "kms_key": key}, ["labels"])):
        world.end(update(world, mask, **fields))
        assert dict(world.get(INSTANCE).labels) == {"a": "1"}
    world.end(update(world, []))
    assert dict(world.get(INSTANCE).labels) == {}
    other = f"{KEY_RING}/cryptoKeys/other"
    for mask in ([], ["kms_key"], ["*"]):
        with pytest.raises(InvalidArgument, match="immutable"):
            update(world, mask, kms_key=other)
    for mask in (["state"], ["nothing"], ["create_time"]):
        with pytest.raises(InvalidArgument):
            update(world, mask)
    assert world.get(INSTANCE).kms_key == key


def update(world: World, mask: list[str], **fields: Any) -> Any:
    request = m.UpdateInstanceRequest(instance={"name": INSTANCE, **fields}, update_mask={"paths": mask})
    return world.call("UpdateInstance", request)


def test_while_created_or_deleted_an_instance_refuses(world: World) -> None:
    """CREATING and DELETING instances answer Get, and FAILED_PRECONDITION to everything that changes them."""
    world.instance()
    for state in ("CREATING", "DELETING"):
        with world.store.write() as tx:
            stored = INSTANCES.require(tx, INSTANCE)
            stored.message.state = m.Instance.State.Value(state)
            INSTANCES.update(tx, stored)
        assert world.get(INSTANCE).state == m.Instance.State.Value(state)
        for act in (
            lambda: world.delete(INSTANCE),
            lambda: update(world, []),
            lambda: world.create_dataset(world.sample_tables()),
            lambda: world.call("ListDatasets", m.ListDatasetsRequest(parent=INSTANCE)),
        ):
            error = error_of_call(act)
            assert isinstance(error, FailedPrecondition)
            assert state in error.message


@pytest.mark.parametrize("key_state", ["enabled", "disable", "destroy", "revoke"])
def test_deleting_removes_everything_with_or_without_the_key(world: World, key_state: str) -> None:
    """A deleted instance leaves no row, no wrapped KEK and no file, also when its key is gone."""
    key = world.customer_key()
    world.instance(key)
    world.dataset()
    assert world.sealed_files()
    if key_state != "enabled":
        world.take(key, key_state)
    world.end(world.delete(INSTANCE))
    with pytest.raises(NotFound):
        world.get(INSTANCE)
    with pytest.raises(NotFound):
        world.get(DATASET)
    assert world.sealed_files() == []
    with world.store.read() as tx:
        assert tx.keychains.get(INSTANCE) is None
        assert tx.resources.get(DATASET) is None


def test_an_instance_made_again_has_nothing_of_the_old_one(world: World) -> None:
    """After delete and create under the same name, data written is read back, and the old is gone."""
    key = world.customer_key()
    world.instance(key)
    world.dataset()
    world.end(world.delete(INSTANCE))
    world.end(world.create_instance(key))
    assert list(world.call("ListDatasets", m.ListDatasetsRequest(parent=INSTANCE)).datasets) == []
    world.dataset()
    assert world.summary()["party"]["rows"] == 3


def test_unfinished_operations_are_taken_up_after_a_restart(tmp_path: Path) -> None:
    """An instance whose creation, and then deletion, was interrupted is ACTIVE, and then gone, after a
    restart."""
    with aml(tmp_path) as world:
        key = world.customer_key()
        world.runner.stopping.set()  # the operation is written, and its work not begun
        created = world.create_instance(key)
        assert world.get(INSTANCE).state == m.Instance.State.CREATING
    with aml(tmp_path) as world:
        assert world.runner.resume() == 1
        world.end(created)
        assert world.get(INSTANCE).state == m.Instance.State.ACTIVE
        world.dataset()
        world.runner.stopping.set()
        deleted = world.delete(INSTANCE)
    with aml(tmp_path) as world:
        world.runner.resume()
        world.end(deleted)
        assert world.sealed_files() == []


def test_roles_decide_who_may_do_what(world: World) -> None:
    """The viewer role sees instances and deletes none; the administrator role deletes; nobody else sees."""
    world.instance()
    world.grant(PROJECT, VIEWER, "roles/financialservices.viewer")
    world.grant(PROJECT, ADMIN, "roles/financialservices.admin")
    assert world.get(INSTANCE, VIEWER).name == INSTANCE
    listed = world.call("ListInstances", m.ListInstancesRequest(parent=PARENT), VIEWER)
    assert [instance.name for instance in listed.instances] == [INSTANCE]
    for act in (lambda: world.delete(INSTANCE, VIEWER), lambda: world.get(INSTANCE, "user:x@example.com")):
        with pytest.raises(PermissionDenied):
            act()
    operation = world.delete(INSTANCE, ADMIN)
    world.end(operation)
    request = operations_pb2.ListOperationsRequest(name=PARENT)
    names = [each.name for each in world.call("ListOperations", request, OWNER).operations]
    assert operation.name in names
