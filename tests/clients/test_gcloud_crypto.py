"""The cryptographic commands of the real gcloud, which verifies every checksum and name of an answer."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.clients.gcloud import Gcloud
from tests.clients.pyclients import kms_client
from tests.live import LiveServer

pytestmark = pytest.mark.gcloud

WHERE = ("--location=us-central1", "--keyring=crypto")
RING = "projects/p1/locations/us-central1/keyRings/crypto"
_MADE_S = 60.0


@pytest.fixture(scope="module")
def ring(gcloud: Gcloud) -> Gcloud:
    """gcloud with a key ring, and the files `pt` and `aad`."""
    gcloud.ok("kms", "keyrings", "create", "crypto", "--location=us-central1")
    (gcloud.directory / "pt").write_bytes(b"hello")
    (gcloud.directory / "aad").write_bytes(b"aad1")
    return gcloud


def make(gcloud: Gcloud, key: str, purpose: str, algorithm: str) -> tuple[str, ...]:
    """Make a key and wait for its version; the words that name it."""
    options = (f"--purpose={purpose}", f"--default-algorithm={algorithm}")
    gcloud.ok("kms", "keys", "create", key, *WHERE, *options)
    deadline = time.monotonic() + _MADE_S
    version = ("1", "--key", key, *WHERE, "--format=value(state)")
    while gcloud.ok("kms", "keys", "versions", "describe", *version).out.strip() != "ENABLED":
        assert time.monotonic() < deadline, "the key was not made"
    return "--key", key, "--version", "1", *WHERE


def public_key(gcloud: Gcloud, key: str, *options: str) -> str:
    return gcloud.ok("kms", "keys", "versions", "get-public-key", "1", "--key", key, *WHERE, *options).out


def test_asymmetric_sign_by_digest_and_by_data(ring: Gcloud) -> None:
    """Both signatures verify by the PEM that `get-public-key` prints, and that it writes to a file."""
    named = make(ring, "ksign", "asymmetric-signing", "ec-sign-p256-sha256")
    files = ("--input-file=pt", "--signature-file=sig")
    pem = public_key(ring, "ksign")
    ring.ok("kms", "keys", "versions", "get-public-key", "1", "--key=ksign", *WHERE, "--output-file=pub.pem")
    assert (ring.directory / "pub.pem").read_text() == pem
    key: Any = load_pem_public_key(pem.encode())
    for options in (("--digest-algorithm=sha256",), ()):
        ring.ok("kms", "asymmetric-sign", *named, *options, *files)
        signature = (ring.directory / "sig").read_bytes()
        key.verify(signature, b"hello", ec.ECDSA(hashes.SHA256()))
        with pytest.raises(InvalidSignature):
            key.verify(signature, b"hallo", ec.ECDSA(hashes.SHA256()))
    wrong = ring.refused("kms", "asymmetric-sign", *named, "--digest-algorithm=sha512", *files)
    assert "takes digest.sha256" in wrong


def test_post_quantum_keys_are_signed_with_and_printed(ring: Gcloud) -> None:
    """`--public-key-format=nist-pqc` prints the raw key in base64; without it gcloud prints the refusal."""
    named = make(ring, "kpqc", "asymmetric-signing", "pq-sign-ml-dsa-65")
    ring.ok("kms", "asymmetric-sign", *named, "--input-file=pt", "--signature-file=pqsig")
    raw = base64.b64decode(public_key(ring, "kpqc", "--public-key-format=nist-pqc"))
    MLDSA65PublicKey.from_public_bytes(raw).verify((ring.directory / "pqsig").read_bytes(), b"hello")
    version = ("kms", "keys", "versions", "get-public-key", "1", "--key=kpqc", *WHERE)
    assert "INVALID_ARGUMENT" in ring.refused(*version)


def test_asymmetric_decrypt(ring: Gcloud) -> None:
    """What was encrypted to the public key is printed; anything else does not decrypt."""
    named = make(ring, "kdec", "asymmetric-encryption", "rsa-decrypt-oaep-2048-sha256")
    key: Any = load_pem_public_key(public_key(ring, "kdec").encode())
    scheme = OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), None)
    files = ("--ciphertext-file=act", "--plaintext-file=-")
    (ring.directory / "act").write_bytes(key.encrypt(b"hello", scheme))
    assert ring.ok("kms", "asymmetric-decrypt", *named, *files).out == "hello"
    (ring.directory / "act").write_bytes(bytes(256))
    assert "INVALID_ARGUMENT: Decryption failed." in ring.refused("kms", "asymmetric-decrypt", *named, *files)


def test_mac_sign_and_verify(ring: Gcloud) -> None:
    """`mac-verify` prints True for the right data and not for others: JSON leaves out what is false."""
    named = make(ring, "kmac", "mac", "hmac-sha256")
    files = ("--input-file=pt", "--signature-file=mac")
    ring.ok("kms", "mac-sign", *named, *files)
    assert ring.ok("kms", "mac-verify", *named, *files).out.strip() == "True"
    other = ("--input-file=aad", "--signature-file=mac")
    assert ring.ok("kms", "mac-verify", *named, *other).out.strip() in {"None", "False"}


def test_raw_encrypt_with_gcm(ring: Gcloud, live: LiveServer) -> None:
    """gcloud sends the checksum of an empty vector, and writes the one it is given to a file. It cannot read
    that one back, since its own `raw-decrypt` takes 16 bytes only: the Python client decrypts."""
    named = make(ring, "kraw", "raw-encryption", "aes-256-gcm")
    aad = "--additional-authenticated-data-file=aad"
    ring.ok("kms", "raw-encrypt", *named, "--plaintext-file=pt", "--ciphertext-file=rct", aad)
    (iv,) = ring.directory.glob("inialization_vector_*")
    opened = kms_client(live, "rest").raw_decrypt(
        request={
            "name": f"{RING}/cryptoKeys/kraw/cryptoKeyVersions/1",
            "ciphertext": (ring.directory / "rct").read_bytes(),
            "initialization_vector": iv.read_bytes(),
            "additional_authenticated_data": b"aad1",
        }
    )
    assert opened.plaintext == b"hello"
    files = ("--ciphertext-file=rct", "--plaintext-file=-", f"--initialization-vector-file={iv.name}")
    assert "the IV size must be 16 bytes" in ring.refused("kms", "raw-decrypt", *named, *files, aad)


def test_raw_encrypt_and_decrypt_with_a_vector_of_the_caller(ring: Gcloud) -> None:
    """AES-CTR under a vector from a file; CBC without padding refuses what fills no block."""
    named = make(ring, "kctr", "raw-encryption", "aes-128-ctr")
    (ring.directory / "iv").write_bytes(bytes(range(16)))
    vector = "--initialization-vector-file=iv"
    ring.ok("kms", "raw-encrypt", *named, "--plaintext-file=pt", "--ciphertext-file=cct", vector)
    assert len((ring.directory / "cct").read_bytes()) == len(b"hello")
    opened = ring.ok("kms", "raw-decrypt", *named, "--ciphertext-file=cct", "--plaintext-file=-", vector)
    assert opened.out == "hello"
    named = make(ring, "kcbc", "raw-encryption", "aes-128-cbc")
    files = ("--plaintext-file=pt", "--ciphertext-file=bct")
    assert "whole blocks of 16 bytes" in ring.refused("kms", "raw-encrypt", *named, *files, vector)
