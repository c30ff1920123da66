"""Importing key material: every method and kind of key, what is refused at once, and who may."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from google.cloud.audit import audit_log_pb2

from keystead.api.clock import moment
from keystead.api.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unimplemented,
)
from keystead.audit import messages
from keystead.kms.algorithms import ALGORITHMS, BY_NAME
from keystead.kms.importing import MAX_WRAPPED
from keystead.kms.messages import (
    AsymmetricDecryptRequest,
    CreateCryptoKeyVersionRequest,
    CreateImportJobRequest,
    GetCryptoKeyRequest,
    RestoreCryptoKeyVersionRequest,
    UpdateCryptoKeyPrimaryVersionRequest,
)
from keystead.kms.service import VERSIONS
from tests.kms.backends import outside
from tests.kms.backends.works import is_the_key, works
from tests.kms.importroom import (
    DAY,
    MATERIAL,
    METHOD,
    METHODS,
    RING,
    SYMMETRIC,
    TOKEN_METHODS,
    ImportRoom,
    failed,
    state,
)
from tests.platform import LOCATION

USER = "user:somebody@example.com"
SPREAD = (
    SYMMETRIC, "AES_128_GCM", "AES_256_CTR", "HMAC_SHA256", "HMAC_SHA512", "AES_256_KWP",
    "RSA_SIGN_PSS_2048_SHA256", "RSA_DECRYPT_OAEP_4096_SHA256", "EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384",
    "EC_SIGN_ED25519", "PQ_SIGN_ML_DSA_65", "ML_KEM_768", "KEM_XWING",
)  # fmt: skip
IN_A_TOKEN = (
    SYMMETRIC, "AES_128_GCM", "HMAC_SHA256", "RSA_SIGN_PSS_2048_SHA256", "RSA_DECRYPT_OAEP_4096_SHA1",
    "EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384",
)  # fmt: skip


def carries(method: str, algorithm: str) -> bool:
    """Whether a method can wrap keys of an algorithm: without AES in between, RSA keys are too long."""
    return not (method.endswith("_SHA256") and BY_NAME[algorithm].family in outside.RSA)


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


# --- what comes in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("algorithm", SPREAD)
def test_every_kind_of_key_comes_in_by_every_method(imports: ImportRoom, method: str, algorithm: str) -> None:
    """It is the key that was wrapped. RSA keys do not come by direct wrapping: that import fails."""
    key = imports.key(algorithm)
    if not carries(method, algorithm):
        answered = imports.send(key, bytes(384), algorithm, import_job=imports.job(method))
        reason = f"{method} cannot wrap RSA keys. Use an import job whose method ends in _AES_256."
        failed(imports, answered, reason)
        return
    wrapped = imports.wrap(outside.known(BY_NAME[algorithm]).private, method)
    answered = imports.send(key, wrapped, algorithm, import_job=imports.job(method))
    assert (state(answered), answered.name) == ("PENDING_IMPORT", f"{key}/cryptoKeyVersions/1")
    assert not answered.HasField("import_time")
    version = imports.version(answered.name)
    assert state(version) == "ENABLED"
    assert version.import_job == imports.job(method)
    assert moment(version.import_time) == imports.platform.clock.now()
    assert not version.HasField("generate_time")
    assert ALGORITHMS[version.algorithm].name == algorithm
    imports.check_settled(version.name)
    holds(imports, version, algorithm)


@pytest.mark.parametrize("method", TOKEN_METHODS)
@pytest.mark.parametrize("algorithm", IN_A_TOKEN)
def test_a_key_comes_into_a_token(token_imports: ImportRoom, method: str, algorithm: str) -> None:
    """At protection level HSM it is unwrapped into the token, and works there."""
    private = outside.known(BY_NAME[algorithm]).private
    wrapped = token_imports.wrap(private, method)
    key, job = token_imports.key(algorithm), token_imports.job(method)
    answered = token_imports.send(key, wrapped, algorithm, import_job=job)
    assert state(answered) == "PENDING_IMPORT"
    version = token_imports.version(answered.name)
    assert (state(version), version.import_failure_reason) == ("ENABLED", "")
    stored = token_imports.material(version.name)
    assert stored is not None
    assert private not in stored
    token_imports.check_settled(version.name)
    holds(token_imports, version, algorithm)


def test_what_was_encrypted_outside_is_decrypted_here(imports: ImportRoom) -> None:
    """Through the API: RSA-OAEP to the public half, made with the library, opens with the imported key."""
    algorithm = BY_NAME["RSA_DECRYPT_OAEP_4096_SHA256"]
    key = outside.known(algorithm)
    job = imports.job("RSA_OAEP_3072_SHA256_AES_256")
    wrapped = imports.wrap(key.private, "RSA_OAEP_3072_SHA256_AES_256")
    version = imports.send(imports.key(algorithm.name), wrapped, algorithm.name, import_job=job)
    request = AsymmetricDecryptRequest(
        name=version.name, ciphertext=outside.encrypt(algorithm, key.public, b"from outside")
    )
    assert imports.platform.call("AsymmetricDecrypt", request).plaintext == b"from outside"


def test_the_legacy_field_means_the_same(imports: ImportRoom) -> None:
    """rsa_aes_wrapped_key instead of wrapped_key."""
    method = "RSA_OAEP_3072_SHA1_AES_256"
    wrapped = imports.wrap(MATERIAL, method)
    answered = imports.send(imports.key(), b"", import_job=imports.job(method), rsa_aes_wrapped_key=wrapped)
    assert state(imports.version(answered.name)) == "ENABLED"


def test_the_algorithm_need_not_be_the_template_s(imports: ImportRoom) -> None:
    """It must fit the purpose of the key only; the key's template stays as it is."""
    key = imports.key("EC_SIGN_P256_SHA256")
    private = outside.known(BY_NAME["EC_SIGN_ED25519"]).private
    version = imports.imported(key, private, "EC_SIGN_ED25519")
    assert (state(version), version.algorithm) == ("ENABLED", BY_NAME["EC_SIGN_ED25519"].number)
    found = imports.platform.call("GetCryptoKey", GetCryptoKeyRequest(name=key))
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


def test_an_import_is_told_after_it_is_committed(room: ImportRoom) -> None:
    """Whoever listens to the key hears of it, and sees the version as it became."""
    key, wrapped = room.key(), room.wrap(MATERIAL)
    heard: list[tuple[str, str]] = []
    name = f"{key}/cryptoKeyVersions/1"
    room.platform.key_events.subscribe(lambda key, _: heard.append((key, state(room.version(name)))))
    room.send(key, wrapped)
    assert heard == [(key, "ENABLED")]


# --- what is refused at once -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"algorithm": 0}, "algorithm"),
        ({"algorithm": 999}, "algorithm"),
        ({"algorithm": "EC_SIGN_P256_SHA256"}, "algorithm"),
        ({"import_job": ""}, "import_job"),
        ({"import_job": "job"}, "import_job"),
        ({"crypto_key_version": "1"}, "crypto_key_version"),
        ({"wrapped": b""}, "wrapped_key"),
        ({"rsa_aes_wrapped_key": b"w"}, "wrapped_key"),
        ({"wrapped": b"", "rsa_aes_wrapped_key": b""}, "wrapped_key"),
        ({"wrapped": bytes(MAX_WRAPPED + 1)}, "wrapped_key"),
        ({"trusted_wrapping_enabled": True}, "trusted_wrapping_enabled"),
    ],
)
def test_a_request_that_is_wrong_is_refused(imports: ImportRoom, fields: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT naming the field; no version comes into being."""
    key = imports.key()
    asked = {"wrapped": b"w" * 40, **fields}
    with pytest.raises(InvalidArgument) as refused:
        imports.send(key, **asked)
    violations = refused.value.details[0].field_violations  # type: ignore[attr-defined]
    assert [each.field for each in violations] == [field]
    with imports.platform.store.read() as tx:
        assert VERSIONS.all(tx, key) == []


def test_the_job_must_be_of_the_key_ring(imports: ImportRoom) -> None:
    """INVALID_ARGUMENT for a job of another ring, NOT_FOUND for one that is missing."""
    imports.platform.ring("other")
    request = CreateImportJobRequest(
        parent=f"{LOCATION}/keyRings/other",
        import_job_id="job",
        import_job={"import_method": METHOD, "protection_level": "SOFTWARE"},
    )
    other = imports.platform.call("CreateImportJob", request).name
    with pytest.raises(InvalidArgument, match="import job of the key ring"):
        imports.send(imports.key(), b"w", import_job=other)
    with pytest.raises(NotFound, match=r"ImportJob .*/none not found\."):
        imports.send(imports.key(), b"w", import_job=f"{RING}/importJobs/none")


def test_the_job_must_be_of_the_key_s_level(token_imports: ImportRoom) -> None:
    """Software keys do not come in by a token's job, nor the other way round."""
    software = ImportRoom(token_imports.platform, "SOFTWARE", METHOD)
    key = software.key()
    with pytest.raises(InvalidArgument, match=r"protection level is HSM, that of the key is SOFTWARE"):
        software.send(key, b"w", import_job=token_imports.job())
    soft_job = software.create_job(METHOD, "soft-job").name
    with pytest.raises(InvalidArgument, match=r"protection level is SOFTWARE, that of the key is HSM"):
        token_imports.send(token_imports.key(), b"w", import_job=soft_job)
    with pytest.raises(Unimplemented, match=r"EC_SIGN_|ML_DSA"):
        token_imports.send(token_imports.key("EC_SIGN_P256_SHA256"), b"w", "PQ_SIGN_ML_DSA_65")


def test_what_is_not_there_is_said_to_be_missing(imports: ImportRoom) -> None:
    """The key, and the version that is imported into; a version of another key is a mistake."""
    with pytest.raises(NotFound, match="CryptoKey "):
        imports.send(f"{RING}/cryptoKeys/none", b"w")
    key, other = imports.key(), imports.key()
    with pytest.raises(NotFound, match="CryptoKeyVersion"):
        imports.send(key, b"w", crypto_key_version=f"{key}/cryptoKeyVersions/1")
    with pytest.raises(InvalidArgument, match="crypto_key_version"):
        imports.send(key, b"w", crypto_key_version=f"{other}/cryptoKeyVersions/1")


# --- who may ---------------------------------------------------------------------------------------

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


def audit_log(body: bytes) -> Any:
    log = audit_log_pb2.AuditLog()
    messages.LogEntry.FromString(body).proto_payload.Unpack(log)
    return log


def test_every_right_that_was_asked_for_is_in_the_record(room: ImportRoom) -> None:
    """It names the right on the key and the one on the job, and says which of them was missing."""
    key, job, wrapped = room.key(), room.job(), room.wrap(MATERIAL)
    room.platform.grant(key, USER, CREATE)
    with pytest.raises(PermissionDenied):
        room.send(key, wrapped, principal=USER)
    room.platform.grant(job, USER, IMPORT)
    room.send(key, wrapped, principal=USER)
    create = ("cloudkms.cryptoKeyVersions.create", key)
    use = ("cloudkms.importJobs.useToImport", job)
    recorded = [
        [(info.permission, info.resource, info.granted) for info in log.authorization_info]
        for log in map(audit_log, room.platform.audit_bodies())
        if log.method_name == "ImportCryptoKeyVersion"
    ]
    assert recorded == [[(*create, True), (*use, False)], [(*create, True), (*use, True)]]


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
    room.send(room.key(), b"", rsa_aes_wrapped_key=wrapped)
    with pytest.raises(PermissionDenied):
        room.send(room.key(), wrapped, principal=USER)
    bodies = room.platform.audit_bodies()
    assert sum(b"ImportCryptoKeyVersion" in body for body in bodies) == 3
    assert not any(wrapped[100:130] in body for body in bodies)
