"""What every cryptographic method on a version promises: which keys, states and callers; what is logged."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keystead.api.call import Call
from keystead.api.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from keystead.kms.messages import CryptoKeyVersion
from tests.kms.keyroom import Keyroom, checked, crc
from tests.kms.test_canary import assert_absent
from tests.kms.test_hot_path import CountingExecutor
from tests.platform import OWNER

CANARY = b"canary-in-data-71c4"


@dataclass(frozen=True)
class Use:
    """A method, the purposes whose keys it takes, the permission it needs, and a request that succeeds or
    fails only for what it says of its data."""

    rpc: str
    purposes: tuple[str, ...]
    permission: str
    fields: dict[str, Any]


USES = [
    Use("RawEncrypt", ("RAW_ENCRYPT_DECRYPT",), "useToEncrypt", {"plaintext": bytes(16)}),
    Use("RawDecrypt", ("RAW_ENCRYPT_DECRYPT",), "useToDecrypt",
        {"ciphertext": bytes(32), "initialization_vector": bytes(16)}),
    Use("AsymmetricSign", ("ASYMMETRIC_SIGN",), "useToSign", {"data": b"data"}),
    Use("AsymmetricDecrypt", ("ASYMMETRIC_DECRYPT",), "useToDecrypt", {"ciphertext": bytes(256)}),
    Use("Decapsulate", ("KEY_ENCAPSULATION",), "useToDecapsulate", {"ciphertext": bytes(1088)}),
    Use("MacSign", ("MAC",), "useToSign", {"data": b"data"}),
    Use("MacVerify", ("MAC",), "useToVerify", {"data": b"data", "mac": bytes(32)}),
    Use("GetPublicKey", ("ASYMMETRIC_SIGN", "ASYMMETRIC_DECRYPT", "KEY_ENCAPSULATION"), "viewPublicKey", {}),
]  # fmt: skip
BY_RPC = {use.rpc: use for use in USES}

#: One algorithm for each purpose; of a method's purposes the first is taken where one will do.
SAMPLES = {
    "ENCRYPT_DECRYPT": "GOOGLE_SYMMETRIC_ENCRYPTION",
    "RAW_ENCRYPT_DECRYPT": "AES_256_CTR",
    "ASYMMETRIC_SIGN": "EC_SIGN_P256_SHA256",
    "ASYMMETRIC_DECRYPT": "RSA_DECRYPT_OAEP_2048_SHA256",
    "MAC": "HMAC_SHA256",
    "KEY_ENCAPSULATION": "ML_KEM_768",
    "AES_WRAPPING": "AES_256_KWP",
}

ROLES = {
    "cloudkms.viewer": set(),
    "cloudkms.admin": set(),
    "cloudkms.cryptoKeyEncrypter": {"useToEncrypt"},
    "cloudkms.cryptoKeyDecrypter": {"useToDecrypt"},
    "cloudkms.decapsulator": {"useToDecapsulate", "viewPublicKey"},
    "cloudkms.signer": {"useToSign"},
    "cloudkms.verifier": {"useToVerify", "viewPublicKey"},
    "cloudkms.publicKeyViewer": {"viewPublicKey"},
    "cloudkms.cryptoOperator": {
        "useToEncrypt", "useToDecrypt", "useToSign", "useToVerify", "useToDecapsulate", "viewPublicKey",
    },
}  # fmt: skip

STATES = sorted(set(CryptoKeyVersion.CryptoKeyVersionState.keys()[1:]) - {"ENABLED"})

_members = itertools.count(1)

uses = pytest.mark.parametrize("use", USES, ids=lambda use: use.rpc)


def sample(keyroom: Keyroom, use: Use) -> str:
    return keyroom.version(SAMPLES[use.purposes[0]])


def call(keyroom: Keyroom, use: Use, name: str, principal: str = OWNER) -> Any:
    """Call the method; a ciphertext that it says does not open was still looked at with the key."""
    try:
        return keyroom.call(use.rpc, name, principal, **use.fields)
    except InvalidArgument as refused:
        if use.rpc == "AsymmetricDecrypt" and refused.message == "Decryption failed.":
            return None
        if use.rpc == "GetPublicKey" and "public_key_format" in refused.message:
            return None
        raise


@uses
@pytest.mark.parametrize("purpose", SAMPLES)
def test_a_method_takes_keys_of_its_purpose_and_no_others(keyroom: Keyroom, use: Use, purpose: str) -> None:
    """Any other purpose is FAILED_PRECONDITION naming the key, whatever the rest of the request says."""
    name = keyroom.version(SAMPLES[purpose])
    if purpose in use.purposes:
        call(keyroom, use, name)
        return
    for fields in (use.fields, {}):
        with pytest.raises(FailedPrecondition) as refused:
            keyroom.call(use.rpc, name, **fields)
        key = name.rsplit("/", 2)[0]
        assert refused.value.message == (
            f"The request cannot be fulfilled. Resource {key} has value {purpose} in field "
            "crypto_key.purpose."
        )


@uses
def test_a_version_is_used_only_while_it_is_enabled(keyroom: Keyroom, use: Use) -> None:
    """In every other state it is FAILED_PRECONDITION in the service's words, even with an empty request; and
    enabled again, the next call uses it."""
    version = keyroom.fresh(SAMPLES[use.purposes[0]])
    assert len(STATES) == 9
    for state in STATES:
        call(keyroom, use, version)
        keyroom.put_in_state(version, state)
        for fields in (use.fields, {}):
            with pytest.raises(FailedPrecondition) as refused:
                keyroom.call(use.rpc, version, **fields)
            assert refused.value.message == f"{version} is not enabled, current state is: {state}."
            (failure,) = refused.value.details
            (violation,) = failure.violations  # type: ignore[attr-defined]  # a PreconditionFailure
            assert (violation.type, violation.subject) == (f"KEY_{state}", version)
        keyroom.put_in_state(version, "ENABLED")
    call(keyroom, use, version)


@uses
def test_what_is_not_there_is_not_found(keyroom: Keyroom, use: Use) -> None:
    """A missing key or version is NOT_FOUND, even with an empty request (contract tests of the service)."""
    key = sample(keyroom, use).rsplit("/", 2)[0]
    ring = key.rsplit("/", 2)[0]
    for missing, noun in (
        (f"{key}/cryptoKeyVersions/2", "CryptoKeyVersion"),
        (f"{ring}/cryptoKeys/none/cryptoKeyVersions/1", "CryptoKey"),
    ):
        for fields in (use.fields, {}):
            with pytest.raises(NotFound, match=f"^{noun} .* not found"):
                keyroom.call(use.rpc, missing, **fields)


@uses
@pytest.mark.parametrize("last", ["01", "0", "+1", "1 ", "٣", "x", "1/2", "99999999999999999999", ""])
def test_a_version_has_one_spelling(keyroom: Keyroom, use: Use, last: str) -> None:
    """No other spelling of a version's number reaches it, and neither does the name of its key."""
    key = sample(keyroom, use).rsplit("/", 2)[0]
    for name in (f"{key}/cryptoKeyVersions/{last}", key, "malformed name"):
        with pytest.raises(InvalidArgument):
            keyroom.call(use.rpc, name, **use.fields)


# --- who may -----------------------------------------------------------------------------------------


@uses
@pytest.mark.parametrize("role", ROLES)
def test_a_method_needs_its_own_permission(keyroom: Keyroom, use: Use, role: str) -> None:
    """Each role may do what Cloud KMS says and no more: administrators and viewers use no key, a signer does
    not see the public key. A denial names permission and version."""
    version = sample(keyroom, use)
    member = f"user:member-{next(_members)}@example.com"
    keyroom.platform.grant(version.rsplit("/", 2)[0], member, f"roles/{role}")
    if use.permission in ROLES[role]:
        call(keyroom, use, version, member)
        return
    with pytest.raises(PermissionDenied) as denied:
        keyroom.call(use.rpc, version, member, **use.fields)
    permission = f"cloudkms.cryptoKeyVersions.{use.permission}"
    assert denied.value.message == (
        f"Permission '{permission}' denied on resource '{version}' (or it may not exist)."
    )
    (info,) = denied.value.details
    assert dict(info.metadata) == {"permission": permission, "resource": version}  # type: ignore[attr-defined]


@uses
def test_whoever_holds_nothing_cannot_tell_whether_a_version_exists(keyroom: Keyroom, use: Use) -> None:
    """The same PERMISSION_DENIED for a version that is there and for one that is not."""
    version = sample(keyroom, use)
    for name in (version, f"{version}0"):
        with pytest.raises(PermissionDenied):
            keyroom.call(use.rpc, name, "user:eve@example.com", **use.fields)


# --- what is recorded --------------------------------------------------------------------------------


def canaries(keyroom: Keyroom) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A call of each method with the canary in every field that takes one, checksums and all."""
    filled = CANARY.ljust(32, b"!")
    gcm, ctr = keyroom.version("AES_256_GCM"), keyroom.version("AES_256_CTR")
    aad = checked(plaintext=CANARY, additional_authenticated_data=CANARY)
    yield "RawEncrypt", gcm, aad
    yield "RawEncrypt", ctr, checked(plaintext=CANARY, initialization_vector=CANARY[:16])
    yield "RawDecrypt", ctr, checked(ciphertext=CANARY, initialization_vector=CANARY[:16])
    yield "AsymmetricSign", keyroom.version("EC_SIGN_ED25519"), checked(data=CANARY)
    digest = {"digest": {"sha256": filled}, "digest_crc32c": {"value": crc(filled)}}
    yield "AsymmetricSign", keyroom.version("EC_SIGN_P256_SHA256"), digest
    oaep = keyroom.version("RSA_DECRYPT_OAEP_2048_SHA256")
    yield "AsymmetricDecrypt", oaep, checked(ciphertext=CANARY.ljust(256, b"!"))
    yield "Decapsulate", keyroom.version("ML_KEM_768"), checked(ciphertext=CANARY.ljust(1088, b"!"))
    yield "MacSign", keyroom.version("HMAC_SHA256"), checked(data=CANARY)
    yield "MacVerify", keyroom.version("HMAC_SHA256"), checked(data=CANARY, mac=filled)


def test_no_record_holds_data_or_its_checksum(tmp_path: Path) -> None:
    """With data access recorded every call leaves a record that names method and version, and holds nothing
    of request or response that is data, nor a CRC32C of it."""
    keyroom = Keyroom(tmp_path)
    calls = [*canaries(keyroom), ("GetPublicKey", keyroom.version("EC_SIGN_ED25519"), {})]
    keyroom.platform.record_data_access()
    before = len(keyroom.platform.audit_bodies())
    secrets = [CANARY, CANARY[:16]]
    for rpc, version, fields in calls:
        try:
            response = keyroom.call(rpc, version, **fields)
        except InvalidArgument as refused:
            assert (rpc, refused.message) == ("AsymmetricDecrypt", "Decryption failed.")
        else:
            secrets += [value for field, value in response.ListFields() if field.type == field.TYPE_BYTES]
            secrets += [value for value in fields.values() if isinstance(value, bytes)]
    bodies = keyroom.platform.audit_bodies()[before:]
    assert len(bodies) == len(calls)
    for body, (rpc, version, _) in zip(bodies, calls, strict=True):
        assert rpc.encode() in body
        assert version.encode() in body
    records = b"\0".join(bodies)
    assert_absent(secrets, records, "the audit trail")
    assert not [secret for secret in secrets if str(crc(secret)).encode() in records]
    keyroom.platform.close()


# --- where it runs -----------------------------------------------------------------------------------


def threads_asked(keyroom: Keyroom, rpc: str, name: str, **fields: Any) -> int:
    """How many threads a call asks for that was made once before."""
    platform = keyroom.platform
    method = platform.registry.methods[f"google.cloud.kms.v1.KeyManagementService/{rpc}"]
    with CountingExecutor() as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform.dispatcher, "_executor", threads)
        for _ in range(3):
            before = threads.count
            request = keyroom.request(rpc, name, **fields)
            with suppress(InvalidArgument):  # the ciphertext does not open, as the key says
                asyncio.run(platform.dispatcher.dispatch(method, request, Call(principal=OWNER)))
        return threads.count - before


@pytest.mark.parametrize(
    ("rpc", "algorithm", "asked"),
    [
        ("RawEncrypt", "AES_256_CTR", 0),
        ("RawDecrypt", "AES_256_CTR", 0),
        ("AsymmetricSign", "EC_SIGN_P256_SHA256", 0),
        ("AsymmetricSign", "EC_SIGN_ED25519", 0),
        ("AsymmetricSign", "RSA_SIGN_PSS_2048_SHA256", 1),
        ("AsymmetricSign", "PQ_SIGN_ML_DSA_65", 1),
        ("Decapsulate", "ML_KEM_768", 0),
        ("AsymmetricDecrypt", "RSA_DECRYPT_OAEP_2048_SHA256", 1),
        ("MacSign", "HMAC_SHA256", 0),
        ("MacVerify", "HMAC_SHA256", 0),
        ("GetPublicKey", "EC_SIGN_P256_SHA256", 0),
        ("GetPublicKey", "RSA_SIGN_PSS_2048_SHA256", 0),
    ],
)
def test_only_what_takes_long_leaves_the_event_loop(
    keyroom: Keyroom, rpc: str, algorithm: str, asked: int
) -> None:
    """In memory and fast: answered at once. RSA and ML-DSA signatures are made in a thread, their public keys
    are not."""
    fields = BY_RPC[rpc].fields
    assert threads_asked(keyroom, rpc, keyroom.version(algorithm), **fields) == asked


@pytest.mark.parametrize(
    ("rpc", "asked"), [("RawEncrypt", 1), ("AsymmetricSign", 1), ("MacSign", 1), ("GetPublicKey", 0)]
)
def test_a_token_is_never_asked_on_the_event_loop(keyroom: Keyroom, rpc: str, asked: int) -> None:
    """Every use of a key in a token is in a thread; its public key is in the store."""
    use = BY_RPC[rpc]
    version = keyroom.version(SAMPLES[use.purposes[0]], "HSM")
    assert threads_asked(keyroom, rpc, version, **use.fields) == asked
