"""Import jobs: the key pairs to which key material is wrapped, and their three days."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from google.iam.v1 import iam_policy_pb2

from keystead.api.clock import moment
from keystead.api.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unimplemented,
)
from keystead.kms.messages import (
    GetImportJobRequest,
    ImportJob,
    ListImportJobsRequest,
    PublicKey,
)
from tests.kms.importroom import METHOD, METHODS, RING, ImportRoom, job_state, pass_time
from tests.kms.keyroom import Token
from tests.platform import Platform

DAYS_3 = dt.timedelta(days=3)
MOMENT = dt.timedelta(microseconds=1)
RSA_METHOD = "RSA_OAEP_3072_SHA256_AES_256"
USER = "user:somebody@example.com"


# --- making them -------------------------------------------------------------------------------------


def test_a_job_is_answered_before_its_key_is_made(room: ImportRoom) -> None:
    """CreateImportJob answers PENDING_GENERATION; then the job is ACTIVE, for 3 days from its creation."""
    answered = room.create_job(job_id="j1")
    assert answered.name == f"{RING}/importJobs/j1"
    assert job_state(answered) == "PENDING_GENERATION"
    assert not answered.HasField("public_key")
    assert not answered.HasField("generate_time")
    job = room.get_job(answered.name)
    assert job_state(job) == "ACTIVE"
    assert moment(job.create_time) == moment(job.generate_time) == room.platform.clock.now()
    assert moment(job.expire_time) == room.platform.clock.now() + DAYS_3
    assert not job.HasField("expire_event_time")
    assert not job.HasField("attestation")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_public_key(imports: ImportRoom, method: str) -> None:
    """RSA jobs answer PEM, of the size in their name; the others the raw bytes of their standard."""
    job = imports.get_job(imports.job(method))
    assert ImportJob.ImportMethod.Name(job.import_method) == method
    assert job.public_key_format == 0
    if method.startswith("RSA"):
        key = load_pem_public_key(job.public_key.pem.encode())
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == int(method.split("_")[2])
        assert not job.public_key.data
    else:
        sizes = {"768": 1184, "1024": 1568, "XWING": 1216}
        assert not job.public_key.pem
        assert len(job.public_key.data) == next(size for part, size in sizes.items() if part in method)


def test_a_public_key_is_given_in_the_format_asked_for(imports: ImportRoom) -> None:
    """In `data`, with the format named; the key is the same."""
    name = imports.job(RSA_METHOD)
    pem = imports.get_job(name).public_key.pem
    asked = imports.get_job(name, public_key_format="PEM")
    assert (asked.public_key.data, asked.public_key.pem) == (pem.encode(), "")
    assert asked.public_key_format == PublicKey.PublicKeyFormat.PEM
    der = imports.get_job(name, public_key_format="DER")
    assert load_der_public_key(der.public_key.data) == load_pem_public_key(pem.encode())
    assert der.public_key_format == PublicKey.PublicKeyFormat.DER
    for method, form in ((METHOD, "NIST_PQC"), ("HPKE_KEM_XWING_HKDF_SHA256_AES_256_GCM", "XWING_RAW_BYTES")):
        name = imports.job(method)
        raw = imports.get_job(name, public_key_format=form)
        assert raw.public_key.data == imports.get_job(name).public_key.data


@pytest.mark.parametrize(
    ("method", "form"),
    [
        (RSA_METHOD, "NIST_PQC"), (RSA_METHOD, "XWING_RAW_BYTES"), (METHOD, "PEM"), (METHOD, "DER"),
        (METHOD, "XWING_RAW_BYTES"), ("HPKE_KEM_XWING_HKDF_SHA256_AES_256_GCM", "NIST_PQC"), (METHOD, 77),
    ],
)  # fmt: skip
def test_a_format_that_a_key_does_not_have_is_refused(imports: ImportRoom, method: str, form: Any) -> None:
    """INVALID_ARGUMENT naming the field and what it can be."""
    with pytest.raises(InvalidArgument, match="public_key_format"):
        imports.get_job(imports.job(method), public_key_format=form)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"import_method": 0}, "import_method"),
        ({"import_method": 7}, "import_method"),
        ({"import_method": 99}, "import_method"),
        ({"protection_level": 0}, "protection_level"),
        ({"protection_level": 99}, "protection_level"),
    ],
)
def test_method_and_level_are_required(room: ImportRoom, fields: dict[str, Any], field: str) -> None:
    """Unspecified, or none that exists: INVALID_ARGUMENT naming the field; there is no default."""
    with pytest.raises(InvalidArgument, match=f"import_job.{field}"):
        room.create_job(**fields)


def test_what_this_server_lacks_is_named(tmp_path: Path, platform: Platform) -> None:
    """A level without a back end, or a method that its back end lacks: UNIMPLEMENTED with their names."""
    with pytest.raises(Unimplemented, match="HSM"):
        ImportRoom(platform).create_job(protection_level="HSM")
    with pytest.raises(Unimplemented, match="crypto_key_backend"):
        ImportRoom(platform).create_job(
            crypto_key_backend="projects/p/locations/l/singleTenantHsmInstances/i"
        )
    (tmp_path / "other").mkdir()
    other = Platform(tmp_path / "other", backends=[Token()])
    with pytest.raises(Unimplemented, match=f"{METHOD}.* HSM"):
        ImportRoom(other, "HSM").create_job()
    other.close()


@pytest.mark.parametrize("job_id", ["", "a b", "a/b", "a" * 64, "é"])
def test_ids_are_those_of_cloud_kms(room: ImportRoom, job_id: str) -> None:
    """1 to 63 letters, digits, hyphens and underscores."""
    request = {"parent": RING, "import_job_id": job_id, "import_job": {"import_method": METHOD}}
    with pytest.raises(InvalidArgument, match="import_job_id"):
        method = room.platform.registry.methods["google.cloud.kms.v1.KeyManagementService/CreateImportJob"]
        room.platform.call("CreateImportJob", method.request_type(**request))


def test_a_name_is_used_once(room: ImportRoom) -> None:
    """ALREADY_EXISTS, and the first job stays as it was; also once it is expired."""
    room.create_job(job_id="j1")
    before = room.get_job(f"{RING}/importJobs/j1")
    with pytest.raises(AlreadyExists, match=r"ImportJob .*/j1 already exists\."):
        room.create_job(job_id="j1")
    assert room.get_job(before.name) == before
    pass_time(room, DAYS_3)
    with pytest.raises(AlreadyExists):
        room.create_job(job_id="j1")


def test_what_is_not_there_is_said_to_be_missing(room: ImportRoom) -> None:
    """NOT_FOUND for jobs and for the key ring."""
    with pytest.raises(NotFound, match=r"ImportJob .*/none not found\."):
        room.get_job(f"{RING}/importJobs/none")
    missing = ListImportJobsRequest(parent=f"{RING}x")
    with pytest.raises(NotFound, match="KeyRing"):
        room.platform.call("ListImportJobs", missing)


def test_output_only_fields_are_not_taken_from_the_caller(room: ImportRoom) -> None:
    """State, times and public key of a request are ignored."""
    job = room.create_job(
        name="x",
        state="ACTIVE",
        public_key={"pem": "mine"},
        expire_time=dt.datetime(2040, 1, 1, tzinfo=dt.UTC),
    )
    found = room.get_job(job.name)
    assert moment(found.expire_time) == room.platform.clock.now() + DAYS_3
    assert found.public_key.pem == ""
    assert job_state(job) == "PENDING_GENERATION"


# --- lists, permissions ------------------------------------------------------------------------------


def test_jobs_are_listed_as_keys_are(room: ImportRoom) -> None:
    """By name, in pages, with filter and order; total_size only without a filter."""
    for job_id in ("b", "a", "c"):
        room.create_job(job_id=job_id)

    def listed(**fields: Any) -> Any:
        return room.platform.call("ListImportJobs", ListImportJobsRequest(parent=RING, **fields))

    def ids(answer: Any) -> str:
        return "".join(job.name[-1] for job in answer.import_jobs)

    everything = listed()
    assert (ids(everything), everything.total_size) == ("abc", 3)
    assert everything.import_jobs[0] == room.get_job(f"{RING}/importJobs/a")
    assert ids(listed(order_by="name desc")) == "cba"
    first = listed(page_size=2)
    assert ids(first) == "ab"
    assert ids(listed(page_size=2, page_token=first.next_page_token)) == "c"
    filtered = listed(filter="state = ACTIVE AND name:importJobs/b")
    assert (ids(filtered), filtered.total_size) == ("b", 0)
    assert ids(listed(filter=f"import_method = {METHOD}")) == "abc"
    room.platform.clock.advance(DAYS_3)
    assert ids(listed(filter="state = EXPIRED")) == "abc"
    assert ids(listed(filter="state = ACTIVE")) == ""


def test_each_method_needs_its_permission(room: ImportRoom) -> None:
    """A viewer reads jobs and makes none, an importer makes them, nobody else does anything."""
    job = room.create_job().name
    listing = ListImportJobsRequest(parent=RING)
    calls = {
        "create": lambda: room.create_job(principal=USER),
        "get": lambda: room.platform.call("GetImportJob", GetImportJobRequest(name=job), USER),
        "list": lambda: room.platform.call("ListImportJobs", listing, USER),
    }
    for role, allowed in (
        ("", ()),
        ("roles/cloudkms.viewer", ("get", "list")),
        ("roles/cloudkms.importer", ("create", "get", "list")),
        ("roles/cloudkms.cryptoKeyEncrypterDecrypter", ()),
    ):
        if role:
            room.platform.grant(RING, USER, role)
        for name, call in calls.items():
            if name in allowed:
                call()
            else:
                with pytest.raises(PermissionDenied, match=rf"cloudkms\.importJobs\.{name}"):
                    call()
        if role:
            room.platform.revoke(RING, USER, role)


def test_a_job_carries_a_policy(room: ImportRoom) -> None:
    """setIamPolicy on a job admits to that job alone; on a job that is missing it is NOT_FOUND."""
    job, other = room.create_job().name, room.create_job().name
    request = iam_policy_pb2.SetIamPolicyRequest(resource=job)
    request.policy.bindings.add(role="roles/cloudkms.viewer", members=[USER])
    room.platform.call("SetIamPolicy", request)
    room.platform.call("GetImportJob", GetImportJobRequest(name=job), USER)
    with pytest.raises(PermissionDenied):
        room.platform.call("GetImportJob", GetImportJobRequest(name=other), USER)
    request.resource = f"{RING}/importJobs/none"
    with pytest.raises(NotFound, match="ImportJob"):
        room.platform.call("SetIamPolicy", request)


# --- their end ---------------------------------------------------------------------------------------


def test_a_job_expires_at_its_time_and_not_before(room: ImportRoom) -> None:
    """Its private key goes for good, and its public key is not answered any more."""
    name = room.create_job().name
    assert room.material(name) is not None
    assert pass_time(room, DAYS_3 - MOMENT) == 0
    assert job_state(room.get_job(name)) == "ACTIVE"
    assert pass_time(room, MOMENT) == 1
    job = room.get_job(name, public_key_format="NIST_PQC")
    assert job_state(job) == "EXPIRED"
    assert moment(job.expire_event_time) == moment(job.expire_time)
    assert not job.HasField("public_key")
    assert room.material(name) is None
    assert pass_time(room, DAYS_3) == 0


def test_a_job_is_over_at_its_time_even_if_nothing_came_by(room: ImportRoom) -> None:
    """Without a run of the schedule it reads EXPIRED and refuses imports."""
    key, wrapped, name = room.key(), room.wrap(bytes(32)), room.job()
    room.platform.clock.advance(DAYS_3)
    assert room.material(name) is not None
    assert job_state(room.get_job(name)) == "EXPIRED"
    assert not room.get_job(name).HasField("public_key")
    with pytest.raises(FailedPrecondition, match=r"has value EXPIRED in field import_job\.state\."):
        room.send(key, wrapped)


def test_the_bytes_of_an_expired_key_leave_the_store(room: ImportRoom) -> None:
    """What was stored of the private key is in no file of the store afterwards."""
    name = room.create_job().name
    stored = room.material(name)
    assert stored is not None
    assert any(stored in path.read_bytes() for path in room.platform.directory.glob("store.db*"))
    pass_time(room, DAYS_3)
    assert not any(stored in path.read_bytes() for path in room.platform.directory.glob("store.db*"))
