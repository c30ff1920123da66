"""What the AML AI documentation promises of CMEK ("Encrypt data using customer-managed encryption keys"):
one scenario per statement, named after it."""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from keystead.api.errors import ApiError, FailedPrecondition, InvalidArgument, PermissionDenied
from keystead.financialservices import messages as m
from keystead.financialservices.service import REGIONS
from keystead.iam.service_agents import ensure_agent
from keystead.kms.service import KEYS
from tests.financialservices.aml_world import (
    ADMIN,
    DATASET,
    INSTANCE,
    PARENT,
    TABLES,
    VIEWER,
    World,
    aml,
    error_of_call,
)
from tests.financialservices.test_registered_parties import export, register, registration_table
from tests.platform import CRYPTER, OWNER, PROJECT

MARKERS = ("CANARY-customer-one", "CANARY-customer-two")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """AML AI on an empty platform."""
    with aml(tmp_path) as made:
        yield made


@pytest.fixture
def bank(world: World) -> World:
    """An instance under a key in a project of its own, with a dataset in it."""
    world.instance()
    world.dataset()
    return world


@pytest.fixture
def key(bank: World) -> str:
    """The key of the instance."""
    return str(bank.get(INSTANCE).kms_key)


def assert_inaccessible(world: World) -> None:
    """No call reads anything of the dataset."""
    for read in world.reads().values():
        assert isinstance(error_of_call(read), FailedPrecondition)


def assert_accessible(world: World) -> None:
    for read in world.reads().values():
        read()


def assert_absent(directory: Path, *needles: bytes) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for needle in needles:
                assert needle not in content, f"{needle!r} in {path.name}"


def test_all_customer_data_in_an_instance_is_encrypted_at_rest_using_a_cmek_key(world: World) -> None:
    """Markers that go in as customer data are in no file of the server; with the key they are counted."""
    world.instance()
    world.end(world.create_dataset(world.generated_tables(5_000, MARKERS)))
    assert world.summary()["transaction"]["rows"] == 5_000
    assert_absent(world.data, *(marker.encode() for marker in MARKERS))


def test_you_manage_the_key_within_cloud_kms(bank: World, key: str) -> None:
    """The key is an ordinary key of the key service: its owner rotates, disables and enables it there."""
    assert bank.exists(KEYS, key)
    assert bank.rotate(key) == 2
    bank.set_state(f"{key}/cryptoKeyVersions/1", "DISABLED")
    assert_accessible(bank)
    bank.set_state(f"{key}/cryptoKeyVersions/2", "DISABLED")
    assert_inaccessible(bank)


def test_you_control_access_to_the_key_using_iam(bank: World, key: str) -> None:
    """The grant to the service's agent, and nothing else, decides."""
    bank.take(key, "revoke")
    assert_inaccessible(bank)
    bank.grant(key, bank.agent(), CRYPTER)
    assert_accessible(bank)


def test_if_you_temporarily_disable_the_key_data_cannot_be_accessed(bank: World, key: str) -> None:
    """Disabled, nothing is read; enabled again, all is, and nothing was lost."""
    before = bank.summary()
    bank.take(key, "disable")
    assert_inaccessible(bank)
    bank.set_state(f"{key}/cryptoKeyVersions/1", "ENABLED")
    assert bank.summary() == before


def test_if_you_permanently_destroy_the_key_data_cannot_be_accessed(bank: World, key: str) -> None:
    """From the moment destruction is scheduled nothing is read; once destroyed, never again."""
    bank.take(key, "destroy")
    assert_inaccessible(bank)
    bank.clock.advance(dt.timedelta(days=31))
    bank.schedule.run_due(bank.clock.now())
    assert_inaccessible(bank)
    with pytest.raises(ApiError):
        bank.set_state(f"{key}/cryptoKeyVersions/1", "ENABLED")


@pytest.mark.parametrize("project", ["p1", "keys"])
def test_cloud_kms_can_run_in_the_same_project_or_in_a_separate_one(world: World, project: str) -> None:
    """A key of the same project and of another serve alike."""
    key = world.key("k", f"projects/{project}/locations/europe-west4/keyRings/ring")
    world.grant(key, world.agent(), CRYPTER)
    world.instance(key)
    world.dataset()
    assert_accessible(world)
    world.take(key, "disable")
    assert_inaccessible(world)


def test_you_assign_a_cmek_key_when_you_create_an_instance(bank: World, key: str) -> None:
    """The instance names the key it was created with."""
    assert bank.get(INSTANCE).kms_key == key


def test_all_instances_must_be_configured_using_cmek(world: World) -> None:
    """Without a key there is no instance."""
    error = error_of_call(lambda: world.create_instance(""))
    assert isinstance(error, InvalidArgument)
    assert "always requires the use of CMEK" in error.message


def test_instances_cannot_be_changed_to_use_default_encryption(bank: World, key: str) -> None:
    """The key can be neither cleared nor replaced."""
    for kms_key in ("", f"{key}2"):
        request = m.UpdateInstanceRequest(
            instance={"name": INSTANCE, "kms_key": kms_key}, update_mask={"paths": ["kms_key"]}
        )
        assert isinstance(error_of_call(lambda r=request: bank.call("UpdateInstance", r)), InvalidArgument)
    assert bank.get(INSTANCE).kms_key == key


def test_data_is_encrypted_using_the_key_of_the_parent_instance(world: World) -> None:
    """Two instances under two keys: each key opens its own instance only."""
    keys = [world.customer_key("one"), world.customer_key("two")]
    world.instance(keys[0])
    world.instance(keys[1], "other")
    world.dataset()
    world.end(world.create_dataset(world.sample_tables(), parent=f"{PARENT}/instances/other"))
    other = f"{PARENT}/instances/other/datasets/january"
    world.take(keys[0], "disable")
    assert_inaccessible(world)
    assert world.summary(other)["party"]["rows"] == 3
    world.take(keys[1], "revoke")
    assert isinstance(error_of_call(lambda: world.summary(other)), FailedPrecondition)


def test_all_temporary_and_persistent_storage_of_customer_data_is_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of inputs, lists of parties, logs and results: no marker in any file below the data directory,
    nor in the system's directory for temporary files, during the work or after it."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    needles = [*(marker.encode() for marker in MARKERS), b"PARTY-CANARY", b"label-canary"]
    with aml(tmp_path) as world:
        world.record_data_access()
        world.instance()
        specs = world.generated_tables(5_000, MARKERS)
        world.end(world.create_dataset(specs, labels={"label-canary": "1"}))
        register(world, registration_table(world, "parties", {"PARTY-CANARY": "SMALL"}))
        world.summary()
        assert_absent(world.data, *needles)
    assert_absent(tmp_path / "data", *needles)
    assert list(temporary.iterdir()) == []


def test_aml_ai_does_not_manage_the_encryption_of_input_or_output_data(bank: World, key: str) -> None:
    """Inputs stay as they were; outputs are the customer's plain tables, readable whatever the key says."""
    register(bank, registration_table(bank, "parties", {"a": "SMALL"}))
    (bank.tables / "proj" / "out").mkdir()
    bank.end(export(bank))
    bank.take(key, "disable")
    assert pq.read_table(bank.tables / "proj" / "out" / "parties.parquet")["party_id"].to_pylist() == ["a"]
    assert pq.read_table(bank.tables / "proj" / "data" / "party.parquet").num_rows == 3


@pytest.mark.parametrize("location", ["us-central1", "global", "europe", "europe-west1"])
def test_the_key_ring_location_must_match_the_location_of_the_instance(world: World, location: str) -> None:
    """A key of any other location, multi-regions included, is refused in clear words."""
    key = world.key("k", f"projects/keys/locations/{location}/keyRings/ring")
    world.grant(key, world.agent(), CRYPTER)
    error = error_of_call(lambda: world.create_instance(key))
    assert isinstance(error, InvalidArgument)
    assert "must match the location of the instance" in error.message


def test_the_supported_regions(world: World) -> None:
    """The eight regions of the documentation can be used, and no other."""
    documented = (
        "us-central1 us-east1 asia-south1 europe-west1 europe-west2 europe-west4 northamerica-northeast1 "
        "southamerica-east1"
    )
    assert set(REGIONS) == set(documented.split())
    for location in REGIONS:
        key = world.key("k", f"projects/keys/locations/{location}/keyRings/ring")
        world.grant(key, world.agent(), CRYPTER)
        world.end(world.create_instance(key, parent=f"{PROJECT}/locations/{location}"))
    with pytest.raises(InvalidArgument, match="not available"):
        world.call("ListInstances", m.ListInstancesRequest(parent=f"{PROJECT}/locations/us-west1"))


def test_if_no_instance_was_created_you_create_the_service_account(world: World) -> None:
    """The identity of AML AI in a project is `service-NUMBER@gcp-sa-financialservices...`, made on demand,
    always the same."""
    world.agent()  # brings the project into being
    with world.store.write() as tx:
        number = tx.resources.get(PROJECT).alias.removeprefix("projects/")
        email = ensure_agent(tx, PROJECT, "financialservices")
        assert ensure_agent(tx, PROJECT, "financialservices") == email
    assert email == f"service-{number}@gcp-sa-financialservices.iam.gserviceaccount.com"
    assert re.fullmatch(r"\d+", number)


def test_you_grant_the_encrypter_decrypter_role_to_the_service_account(world: World) -> None:
    """Without the role on the key an instance cannot be created; with it, it can."""
    key = world.key("k", "projects/keys/locations/europe-west4/keyRings/ring")
    error = error_of_call(lambda: world.create_instance(key))
    assert "lacks permissions to KMS key" in error.message
    world.grant(key, "user:someone@example.com", CRYPTER)
    assert isinstance(error_of_call(lambda: world.create_instance(key)), FailedPrecondition)
    world.grant(key, world.agent(), CRYPTER)
    world.end(world.create_instance(key))


def test_you_can_now_create_an_instance_and_specify_the_key_to_use(world: World) -> None:
    """Key, grant, instance, dataset: the whole way of the documentation."""
    key = world.customer_key()
    assert world.instance(key) == INSTANCE
    assert world.dataset() == DATASET
    assert {table: world.summary()[table]["rows"] for table in TABLES} == dict.fromkeys(TABLES, 3)


def test_revoking_the_permissions_of_the_service_account_removes_access(bank: World, key: str) -> None:
    """After the revocation has been answered, the next call is refused, naming what is missing."""
    bank.take(key, "revoke")
    error = error_of_call(lambda: bank.get(DATASET))
    assert error.message.startswith(f"{bank.agent_email} lacks permissions to KMS key {key}.")


@pytest.mark.parametrize("how", ["disable", "destroy"])
def test_when_you_disable_or_destroy_the_key_you_lose_the_ability_to_view_or_retrieve_instance_data(
    bank: World, key: str, how: str
) -> None:
    """Datasets, their summaries, the results of operations and registered parties become inaccessible."""
    first = registration_table(bank, "parties", {"a": "SMALL"})
    register(bank, first)
    operation = bank.create_dataset(bank.sample_tables(), "february")
    bank.end(operation)
    (bank.tables / "proj" / "out").mkdir()
    bank.take(key, how)
    assert_inaccessible(bank)
    for act in (
        lambda: bank.get_operation(operation.name),
        lambda: export(bank),
        lambda: register(bank, first),
    ):
        assert isinstance(error_of_call(act), FailedPrecondition)


@pytest.mark.parametrize("how", ["disable", "destroy", "revoke"])
def test_users_with_the_viewer_role_can_still_view_instance_metadata(bank: World, key: str, how: str) -> None:
    """The viewer reads the instance's name, state and key, alone and in a list, whatever the key says."""
    bank.grant(PROJECT, VIEWER, "roles/financialservices.viewer")
    bank.take(key, how)
    instance = bank.get(INSTANCE, VIEWER)
    assert (instance.name, instance.kms_key, instance.state) == (INSTANCE, key, m.Instance.State.ACTIVE)
    listed = bank.call("ListInstances", m.ListInstancesRequest(parent=PARENT), VIEWER)
    assert list(listed.instances) == [instance]
    assert isinstance(error_of_call(lambda: bank.get(DATASET, VIEWER)), FailedPrecondition)


@pytest.mark.parametrize("who", [ADMIN, OWNER])
@pytest.mark.parametrize("how", ["disable", "destroy", "revoke"])
def test_users_with_the_administrator_or_owner_role_can_delete_the_instance(
    bank: World, key: str, how: str, who: str
) -> None:
    """With the key gone, they delete the instance and all its data; the viewer does not."""
    bank.grant(PROJECT, ADMIN, "roles/financialservices.admin")
    bank.grant(PROJECT, VIEWER, "roles/financialservices.viewer")
    bank.take(key, how)
    assert isinstance(error_of_call(lambda: bank.delete(INSTANCE, VIEWER)), PermissionDenied)
    bank.end(bank.delete(INSTANCE, who))
    assert bank.sealed_files() == []


@pytest.mark.parametrize("kms_key", ["", "none", "default"])
def test_aml_ai_always_requires_the_use_of_cmek_regardless_of_organization_policies(
    world: World, kms_key: Any
) -> None:
    """No organization policy is set or asked, and there is no way to an instance without a key."""
    assert isinstance(error_of_call(lambda: world.create_instance(kms_key)), InvalidArgument)
