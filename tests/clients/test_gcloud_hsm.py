"""Keys in a token with the real gcloud: made, used, imported, attested, against a server with SoftHSM2."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.cli.commands import run_process
from tests.clients.gcloud import Gcloud
from tests.live import LiveServer

pytestmark = pytest.mark.gcloud

WHERE = ("--location=us-central1", "--keyring=hsm")
RING = "projects/p1/locations/us-central1/keyRings/hsm"
HSM = "--protection-level=hsm"
_MADE_S = 60.0


@pytest.fixture(scope="module")
def live(hsm_server: LiveServer) -> LiveServer:
    """The server that `gcloud` talks to has a token."""
    return hsm_server


@pytest.fixture(scope="module")
def ring(gcloud: Gcloud) -> Gcloud:
    """gcloud with a key ring, and files that commands read."""
    gcloud.ok("kms", "keyrings", "create", "hsm", "--location=us-central1")
    (gcloud.directory / "pt").write_bytes(b"hello")
    (gcloud.directory / "secret").write_bytes(os.urandom(32))
    return gcloud


def settled(gcloud: Gcloud, *words: str) -> str:
    """The state in which a job or version is once it is not pending any more."""
    deadline = time.monotonic() + _MADE_S
    while (state := gcloud.ok("kms", *words, *WHERE, "--format=value(state)").out.strip()).startswith("PEND"):
        assert time.monotonic() < deadline, f"{words} stays {state}"
    return state


def make(gcloud: Gcloud, key: str, purpose: str, algorithm: str) -> tuple[str, ...]:
    """Make a key in the token and wait for its version; the words that name the version."""
    options = (f"--purpose={purpose}", f"--default-algorithm={algorithm}", HSM)
    assert gcloud.ok("kms", "keys", "create", key, *WHERE, *options).out == ""
    assert settled(gcloud, "keys", "versions", "describe", "1", "--key", key) == "ENABLED"
    return "--key", key, "--version=1", *WHERE


def test_locations_have_a_token(gcloud: Gcloud) -> None:
    """`locations list` says so of every location, and claims no external keys."""
    only = "--format=value(metadata.hsmAvailable,metadata.ekmAvailable)"
    lines = gcloud.ok("kms", "locations", "list", only).out.splitlines()
    assert lines
    assert {tuple(line.split()) for line in lines} <= {("True",), ("True", "False")}


def test_a_key_in_the_token_encrypts_and_decrypts(ring: Gcloud) -> None:
    """The commands are those of software keys; the list and the description show the level."""
    key = make(ring, "khsm", "encryption", "google-symmetric-encryption")[:2] + WHERE
    ring.ok("kms", "encrypt", *key, "--plaintext-file=pt", "--ciphertext-file=ct")
    assert ring.ok("kms", "decrypt", *key, "--ciphertext-file=ct", "--plaintext-file=-").out == "hello"
    row = ring.ok("kms", "keys", "list", *WHERE, "--filter=name:khsm").out.splitlines()[1].split()
    name = f"{RING}/cryptoKeys/khsm"
    assert row == [name, "ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION", "HSM", "1", "ENABLED"]


def test_an_attestation_is_written_to_a_file_and_verified(ring: Gcloud, live: LiveServer) -> None:
    """`describe --attestation-file` and `get-certificate-chain` give what `keystead attest verify` takes; the
    description leaves both out."""
    make(ring, "ksign", "asymmetric-signing", "ec-sign-p256-sha256")
    version = ("1", "--key=ksign", *WHERE)
    shown = ring.ok("kms", "keys", "versions", "describe", *version, "--attestation-file=attestation")
    assert shown.shape == (
        "algorithm: EC_SIGN_P256_SHA256\n"
        "attestation: {}\n"
        "createTime: 'TIME'\n"
        "generateTime: 'TIME'\n"
        f"name: {RING}/cryptoKeys/ksign/cryptoKeyVersions/1\n"
        "protectionLevel: HSM\n"
        "state: ENABLED\n"
    )
    chain = ring.ok("kms", "keys", "versions", "get-certificate-chain", *version).out
    assert chain.count("-----BEGIN CERTIFICATE-----") == 2
    get = ("kms", "keys", "versions", "get-public-key", *version)
    ring.ok(*get, "--output-file=public.pem")
    ring.ok("kms", "keys", "versions", "get-certificate-chain", *version, "--output-file=chain.pem")
    assert (ring.directory / "chain.pem").read_text() == chain

    keystead = [*live.command()[:3], "attest"]
    root = run_process([*keystead, "root", "--data-dir", str(live.data_dir)]).out
    assert root.strip() in chain
    (ring.directory / "root.pem").write_text(root)
    files = {name: str(ring.directory / name) for name in ("attestation", "root.pem", "public.pem")}
    against = ("--root", files["root.pem"], "--public-key", files["public.pem"])
    proved = run_process([*keystead, "verify", files["attestation"], *against])
    assert proved.status == 0, proved.text
    assert f"key version {RING}/cryptoKeys/ksign/cryptoKeyVersions/1" in proved.text
    assert "can leave the token no" in proved.text


def test_a_key_in_the_token_signs_and_computes_macs(ring: Gcloud) -> None:
    """The signature verifies by the key that gcloud prints, the tag by the service."""
    named = make(ring, "kec", "asymmetric-signing", "ec-sign-p256-sha256")
    files = ("--input-file=pt", "--signature-file=signature")
    ring.ok("kms", "asymmetric-sign", *named, "--digest-algorithm=sha256", *files)
    pem = ring.ok("kms", "keys", "versions", "get-public-key", "1", "--key=kec", *WHERE).out
    key: Any = load_pem_public_key(pem.encode())
    key.verify((ring.directory / "signature").read_bytes(), b"hello", ec.ECDSA(hashes.SHA256()))
    named = make(ring, "kmac", "mac", "hmac-sha256")
    files = ("--input-file=pt", "--signature-file=tag")
    ring.ok("kms", "mac-sign", *named, *files)
    assert ring.ok("kms", "mac-verify", *named, *files).out.strip() == "True"


def test_gcloud_wraps_a_key_for_the_token(ring: Gcloud) -> None:
    """An import job of level HSM takes what `--target-key-file` wraps, and the version encrypts."""
    method = "--import-method=rsa-oaep-3072-sha1-aes-256"
    assert ring.ok("kms", "import-jobs", "create", "job", *WHERE, method, HSM).out == ""
    assert settled(ring, "import-jobs", "describe", "job") == "ACTIVE"
    empty = ("--purpose=encryption", "--import-only", "--skip-initial-version-creation", HSM)
    ring.ok("kms", "keys", "create", "kimp", *WHERE, *empty)
    how = ("--import-job=job", "--algorithm=google-symmetric-encryption", "--target-key-file=secret")
    printed = ring.ok("kms", "keys", "versions", "import", "--key=kimp", *WHERE, *how).out
    assert "protectionLevel: HSM\nstate: PENDING_IMPORT\n" in printed
    assert settled(ring, "keys", "versions", "describe", "1", "--key=kimp") == "ENABLED"
    key = ("--key=kimp", *WHERE)
    ring.ok("kms", "encrypt", *key, "--version=1", "--plaintext-file=pt", "--ciphertext-file=cti")
    assert ring.ok("kms", "decrypt", *key, "--ciphertext-file=cti", "--plaintext-file=-").out == "hello"
