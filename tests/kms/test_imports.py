"""Importing key material: every method and kind of key, what is refused, what fails, and importing again."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.clock import moment
from keystead.api.errors import (
    ApiError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)
from keystead.kms.algorithms import ALGORITHMS, BY_NAME
from keystead.kms.backends import Made, WrappedKey
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.importing import MAX_WRAPPED, ImportRecord
from keystead.kms.messages import (
    CreateCryptoKeyVersionRequest,
    CreateImportJobRequest,
    DeleteCryptoKeyVersionRequest,
    GetCryptoKeyRequest,
    ImportCryptoKeyVersionRequest,
    ImportJob,
    RestoreCryptoKeyVersionRequest,
    UpdateCryptoKeyPrimaryVersionRequest,
)
from keystead.kms.seals import SealError
from keystead.kms.service import VERSIONS
from tests.hsm import make_token
from tests.kms.backends import outside
from tests.kms.backends.works import is_the_key, works
from tests.kms.importroom import METHOD, RING, SYMMETRIC, Dropping, ImportRoom, state
from tests.platform import LOCATION, Platform, running

USER = "user:somebody@example.com"
METHODS = [value.name for value in ImportJob.ImportMethod.DESCRIPTOR.values if value.number]
SPREAD = (
    SYMMETRIC, "AES_128_GCM", "AES_256_CTR", "HMAC_SHA256", "HMAC_SHA512", "AES_256_KWP",
    "RSA_SIGN_PSS_2048_SHA256", "RSA_DECRYPT_OAEP_4096_SHA256", "EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384",
    "EC_SIGN_ED25519", "PQ_SIGN_ML_DSA_65", "ML_KEM_768", "KEM_XWING",
)  # fmt: skip
IN_A_TOKEN = (
    SYMMETRIC, "AES_128_GCM", "HMAC_SHA256", "RSA_SIGN_PSS_2048_SHA256", "RSA_DECRYPT_OAEP_4096_SHA1",
    "EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384",
)  # fmt: skip
TOKEN_METHODS = ("RSA_OAEP_3072_SHA1_AES_256", "RSA_OAEP_4096_SHA1_AES_256")
NOT_UNWRAPPED = "The key material in the import request couldn't be unwrapped or wasn't formatted correctly"
DAY = dt.timedelta(days=1)
MATERIAL = bytes(range(32))


def carries(method: str, algorithm: str) -> bool:
    """Whether a method can wrap keys of an algorithm: without AES in between, RSA keys are too long."""
    return not (method.endswith("_SHA256") and BY_NAME[algorithm].family in outside.RSA)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportRoom]:
    """A room for tests that make no time pass: RSA keys are slow to make."""
    with running(tmp_path_factory.mktemp("imports")) as platform:
        yield ImportRoom(platform)


@pytest.fixture(scope="module")
def token_room(softhsm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportRoom]:
    """The same for keys of protection level HSM, in a real token."""
    directory = tmp_path_factory.mktemp("token-imports")
    backend = HsmBackend(make_token(softhsm, directory / "pin").config())
    platform = Platform(directory, backends=[backend])
    yield ImportRoom(platform, "HSM", TOKEN_METHODS[0])
    platform.close()
    backend.close()


@pytest.fixture
def room(platform: Platform) -> ImportRoom:
    return ImportRoom(platform)


def holds(room: ImportRoom, version: Any, algorithm: str) -> None:
    """Fails unless the version holds the key that `outside.known` made, and it does its work."""
    key = outside.known(BY_NAME[algorithm])
    with room.platform.store.read() as tx:
        assert tx.material.public(version.name) == key.public
        opened: Any = room.platform.keys.material.open(tx, version)
    if algorithm == "AES_256_KWP":
        return  # tests of trusted wrapping use such keys
    works(opened, BY_NAME[algorithm], key.public)
    is_the_key(opened, BY_NAME[algorithm], key.private)


def failed(room: ImportRoom, version: Any, reason: str) -> None:
    """Fails unless the import failed for that reason, and left no key."""
    now = room.version(version.name)
    assert (state(now), now.import_failure_reason) == ("IMPORT_FAILED", reason)
    room.check_settled(version.name)


# --- what comes in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("algorithm", SPREAD)
def test_every_kind_of_key_comes_in_by_every_method(shared: ImportRoom, method: str, algorithm: str) -> None:
    """It is the key that was wrapped. RSA keys do not come by direct wrapping: the import fails and says so."""
    key = shared.key(algorithm)
    if not carries(method, algorithm):
        answered = shared.send(key, bytes(384), algorithm, import_job=shared.job(method))
        reason = f"{method} cannot wrap RSA keys. Use an import job whose method ends in _AES_256."
        failed(shared, answered, reason)
        return
    wrapped = shared.wrap(outside.known(BY_NAME[algorithm]).private, method)
    answered = shared.send(key, wrapped, algorithm, import_job=shared.job(method))
    assert (state(answered), answered.name) == ("PENDING_IMPORT", f"{key}/cryptoKeyVersions/1")
    assert not answered.HasField("import_time")
    version = shared.version(answered.name)
    assert state(version) == "ENABLED"
    assert version.import_job == shared.job(method)
    assert moment(version.import_time) == shared.platform.clock.now()
    assert not version.HasField("generate_time")
    assert ALGORITHMS[version.algorithm].name == algorithm
    shared.check_settled(version.name)
    holds(shared, version, algorithm)


@pytest.mark.parametrize("method", TOKEN_METHODS)
@pytest.mark.parametrize("algorithm", IN_A_TOKEN)
def test_a_key_comes_into_a_token(token_room: ImportRoom, method: str, algorithm: str) -> None:
    """At protection level HSM it is unwrapped into the token, and works there."""
    private = outside.known(BY_NAME[algorithm]).private
    wrapped = token_room.wrap(private, method)
    answered = token_room.send(
        token_room.key(algorithm), wrapped, algorithm, import_job=token_room.job(method)
    )
    assert state(answered) == "PENDING_IMPORT"
    version = token_room.version(answered.name)
    assert (state(version), version.import_failure_reason) == ("ENABLED", "")
    stored = token_room.material(version.name)
    assert stored is not None
    assert private not in stored
    token_room.check_settled(version.name)
    holds(token_room, version, algorithm)


def test_what_was_encrypted_outside_is_decrypted_here(shared: ImportRoom) -> None:
    """Through the API: RSA-OAEP to the public half, made with the library, opens with the imported key."""
    from keystead.kms.messages import AsymmetricDecryptRequest

    algorithm = BY_NAME["RSA_DECRYPT_OAEP_4096_SHA256"]
    key = outside.known(algorithm)
    job = shared.job("RSA_OAEP_3072_SHA256_AES_256")
    wrapped = shared.wrap(key.private, "RSA_OAEP_3072_SHA256_AES_256")
    version = shared.send(shared.key(algorithm.name), wrapped, algorithm.name, import_job=job)
    request = AsymmetricDecryptRequest(
        name=version.name, ciphertext=outside.encrypt(algorithm, key.public, b"from outside")
    )
    assert shared.platform.call("AsymmetricDecrypt", request).plaintext == b"from outside"


def test_the_legacy_field_means_the_same(shared: ImportRoom) -> None:
    """rsa_aes_wrapped_key instead of wrapped_key."""
    method = "RSA_OAEP_3072_SHA1_AES_256"
    legacy = {"wrapped_key": b"", "rsa_aes_wrapped_key": shared.wrap(MATERIAL, method)}
    answered = shared.send(shared.key(), b"", import_job=shared.job(method), **legacy)
    assert state(shared.version(answered.name)) == "ENABLED"


def test_the_algorithm_need_not_be_the_template_s(shared: ImportRoom) -> None:
    """It must fit the purpose of the key only; the key's template stays as it is."""
    key = shared.key("EC_SIGN_P256_SHA256")
    private = outside.known(BY_NAME["EC_SIGN_ED25519"]).private
    version = shared.imported(key, private, "EC_SIGN_ED25519")
    assert (state(version), version.algorithm) == ("ENABLED", BY_NAME["EC_SIGN_ED25519"].number)
    found = shared.platform.call("GetCryptoKey", GetCryptoKeyRequest(name=key))
    assert found.version_template.algorithm == BY_NAME["EC_SIGN_P256_SHA256"].number


def test_an_import_does_not_become_primary_by_itself(room: ImportRoom) -> None:
    """Neither in an empty key nor beside a primary version; made primary by hand, it encrypts."""
    key = room.key()
    version = room.imported(key, MATERIAL)
    assert not room.platform.call("GetCryptoKey", GetCryptoKeyRequest(name=key)).HasField("primary")
    with pytest.raises(FailedPrecondition, match="no primary"):
        room.platform.encrypt(key, b"data")
    by_hand = UpdateCryptoKeyPrimaryVersionRequest(name=key, crypto_key_version_id="1")
    room.platform.call("UpdateCryptoKeyPrimaryVersion", by_hand)
    assert room.platform.decrypt(key, room.platform.encrypt(key, b"data")) == b"data"
    other = room.platform.key("other")
    second = room.imported(other, MATERIAL)
    assert second.name == f"{other}/cryptoKeyVersions/2"
    found = room.platform.call("GetCryptoKey", GetCryptoKeyRequest(name=other))
    assert found.primary.name == f"{other}/cryptoKeyVersions/1"
    sealed = room.platform.encrypt(second.name, b"data")
    assert room.platform.decrypt(other, sealed) == b"data"
    assert state(version) == "ENABLED"


def test_a_key_that_is_import_only_has_imported_versions_only(room: ImportRoom) -> None:
    """CreateCryptoKeyVersion is refused; its destruction may be due at once and cannot be undone then."""
    key = room.key(import_only=True, destroy_scheduled_duration=dt.timedelta(0))
    with pytest.raises(FailedPrecondition, match="import-only"):
        room.platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=key))
    version = room.imported(key, MATERIAL)
    scheduled = room.platform.destroy(version.name)
    assert moment(scheduled.destroy_time) == room.platform.clock.now()
    with pytest.raises(FailedPrecondition):
        room.platform.call("RestoreCryptoKeyVersion", RestoreCryptoKeyVersionRequest(name=version.name))
    assert room.platform.schedule.run_due(room.platform.clock.now()) == 1
    assert state(room.version(version.name)) == "DESTROYED"
    assert room.material(version.name) is None


# --- what is refused at once -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"algorithm": 0}, "algorithm"),
        ({"algorithm": 999}, "algorithm"),
        ({"algorithm": "EC_SIGN_P256_SHA256"}, "algorithm"),
        ({"import_job": ""}, "import_job"),
        ({"import_job": "job"}, "import_job"),
        ({"crypto_key_version": "1"}, "crypto_key_version"),
        ({"wrapped_key": b""}, "wrapped_key"),
        ({"rsa_aes_wrapped_key": b"w"}, "wrapped_key"),
        ({"wrapped_key": b"", "rsa_aes_wrapped_key": b""}, "wrapped_key"),
        ({"wrapped_key": bytes(MAX_WRAPPED + 1)}, "wrapped_key"),
        ({"trusted_wrapping_enabled": True}, "trusted_wrapping_enabled"),
    ],
)
def test_a_request_that_is_wrong_is_refused(shared: ImportRoom, fields: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT naming the field; no version comes into being."""
    key = shared.key()
    asked = {"wrapped_key": b"w" * 40, "algorithm": SYMMETRIC, **fields}
    with pytest.raises(InvalidArgument) as refused:
        shared.send(key, **asked)
    violations = refused.value.details[0].field_violations  # type: ignore[attr-defined]
    assert [each.field for each in violations] == [field]
    with shared.platform.store.read() as tx:
        assert VERSIONS.all(tx, key) == []


def test_the_job_must_be_of_the_key_ring(shared: ImportRoom) -> None:
    """INVALID_ARGUMENT for a job of another ring, NOT_FOUND for one that is missing."""
    shared.platform.ring("other")
    request = CreateImportJobRequest(
        parent=f"{LOCATION}/keyRings/other",
        import_job_id="job",
        import_job={"import_method": METHOD, "protection_level": "SOFTWARE"},
    )
    other = shared.platform.call("CreateImportJob", request).name
    with pytest.raises(InvalidArgument, match="import job of the key ring"):
        shared.send(shared.key(), b"w", import_job=other)
    with pytest.raises(NotFound, match=r"ImportJob .*/none not found\."):
        shared.send(shared.key(), b"w", import_job=f"{RING}/importJobs/none")


def test_the_job_must_be_of_the_key_s_level(token_room: ImportRoom) -> None:
    """Software keys do not come in by a token's job, nor the other way round."""
    software = ImportRoom(token_room.platform, "SOFTWARE", METHOD)
    key = software.key()
    with pytest.raises(InvalidArgument, match=r"protection level is HSM, that of the key is SOFTWARE"):
        software.send(key, b"w", import_job=token_room.job())
    soft_job = software.create_job(METHOD, "soft-job").name
    with pytest.raises(InvalidArgument, match=r"protection level is SOFTWARE, that of the key is HSM"):
        token_room.send(token_room.key(), b"w", import_job=soft_job)
    with pytest.raises(Unimplemented, match=r"EC_SIGN_|ML_DSA"):
        token_room.send(token_room.key("EC_SIGN_P256_SHA256"), b"w", "PQ_SIGN_ML_DSA_65")


def test_what_is_not_there_is_said_to_be_missing(shared: ImportRoom) -> None:
    """The key, and the version that is imported into; a version of another key is a mistake."""
    with pytest.raises(NotFound, match="CryptoKey "):
        shared.send(f"{RING}/cryptoKeys/none", b"w")
    key, other = shared.key(), shared.key()
    with pytest.raises(NotFound, match="CryptoKeyVersion"):
        shared.send(key, b"w", crypto_key_version=f"{key}/cryptoKeyVersions/1")
    with pytest.raises(InvalidArgument, match="crypto_key_version"):
        shared.send(key, b"w", crypto_key_version=f"{other}/cryptoKeyVersions/1")


# --- who may -----------------------------------------------------------------------------------------

CREATE = "roles/cloudkms.admin"  # holds create, update and useToImport
IMPORT = "roles/cloudkms.importer"


def test_importing_needs_a_right_on_the_key_and_one_on_the_job(room: ImportRoom) -> None:
    """cryptoKeyVersions.create on the key and importJobs.useToImport on the job, each where it is."""
    key, job, wrapped = room.key(), room.job(), room.wrap(MATERIAL)

    def send() -> Any:
        return room.send(key, wrapped, principal=USER)

    with pytest.raises(PermissionDenied, match=rf"cryptoKeyVersions\.create' denied on resource '{key}'"):
        send()
    room.platform.grant(key, USER, CREATE)
    with pytest.raises(PermissionDenied, match=rf"importJobs\.useToImport' denied on resource '{job}'"):
        send()
    room.platform.grant(job, USER, IMPORT)
    assert state(room.version(send().name)) == "ENABLED"
    room.platform.revoke(key, USER, CREATE)
    with pytest.raises(PermissionDenied, match="create"):
        send()


def test_importing_again_needs_the_right_to_change_the_version(room: ImportRoom) -> None:
    """cryptoKeyVersions.update instead of create, on the version that is named and on no other."""
    key = room.key()
    version = room.imported(key, MATERIAL)
    room.destroy(version.name, 31 * DAY)
    room = ImportRoom(room.platform)
    room.create_job(job_id="fresh")
    again = {"crypto_key_version": version.name, "import_job": f"{RING}/importJobs/fresh"}
    wrapped = outside.wrap(METHOD, room.public(again["import_job"]), MATERIAL)
    with pytest.raises(PermissionDenied, match=rf"Versions\.update' denied on resource '{version.name}'"):
        room.send(key, wrapped, principal=USER, **again)
    room.platform.grant(key, USER, CREATE)
    with pytest.raises(PermissionDenied, match="useToImport"):
        room.send(key, wrapped, principal=USER, **again)
    room.platform.grant(again["import_job"], USER, IMPORT)
    assert state(room.version(room.send(key, wrapped, principal=USER, **again).name)) == "ENABLED"
    # A version of one's own opens no way to a key of somebody else.
    foreign = room.key()
    with pytest.raises(InvalidArgument):
        room.send(foreign, wrapped, principal=USER, **again)
    with pytest.raises(InvalidArgument):
        room.send(f"{RING}/cryptoKeys/none", wrapped, principal=USER, **again)


@pytest.mark.parametrize(
    ("algorithm", "permission"),
    [
        ("AES_256_CBC", "manageRawAesCbcKeys"),
        ("AES_128_CTR", "manageRawAesCtrKeys"),
        ("RSA_SIGN_RAW_PKCS1_2048", "manageRawPKCS1Keys"),
        ("PQ_SIGN_ML_DSA_65", "managePqcSign"),
    ],
)
def test_some_algorithms_need_a_permission_of_their_own(
    room: ImportRoom, algorithm: str, permission: str
) -> None:
    """Beside those of every import."""
    key, private = room.key(algorithm), outside.known(BY_NAME[algorithm]).private
    room.platform.grant(RING, USER, CREATE)
    wrapped = room.wrap(private, "RSA_OAEP_3072_SHA1_AES_256")
    job = room.job("RSA_OAEP_3072_SHA1_AES_256")
    with pytest.raises(PermissionDenied, match=permission):
        room.send(key, wrapped, algorithm, principal=USER, import_job=job)
    room.platform.grant(key, USER, "roles/owner")
    answered = room.send(key, wrapped, algorithm, principal=USER, import_job=job)
    assert state(room.version(answered.name)) == "ENABLED"


def test_no_record_holds_key_material(room: ImportRoom) -> None:
    """Not even wrapped: the audit record of an import has neither of the two fields."""
    wrapped = room.wrap(MATERIAL)
    room.send(room.key(), wrapped)
    room.send(room.key(), b"", wrapped_key=b"", rsa_aes_wrapped_key=wrapped)
    with pytest.raises(PermissionDenied):
        room.send(room.key(), wrapped, principal=USER)
    bodies = room.platform.audit_bodies()
    assert sum(b"ImportCryptoKeyVersion" in body for body in bodies) == 3
    assert not any(wrapped[100:130] in body for body in bodies)


# --- what fails afterwards ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "spoil", "reason"),
    [
        (TOKEN_METHODS[0], lambda wrapped: wrapped[:300], "Wrapped key is too short."),
        (TOKEN_METHODS[0], lambda wrapped: wrapped[:384], "Wrapped key is too short."),
        (TOKEN_METHODS[0], lambda wrapped: wrapped[:-1], "Wrapped key does not consist of 64-bit blocks."),
        (TOKEN_METHODS[0], lambda wrapped: wrapped[:-8], f"{NOT_UNWRAPPED}."),
        (TOKEN_METHODS[0], lambda wrapped: b"\0" + wrapped[1:], f"{NOT_UNWRAPPED}."),
        (TOKEN_METHODS[0], lambda wrapped: wrapped[:-1] + bytes((wrapped[-1] ^ 1,)), f"{NOT_UNWRAPPED}."),
        (TOKEN_METHODS[0], lambda _: b"x", "Wrapped key is too short."),
        ("RSA_OAEP_3072_SHA256", lambda wrapped: wrapped[:-1], "Wrapped key has invalid length."),
        ("RSA_OAEP_3072_SHA256", lambda wrapped: bytes(len(wrapped)), f"{NOT_UNWRAPPED}."),
        (METHOD, lambda wrapped: wrapped[:1088], "Wrapped key is too short."),
        (METHOD, lambda wrapped: wrapped[:-1], f"{NOT_UNWRAPPED}."),
        (METHOD, lambda wrapped: wrapped + b"\0", f"{NOT_UNWRAPPED}."),
    ],
)
def test_what_cannot_be_unwrapped_fails_with_a_reason(
    shared: ImportRoom, method: str, spoil: Any, reason: str
) -> None:
    """In the words of Cloud KMS: the call is answered, and the version becomes IMPORT_FAILED."""
    wrapped = spoil(shared.wrap(MATERIAL, method))
    failed(shared, shared.send(shared.key(), wrapped, import_job=shared.job(method)), reason)


@pytest.mark.parametrize(
    ("algorithm", "material"),
    [
        (SYMMETRIC, bytes(16)),
        (SYMMETRIC, bytes(33)),
        ("AES_128_GCM", bytes(32)),
        ("HMAC_SHA512", bytes(32)),
        ("EC_SIGN_P256_SHA256", outside.known(BY_NAME["EC_SIGN_P384_SHA384"]).private),
        ("EC_SIGN_P256_SHA256", outside.known(BY_NAME["EC_SIGN_ED25519"]).private),
        ("EC_SIGN_P256_SHA256", b"\x30\x82garbage that is no PKCS#8"),
        ("RSA_SIGN_PSS_3072_SHA256", outside.known(BY_NAME["RSA_SIGN_PSS_2048_SHA256"]).private),
        ("RSA_SIGN_PSS_2048_SHA256", os.urandom(1218)),
        ("PQ_SIGN_ML_DSA_65", outside.known(BY_NAME["PQ_SIGN_ML_DSA_44"]).private),
        ("ML_KEM_768", bytes(5)),
    ],
)
@pytest.mark.parametrize("level", ["SOFTWARE", "HSM"])
def test_a_key_of_something_else_fails(
    shared: ImportRoom, token_room: ImportRoom, level: str, algorithm: str, material: bytes
) -> None:
    """Another length, size, curve or kind than the algorithm's, or nothing that is a key."""
    room = shared if level == "SOFTWARE" else token_room
    if level == "HSM" and algorithm not in {SYMMETRIC, *IN_A_TOKEN}:
        pytest.skip(f"{algorithm} is not imported into this token")
    method = TOKEN_METHODS[0]
    wrapped = room.wrap(material, method)
    answered = room.send(room.key(algorithm), wrapped, algorithm, import_job=room.job(method))
    version = room.version(answered.name)
    assert state(version) == "IMPORT_FAILED"
    assert len(version.import_failure_reason) > 20
    assert version.reimport_eligible
    room.check_settled(version.name)


def test_what_was_wrapped_to_another_job_fails(shared: ImportRoom) -> None:
    """Only the job that is named opens it, not one of the same method in the same key ring."""
    other = shared.create_job().name
    wrapped = outside.wrap(METHOD, shared.public(other), MATERIAL)
    failed(shared, shared.send(shared.key(), wrapped), f"{NOT_UNWRAPPED}.")
    answered = shared.send(shared.key(), wrapped, import_job=other)
    assert state(shared.version(answered.name)) == "ENABLED"


def test_a_failed_version_can_be_used_for_nothing(room: ImportRoom) -> None:
    """It is neither enabled nor destroyed; it can be deleted if it never held a key."""
    key = room.key()
    name = room.send(key, b"x").name
    for act in (
        lambda: room.platform.set_state(name, "ENABLED"),
        lambda: room.platform.destroy(name),
        lambda: room.platform.encrypt(name, b"data"),
    ):
        with pytest.raises(FailedPrecondition, match="IMPORT_FAILED"):
            act()
    room.platform.call("DeleteCryptoKeyVersion", DeleteCryptoKeyVersionRequest(name=name))
    assert not room.platform.exists(VERSIONS, name)
    imported = room.imported(key, MATERIAL)
    assert imported.name == f"{key}/cryptoKeyVersions/2"
    room.destroy(imported.name, 31 * DAY)
    with pytest.raises(FailedPrecondition, match="imported and cannot be deleted"):
        room.platform.call("DeleteCryptoKeyVersion", DeleteCryptoKeyVersionRequest(name=imported.name))


def test_an_unforeseen_failure_leaves_nothing_pending(
    room: ImportRoom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What came in cannot keep a version pending for ever; the log names the kind of error, nothing else."""
    key, wrapped = room.key(), room.wrap(MATERIAL)
    for error, reason in (
        (ValueError("about secret bytes"), "An argument to the import operation was malformed."),
        (SealError("It is damaged."), "The key that unwraps the key material cannot be opened."),
    ):
        with monkeypatch.context() as patch:

            def broken(*_: object, error: Exception = error, **__: object) -> Made:
                raise error

            patch.setattr(SoftwareBackend, "import_key", broken)
            failed(room, room.send(key, wrapped), reason)
    assert "ValueError" in caplog.text
    assert "secret bytes" not in caplog.text


# --- crashes, absent tokens, and the end of a job ----------------------------------------------------


def crashed(directory: Path, **fields: Any) -> tuple[Platform, str, str]:
    """A platform that answered an import and did nothing of it; its job and the version."""
    with running(directory) as before:
        room = ImportRoom(before)
        key, job, wrapped = room.key(), room.job(), room.wrap(MATERIAL)
    platform = Platform(directory, before.clock, key_executor=Dropping())
    answered = ImportRoom(platform).send(key, wrapped, import_job=job, **fields)
    return platform, job, answered.name


def test_an_import_left_pending_by_a_crash_is_finished(tmp_path: Path) -> None:
    """The schedule of the next server unwraps what was kept; what is kept is wrapped."""
    first, _, version = crashed(tmp_path)
    assert state(ImportRoom(first).version(version)) == "PENDING_IMPORT"
    with pytest.raises(FailedPrecondition, match="PENDING_IMPORT"):
        first.encrypt(version, b"data")
    first.close()
    assert not any(MATERIAL in path.read_bytes() for path in tmp_path.glob("store.db*"))
    with running(tmp_path, first.clock) as second:
        second.schedule.run_due(second.clock.now())
        room = ImportRoom(second)
        assert state(room.version(version)) == "ENABLED"
        room.check_settled(version)
        second.schedule.run_due(second.clock.now())
        assert state(room.version(version)) == "ENABLED"


def test_an_import_that_the_job_did_not_outlive_fails(tmp_path: Path) -> None:
    """It says that the job expired; the schedule finishes what it can before it expires jobs."""
    first, job, version = crashed(tmp_path)
    first.clock.advance(3 * DAY)
    first.schedule.run_due(first.clock.now())
    first.close()
    with running(tmp_path, first.clock) as second:
        second.schedule.run_due(second.clock.now())
        room = ImportRoom(second)
        reason = (
            f"ImportJob {job} expired before the key material was unwrapped. Wrap it to another import job."
        )
        failed(room, room.version(version), reason)


def test_an_import_that_was_in_time_is_finished_after_the_job_s_end(tmp_path: Path) -> None:
    """As long as the job's key is there: the time of the request decides."""
    first, _, version = crashed(tmp_path)
    first.clock.advance(3 * DAY)
    first.close()
    with running(tmp_path, first.clock) as second:
        second.schedule.run_due(second.clock.now())
        assert state(ImportRoom(second).version(version)) == "ENABLED"


def test_an_import_waits_for_an_absent_token(room: ImportRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the token cannot be reached the version stays pending; then it is finished."""
    key, wrapped = room.key(), room.wrap(MATERIAL)

    def away(*_: object, **__: object) -> Made:
        raise Unavailable("The token is away.")

    with monkeypatch.context() as patch:
        patch.setattr(SoftwareBackend, "import_key", away)
        name = room.send(key, wrapped).name
        room.platform.schedule.run_due(room.platform.clock.now())
        assert state(room.version(name)) == "PENDING_IMPORT"
    room.platform.schedule.run_due(room.platform.clock.now())
    assert state(room.version(name)) == "ENABLED"


def test_an_import_interrupted_in_a_token_is_made_again(softhsm: Path, tmp_path: Path) -> None:
    """A crash after the token took the key in and before that was noted leaves one key in the token."""
    backend = HsmBackend(make_token(softhsm, tmp_path / "pin").config())
    taken: list[bytes] = []

    class Crashing:
        """The back end, whose process ends after an import."""

        def __getattr__(self, name: str) -> Any:
            return getattr(backend, name)

        def import_key(self, wrapped: WrappedKey, version: str, algorithm: Any, **more: Any) -> Made:
            taken.append(backend.import_key(wrapped, version, algorithm, **more).stored)
            raise KeyboardInterrupt

    first = Platform(tmp_path, backends=[Crashing()])  # type: ignore[list-item]
    room = ImportRoom(first, "HSM", TOKEN_METHODS[0])
    key, wrapped = room.key(), room.wrap(MATERIAL)
    with pytest.raises(KeyboardInterrupt):
        room.send(key, wrapped)
    first.close()
    second = Platform(tmp_path, first.clock, backends=[backend])
    room = ImportRoom(second, "HSM")
    second.schedule.run_due(second.clock.now())
    version = room.version(f"{key}/cryptoKeyVersions/1")
    assert state(version) == "ENABLED"
    assert second.decrypt(key, second.encrypt(version.name, b"data")) == b"data"
    assert room.material(version.name) != taken[0]
    with pytest.raises(Exception, match="not in the token|no object|missing"):
        backend.load(version.name, BY_NAME[SYMMETRIC], taken[0]).seal(b"data", b"")  # type: ignore[union-attr]
    second.close()
    backend.close()


# --- importing again ---------------------------------------------------------------------------------


class Again:
    """A destroyed version of an imported key, and a job that lives to import into it again."""

    def __init__(self, platform: Platform, level: str = "SOFTWARE", method: str = METHOD) -> None:
        self.first = ImportRoom(platform, level, method)
        self.key = self.first.key()
        self.version = self.first.imported(self.key, MATERIAL).name
        self.sealed = platform.encrypt(self.version, b"from before")
        self.fingerprint = self.first.record(self.version).fingerprint
        self.first.destroy(self.version, 31 * DAY)
        self.room = ImportRoom(platform, level, method)
        self.job = self.room.create_job(job_id="again").name

    def send(self, material: bytes, **fields: Any) -> Any:
        wrapped = outside.wrap(self.room.method, self.room.public(self.job), material)
        return self.room.send(
            self.key, wrapped, **{"import_job": self.job, "crypto_key_version": self.version, **fields}
        )

    def imported(self, material: bytes, **fields: Any) -> Any:
        return self.room.version(self.send(material, **fields).name)


@pytest.fixture(params=["SOFTWARE", "HSM"])
def again(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Again]:
    if request.param == "SOFTWARE":
        with running(tmp_path) as platform:
            yield Again(platform)
        return
    token = make_token(request.getfixturevalue("softhsm"), tmp_path / "pin")
    backend = HsmBackend(token.config())
    platform = Platform(tmp_path, backends=[backend])
    yield Again(platform, "HSM", TOKEN_METHODS[0])
    platform.close()
    backend.close()


def test_identical_material_brings_a_destroyed_version_back(again: Again) -> None:
    """It is ENABLED again, and opens what was encrypted before its destruction."""
    destroyed = again.room.version(again.version)
    assert destroyed.reimport_eligible
    platform = again.room.platform
    with pytest.raises(FailedPrecondition, match="DESTROYED"):
        platform.decrypt(again.key, again.sealed)
    answered = again.send(MATERIAL)
    assert (answered.name, state(answered)) == (again.version, "PENDING_IMPORT")
    version = again.room.version(again.version)
    assert state(version) == "ENABLED"
    assert not version.reimport_eligible
    assert not version.HasField("destroy_time")
    assert not version.HasField("destroy_event_time")
    assert version.import_job == again.job
    assert moment(version.import_time) == platform.clock.now()
    assert version.create_time == destroyed.create_time
    assert platform.decrypt(again.key, again.sealed) == b"from before"
    again.room.check_settled(again.version)


def test_other_material_is_refused_and_changes_nothing(again: Again) -> None:
    """IMPORT_FAILED with the reason, and no key; the fingerprint of the original stays, so that only it opens
    the version again, and the version cannot be deleted."""
    before = again.room.version(again.version)
    version = again.imported(bytes(32))
    assert state(version) == "IMPORT_FAILED"
    assert version.import_failure_reason == (
        "The key material is not the material that this CryptoKeyVersion held before. Import identical "
        "material."
    )
    assert version.reimport_eligible
    assert version.import_time == before.import_time
    again.room.check_settled(again.version)
    assert again.room.record(again.version) == ImportRecord(again.fingerprint)
    with pytest.raises(FailedPrecondition, match="cannot be deleted"):
        again.room.platform.call("DeleteCryptoKeyVersion", DeleteCryptoKeyVersionRequest(name=again.version))
    assert state(again.imported(b"y" * 32)) == "IMPORT_FAILED"
    assert state(again.imported(MATERIAL)) == "ENABLED"
    assert again.room.platform.decrypt(again.key, again.sealed) == b"from before"


def test_the_same_algorithm_is_needed(room: ImportRoom) -> None:
    """For a version that held a key; one whose only import failed takes any that fits the purpose."""
    key = room.key("HMAC_SHA256")
    held = room.imported(key, MATERIAL, "HMAC_SHA256").name
    failed_once = room.send(key, b"x", "HMAC_SHA512").name
    room.destroy(held, 2 * DAY if False else 31 * DAY)
    room = ImportRoom(room.platform)
    job = room.create_job(job_id="again").name
    wrapped = outside.wrap(METHOD, room.public(job), MATERIAL)
    again: dict[str, Any] = {"import_job": job}
    with pytest.raises(InvalidArgument, match="HMAC_SHA256"):
        room.send(key, wrapped, "HMAC_SHA512", crypto_key_version=held, **again)
    assert state(room.version(held)) == "DESTROYED"
    room.send(key, wrapped, "HMAC_SHA256", crypto_key_version=failed_once, **again)
    version = room.version(failed_once)
    assert (state(version), version.algorithm) == ("ENABLED", BY_NAME["HMAC_SHA256"].number)
    assert version.import_failure_reason == ""


def test_only_what_was_imported_is_imported_into_again(room: ImportRoom) -> None:
    """A generated version refuses, also when it is destroyed; so does one that is in use or scheduled."""
    key = room.platform.key()
    generated = f"{key}/cryptoKeyVersions/1"
    imported = room.imported(key, MATERIAL).name
    wrapped = room.wrap(MATERIAL)
    for name, expected in ((generated, "ENABLED"), (imported, "ENABLED")):
        with pytest.raises(
            FailedPrecondition, match=f"has value {expected} in field crypto_key_version.state"
        ):
            room.send(key, wrapped, crypto_key_version=name)
    room.platform.destroy(imported)
    with pytest.raises(FailedPrecondition, match="DESTROY_SCHEDULED"):
        room.send(key, wrapped, crypto_key_version=imported)
    room.destroy(generated, 31 * DAY)
    assert not room.version(generated).reimport_eligible
    job = room.create_job(job_id="again").name
    with pytest.raises(FailedPrecondition, match="was not imported"):
        room.send(key, wrapped, crypto_key_version=generated, import_job=job)
    assert state(room.version(generated)) == "DESTROYED"


def test_a_version_is_imported_once_at_a_time(tmp_path: Path) -> None:
    """While one import is pending another into the same version is refused."""
    first, job, version = crashed(tmp_path)
    room = ImportRoom(first)
    key = version.rsplit("/", 2)[0]
    with pytest.raises(FailedPrecondition, match="PENDING_IMPORT"):
        room.send(key, b"x" * 40, import_job=job, crypto_key_version=version)
    first.close()


def test_trusted_wrapping_stays_as_it_was(room: ImportRoom) -> None:
    """It is set by the import that gives the first key; a later import neither takes nor gives it."""
    key = room.key("HMAC_SHA256")
    plain = room.imported(key, MATERIAL, "HMAC_SHA256").name
    leaving = room.imported(key, MATERIAL, "HMAC_SHA256", trusted_wrapping_enabled=True)
    assert leaving.trusted_wrapping_enabled
    failed_once = room.send(key, b"x", "HMAC_SHA256").name
    for name in (plain, leaving.name):
        room.platform.destroy(name)
    room.platform.clock.advance(31 * DAY)
    room.platform.schedule.run_due(room.platform.clock.now())
    room = ImportRoom(room.platform)
    job = room.create_job(job_id="again").name
    wrapped = outside.wrap(METHOD, room.public(job), MATERIAL)

    def send(name: str, *, asked: bool) -> Any:
        again = {"import_job": job, "crypto_key_version": name, "trusted_wrapping_enabled": asked}
        return room.version(room.send(key, wrapped, "HMAC_SHA256", **again).name)

    with pytest.raises(InvalidArgument, match="trusted_wrapping_enabled"):
        send(plain, asked=True)
    assert not send(plain, asked=False).trusted_wrapping_enabled
    assert send(leaving.name, asked=False).trusted_wrapping_enabled
    assert send(failed_once, asked=True).trusted_wrapping_enabled


# --- whatever comes in -------------------------------------------------------------------------------


@st.composite
def spoiled(draw: st.DrawFn, good: bytes) -> bytes:
    """Anything, or something good with a few changes."""
    if draw(st.booleans()):
        return draw(st.binary(min_size=1, max_size=1500))
    data = bytearray(good)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        change = draw(st.sampled_from(["flip", "cut", "insert", "end"]))
        if change == "flip":
            data[at] ^= draw(st.integers(1, 255))
        elif change == "cut":
            del data[at : at + draw(st.integers(1, 9))]
        elif change == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
        else:
            del data[at + 1 :]
        if not data:
            return b"\0"
    return bytes(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_wrapped_bytes_do_more_than_fail(shared: ImportRoom, data: st.DataObject) -> None:
    """Whatever the bytes, the method and the algorithm: documented errors, a version that is either ENABLED
    with the key that was wrapped or IMPORT_FAILED with a reason, and nothing left pending."""
    method = data.draw(st.sampled_from(METHODS))
    algorithm = data.draw(st.sampled_from(["HMAC_SHA256", "HMAC_SHA1"]))
    if not hasattr(shared, "any_key"):
        shared.any_key = shared.key("HMAC_SHA256")  # type: ignore[attr-defined]
    good = shared.wrap(MATERIAL, method)
    wrapped = data.draw(spoiled(good))
    legacy = data.draw(st.booleans())
    fields = {"rsa_aes_wrapped_key": wrapped, "wrapped_key": b""} if legacy else {"wrapped_key": wrapped}
    request = ImportCryptoKeyVersionRequest(
        parent=shared.any_key,  # type: ignore[attr-defined]
        algorithm=algorithm,
        import_job=shared.job(method),
        **fields,
    )
    try:
        answered = shared.platform.call("ImportCryptoKeyVersion", request)
    except ApiError as error:
        assert isinstance(error, InvalidArgument)
        return
    shared.check_settled(answered.name)
    version = shared.version(answered.name)
    assert (state(version) == "ENABLED") == (wrapped == good and algorithm == "HMAC_SHA256")


@given(stored=st.binary(max_size=80))
def test_the_record_of_an_import_is_read_strictly(stored: bytes) -> None:
    """Whatever is in its place is either a record or said to be damaged."""
    try:
        record = ImportRecord.decode(stored)
    except SealError:
        return
    assert ImportRecord.decode(record.encode()) == record
