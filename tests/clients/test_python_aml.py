"""google-cloud-financialservices beside google-cloud-kms against a live server: the same tests over gRPC and
over REST.

From the key ring to the deleted instance, as the users of both clients go that way: what AML AI answers while
its customer's key is there, and while it is not. `test_python_aml_errors` sends what is wrong.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core import exceptions
from google.cloud import financialservices_v1 as aml_v1
from google.longrunning import operations_pb2

from keystead.financialservices.service import REGIONS
from tests.clients.aml_bank import (
    ADMIN,
    COMMERCIAL,
    CRYPTER,
    INPUT,
    PRECONDITION,
    REGION,
    SPECS,
    TRANSACTIONS,
    VIEWER,
    WRITE_EMPTY,
    Bank,
    KeyState,
    Mode,
    Vault,
    aml_client,
    answers,
    ended,
    input_tables,
    make_vault,
    reads,
    until,
    writes,
)
from tests.clients.pyclients import TRANSPORTS, details_of, kms_client, refusal
from tests.live import LiveServer


@pytest.fixture(scope="module", autouse=True)
def tables(live: LiveServer) -> Path:
    """The customer's input tables."""
    return input_tables(live)


@pytest.fixture(scope="module", params=TRANSPORTS)
def bank(request: pytest.FixtureRequest, live: LiveServer) -> Bank:
    """A customer of each transport in turn."""
    return Bank(live, request.param)


@pytest.fixture(scope="module")
def shared_vault(bank: Bank) -> Vault:
    """A vault of each customer, made once."""
    return make_vault(bank)


@pytest.fixture
def vault(bank: Bank, shared_vault: Vault) -> Iterator[Vault]:
    """A vault whose key a test may disable: it is enabled again afterwards."""
    yield shared_vault
    primary = bank.kms.get_crypto_key(request={"name": shared_vault.key}).primary.name
    bank.set_state(shared_vault.key, KeyState.ENABLED, int(primary.rsplit("/", 1)[1]))


# --- while the key is there --------------------------------------------------------------------------


def test_an_instance_is_made_read_listed_and_changed(bank: Bank) -> None:
    """The operation says what it does; the instance has its key, its times and the labels given later."""
    key = bank.make_key()
    request = bank.creation(key, request_id=str(uuid.uuid4()))
    operation = bank.aml.create_instance(request=request)
    again = bank.aml.create_instance(request=request)
    made = ended(operation)

    assert (made.kms_key, made.state) == (key, aml_v1.Instance.State.ACTIVE)
    assert made.create_time <= made.update_time
    assert again.operation.name == operation.operation.name
    assert (operation.metadata.target, operation.metadata.verb) == (made.name, "create")
    assert operation.metadata.create_time <= operation.metadata.end_time
    assert bank.aml.get_instance(request={"name": made.name}) == made
    change = {"name": made.name, "labels": {"env": "prod"}}
    changed = ended(bank.aml.update_instance(instance=change, update_mask={"paths": ["labels"]}))
    assert (changed.kms_key, dict(changed.labels)) == (key, {"env": "prod"})
    assert changed in list(bank.aml.list_instances(request={"parent": bank.parent, "page_size": 1}))
    moved = {"instance": {"name": made.name, "kms_key": key + "2"}, "update_mask": {"paths": ["kms_key"]}}
    assert isinstance(refusal(bank.aml.update_instance, moved), exceptions.BadRequest)


def test_a_dataset_is_imported_read_listed_changed_and_deleted(bank: Bank) -> None:
    """All rows go in, labels change, the rest stays; deleted, nothing of it is left to read or on disk."""
    instance = bank.make_instance(bank.make_key())
    before = bank.sealed_bytes()
    made = ended(bank.make_dataset(instance, time_zone={"id": "Europe/Berlin"}))

    assert made.name == f"{instance}/datasets/january"
    assert made.state == aml_v1.Dataset.State.ACTIVE
    assert (dict(made.table_specs), made.time_zone.id) == (SPECS, "Europe/Berlin")
    assert bank.rows(made.name)["transaction"] == TRANSACTIONS
    assert bank.sealed_bytes() > before
    assert bank.aml.get_dataset(request={"name": made.name}) == made
    change = {"name": made.name, "labels": {"quarter": "q2"}}
    changed = ended(bank.aml.update_dataset(dataset=change, update_mask={"paths": ["labels"]}))
    assert (dict(changed.labels), dict(changed.table_specs)) == ({"quarter": "q2"}, SPECS)
    assert list(bank.aml.list_datasets(request={"parent": instance})) == [changed]
    ended(bank.aml.delete_dataset(request={"name": made.name}))
    assert isinstance(refusal(bank.aml.get_dataset, {"name": made.name}), exceptions.NotFound)
    assert list(bank.aml.list_datasets(request={"parent": instance})) == []
    until(lambda: bank.sealed_bytes() == before, 10)


def test_registered_parties_go_in_and_come_out(bank: Bank, tables: Path) -> None:
    """An import answers its counts; an export writes every party to the customer's table, once."""
    instance = bank.make_instance(bank.make_key())
    parties = {"party_id": ["a", "b"], "party_size": ["SMALL", "LARGE"]}
    pq.write_table(pa.table(parties), tables / "registration.parquet")
    request = {
        "name": instance, "party_tables": [f"{INPUT}.registration"], "mode": Mode.REPLACE,
        "line_of_business": COMMERCIAL,
    }  # fmt: skip

    tried = ended(bank.aml.import_registered_parties(request={**request, "validate_only": True}))
    done = ended(bank.aml.import_registered_parties(request=request))
    assert (tried.parties_added, done.parties_added, done.parties_total) == (2, 2, 2)
    name = f"out_{bank.transport}"
    destination = {"table_uri": f"{INPUT}.{name}", "write_disposition": WRITE_EMPTY}
    export = {"name": instance, "dataset": destination, "line_of_business": COMMERCIAL}
    assert ended(bank.aml.export_registered_parties(request=export)) == (
        aml_v1.ExportRegisteredPartiesResponse()
    )
    written = pq.read_table(tables / f"{name}.parquet")
    assert {key: written[key].to_pylist() for key in parties} == parties
    with pytest.raises(exceptions.Conflict, match="it contains data"):
        ended(bank.aml.export_registered_parties(request=export))


def test_operations_are_listed_read_and_deleted(bank: Bank) -> None:
    """An operation is found until it is deleted; a list of them shows no response, which may be data."""
    operation = bank.aml.create_instance(request=bank.creation(bank.make_key()))
    name = operation.operation.name
    ended(operation)
    found = bank.aml.get_operation(operations_pb2.GetOperationRequest(name=name))
    listed = bank.aml.list_operations(operations_pb2.ListOperationsRequest(name=bank.parent)).operations

    assert found.done
    assert found.response.TypeName() == "google.cloud.financialservices.v1.Instance"
    (mine,) = [each for each in listed if each.name == name]
    assert mine.done
    assert not mine.HasField("response")
    assert not operation.cancel()
    bank.aml.cancel_operation(operations_pb2.CancelOperationRequest(name=name))
    bank.aml.delete_operation(operations_pb2.DeleteOperationRequest(name=name))
    gone = refusal(bank.aml.get_operation, operations_pb2.GetOperationRequest(name=name))
    assert isinstance(gone, exceptions.NotFound)


def test_a_cancelled_import_leaves_nothing(bank: Bank) -> None:
    """Cancelled while it reads its tables, an import ends as Cancelled, and its dataset is not there."""
    instance = bank.make_instance(bank.make_key())
    before = bank.sealed_bytes()
    operation = bank.make_dataset(instance, "cancelled")

    assert operation.cancel()
    with pytest.raises(exceptions.Cancelled):
        ended(operation)
    assert operation.cancelled()
    missing = refusal(bank.aml.get_dataset, {"name": f"{instance}/datasets/cancelled"})
    assert isinstance(missing, exceptions.NotFound)
    until(lambda: bank.sealed_bytes() == before, 10)


def test_locations(bank: Bank) -> None:
    """AML AI's regions are listed (over REST no others), and each is found."""
    listed = bank.aml.list_locations(request={"name": f"projects/{bank.project}"}).locations
    regions = {location.location_id for location in listed}
    found = bank.aml.get_location(request={"name": bank.parent})

    assert regions >= set(REGIONS)
    if bank.transport == "rest":
        assert regions == set(REGIONS)
    assert (found.name, found.location_id) == (bank.parent, REGION)


def test_methods_that_are_not_served_say_so(bank: Bank, vault: Vault) -> None:
    """An RPC of the API without a function is UNIMPLEMENTED with its name."""
    error = refusal(bank.aml.list_models, {"parent": vault.instance})

    assert isinstance(error, exceptions.MethodNotImplemented)
    assert "The method google.cloud.financialservices.v1.AML/ListModels is not implemented." in error.message


# --- while the key is not there ----------------------------------------------------------------------


def test_a_disabled_key_closes_everything_until_it_is_enabled(bank: Bank, vault: Vault) -> None:
    """From the disabling on every use of customer data is refused, saying which version is in which state;
    once the key is enabled nothing was lost."""
    before = bank.rows(vault.dataset)
    version = f"{vault.key}/cryptoKeyVersions/1"
    bank.set_state(vault.key, KeyState.DISABLED)

    for call, request in reads(bank.aml, vault) + writes(bank.aml, vault):
        error = refusal(call, request)
        assert isinstance(error, exceptions.BadRequest)
        assert f"The KMS key {vault.key} cannot be used: " in error.message
        assert error.message.endswith(f"{version} is not enabled, current state is: DISABLED.")
        (detail,) = details_of(error)
        assert detail["@type"] == PRECONDITION
        assert detail["violations"] == [{"type": "KEY_DISABLED", "subject": version}]
    bank.set_state(vault.key, KeyState.ENABLED)
    until(lambda: answers(lambda: bank.aml.get_dataset(request={"name": vault.dataset})), 1)
    assert bank.rows(vault.dataset) == before
    for call, request in reads(bank.aml, vault):
        assert call(request=request)


def test_a_viewer_sees_the_instance_while_its_key_is_disabled(bank: Bank, vault: Vault) -> None:
    """The viewer gets and lists the instance, reads nothing in it, and deletes nothing."""
    viewer = aml_client(bank.live, bank.transport, VIEWER)
    assert viewer.get_dataset(request={"name": vault.dataset}).labels["quarter"] == "q1"
    bank.set_state(vault.key, KeyState.DISABLED)

    assert viewer.get_instance(request={"name": vault.instance}).kms_key == vault.key
    listed = [instance.name for instance in viewer.list_instances(request={"parent": bank.parent})]
    assert vault.instance in listed
    for call, request in reads(viewer, vault):
        assert isinstance(refusal(call, request), exceptions.BadRequest)
    denied = refusal(viewer.delete_instance, {"name": vault.instance})
    assert isinstance(denied, exceptions.Forbidden)
    assert denied.metadata["permission"] == "financialservices.v1instances.delete"


def test_after_a_rotation_the_old_version_may_go(bank: Bank, vault: Vault) -> None:
    """The new version wraps the instance's key by itself; the old one destroyed, all is readable, and it is
    now the new one that decides."""
    before = bank.rows(vault.dataset)
    bank.kms.create_crypto_key_version(request={"parent": vault.key, "crypto_key_version": {}})
    bank.kms.update_crypto_key_primary_version(request={"name": vault.key, "crypto_key_version_id": "2"})

    def in_use() -> str:
        path = f"cloudkms/v1/{vault.key}:protectedResources"
        (row,) = bank.rest("GET", path)["protectedResources"]
        return str(row["cryptoKeyVersion"])

    until(lambda: in_use() == f"{vault.key}/cryptoKeyVersions/2", 30)
    old = f"{vault.key}/cryptoKeyVersions/1"
    gone = bank.kms.destroy_crypto_key_version(request={"name": old})
    assert gone.state == KeyState.DESTROY_SCHEDULED
    assert bank.rows(vault.dataset) == before
    bank.set_state(vault.key, KeyState.DISABLED, 2)
    error = refusal(bank.aml.get_dataset, {"name": vault.dataset})
    assert f"{vault.key}/cryptoKeyVersions/2 is not enabled" in error.message


def test_without_its_grant_the_service_says_so_and_an_admin_may_still_delete(bank: Bank) -> None:
    """A revoked grant is refused in the service's words; an administrator of AML AI, who may not even see the
    key, deletes the instance with all its files."""
    before = bank.sealed_bytes()
    vault = make_vault(bank)
    bank.grant(vault.key, "user:somebody@example.com")

    for call, request in reads(bank.aml, vault) + writes(bank.aml, vault):
        error = refusal(call, request)
        assert isinstance(error, exceptions.BadRequest)
        words = f"{bank.agent} lacks permissions to KMS key {vault.key}. Grant it {CRYPTER} on the key."
        assert error.message.endswith(words)
        kinds = {detail["@type"]: detail for detail in details_of(error)}
        subject = {"type": "KMS_KEY_PERMISSION_DENIED", "subject": vault.key}
        assert kinds[PRECONDITION]["violations"] == [subject]
        assert error.reason == "IAM_PERMISSION_DENIED"
    denied = refusal(kms_client(bank.live, bank.transport, ADMIN).get_crypto_key, {"name": vault.key})
    assert isinstance(denied, exceptions.Forbidden)
    admin = aml_client(bank.live, bank.transport, ADMIN)
    ended(admin.delete_instance(request={"name": vault.instance}))
    assert isinstance(refusal(admin.get_instance, {"name": vault.instance}), exceptions.NotFound)
    until(lambda: bank.sealed_bytes() == before, 10)
