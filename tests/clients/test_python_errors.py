"""Errors as the official KMS client raises them: class, text and details, alike over gRPC and REST."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2

from tests.clients.pyclients import TRANSPORTS, details_of, kms_client, refusal
from tests.live import LiveServer

LOCATION = "projects/p1/locations/europe-west4"
BOB = "user:bob@example.com"
PRECONDITION = "type.googleapis.com/google.rpc.PreconditionFailure"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
UNREADABLE = "Decryption failed: verify that 'name' refers to the correct CryptoKey."
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=TRANSPORTS)
def kms(request: pytest.FixtureRequest, live: LiveServer) -> Any:
    """The official client as the owner, over each transport in turn."""
    return kms_client(live, request.param)


@pytest.fixture
def key(kms: Any) -> str:
    """A key in a ring of the test's own; its name."""
    ring = kms.create_key_ring(
        request={"parent": LOCATION, "key_ring_id": f"ring-{next(_numbers)}", "key_ring": {}}
    )
    made = kms.create_crypto_key(
        request={
            "parent": ring.name, "crypto_key_id": "key", "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT},
        }
    )  # fmt: skip
    return str(made.name)


def test_missing_resources_are_not_found(kms: Any, key: str) -> None:
    """A missing ring, key or version is NotFound with its name."""
    for call, name in (
        (kms.get_key_ring, f"{LOCATION}/keyRings/none"),
        (kms.get_crypto_key, f"{key}-none"),
        (kms.get_crypto_key_version, f"{key}/cryptoKeyVersions/9"),
    ):
        error = refusal(call, {"name": name})
        assert isinstance(error, exceptions.NotFound)
        assert f"{name} not found." in error.message


def test_a_second_resource_of_a_name_is_a_conflict(kms: Any, key: str) -> None:
    """Creating what is there raises the client's AlreadyExists (its 409 over REST)."""
    ring = key.split("/cryptoKeys/", maxsplit=1)[0]
    request = {
        "parent": ring, "crypto_key_id": "key", "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT},
    }  # fmt: skip
    error = refusal(kms.create_crypto_key, request)

    assert isinstance(error, exceptions.Conflict)
    assert error.message.endswith(f"CryptoKey {key} already exists.")


def test_a_bad_field_is_named_in_the_details(kms: Any, key: str) -> None:
    """INVALID_ARGUMENT carries a BadRequest whose violation names the field."""
    request = {"parent": LOCATION, "key_ring_id": "bad id", "key_ring": {}}
    error = refusal(kms.create_key_ring, request)

    assert isinstance(error, exceptions.BadRequest)
    (detail,) = details_of(error)
    assert detail["@type"] == BAD_REQUEST
    assert [violation["field"] for violation in detail["fieldViolations"]] == ["key_ring_id"]


def test_a_denial_names_permission_and_resource(kms: Any, key: str, live: LiveServer) -> None:
    """PERMISSION_DENIED carries an ErrorInfo, and is the same for keys that are there and that are not."""
    bob = kms_client(live, kms.transport.kind, BOB)
    for name in (key, f"{key}-none"):
        error = refusal(bob.get_crypto_key, {"name": name})
        assert isinstance(error, exceptions.Forbidden)
        assert (error.reason, error.domain) == ("IAM_PERMISSION_DENIED", "cloudkms.googleapis.com")
        assert error.metadata == {"permission": "cloudkms.cryptoKeys.get", "resource": name}


def test_unproven_callers_are_unauthenticated(kms: Any, key: str, live: LiveServer) -> None:
    """A token that is nobody's raises Unauthenticated with its reason, however often it is shown."""
    nobody = kms_client(live, kms.transport.kind, "rubbish")
    error = refusal(nobody.get_crypto_key, {"name": key})

    assert isinstance(error, exceptions.Unauthorized)
    assert error.reason == "ACCESS_TOKEN_TYPE_UNSUPPORTED"


@pytest.mark.parametrize(
    ("state", "kind"), [(State.DISABLED, "KEY_DISABLED"), (None, "KEY_DESTROY_SCHEDULED")]
)
def test_an_unusable_key_says_in_which_state_it_is(
    kms: Any, key: str, state: State | None, kind: str
) -> None:
    """FAILED_PRECONDITION carries a PreconditionFailure with the state and the version, on both calls."""
    version = f"{key}/cryptoKeyVersions/1"
    sealed = kms.encrypt(request={"name": key, "plaintext": b"x"})
    if state is None:
        kms.destroy_crypto_key_version(request={"name": version})
    else:
        kms.update_crypto_key_version(
            request={
                "crypto_key_version": {"name": version, "state": state},
                "update_mask": {"paths": ["state"]},
            }
        )

    for call, request in (
        (kms.encrypt, {"name": key, "plaintext": b"x"}),
        (kms.decrypt, {"name": key, "ciphertext": sealed.ciphertext}),
    ):
        error = refusal(call, request)
        assert isinstance(error, exceptions.BadRequest)
        assert error.message.endswith(f"is not enabled, current state is: {kind.removeprefix('KEY_')}.")
        (detail,) = details_of(error)
        assert detail["@type"] == PRECONDITION
        assert detail["violations"] == [{"type": kind, "subject": version}]


def test_transitions_that_the_state_forbids_are_refused(kms: Any, key: str) -> None:
    """Restoring what is not scheduled, or destroying twice, is FAILED_PRECONDITION."""
    version = {"name": f"{key}/cryptoKeyVersions/1"}
    early = refusal(kms.restore_crypto_key_version, version)
    kms.destroy_crypto_key_version(request=version)
    twice = refusal(kms.destroy_crypto_key_version, version)

    for error, state in ((early, "ENABLED"), (twice, "DESTROY_SCHEDULED")):
        assert isinstance(error, exceptions.BadRequest)
        assert f"has value {state} in field crypto_key_version.state." in error.message


def test_whatever_does_not_open_reads_the_same(kms: Any, key: str) -> None:
    """A changed ciphertext, a wrong AAD, another key's ciphertext and rubbish give one answer."""
    sealed = bytes(kms.encrypt(request={"name": key, "plaintext": b"x"}).ciphertext)
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    requests = (
        {"name": key, "ciphertext": flipped},
        {"name": key, "ciphertext": sealed, "additional_authenticated_data": b"other"},
        {"name": key, "ciphertext": sealed[:-1]},
        {"name": key, "ciphertext": b"rubbish"},
    )
    errors = [refusal(kms.decrypt, request) for request in requests]

    for error in errors:
        assert isinstance(error, exceptions.BadRequest)
        assert error.message.endswith(UNREADABLE)
        assert details_of(error) == []
    assert len({error.message for error in errors}) == 1


@pytest.mark.parametrize("field", ["plaintext", "additional_authenticated_data"])
def test_a_wrong_checksum_is_refused_in_the_words_gcloud_looks_for(kms: Any, key: str, field: str) -> None:
    """A corrupted field is found by its CRC32C before anything is done with it."""
    request = {"name": key, "plaintext": b"x", field: b"data", f"{field}_crc32c": 1}
    error = refusal(kms.encrypt, request)

    assert isinstance(error, exceptions.BadRequest)
    assert f"The checksum in field {field}_crc32c did not match the data in field {field}." in error.message


def test_more_than_64_kib_are_refused(kms: Any, key: str) -> None:
    """A plaintext one byte over the limit is INVALID_ARGUMENT."""
    error = refusal(kms.encrypt, {"name": key, "plaintext": b"x" * (64 * 1024 + 1)})

    assert isinstance(error, exceptions.BadRequest)
    assert "plaintext" in error.message


def test_an_update_without_a_usable_mask_is_refused(kms: Any, key: str) -> None:
    """No mask, an immutable field and an unknown field are INVALID_ARGUMENT, and change nothing."""
    before = kms.get_crypto_key(request={"name": key})
    for paths in ([], ["purpose"], ["labels", "no_such_field"]):
        change = {"crypto_key": {"name": key, "labels": {"a": "b"}}, "update_mask": {"paths": paths}}
        assert isinstance(refusal(kms.update_crypto_key, change), exceptions.BadRequest)

    assert kms.get_crypto_key(request={"name": key}) == before


def test_a_stale_etag_is_a_conflict(kms: Any, key: str) -> None:
    """Writing a policy that was read before somebody else's change is Aborted (409 over REST)."""
    read = kms.get_iam_policy(request=iam_policy_pb2.GetIamPolicyRequest(resource=key))
    read.bindings.append(policy_pb2.Binding(role="roles/cloudkms.viewer", members=[BOB]))
    write = iam_policy_pb2.SetIamPolicyRequest(resource=key, policy=read)
    kms.set_iam_policy(request=write)
    error = refusal(kms.set_iam_policy, write)

    assert isinstance(error, exceptions.Conflict)
    assert "There were concurrent policy changes." in error.message


@pytest.mark.parametrize(
    ("purpose", "algorithm", "level", "named"),
    [
        ("ENCRYPT_DECRYPT", "EXTERNAL_SYMMETRIC_ENCRYPTION", "EXTERNAL", "EXTERNAL"),
        ("ENCRYPT_DECRYPT", "EXTERNAL_SYMMETRIC_ENCRYPTION", "EXTERNAL_VPC", "EXTERNAL_VPC"),
        ("ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION", "HSM", "HSM"),
        ("ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION", "HSM_SINGLE_TENANT", "HSM_SINGLE_TENANT"),
        ("ASYMMETRIC_SIGN", "PQ_SIGN_SLH_DSA_SHA2_128S", "SOFTWARE", "PQ_SIGN_SLH_DSA_SHA2_128S"),
    ],
)
def test_kinds_of_keys_that_are_not_served_say_so(
    kms: Any, key: str, purpose: str, algorithm: str, level: str, named: str
) -> None:
    """What this server without a token cannot keep is UNIMPLEMENTED by name, and leaves no key behind."""
    ring = key.split("/cryptoKeys/", maxsplit=1)[0]
    template = {"algorithm": algorithm, "protection_level": level}
    request = {
        "parent": ring, "crypto_key_id": "other",
        "crypto_key": {"purpose": purpose, "version_template": template},
        "skip_initial_version_creation": level.startswith("EXTERNAL"),
    }  # fmt: skip
    error = refusal(kms.create_crypto_key, request)

    assert isinstance(error, exceptions.MethodNotImplemented)
    assert named in error.message
    assert isinstance(refusal(kms.get_crypto_key, {"name": f"{ring}/cryptoKeys/other"}), exceptions.NotFound)


def test_fields_that_are_not_served_say_so(kms: Any, key: str) -> None:
    """A Key Access Justifications policy is UNIMPLEMENTED for a new key and for one that is there."""
    policy = {"key_access_justifications_policy": {"allowed_access_reasons": ["CUSTOMER_INITIATED_ACCESS"]}}
    change = {"paths": ["labels", "key_access_justifications_policy"]}
    create = {
        "parent": key.split("/cryptoKeys/", maxsplit=1)[0], "crypto_key_id": "other",
        "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT, **policy},
    }  # fmt: skip
    for call, request in (
        (kms.create_crypto_key, create),
        (kms.update_crypto_key, {"crypto_key": {"name": key, **policy}, "update_mask": change}),
        (kms.update_crypto_key, {"crypto_key": {"name": key}, "update_mask": change}),
    ):
        error = refusal(call, request)
        assert isinstance(error, exceptions.MethodNotImplemented)
        assert "The field crypto_key.key_access_justifications_policy is not supported" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_methods_that_are_not_served_say_so(live: LiveServer, transport: str) -> None:
    """An RPC of the API without a function is UNIMPLEMENTED with its name."""
    instance = {"name": f"{LOCATION}/singleTenantHsmInstances/i"}
    for client, call, request in (
        ("EkmService", "get_ekm_config", {"name": f"{LOCATION}/ekmConfig"}),
        ("Autokey", "list_key_handles", {"parent": LOCATION}),
        ("AutokeyAdmin", "show_effective_autokey_config", {"parent": "projects/p1"}),
        ("HsmManagement", "get_single_tenant_hsm_instance", instance),
    ):
        error = refusal(getattr(kms_client(live, transport, service=client), call), request)
        assert isinstance(error, exceptions.MethodNotImplemented)
        rpc = "".join(word.capitalize() for word in call.split("_"))
        assert f"The method google.cloud.kms.v1.{client}/{rpc} is not implemented." in error.message
