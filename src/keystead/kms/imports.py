"""Importing key material that was wrapped to the key of an import job."""

from __future__ import annotations

from typing import Any

from keystead.api.call import Call
from keystead.api.errors import bad_field
from keystead.api.method import LogKind, Need, method
from keystead.kms import lifecycle
from keystead.kms.algorithms import Algorithm
from keystead.kms.backends import ImportFailedError, Made, WrappedKey
from keystead.kms.importing import NEEDS, Importing, permission_to_import
from keystead.kms.material import Material
from keystead.kms.messages import CryptoKeyVersion, ImportCryptoKeyVersionRequest, ImportJob
from keystead.kms.service import JOB_NAME, JOBS, KEY, KMS

_API = "google.cloud.kms.v1.KeyManagementService"
_METHOD = ImportJob.ImportMethod


class Imports:
    """ImportCryptoKeyVersion of KeyManagementService."""

    service = KMS

    def __init__(self, importing: Importing) -> None:
        self._importing = importing

    @method(
        f"{_API}/ImportCryptoKeyVersion",
        http=f"POST /v1/{{parent={KEY}}}/cryptoKeyVersions:import",
        body="*",
        permission=permission_to_import,
        on="parent",
        log=LogKind.ADMIN_WRITE,
        required=("algorithm", "import_job"),
        redact=("wrapped_key", "rsa_aes_wrapped_key"),
        also=[*NEEDS, Need("cloudkms.importJobs.useToImport", "import_job", (JOB_NAME,))],
    )
    def import_version(self, call: Call, request: ImportCryptoKeyVersionRequest) -> CryptoKeyVersion:
        kept = with_one_wrapped_key(request)
        target = self._importing.target(call.tx, kept)
        job = JOBS.require(call.tx, kept.import_job).message
        check_job(job, target.key)
        lifecycle.require_active(job, call.now)
        return self._importing.announce(
            call, target, kept, job=job.name, exportable=kept.trusted_wrapping_enabled
        )


class ByJob:
    """Unwraps what an ImportCryptoKeyVersionRequest holds."""

    def __init__(self, store: Any, material: Material) -> None:
        self._store = store
        self._material = material

    def unwrap(self, request: Any, version: Any, algorithm: Algorithm) -> Made:
        with self._store.read() as tx:
            job = JOBS.find(tx, request.import_job)
            opened_by = tx.material.get(request.import_job)
        if job is None or opened_by is None:
            raise ImportFailedError(
                f"ImportJob {request.import_job} expired before the key material was unwrapped. Wrap it to "
                "another import job."
            )
        wrapped = WrappedKey(
            job=job.message.name,
            method=_METHOD.Name(job.message.import_method),
            opened_by=opened_by,
            data=request.wrapped_key,
        )
        backend = self._material.backend(version.protection_level)
        exportable = version.trusted_wrapping_enabled
        return backend.import_key(wrapped, version.name, algorithm, exportable=exportable)


def with_one_wrapped_key(request: Any) -> Any:
    """A copy of the request with the material in `wrapped_key`, whichever of its two fields it came in."""
    kept = ImportCryptoKeyVersionRequest()
    kept.CopyFrom(request)
    if request.HasField("rsa_aes_wrapped_key"):
        if request.wrapped_key:
            raise bad_field("wrapped_key", "Either it or rsa_aes_wrapped_key must be set, not both.")
        kept.wrapped_key = request.rsa_aes_wrapped_key
        kept.ClearField("rsa_aes_wrapped_key")
    if not kept.wrapped_key:
        raise bad_field("wrapped_key", "The wrapped key material is required.")
    return kept


def check_job(job: Any, key: Any) -> None:
    """INVALID_ARGUMENT unless the job is of the key ring and the protection level of the key."""
    ring = key.name.rsplit("/", 2)[0]
    if job.name.rsplit("/", 2)[0] != ring:
        raise bad_field("import_job", f"It must be an import job of the key ring {ring}.")
    if job.protection_level != key.version_template.protection_level:
        level = CryptoKeyVersion.DESCRIPTOR.fields_by_name["protection_level"].enum_type.values_by_number
        raise bad_field(
            "import_job",
            f"Its protection level is {level[job.protection_level].name}, that of the key is "
            f"{level[key.version_template.protection_level].name}; they must match.",
        )
