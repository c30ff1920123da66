"""The cryptographic methods with google-cloud-kms and with Tink, over gRPC and over REST."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
import tink
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from google.api_core import exceptions
from google.cloud import kms_v1
from tink.integration import gcpkms

from tests.clients.pyclients import TRANSPORTS, details_of, kms_client, refusal
from tests.live import LiveServer

LOCATION = "projects/p1/locations/europe-west4"
Algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Format = kms_v1.PublicKey.PublicKeyFormat
Level = kms_v1.ProtectionLevel
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
BOB = "user:bob@example.com"
_MADE_S = 60.0

_numbers = itertools.count(1)
MakeVersion = Callable[[str, str], str]


@pytest.fixture(scope="module", params=TRANSPORTS)
def kms(request: pytest.FixtureRequest, live: LiveServer) -> Any:
    """The official client as the owner, over each transport in turn."""
    return kms_client(live, request.param)


@pytest.fixture(scope="module")
def make(kms: Any) -> MakeVersion:
    """Makes a key of a purpose and algorithm in a ring of this transport; the name of its enabled version."""
    ring = kms.create_key_ring(
        request={"parent": LOCATION, "key_ring_id": f"crypto-{next(_numbers)}", "key_ring": {}}
    )
    made: dict[str, str] = {}

    def version(purpose: str, algorithm: str) -> str:
        if algorithm not in made:
            template = {"algorithm": Algorithm[algorithm]}
            key = kms.create_crypto_key(
                request={
                    "parent": ring.name,
                    "crypto_key_id": algorithm.lower(),
                    "crypto_key": {"purpose": Purpose[purpose], "version_template": template},
                }
            )
            made[algorithm] = f"{key.name}/cryptoKeyVersions/1"
            wait_until_made(kms, made[algorithm])
        return made[algorithm]

    return version


def wait_until_made(kms: Any, version: str) -> None:
    """As clients do with a version that is PENDING_GENERATION."""
    deadline = time.monotonic() + _MADE_S
    while kms.get_crypto_key_version(name=version).state != State.ENABLED:
        assert time.monotonic() < deadline, f"{version} was not made"
        time.sleep(0.05)


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def test_raw_encrypt_and_decrypt(kms: Any, make: MakeVersion) -> None:
    """Every checksum goes both ways, the vector comes back, and the plaintext returns."""
    name, plaintext, aad = make("RAW_ENCRYPT_DECRYPT", "AES_256_GCM"), b"raw plaintext", b"aad"
    sealed = kms.raw_encrypt(
        request={
            "name": name, "plaintext": plaintext, "plaintext_crc32c": crc(plaintext),
            "additional_authenticated_data": aad, "additional_authenticated_data_crc32c": crc(aad),
        }
    )  # fmt: skip
    assert (sealed.name, sealed.tag_length, sealed.protection_level) == (name, 16, Level.SOFTWARE)
    assert sealed.verified_plaintext_crc32c
    assert sealed.verified_additional_authenticated_data_crc32c
    assert not sealed.verified_initialization_vector_crc32c
    assert sealed.ciphertext_crc32c == crc(sealed.ciphertext)
    assert sealed.initialization_vector_crc32c == crc(sealed.initialization_vector)

    iv = sealed.initialization_vector
    opened = kms.raw_decrypt(
        request={
            "name": name, "ciphertext": sealed.ciphertext, "ciphertext_crc32c": crc(sealed.ciphertext),
            "additional_authenticated_data": aad, "additional_authenticated_data_crc32c": crc(aad),
            "initialization_vector": iv, "initialization_vector_crc32c": crc(iv),
        }
    )  # fmt: skip
    assert (opened.plaintext, opened.plaintext_crc32c) == (plaintext, crc(plaintext))
    assert opened.verified_ciphertext_crc32c
    assert opened.verified_additional_authenticated_data_crc32c
    assert opened.verified_initialization_vector_crc32c
    wrong = {"name": name, "ciphertext": sealed.ciphertext, "initialization_vector": iv}
    failed = refusal(kms.raw_decrypt, wrong)
    assert isinstance(failed, exceptions.BadRequest)
    assert failed.message.endswith("Decryption failed.")


def test_asymmetric_sign(kms: Any, make: MakeVersion) -> None:
    """By digest and by data; the signature verifies by the PEM that the service gives."""
    name, data = make("ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256"), b"signed"
    digest = hashlib.sha256(data).digest()
    key: Any = load_pem_public_key(kms.get_public_key(name=name).pem.encode())
    by_digest = kms.asymmetric_sign(
        request={"name": name, "digest": {"sha256": digest}, "digest_crc32c": crc(digest)}
    )
    by_data = kms.asymmetric_sign(request={"name": name, "data": data, "data_crc32c": crc(data)})
    assert (by_digest.verified_digest_crc32c, by_digest.verified_data_crc32c) == (True, False)
    assert (by_data.verified_digest_crc32c, by_data.verified_data_crc32c) == (False, True)
    for made in (by_digest, by_data):
        key.verify(made.signature, data, ec.ECDSA(hashes.SHA256()))
        assert made.signature_crc32c == crc(made.signature)
        assert (made.name, made.protection_level) == (name, Level.SOFTWARE)


def test_asymmetric_decrypt(kms: Any, make: MakeVersion) -> None:
    """What another library encrypts to the public key opens; what is no ciphertext does not."""
    name = make("ASYMMETRIC_DECRYPT", "RSA_DECRYPT_OAEP_2048_SHA256")
    der = kms.get_public_key(request={"name": name, "public_key_format": Format.DER}).public_key.data
    key: Any = load_der_public_key(der)
    ciphertext = key.encrypt(b"secret", OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), None))
    opened = kms.asymmetric_decrypt(
        request={"name": name, "ciphertext": ciphertext, "ciphertext_crc32c": crc(ciphertext)}
    )
    assert (opened.plaintext, opened.plaintext_crc32c) == (b"secret", crc(b"secret"))
    assert opened.verified_ciphertext_crc32c
    failed = refusal(kms.asymmetric_decrypt, {"name": name, "ciphertext": b"malformed ciphertext"})
    assert isinstance(failed, exceptions.BadRequest)


def test_decapsulate(kms: Any, make: MakeVersion) -> None:
    """Both sides come to the same shared secret."""
    name = make("KEY_ENCAPSULATION", "ML_KEM_768")
    answer = kms.get_public_key(request={"name": name, "public_key_format": Format.NIST_PQC})
    assert answer.public_key_format == Format.NIST_PQC
    assert answer.public_key.crc32c_checksum == crc(answer.public_key.data)
    secret, ciphertext = MLKEM768PublicKey.from_public_bytes(answer.public_key.data).encapsulate()
    opened = kms.decapsulate(
        request={"name": name, "ciphertext": ciphertext, "ciphertext_crc32c": crc(ciphertext)}
    )
    assert (opened.shared_secret, opened.shared_secret_crc32c) == (secret, crc(secret))
    assert (opened.name, opened.verified_ciphertext_crc32c) == (name, True)


def test_mac_sign_and_verify(kms: Any, make: MakeVersion) -> None:
    """A right tag succeeds, a wrong one does not, a short one is refused."""
    name, data = make("MAC", "HMAC_SHA256"), b"authenticated"
    made = kms.mac_sign(request={"name": name, "data": data, "data_crc32c": crc(data)})
    assert (made.verified_data_crc32c, made.mac_crc32c) == (True, crc(made.mac))

    def verify(mac: bytes) -> Any:
        return {"name": name, "data": data, "data_crc32c": crc(data), "mac": mac, "mac_crc32c": crc(mac)}

    right, wrong = kms.mac_verify(request=verify(made.mac)), kms.mac_verify(request=verify(bytes(32)))
    assert (right.success, right.verified_success_integrity) == (True, True)
    assert (right.verified_data_crc32c, right.verified_mac_crc32c) == (True, True)
    assert (wrong.success, wrong.verified_success_integrity) == (False, False)
    assert isinstance(refusal(kms.mac_verify, verify(made.mac[:16])), exceptions.BadRequest)


def test_public_keys_have_the_format_that_was_asked_for(kms: Any, make: MakeVersion) -> None:
    """PEM without asking, PEM and DER with it; a post-quantum key only where it fits."""
    name = make("ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256")
    default = kms.get_public_key(name=name)
    assert default.pem_crc32c == crc(default.pem.encode())
    assert (default.name, default.algorithm) == (name, Algorithm.EC_SIGN_P256_SHA256)
    assert not default.public_key.data
    pem = kms.get_public_key(request={"name": name, "public_key_format": Format.PEM})
    assert pem.public_key.data.decode() == pem.pem == default.pem
    pqc = make("KEY_ENCAPSULATION", "ML_KEM_768")
    failed = refusal(kms.get_public_key, {"name": pqc, "public_key_format": Format.PEM})
    assert isinstance(failed, exceptions.BadRequest)
    assert "Only NIST_PQC format is supported" in failed.message
    assert isinstance(refusal(kms.get_public_key, {"name": pqc}), exceptions.BadRequest)


def test_random_bytes_need_a_token(kms: Any) -> None:
    """This server has none: UNIMPLEMENTED for HSM, as Cloud KMS answers for SOFTWARE; a length out of range
    is INVALID_ARGUMENT in either case."""
    for level in (Level.HSM, Level.SOFTWARE):
        request = {"location": LOCATION, "length_bytes": 32, "protection_level": level}
        assert isinstance(refusal(kms.generate_random_bytes, request), exceptions.MethodNotImplemented)
        request = {"location": LOCATION, "length_bytes": 7, "protection_level": level}
        assert isinstance(refusal(kms.generate_random_bytes, request), exceptions.BadRequest)


def test_a_denial_names_the_version(kms: Any, make: MakeVersion, live: LiveServer) -> None:
    """As the error's ErrorInfo says too."""
    name = make("ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256")
    denied = refusal(kms_client(live, kms.transport.kind, BOB).get_public_key, {"name": name})
    assert isinstance(denied, exceptions.Forbidden)
    (info,) = details_of(denied)
    permission = "cloudkms.cryptoKeyVersions.viewPublicKey"
    assert info["metadata"] == {"permission": permission, "resource": name}


# --- Tink --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm",
    [
        "EC_SIGN_P256_SHA256",
        "EC_SIGN_P384_SHA384",
        "RSA_SIGN_PSS_2048_SHA256",
        "RSA_SIGN_PKCS1_2048_SHA256",
        "PQ_SIGN_ML_DSA_44",
        "PQ_SIGN_ML_DSA_65",
        "PQ_SIGN_ML_DSA_87",
        "PQ_SIGN_ML_DSA_65_EXTERNAL_MU",
    ],
)
def test_tink_signs_with_the_service_and_verifies_by_itself(
    kms: Any, make: MakeVersion, algorithm: str
) -> None:
    """Tink checks names, checksums and the public key's encoding, and verifies in its own library."""
    tink.signature.register()
    name = make("ASYMMETRIC_SIGN", algorithm)
    signature = gcpkms.new_gcp_kms_public_key_sign(name, kms).sign(b"data")
    verifier = gcpkms.new_gcp_kms_public_key_verify(name, kms)
    verifier.verify(signature, b"data")
    with pytest.raises(tink.TinkError):
        verifier.verify(signature, b"other data")


def test_tink_computes_and_verifies_macs(kms: Any, make: MakeVersion) -> None:
    """A truncated tag fails, and so do other data."""
    mac = gcpkms.new_gcp_kms_mac(make("MAC", "HMAC_SHA512"), kms)
    tag = mac.compute_mac(b"data")
    mac.verify_mac(tag, b"data")
    for wrong_tag, data in ((tag[:-1], b"data"), (tag, b"other data"), (tag[::-1], b"data")):
        with pytest.raises(tink.TinkError):
            mac.verify_mac(wrong_tag, data)
