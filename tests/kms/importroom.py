"""What tests of import have in common: a platform, an import job for each method, and keys made outside.

Owns calling the import methods as a customer does. Keys are wrapped by `tests.kms.backends.outside`, with the
library and not with the code under test.
"""

from __future__ import annotations

import datetime as dt
import itertools
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from keystead.kms.algorithms import BY_NAME
from keystead.kms.importing import ImportRecord
from keystead.kms.lifecycle import JobState, State
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CreateImportJobRequest,
    ExportTrustedKeyWrappedCryptoKeyVersionRequest,
    GetCryptoKeyVersionRequest,
    GetImportJobRequest,
    GetPublicKeyRequest,
    ImportCryptoKeyVersionRequest,
    ImportJob,
    ImportTrustedKeyWrappedCryptoKeyVersionRequest,
)
from keystead.kms.service import RINGS, VERSIONS
from tests.kms.backends import outside
from tests.platform import LOCATION, OWNER, Platform, running

RING = f"{LOCATION}/keyRings/ring"
# The fastest method to make a key for, where none is asked for.
METHOD = "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM"
METHODS = [value.name for value in ImportJob.ImportMethod.DESCRIPTOR.values if value.number]
TOKEN_METHODS = ("RSA_OAEP_3072_SHA1_AES_256", "RSA_OAEP_4096_SHA1_AES_256")
SYMMETRIC = "GOOGLE_SYMMETRIC_ENCRYPTION"
MATERIAL = bytes(range(32))
DAY = dt.timedelta(days=1)
_NUMBERS = itertools.count(1)


class Dropping(Executor):
    """Loses all work: what a crash between an answer and the work behind it leaves."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        del function, args, kwargs
        return Future()


class ImportRoom:
    """A platform whose keys and import jobs are of one protection level unless said otherwise."""

    def __init__(self, platform: Platform, level: str = "SOFTWARE", method: str = METHOD) -> None:
        self.platform = platform
        self.level = level
        self.method = method
        self._jobs: dict[str, str] = {}
        if not platform.exists(RINGS, RING):
            platform.ring()

    # --- import jobs -----------------------------------------------------------------------------------

    def create_job(self, method: str = "", job_id: str = "", principal: str = OWNER, **fields: Any) -> Any:
        """Call CreateImportJob; the job as it was answered. `fields` are those of the ImportJob."""
        wanted = {"import_method": method or self.method, "protection_level": self.level, **fields}
        request = CreateImportJobRequest(
            parent=RING, import_job_id=job_id or f"job-{next(_NUMBERS)}", import_job=wanted
        )
        return self.platform.call("CreateImportJob", request, principal)

    def job(self, method: str = "") -> str:
        """The one job of that method, shared by all tests; its name."""
        method = method or self.method
        if method not in self._jobs:
            self._jobs[method] = str(self.create_job(method).name)
        return self._jobs[method]

    def get_job(self, name: str, **fields: Any) -> Any:
        return self.platform.call("GetImportJob", GetImportJobRequest(name=name, **fields))

    def public(self, job: str) -> bytes:
        """The public key of a job, as `outside.wrap` takes it."""
        public = self.get_job(job).public_key
        if not public.pem:
            return bytes(public.data)
        key = load_pem_public_key(public.pem.encode())
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def wrap(self, material: bytes, method: str = "") -> bytes:
        """`material` wrapped to the job of that method."""
        return outside.wrap(method or self.method, self.public(self.job(method)), material)

    # --- keys and versions -----------------------------------------------------------------------------

    def key(self, algorithm: str = SYMMETRIC, **fields: Any) -> str:
        """A key for that algorithm, without versions; its name."""
        wanted = {
            "purpose": BY_NAME[algorithm].purpose,
            "version_template": {"algorithm": algorithm, "protection_level": self.level},
            **fields,
        }
        request = CreateCryptoKeyRequest(
            parent=RING,
            crypto_key_id=f"key-{next(_NUMBERS)}",
            crypto_key=wanted,
            skip_initial_version_creation=True,
        )
        return str(self.platform.call("CreateCryptoKey", request).name)

    def send(
        self, key: str, wrapped: bytes, algorithm: str = SYMMETRIC, principal: str = OWNER, **fields: Any
    ) -> Any:
        """Call ImportCryptoKeyVersion; the version as it was answered. Without `import_job` it is the shared
        one."""
        if "import_job" not in fields:
            fields["import_job"] = self.job()
        request = ImportCryptoKeyVersionRequest(
            parent=key, wrapped_key=wrapped, algorithm=algorithm, **fields
        )
        return self.platform.call("ImportCryptoKeyVersion", request, principal)

    def imported(self, key: str, material: bytes, algorithm: str = SYMMETRIC, **fields: Any) -> Any:
        """Wrap and import; the version as it became."""
        return self.version(self.send(key, self.wrap(material), algorithm, **fields).name)

    def version(self, name: str) -> Any:
        return self.platform.call("GetCryptoKeyVersion", GetCryptoKeyVersionRequest(name=name))

    def public_pem(self, version: str) -> str:
        return str(self.platform.call("GetPublicKey", GetPublicKeyRequest(name=version)).pem)

    def destroy(self, version: str, after: Any) -> None:
        """Destroy a version, and let the time pass that this takes."""
        self.platform.destroy(version)
        self.platform.clock.advance(after)
        self.platform.schedule.run_due(self.platform.clock.now())
        assert state(self.version(version)) == "DESTROYED"

    # --- trusted wrapping ------------------------------------------------------------------------------

    def send_trusted(
        self, key: str, wrapped: bytes, importing: str, algorithm: str, principal: str = OWNER, **fields: Any
    ) -> Any:
        """Call ImportTrustedKeyWrappedCryptoKeyVersion; the version as it was answered."""
        request = ImportTrustedKeyWrappedCryptoKeyVersionRequest(
            parent=key, wrapped_key=wrapped, importing_key=importing, algorithm=algorithm, **fields
        )
        return self.platform.call("ImportTrustedKeyWrappedCryptoKeyVersion", request, principal)

    def export(self, version: str, wrapping: str, principal: str = OWNER) -> Any:
        """Call ExportTrustedKeyWrappedCryptoKeyVersion."""
        request = ExportTrustedKeyWrappedCryptoKeyVersionRequest(name=version, wrapping_key=wrapping)
        return self.platform.call("ExportTrustedKeyWrappedCryptoKeyVersion", request, principal)

    # --- what lies in the store ------------------------------------------------------------------------

    def material(self, name: str) -> bytes | None:
        """What is stored of a key, by the name of its version or job."""
        with self.platform.store.read() as tx:
            found: bytes | None = tx.material.get(name)
            return found

    def record(self, version: str) -> ImportRecord:
        """What the row of a version keeps of its imports."""
        with self.platform.store.read() as tx:
            return ImportRecord.decode(VERSIONS.require(tx, version).row.sealed)

    def check_settled(self, version: str) -> None:
        """A version whose import is over has a key if it is ENABLED, else a reason, and nothing is due."""
        with self.platform.store.read() as tx:
            stored = VERSIONS.require(tx, version)
            held = tx.material.get(version)
        message = stored.message
        assert state(message) in {"ENABLED", "IMPORT_FAILED"}
        assert (state(message) == "ENABLED") == (held is not None)
        assert (state(message) == "ENABLED") == (not message.import_failure_reason)
        assert message.reimport_eligible == (state(message) == "IMPORT_FAILED")
        assert stored.row.due is None
        assert ImportRecord.decode(stored.row.sealed).request is None


def state(version: Any) -> str:
    return str(State.Name(version.state))


def failed(room: ImportRoom, version: Any, reason: str) -> None:
    """Fails unless the import failed for that reason, and left no key."""
    now = room.version(version.name)
    assert (state(now), now.import_failure_reason) == ("IMPORT_FAILED", reason)
    room.check_settled(version.name)


def crashed(directory: Path, **fields: Any) -> tuple[Platform, str, str]:
    """A platform that answered an import and did nothing of it; its job and the version."""
    with running(directory) as before:
        room = ImportRoom(before)
        key, job, wrapped = room.key(), room.job(), room.wrap(MATERIAL)
    platform = Platform(directory, before.clock, key_executor=Dropping())
    answered = ImportRoom(platform).send(key, wrapped, import_job=job, **fields)
    return platform, job, answered.name


def job_state(job: Any) -> str:
    return str(JobState.Name(job.state))


def pass_time(room: ImportRoom, time: dt.timedelta) -> int:
    """Let time pass, then do what is due; how much that was."""
    room.platform.clock.advance(time)
    return room.platform.schedule.run_due(room.platform.clock.now())
