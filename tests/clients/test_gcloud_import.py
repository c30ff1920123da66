"""The import commands of the real gcloud: jobs, keys that it wraps itself, and keys wrapped before."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from tests.clients.gcloud import Gcloud
from tests.kms.backends import outside

pytestmark = pytest.mark.gcloud

WHERE = ("--location=us-central1", "--keyring=imports")
RING = "projects/p1/locations/us-central1/keyRings/imports"
METHOD = "rsa-oaep-3072-sha256-aes-256"
SYMMETRIC = "google-symmetric-encryption"
_MADE_S = 60.0


@pytest.fixture(scope="module")
def ring(gcloud: Gcloud) -> Gcloud:
    """gcloud with a key ring, an active import job `job`, and a secret key in the file `raw`."""
    gcloud.ok("kms", "keyrings", "create", "imports", "--location=us-central1")
    make_job(gcloud, "job", METHOD)
    (gcloud.directory / "raw").write_bytes(os.urandom(32))
    return gcloud


def make_job(gcloud: Gcloud, job: str, method: str) -> None:
    options = (f"--import-method={method}", "--protection-level=software")
    assert gcloud.ok("kms", "import-jobs", "create", job, *WHERE, *options).out == ""
    settled(gcloud, "import-jobs", "describe", job)


def make_key(gcloud: Gcloud, key: str, purpose: str = "encryption", *options: str) -> None:
    """A key without versions."""
    empty = ("--skip-initial-version-creation", "--import-only")
    gcloud.ok("kms", "keys", "create", key, *WHERE, f"--purpose={purpose}", *empty, *options)


def settled(gcloud: Gcloud, *words: str) -> str:
    """The state in which a job or version is once it is not pending any more."""
    deadline = time.monotonic() + _MADE_S
    while (state := gcloud.ok("kms", *words, *WHERE, "--format=value(state)").out.strip()).startswith("PEND"):
        assert time.monotonic() < deadline, f"{words} stays {state}"
    return state


def import_key(gcloud: Gcloud, key: str, algorithm: str, *options: str, job: str = "job") -> str:
    """Import a version; what gcloud prints."""
    named = ("--key", key, "--import-job", job, "--algorithm", algorithm)
    return gcloud.ok("kms", "keys", "versions", "import", *named, *WHERE, *options).shape


def version_state(gcloud: Gcloud, key: str, number: int = 1) -> str:
    return settled(gcloud, "keys", "versions", "describe", str(number), "--key", key)


def test_jobs_are_made_described_and_listed(ring: Gcloud) -> None:
    """`create` prints nothing, `describe` the public key as PEM, `list` a line for each job."""
    out = ring.ok("kms", "import-jobs", "describe", "job", *WHERE).out
    pem = ring.ok("kms", "import-jobs", "describe", "job", *WHERE, "--format=value(publicKey.pem)").out
    key: Any = load_pem_public_key(pem.encode())
    assert key.key_size == 3072
    lines = [line.split(":", 1)[0] for line in out.splitlines() if line[0] != " "]
    assert lines == [
        "createTime", "expireTime", "generateTime", "importMethod", "name", "protectionLevel", "publicKey",
        "state",
    ]  # fmt: skip
    times = ring.ok("kms", "import-jobs", "describe", "job", *WHERE, "--format=value(createTime,expireTime)")
    created, expires = (datetime.fromisoformat(each) for each in times.out.split())
    assert expires - created == timedelta(days=3)
    listed = ring.ok("kms", "import-jobs", "list", *WHERE).out.splitlines()
    assert listed[0].split() == ["NAME", "STATE", "IMPORT_METHOD", "PROTECTION_LEVEL", "LABELS"]
    wanted = [f"{RING}/importJobs/job", "ACTIVE", METHOD.upper().replace("-", "_"), "SOFTWARE"]
    assert wanted in [line.split() for line in listed[1:]]


def test_a_job_s_policy_is_kept(ring: Gcloud) -> None:
    """`add-iam-policy-binding` and `get-iam-policy` on a job."""
    member, role = "user:bob@example.com", "roles/cloudkms.importer"
    ring.ok(
        "kms", "import-jobs", "add-iam-policy-binding", "job", *WHERE, f"--member={member}", f"--role={role}"
    )
    printed = ring.ok("kms", "import-jobs", "get-iam-policy", "job", *WHERE).out
    assert member in printed
    assert role in printed


def test_gcloud_wraps_a_key_and_imports_it(ring: Gcloud) -> None:
    """`--target-key-file`; the version encrypts once it is made primary."""
    make_key(ring, "wrapped-by-gcloud")
    printed = import_key(ring, "wrapped-by-gcloud", SYMMETRIC, "--target-key-file=raw")
    assert printed == (
        "algorithm: GOOGLE_SYMMETRIC_ENCRYPTION\n"
        "createTime: 'TIME'\n"
        f"importJob: {RING}/importJobs/job\n"
        f"name: {RING}/cryptoKeys/wrapped-by-gcloud/cryptoKeyVersions/1\n"
        "protectionLevel: SOFTWARE\n"
        "state: PENDING_IMPORT\n"
    )
    assert version_state(ring, "wrapped-by-gcloud") == "ENABLED"
    named = ("--key=wrapped-by-gcloud", *WHERE)
    ring.ok("kms", "keys", "set-primary-version", "wrapped-by-gcloud", *WHERE, "--version=1")
    (ring.directory / "pt").write_bytes(b"hello")
    ring.ok("kms", "encrypt", *named, "--plaintext-file=pt", "--ciphertext-file=ct")
    assert ring.ok("kms", "decrypt", *named, "--ciphertext-file=ct", "--plaintext-file=-").out == "hello"


@pytest.mark.parametrize("method", ["rsa-oaep-3072-sha1-aes-256", "rsa-oaep-3072-sha256"])
def test_gcloud_wraps_for_other_methods(ring: Gcloud, method: str) -> None:
    """With SHA-1, and directly without an AES key in between; an EC key becomes one with its public half."""
    private = ec.generate_private_key(ec.SECP256R1())
    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    (ring.directory / "ec").write_bytes(der)
    key = f"ec-{method}"
    make_job(ring, key, method)
    make_key(ring, key, "asymmetric-signing", "--default-algorithm=ec-sign-p256-sha256")
    import_key(ring, key, "ec-sign-p256-sha256", "--target-key-file=ec", job=key)
    assert version_state(ring, key) == "ENABLED"
    pem = ring.ok("kms", "keys", "versions", "get-public-key", "1", "--key", key, *WHERE).out
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert pem == public.decode()


@pytest.mark.parametrize("option", ["--wrapped-key-file", "--rsa-aes-wrapped-key-file"])
def test_a_key_wrapped_before_is_imported(ring: Gcloud, option: str) -> None:
    """By both options; what does not open ends IMPORT_FAILED with the reason."""
    pem = ring.ok("kms", "import-jobs", "describe", "job", *WHERE, "--format=value(publicKey.pem)").out
    public: Any = load_pem_public_key(pem.encode())
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    wrapped = outside.wrap(METHOD.upper().replace("-", "_"), der, os.urandom(32))
    (ring.directory / "wrapped").write_bytes(wrapped)
    (ring.directory / "broken").write_bytes(wrapped[:-8])
    key = option.strip("-")
    make_key(ring, key)
    import_key(ring, key, SYMMETRIC, f"{option}=wrapped")
    import_key(ring, key, SYMMETRIC, f"{option}=broken")
    assert version_state(ring, key) == "ENABLED"
    assert version_state(ring, key, 2) == "IMPORT_FAILED"
    shown = ring.ok("kms", "keys", "versions", "describe", "2", "--key", key, *WHERE).out
    assert "importFailureReason: The key material in the import request couldn't be unwrapped" in shown
    assert "reimportEligible: true" in shown
    import_key(ring, key, SYMMETRIC, f"{option}=wrapped", "--version=2")
    assert version_state(ring, key, 2) == "ENABLED"


def test_what_is_refused_reads_as_gcloud_s_users_know_it(ring: Gcloud) -> None:
    """A version of an import-only key is not generated, and a caller without grants is denied."""
    make_key(ring, "refused")
    told = ring.refused("kms", "keys", "versions", "create", "--key=refused", *WHERE)
    assert "FAILED_PRECONDITION" in told
    named = ("--key=refused", "--import-job=job", "--algorithm", SYMMETRIC, "--target-key-file=raw")
    told = ring.refused("kms", "keys", "versions", "import", *named, *WHERE, token="user:eve@example.com")
    assert "PERMISSION_DENIED" in told
    assert "cloudkms.importJobs.get" in told
    options = (f"--import-method={METHOD}", "--protection-level=software")
    told = ring.refused("kms", "import-jobs", "create", "job", *WHERE, *options)
    assert "ALREADY_EXISTS" in told
