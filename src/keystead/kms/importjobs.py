"""Import jobs: the key pairs to which key material is wrapped on its way in.

A job is made PENDING_GENERATION, is ACTIVE once its key pair is there, and EXPIRED 3 days after it was made;
it refuses imports from that moment, and the schedule then removes its private key.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from keystead.api import names
from keystead.api.call import Call
from keystead.api.errors import Unimplemented, bad_field
from keystead.api.method import LogKind, method
from keystead.crypto.public_keys import to_pem
from keystead.kms import lifecycle
from keystead.kms.backends import Made
from keystead.kms.material import LEVELS, Material
from keystead.kms.messages import (
    CreateImportJobRequest,
    GetImportJobRequest,
    ImportJob,
    ListImportJobsRequest,
    ListImportJobsResponse,
    PublicKey,
)
from keystead.kms.pending import PendingKeys
from keystead.kms.service import JOB, JOBS, KMS, RING, RINGS
from keystead.kms.versions import micros
from keystead.store.collection import Stored

log = logging.getLogger(__name__)

_API = "google.cloud.kms.v1.KeyManagementService"
_METHOD = ImportJob.ImportMethod
_FORMAT = PublicKey.PublicKeyFormat
_PEM = _FORMAT.Value("PEM")


class ImportJobs:
    """The import job methods of KeyManagementService."""

    service = KMS

    def __init__(self, material: Material, pending: PendingKeys) -> None:
        self._material = material
        self._pending = pending

    @method(
        f"{_API}/CreateImportJob",
        http=f"POST /v1/{{parent={RING}}}/importJobs",
        body="import_job",
        permission="cloudkms.importJobs.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        required=("import_job",),
        unsupported=("import_job.crypto_key_backend",),
    )
    def create(self, call: Call, request: CreateImportJobRequest) -> ImportJob:
        names.require_id("import_job_id", request.import_job_id)
        RINGS.require(call.tx, request.parent)
        asked = request.import_job
        self._check_offered(asked.import_method, asked.protection_level)
        job = ImportJob(
            name=f"{request.parent}/importJobs/{request.import_job_id}",
            import_method=asked.import_method,
            protection_level=asked.protection_level,
        )
        lifecycle.job_announced(job, call.now)
        JOBS.insert(call.tx, job, parent=request.parent, due=micros(call.now))
        self._pending.later(call.tx, job.name)
        return job

    @method(
        f"{_API}/GetImportJob",
        http=f"GET /v1/{{name={JOB}}}",
        permission="cloudkms.importJobs.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get(self, call: Call, request: GetImportJobRequest) -> ImportJob:
        job = JOBS.require(call.tx, request.name).message
        lifecycle.job_expired(job, call.now)
        if request.public_key_format:
            check_format(_METHOD.Name(job.import_method), request.public_key_format)
            job.public_key_format = request.public_key_format
        if request.public_key_format and job.state == lifecycle.JOB_ACTIVE:
            public = call.tx.material.public(job.name)
            data = to_pem(public).encode() if request.public_key_format == _PEM else public
            job.public_key.Clear()
            job.public_key.data = data
        return job

    @method(
        f"{_API}/ListImportJobs",
        http=f"GET /v1/{{parent={RING}}}/importJobs",
        permission="cloudkms.importJobs.list",
        on="parent",
        log=LogKind.ADMIN_READ,
    )
    def list(self, call: Call, request: ListImportJobsRequest) -> ListImportJobsResponse:
        RINGS.require(call.tx, request.parent)
        page = JOBS.page(
            call.tx, request, request.parent, complete=lambda _, stored: _as_of(stored.message, call.now)
        )
        return ListImportJobsResponse(
            import_jobs=page.items, next_page_token=page.next_page_token, total_size=page.total or 0
        )

    def _check_offered(self, import_method: int, level: int) -> None:
        """Raises InvalidArgument for what is no method or level, Unimplemented for what this server lacks,
        Unavailable where the token cannot be asked."""
        if import_method not in _METHOD.values() or not import_method:
            raise bad_field("import_job.import_method", "An import method is required.")
        if level not in LEVELS.values() or not level:
            raise bad_field("import_job.protection_level", "A protection level is required.")
        backend = self._material.backend(level)
        name = _METHOD.Name(import_method)
        if name not in backend.import_methods:
            raise Unimplemented(
                f"Import method {name} is not supported with protection level {backend.level} by this server."
            )


class JobGeneration:
    """Import jobs in PENDING_GENERATION."""

    def __init__(self, material: Material) -> None:
        self._material = material

    def make(self, stored: Stored) -> Made:
        job = stored.message
        backend = self._material.backend(job.protection_level)
        return backend.generate_import_key(job.name, _METHOD.Name(job.import_method))

    def record(self, tx: Any, stored: Stored, made: Made | None, failure: str, now: dt.datetime) -> None:
        """Without a key a job waits for its end: it has no state that says so."""
        job = stored.message
        if made is None:
            log.error("the key of %s cannot be made: %s", job.name, failure)
        else:
            lifecycle.job_generated(job, now)
            if _is_rsa(_METHOD.Name(job.import_method)):
                job.public_key.pem = to_pem(made.public)
            else:
                job.public_key.data = made.public
        JOBS.update(tx, stored, due=job.expire_time.ToMicroseconds())


def check_format(import_method: str, public_key_format: int) -> None:
    """INVALID_ARGUMENT for a format in which the public key of a job of that method cannot be given."""
    formats: tuple[str, ...]
    if _is_rsa(import_method):
        formats = ("PEM", "DER")
    elif "_XWING_" in import_method:
        formats = ("XWING_RAW_BYTES",)
    else:
        formats = ("NIST_PQC",)
    if public_key_format not in {_FORMAT.Value(name) for name in formats}:
        raise bad_field(
            "public_key_format", f"For import method {import_method} it must be {' or '.join(formats)}."
        )


def _is_rsa(import_method: str) -> bool:
    return import_method.startswith("RSA_")


def _as_of(job: Any, now: dt.datetime) -> Any:
    """The job as it is answered: expired at its time, whether or not the schedule came by."""
    lifecycle.job_expired(job, now)
    return job
