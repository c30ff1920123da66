"""Errors as the official AML AI client raises them for requests that are wrong, alike over gRPC and REST."""

from __future__ import annotations

from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import kms_v1

from tests.clients.aml_bank import (
    INPUT,
    RANGE,
    REGION,
    SPECS,
    Bank,
    KeyState,
    Purpose,
    ended,
    input_tables,
)
from tests.clients.pyclients import TRANSPORTS, details_of, refusal
from tests.live import LiveServer

BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"


@pytest.fixture(scope="module", autouse=True)
def tables(live: LiveServer) -> None:
    """The customer's input tables."""
    input_tables(live)


@pytest.fixture(scope="module", params=TRANSPORTS)
def bank(request: pytest.FixtureRequest, live: LiveServer) -> Bank:
    """A customer of each transport in turn."""
    return Bank(live, request.param)


@pytest.fixture(scope="module")
def instance(bank: Bank) -> str:
    """An instance that is there; its name."""
    return bank.make_instance(bank.make_key())


def refused_instance(bank: Bank, request: Any) -> Any:
    """The error of a CreateInstance, after which no such instance is there."""
    error = refusal(bank.aml.create_instance, request)
    listed = [each.name for each in bank.aml.list_instances(request={"parent": bank.parent})]
    assert f"{bank.parent}/instances/{request['instance_id']}" not in listed
    return error


def test_a_wrong_key_name_is_named_as_the_field(bank: Bank) -> None:
    """A misspelt path, a key of another location and no key at all are each told apart."""
    key = bank.make_key()
    elsewhere = bank.make_key(ring=bank.make_ring("us-central1"))
    for kms_key, words in (
        (
            key.replace("/cryptoKeys/", "/cryptokeys/"),
            "Invalid KMS key name: it must be of the form projects/",
        ),
        (f"{key}/cryptoKeyVersions/1", "Invalid KMS key name: it must be of the form projects/"),
        (elsewhere, f"must match the location of the instance: '{REGION}'."),
        ("", "AML AI always requires the use of CMEK."),
    ):
        error = refused_instance(bank, bank.creation(kms_key))
        assert isinstance(error, exceptions.BadRequest)
        assert words in error.message
        (detail,) = details_of(error)
        assert detail["@type"] == BAD_REQUEST
        assert [violation["field"] for violation in detail["fieldViolations"]] == ["instance.kms_key"]


def test_a_key_that_does_not_serve_makes_no_instance(bank: Bank) -> None:
    """No grant, no such key, a disabled key, one without a version and one for signing: each its reason."""
    disabled = bank.make_key()
    bank.set_state(disabled, KeyState.DISABLED)
    template = {"algorithm": kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P256_SHA256}
    signing = bank.make_key(
        crypto_key={"purpose": Purpose.ASYMMETRIC_SIGN, "version_template": template},
        skip_initial_version_creation=True,
    )
    lacking = f"{bank.agent} lacks permissions to KMS key"
    for key, words in (
        (bank.make_key(granted=False), lacking),
        (f"{bank.ring}/cryptoKeys/none", lacking),
        (disabled, "is not enabled, current state is: DISABLED."),
        (bank.make_key(skip_initial_version_creation=True), "has no primary version."),
        (signing, "has value ASYMMETRIC_SIGN in field crypto_key.purpose."),
    ):
        error = refused_instance(bank, bank.creation(key))
        assert isinstance(error, exceptions.BadRequest)
        assert key in error.message
        assert words in error.message


def test_wrong_ids_and_regions_are_refused(bank: Bank, instance: str) -> None:
    """An id that is taken is a conflict; one that is malformed, and a region without AML AI, say so."""
    key = bank.make_key()
    taken = instance.rsplit("/", 1)[1]
    conflict = refusal(bank.aml.create_instance, bank.creation(key, instance_id=taken))
    assert isinstance(conflict, exceptions.Conflict)
    assert conflict.message.endswith(f"Instance {instance} already exists.")
    for instance_id in ("Bank", "9bank", "bank_1", "x" * 64):
        error = refused_instance(bank, bank.creation(key, instance_id=instance_id))
        assert isinstance(error, exceptions.BadRequest)
        (detail,) = details_of(error)
        assert [violation["field"] for violation in detail["fieldViolations"]] == ["instance_id"]
    nowhere = f"projects/{bank.project}/locations/mars-north1"
    for call, request in (
        (bank.aml.create_instance, bank.creation(key, parent=nowhere)),
        (bank.aml.list_instances, {"parent": nowhere}),
    ):
        error = refusal(call, request)
        assert isinstance(error, exceptions.BadRequest)
        assert "AML AI is not available in location 'mars-north1'." in error.message


def test_wrong_datasets_are_refused(bank: Bank, instance: str) -> None:
    """What a request shows to be wrong is refused at once; a table that is not there fails the operation,
    and its dataset is not there either."""
    missing = {table: spec for table, spec in SPECS.items() if table != "party"}
    for fields, words in (
        ({"table_specs": missing}, "TABLE_EXISTENCE in party"),
        ({"table_specs": {**SPECS, "party": "party.csv"}}, "bq://projectId.bqDatasetId.tableId"),
        ({"date_range": {}}, "dataset.date_range"),
        ({"time_zone": {"id": "Mars/Olympus"}}, "dataset.time_zone"),
    ):
        dataset = {"table_specs": SPECS, "date_range": RANGE, **fields}
        request = {"parent": instance, "dataset_id": "wrong", "dataset": dataset}
        error = refusal(bank.aml.create_dataset, request)
        assert isinstance(error, exceptions.BadRequest)
        assert words in error.message
    lost = bank.make_dataset(instance, "wrong", table_specs={**SPECS, "party": f"{INPUT}.nobody"})
    with pytest.raises(exceptions.NotFound, match="Not found: the input table given as 'party'"):
        ended(lost)
    listed = [each.name for each in bank.aml.list_datasets(request={"parent": instance})]
    assert listed == []
