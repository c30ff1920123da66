"""What calls of google-cloud-kms need to find: a key ring, keys, versions and an import job, made by itself.

Owns waiting, as clients do, for what the service makes after it has answered.
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from google.cloud import kms_v1

from keystead.kms.algorithms import BY_NAME
from tests.clients.pyclients import kms_client
from tests.kms.backends import outside
from tests.live import LiveServer

LOCATION = "projects/p1/locations/europe-west4"
# By protection level: the import method whose key is made fastest, and one that a token offers.
METHOD = "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM"
METHODS = {"SOFTWARE": METHOD, "HSM": "RSA_OAEP_3072_SHA1_AES_256"}
SYMMETRIC = "GOOGLE_SYMMETRIC_ENCRYPTION"
Level = kms_v1.ProtectionLevel
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
JobState = kms_v1.ImportJob.ImportJobState
MADE_S = 60.0

_numbers = itertools.count(1)


def new_ring(kms: Any, parent: str = LOCATION) -> str:
    """A key ring that nobody else uses; its name."""
    return str(kms.create_key_ring(parent=parent, key_ring_id=f"own-{next(_numbers)}", key_ring={}).name)


def ids(found: Any) -> list[str]:
    """The last segments of the names of resources."""
    return [each.name.rsplit("/", 1)[1] for each in found]


class Watched:
    """The official client, and which of its methods were called."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self._client, name)


class Scene:
    """A client, and the resources that its calls need, made when a call first needs them. Keys and the import
    job have the protection level `level`."""

    def __init__(self, live: LiveServer, transport: str, level: str = "SOFTWARE") -> None:
        self.live = live
        self.transport = transport
        self.level = level
        self.kms = Watched(kms_client(live, transport))
        self._versions: dict[str, str] = {}

    @functools.cached_property
    def ring(self) -> str:
        """The one key ring; its name."""
        request = {"parent": LOCATION, "key_ring_id": f"ring-{self.transport}", "key_ring": {}}
        return str(self.kms.create_key_ring(request=request).name)

    def key(self, algorithm: str = SYMMETRIC, *, empty: bool = False, **fields: Any) -> str:
        """A new key for that algorithm; its name."""
        wanted = {
            "purpose": BY_NAME[algorithm].purpose,
            "version_template": {"algorithm": algorithm, "protection_level": Level[self.level]},
            **fields,
        }
        request = {
            "parent": self.ring, "crypto_key_id": f"key-{next(_numbers)}", "crypto_key": wanted,
            "skip_initial_version_creation": empty,
        }  # fmt: skip
        return str(self.kms.create_crypto_key(request=request).name)

    def version(self, algorithm: str) -> str:
        """The one enabled version of that algorithm that all calls share; its name."""
        if algorithm not in self._versions:
            self._versions[algorithm] = f"{self.key(algorithm)}/cryptoKeyVersions/1"
            self.settle(self._versions[algorithm])
        return self._versions[algorithm]

    def settle(self, version: str, state: Any = State.ENABLED) -> Any:
        """Wait, as clients do, until a version has left its pending state; it must be in `state` then."""
        deadline = time.monotonic() + MADE_S
        while (found := self.kms.get_crypto_key_version(name=version)).state.name.startswith("PENDING_"):
            assert time.monotonic() < deadline, f"{version} stays {found.state.name}"
            time.sleep(0.02)
        assert found.state == state, found
        return found

    def settled_job(self, name: str) -> Any:
        """Wait until an import job is active."""
        deadline = time.monotonic() + MADE_S
        while (found := self.kms.get_import_job(name=name)).state != JobState.ACTIVE:
            assert time.monotonic() < deadline, f"{name} stays {found.state.name}"
            time.sleep(0.02)
        return found

    @functools.cached_property
    def job(self) -> Any:
        """An active import job."""
        request = {
            "parent": self.ring, "import_job_id": "job",
            "import_job": {"import_method": METHODS[self.level], "protection_level": Level[self.level]},
        }  # fmt: skip
        return self.settled_job(self.kms.create_import_job(request=request).name)

    def wrap(self, material: bytes) -> bytes:
        """Key material wrapped to that job."""
        pem, data = self.job.public_key.pem, self.job.public_key.data
        if pem:
            key = load_pem_public_key(pem.encode())
            data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return outside.wrap(METHODS[self.level], data, material)

    def imported(self, key: str, wrapped: bytes) -> Any:
        """What ImportCryptoKeyVersion answers for a symmetric key."""
        request = {
            "parent": key, "algorithm": SYMMETRIC, "import_job": self.job.name, "wrapped_key": wrapped,
        }  # fmt: skip
        return self.kms.import_crypto_key_version(request=request)
