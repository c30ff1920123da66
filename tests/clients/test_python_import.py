"""Import with google-cloud-kms as its documentation tells it, over gRPC and over REST."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from google.api_core import exceptions
from google.cloud import kms_v1

from tests.clients.pyclients import TRANSPORTS, kms_client
from tests.kms.backends import outside
from tests.live import LiveServer

LOCATION = "projects/p1/locations/europe-west4"
METHOD = kms_v1.ImportJob.ImportMethod.RSA_OAEP_3072_SHA256_AES_256
JobState = kms_v1.ImportJob.ImportJobState
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
Format = kms_v1.PublicKey.PublicKeyFormat
Algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
P256 = Algorithm.EC_SIGN_P256_SHA256
_MADE_S = 60.0
_numbers = itertools.count(1)


class Customer:
    """The official client, with a key ring and an active import job."""

    def __init__(self, kms: Any) -> None:
        self.kms = kms
        self.ring = kms.create_key_ring(
            parent=LOCATION, key_ring_id=f"import-{next(_numbers)}", key_ring={}
        ).name
        request = {
            "parent": self.ring, "import_job_id": "job",
            "import_job": {"import_method": METHOD, "protection_level": kms_v1.ProtectionLevel.SOFTWARE},
        }  # fmt: skip
        created = kms.create_import_job(request=request)
        assert created.state == JobState.PENDING_GENERATION
        self.job = created.name
        self.settled(lambda: kms.get_import_job(name=self.job))

    def settled(self, read: Any) -> Any:
        """What is read once it is not pending any more."""
        deadline = time.monotonic() + _MADE_S
        while (found := read()).state.name.startswith("PENDING_"):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found

    def key(self, purpose: Any, algorithm: Any) -> str:
        """An import-only key for that algorithm, whose destruction is due at once."""
        wanted = {
            "purpose": purpose, "version_template": {"algorithm": algorithm}, "import_only": True,
            "destroy_scheduled_duration": {"seconds": 0},
        }  # fmt: skip
        request = {
            "parent": self.ring, "crypto_key_id": f"key-{next(_numbers)}", "crypto_key": wanted,
            "skip_initial_version_creation": True,
        }  # fmt: skip
        return str(self.kms.create_crypto_key(request=request).name)

    def wrap(self, material: bytes) -> bytes:
        """Wrapped to the PEM of the job."""
        public: Any = load_pem_public_key(self.kms.get_import_job(name=self.job).public_key.pem.encode())
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return outside.wrap(METHOD.name, der, material)

    def imported(self, key: str, wrapped: bytes, algorithm: Any = P256, **fields: Any) -> Any:
        """Import; the version as it became."""
        request = {
            "parent": key, "algorithm": algorithm, "import_job": self.job, "wrapped_key": wrapped, **fields,
        }  # fmt: skip
        answered = self.kms.import_crypto_key_version(request=request)
        assert answered.state == State.PENDING_IMPORT
        return self.version(answered.name)

    def version(self, name: str) -> Any:
        return self.settled(lambda: self.kms.get_crypto_key_version(name=name))


@pytest.fixture(scope="module", params=TRANSPORTS)
def customer(request: pytest.FixtureRequest, live: LiveServer) -> Customer:
    return Customer(kms_client(live, request.param))


def test_a_job_gives_its_key_in_other_formats(customer: Customer) -> None:
    """DER and PEM in `data`, with the format named; one that it has not is INVALID_ARGUMENT."""
    pem = customer.kms.get_import_job(name=customer.job).public_key.pem
    for form, load in ((Format.DER, load_der_public_key), (Format.PEM, load_pem_public_key)):
        job = customer.kms.get_import_job(request={"name": customer.job, "public_key_format": form})
        assert job.public_key_format == form
        assert load(job.public_key.data) == load_pem_public_key(pem.encode())
    with pytest.raises(exceptions.BadRequest, match="public_key_format"):
        customer.kms.get_import_job(request={"name": customer.job, "public_key_format": Format.NIST_PQC})


def test_an_imported_key_signs(customer: Customer) -> None:
    """The signature verifies by the public key that stayed outside."""
    private = ec.generate_private_key(ec.SECP256R1())
    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    version = customer.imported(customer.key(Purpose.ASYMMETRIC_SIGN, P256), customer.wrap(der))
    assert (version.state, version.import_job) == (State.ENABLED, customer.job)
    digest = {"sha256": hashlib.sha256(b"data").digest()}
    signature = customer.kms.asymmetric_sign(name=version.name, digest=digest).signature
    private.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA256()))


def test_a_destroyed_key_comes_back_by_importing_it_again(customer: Customer) -> None:
    """Other material fails with a reason; the identical one opens what was encrypted before."""
    algorithm = Algorithm.GOOGLE_SYMMETRIC_ENCRYPTION
    key = customer.key(Purpose.ENCRYPT_DECRYPT, algorithm)
    material = os.urandom(32)
    name = customer.imported(key, customer.wrap(material), algorithm).name
    sealed = customer.kms.encrypt(name=name, plaintext=b"from before").ciphertext
    customer.kms.destroy_crypto_key_version(name=name)
    deadline = time.monotonic() + _MADE_S
    while customer.version(name).state != State.DESTROYED:
        assert time.monotonic() < deadline, "the version was not destroyed"
        time.sleep(0.1)
    other = customer.imported(key, customer.wrap(os.urandom(32)), algorithm, crypto_key_version=name)
    assert other.state == State.IMPORT_FAILED
    assert "not the material" in other.import_failure_reason
    again = customer.imported(key, customer.wrap(material), algorithm, crypto_key_version=name)
    assert (again.name, again.state) == (name, State.ENABLED)
    assert customer.kms.decrypt(name=key, ciphertext=sealed).plaintext == b"from before"


def test_a_key_leaves_and_enters_by_a_wrapping_key(customer: Customer) -> None:
    """The client's export of a key that may leave opens with the wrapping key outside."""
    kek, material = os.urandom(32), os.urandom(32)
    wrapping = customer.imported(
        customer.key(Purpose.AES_WRAPPING, Algorithm.AES_256_KWP), customer.wrap(kek), Algorithm.AES_256_KWP
    ).name
    key = customer.key(Purpose.MAC, Algorithm.HMAC_SHA256)
    version = customer.imported(
        key, customer.wrap(material), Algorithm.HMAC_SHA256, trusted_wrapping_enabled=True
    ).name
    answer = customer.kms.export_trusted_key_wrapped_crypto_key_version(
        request={"name": version, "wrapping_key": wrapping}
    )
    assert outside.unwrap(kek, answer.wrapped_key) == material
    request = {
        "parent": key, "importing_key": wrapping, "wrapped_key": answer.wrapped_key,
        "algorithm": Algorithm.HMAC_SHA256,
    }  # fmt: skip
    twin = customer.version(customer.kms.import_trusted_key_wrapped_crypto_key_version(request=request).name)
    macs = {customer.kms.mac_sign(name=name, data=b"data").mac for name in (version, twin.name)}
    assert len(macs) == 1
