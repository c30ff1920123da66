"""Trusted wrapping: versions that leave and enter wrapped by a key with purpose AES_WRAPPING."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_public_key

from keystead.api.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from keystead.crypto.checksum import crc32c
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CreateCryptoKeyVersionRequest,
    DecryptRequest,
    GetCryptoKeyRequest,
    MacSignRequest,
)
from keystead.kms.service import VERSIONS
from tests.hsm import make_token
from tests.kms.backends import outside
from tests.kms.importroom import DAY, MATERIAL, RING, TOKEN_METHODS, Dropping, ImportRoom, state
from tests.platform import LOCATION, Platform, running

KWP = "AES_256_KWP"
MAC = "HMAC_SHA256"
USER = "user:somebody@example.com"
KEK = bytes(range(100, 132))
ADMIN = "roles/cloudkms.admin"
ENCRYPTER = "roles/cloudkms.cryptoKeyEncrypter"
DECRYPTER = "roles/cloudkms.cryptoKeyDecrypter"
# As it comes from outside: secret keys, a private key, and one that is no multiple of 8 bytes.
KINDS = (
    MAC, "HMAC_SHA1", "AES_128_GCM", "RSA_SIGN_PSS_2048_SHA256", "EC_SIGN_P384_SHA384", "EC_SIGN_ED25519",
    "PQ_SIGN_ML_DSA_65", "ML_KEM_768", "KEM_XWING", KWP,
)  # fmt: skip


@pytest.fixture(params=["SOFTWARE", "HSM"])
def levels(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ImportRoom]:
    """A room at each protection level."""
    if request.param == "SOFTWARE":
        with running(tmp_path) as platform:
            yield ImportRoom(platform)
        return
    backend = HsmBackend(make_token(request.getfixturevalue("softhsm"), tmp_path / "pin").config())
    platform = Platform(tmp_path, backends=[backend])
    yield ImportRoom(platform, "HSM", TOKEN_METHODS[0])
    platform.close()
    backend.close()


def generated(room: ImportRoom, algorithm: str = MAC, *, leaving: bool = True) -> str:
    """A version that was made here, and may leave or not."""
    key = room.key(algorithm)
    request = CreateCryptoKeyVersionRequest(
        parent=key, crypto_key_version={"trusted_wrapping_enabled": leaving}
    )
    return str(room.platform.call("CreateCryptoKeyVersion", request).name)


def wrapping(room: ImportRoom, kek: bytes = KEK) -> str:
    """A version of a wrapping key that is known outside; its name."""
    version = room.imported(room.key(KWP), kek, KWP)
    assert state(version) == "ENABLED"
    return str(version.name)


def sign(room: ImportRoom, version: str) -> bytes:
    return bytes(room.platform.call("MacSign", MacSignRequest(name=version, data=b"data")).mac)


def key_of(version: str) -> str:
    return version.rsplit("/", 2)[0]


# --- out ---------------------------------------------------------------------------------------------


def test_a_version_leaves_wrapped(levels: ImportRoom) -> None:
    """Under a wrapping key that both sides have, what leaves opens outside to the key that signs here; the
    checksum is that of what was answered."""
    version = levels.imported(levels.key(MAC), MATERIAL, MAC, trusted_wrapping_enabled=True)
    assert version.trusted_wrapping_enabled
    answer = levels.export(version.name, wrapping(levels))
    assert outside.unwrap(KEK, answer.wrapped_key) == MATERIAL
    assert answer.wrapped_key_crc32c.value == crc32c(answer.wrapped_key)


@pytest.mark.parametrize("algorithm", KINDS)
def test_every_kind_of_key_leaves_and_enters(room: ImportRoom, algorithm: str) -> None:
    """Secret keys as their bytes, private keys as PKCS#8; what comes in again is the same key."""
    made = outside.known(BY_NAME[algorithm])
    version = room.imported(room.key(algorithm), made.private, algorithm, trusted_wrapping_enabled=True)
    kek = wrapping(room)
    wrapped = room.export(version.name, kek).wrapped_key
    opened = outside.unwrap(KEK, wrapped)
    if BY_NAME[algorithm].symmetric:
        assert opened == made.private
    elif algorithm == "KEM_XWING":  # PKCS#8 too, which the library does not read
        assert opened.endswith(made.private)
    else:
        assert load_der_private_key(opened, None)
    back = room.send_trusted(room.key(algorithm), wrapped, kek, algorithm)
    assert state(back) == "PENDING_IMPORT"
    entered = room.version(back.name)
    assert state(entered) == "ENABLED"
    assert entered.import_job == ""
    assert entered.HasField("import_time")
    room.check_settled(back.name)
    assert room.record(back.name).fingerprint == room.record(version.name).fingerprint
    with room.platform.store.read() as tx:
        assert tx.material.public(back.name) == made.public


def test_a_generated_version_leaves_too(levels: ImportRoom) -> None:
    """If it was made to: then the same key works elsewhere."""
    version, kek = generated(levels), wrapping(levels)
    wrapped = levels.export(version, kek).wrapped_key
    twin = levels.send_trusted(levels.key(MAC), wrapped, kek, MAC).name
    assert sign(levels, twin) == sign(levels, version)
    levels.check_settled(twin)


def test_a_private_key_made_here_fits_its_public_half_outside(room: ImportRoom) -> None:
    """What leaves of an EC key is the private key of the public key that was answered."""
    version = generated(room, "EC_SIGN_P256_SHA256")
    opened = load_der_private_key(outside.unwrap(KEK, room.export(version, wrapping(room)).wrapped_key), None)
    assert opened.public_key() == load_pem_public_key(room.public_pem(version).encode())


def test_what_was_not_made_to_leave_stays(levels: ImportRoom) -> None:
    """Neither the API nor the back end lets it go, and nobody can change that afterwards."""
    version, kek = generated(levels, leaving=False), wrapping(levels)
    with pytest.raises(FailedPrecondition, match=r"value false in field .*trusted_wrapping_enabled"):
        levels.export(version, kek)
    with levels.platform.store.write() as tx:  # somebody edits the store
        stored = VERSIONS.require(tx, version)
        stored.message.trusted_wrapping_enabled = True
        VERSIONS.update(tx, stored)
    with pytest.raises(FailedPrecondition, match="exportable"):
        levels.export(version, kek)


def test_what_a_token_cannot_wrap_is_said(token_imports: ImportRoom) -> None:
    """FAILED_PRECONDITION in the words of the back end."""
    version = generated(token_imports, "EC_SIGN_P256_SHA256")
    with pytest.raises(FailedPrecondition, match=f"{version} cannot be exported: the token"):
        token_imports.export(version, wrapping(token_imports))


def test_keys_that_encrypt_never_leave(room: ImportRoom) -> None:
    """trusted_wrapping_enabled is refused for ENCRYPT_DECRYPT, made here or imported."""
    key = room.key()
    request = CreateCryptoKeyVersionRequest(parent=key, crypto_key_version={"trusted_wrapping_enabled": True})
    with pytest.raises(InvalidArgument, match="trusted_wrapping_enabled"):
        room.platform.call("CreateCryptoKeyVersion", request)
    with pytest.raises(InvalidArgument, match="trusted_wrapping_enabled"):
        room.imported(key, MATERIAL, trusted_wrapping_enabled=True)


def test_both_versions_must_be_enabled(room: ImportRoom) -> None:
    """The one that leaves and the one that wraps: KEY_DISABLED names which is not."""
    version, kek = generated(room), wrapping(room)
    for name in (version, kek):
        room.platform.set_state(name, "DISABLED")
        with pytest.raises(FailedPrecondition, match=f"{name} is not enabled, current state is: DISABLED"):
            room.export(version, kek)
        room.platform.set_state(name, "ENABLED")
    room.export(version, kek)


def test_a_wrapping_key_means_its_newest_enabled_version(room: ImportRoom) -> None:
    """Keys of this purpose have no primary version; without an enabled one it is refused."""
    version, first = generated(room), wrapping(room)
    key = key_of(first)
    assert not room.platform.call("GetCryptoKey", GetCryptoKeyRequest(name=key)).HasField("primary")
    second = room.imported(key, bytes(reversed(KEK)), KWP).name
    newest = outside.unwrap(bytes(reversed(KEK)), room.export(version, key).wrapped_key)
    room.platform.set_state(second, "DISABLED")
    assert outside.unwrap(KEK, room.export(version, key).wrapped_key) == newest
    assert outside.unwrap(KEK, room.export(version, first).wrapped_key) == newest
    room.platform.set_state(first, "DISABLED")
    with pytest.raises(FailedPrecondition, match=f"CryptoKey {key} has no enabled version"):
        room.export(version, key)
    with pytest.raises(FailedPrecondition, match="no enabled version"):
        room.send_trusted(room.key(MAC), bytes(40), key, MAC)


def test_only_wrapping_keys_of_the_same_place_and_level_wrap(token_imports: ImportRoom) -> None:
    """Another purpose, project, location or protection level is refused, on the way out and in."""
    room = ImportRoom(token_imports.platform, "SOFTWARE")
    version, key = generated(room), room.key(MAC)
    with pytest.raises(FailedPrecondition, match=r"value MAC in field crypto_key\.purpose"):
        room.export(version, version)
    with pytest.raises(FailedPrecondition, match=r"crypto_key\.purpose"):
        room.send_trusted(key, bytes(40), version, MAC)
    elsewhere = LOCATION.replace("europe-west4", "us-east1")
    for place in (elsewhere, LOCATION.replace("/p1/", "/p2/")):
        ring = room.platform.ring(f"ring-{len(place)}", place)
        request = CreateCryptoKeyRequest(
            parent=ring,
            crypto_key_id="kek",
            crypto_key={"purpose": "AES_WRAPPING", "version_template": {"algorithm": KWP}},
        )
        foreign = room.platform.call("CreateCryptoKey", request).name
        with pytest.raises(InvalidArgument, match="wrapping_key"):
            room.export(version, foreign)
        with pytest.raises(InvalidArgument, match="importing_key"):
            room.send_trusted(key, bytes(40), foreign, MAC)
    in_token = generated(token_imports, KWP, leaving=False)
    with pytest.raises(InvalidArgument, match="protection level"):
        room.export(version, in_token)
    with pytest.raises(InvalidArgument, match="protection level"):
        room.send_trusted(key, bytes(40), in_token, MAC)


def test_a_wrapping_key_in_a_token_is_trusted(token_imports: ImportRoom) -> None:
    """hsm_trusted is true for AES_WRAPPING versions at level HSM, made or imported, and for no others."""
    software = ImportRoom(token_imports.platform, "SOFTWARE")
    assert token_imports.version(generated(token_imports, KWP)).hsm_trusted
    assert token_imports.version(wrapping(token_imports)).hsm_trusted
    assert not token_imports.version(generated(token_imports)).hsm_trusted
    assert not software.version(generated(software, KWP)).hsm_trusted


def test_names_must_be_of_keys_or_versions(room: ImportRoom) -> None:
    """INVALID_ARGUMENT for anything else, NOT_FOUND for what is missing."""
    version, kek = generated(room), wrapping(room)
    with pytest.raises(InvalidArgument, match="wrapping_key"):
        room.export(version, "")
    with pytest.raises(InvalidArgument):
        room.export(version, RING)
    with pytest.raises(NotFound, match="CryptoKeyVersion"):
        room.export(version, f"{key_of(kek)}/cryptoKeyVersions/9")
    with pytest.raises(NotFound, match="CryptoKey "):
        room.export(version, f"{RING}/cryptoKeys/none")
    with pytest.raises(NotFound, match="CryptoKeyVersion"):
        room.export(f"{key_of(version)}/cryptoKeyVersions/9", kek)
    for fields in ({"wrapped": b""}, {"importing": ""}, {"algorithm": 0}):
        given: dict[str, Any] = {"wrapped": bytes(40), "importing": kek, "algorithm": MAC, **fields}
        with pytest.raises(InvalidArgument):
            room.send_trusted(room.key(MAC), **given)


# --- in ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrapped", "reason"),
    [
        (b"x", "Wrapped key is too short."),
        (bytes(41), "Wrapped key does not consist of 64-bit blocks."),
        (bytes(40), "couldn't be unwrapped or wasn't formatted correctly."),
        (aes_key_wrap_with_padding(bytes(32), MATERIAL), "couldn't be unwrapped"),
        (aes_key_wrap_with_padding(KEK, bytes(31)), "31"),
    ],
)
def test_what_does_not_open_fails_with_a_reason(room: ImportRoom, wrapped: bytes, reason: str) -> None:
    """The same words as for import jobs; the version is IMPORT_FAILED and holds nothing."""
    answered = room.send_trusted(room.key(MAC), wrapped, wrapping(room), MAC)
    assert state(answered) == "PENDING_IMPORT"
    version = room.version(answered.name)
    assert state(version) == "IMPORT_FAILED"
    assert reason in version.import_failure_reason
    room.check_settled(version.name)


def test_identical_material_brings_a_destroyed_version_back(levels: ImportRoom) -> None:
    """The re-import rules are those of import jobs, and each way has its own versions."""
    kek, key = wrapping(levels), levels.key(MAC)
    wrapped = aes_key_wrap_with_padding(KEK, MATERIAL)
    name = levels.send_trusted(key, wrapped, kek, MAC).name
    mac = sign(levels, name)
    by_job = levels.imported(key, MATERIAL, MAC).name
    levels.platform.destroy(by_job)
    levels.destroy(name, 31 * DAY)
    other = aes_key_wrap_with_padding(KEK, os.urandom(32))
    levels.send_trusted(key, other, kek, MAC, crypto_key_version=name)
    assert "not the material" in levels.version(name).import_failure_reason
    levels.send_trusted(key, wrapped, kek, MAC, crypto_key_version=name)
    assert state(levels.version(name)) == "ENABLED"
    assert sign(levels, name) == mac
    with pytest.raises(FailedPrecondition, match="created via ImportCryptoKeyVersion"):
        levels.send_trusted(key, wrapped, kek, MAC, crypto_key_version=by_job)


def test_a_version_that_came_by_a_trusted_key_does_not_come_by_a_job(room: ImportRoom) -> None:
    """ImportCryptoKeyVersion refuses it, even if the material is the same."""
    key = room.key(MAC)
    name = room.send_trusted(key, aes_key_wrap_with_padding(KEK, MATERIAL), wrapping(room), MAC).name
    room.destroy(name, 31 * DAY)
    job = room.create_job(job_id="again").name
    wrapped = outside.wrap(room.method, room.public(job), MATERIAL)
    with pytest.raises(FailedPrecondition, match="via ImportTrustedKeyWrappedCryptoKeyVersion"):
        room.send(key, wrapped, MAC, import_job=job, crypto_key_version=name)


def test_an_import_left_pending_by_a_crash_is_finished(tmp_path: Path) -> None:
    """If its key is enabled by then; if not it fails with the reason. A key's name was resolved at once."""
    with running(tmp_path) as before:
        room = ImportRoom(before)
        key, kek = room.key(MAC), wrapping(room)
    first = Platform(tmp_path, before.clock, key_executor=Dropping())
    wrapped = aes_key_wrap_with_padding(KEK, MATERIAL)
    good = ImportRoom(first).send_trusted(key, wrapped, key_of(kek), MAC).name
    assert state(ImportRoom(first).version(good)) == "PENDING_IMPORT"
    first.close()
    with running(tmp_path, before.clock) as second:
        room = ImportRoom(second)
        second.schedule.run_due(second.clock.now())
        assert state(room.version(good)) == "ENABLED"
    third = Platform(tmp_path, before.clock, key_executor=Dropping())
    late = ImportRoom(third).send_trusted(key, wrapped, kek, MAC).name
    third.set_state(kek, "DISABLED")
    third.close()
    with running(tmp_path, before.clock) as fourth:
        room = ImportRoom(fourth)
        fourth.schedule.run_due(fourth.clock.now())
        assert f"{kek} was not enabled any more" in room.version(late).import_failure_reason
        room.check_settled(late)


# --- who may -----------------------------------------------------------------------------------------


def test_an_export_needs_a_right_on_each_of_the_two(room: ImportRoom) -> None:
    """To change the version that leaves and to encrypt with the key that wraps: neither alone suffices."""
    version, kek = generated(room), wrapping(room)
    with pytest.raises(PermissionDenied, match=rf"Versions\.update' denied on resource '{version}'"):
        room.export(version, kek, USER)
    room.platform.grant(RING, USER, ADMIN)
    with pytest.raises(PermissionDenied, match=rf"useToEncrypt' denied on resource '{kek}'"):
        room.export(version, kek, USER)
    room.platform.grant(key_of(kek), USER, ENCRYPTER)
    room.export(version, kek, USER)
    room.platform.revoke(RING, USER, ADMIN)
    with pytest.raises(PermissionDenied, match="update"):
        room.export(version, kek, USER)


def test_an_import_needs_a_right_on_each_of_the_two(room: ImportRoom) -> None:
    """To create a version of the key, or change the one that is named, and to decrypt with the other."""
    key, kek = room.key(MAC), wrapping(room)
    wrapped = aes_key_wrap_with_padding(KEK, MATERIAL)
    with pytest.raises(PermissionDenied, match=rf"Versions\.create' denied on resource '{key}'"):
        room.send_trusted(key, wrapped, kek, MAC, USER)
    room.platform.grant(key, USER, ADMIN)
    with pytest.raises(PermissionDenied, match=rf"useToDecrypt' denied on resource '{kek}'"):
        room.send_trusted(key, wrapped, kek, MAC, USER)
    room.platform.grant(key_of(kek), USER, DECRYPTER)
    name = room.send_trusted(key, wrapped, kek, MAC, USER).name
    assert state(room.version(name)) == "ENABLED"
    room.destroy(name, 31 * DAY)
    room.platform.revoke(key, USER, ADMIN)
    with pytest.raises(PermissionDenied, match=rf"Versions\.update' denied on resource '{name}'"):
        room.send_trusted(key, wrapped, kek, MAC, USER, crypto_key_version=name)


def test_some_algorithms_need_a_permission_of_their_own(room: ImportRoom) -> None:
    """Beside those of every import."""
    key, kek = room.key("AES_256_CBC"), wrapping(room)
    wrapped = aes_key_wrap_with_padding(KEK, MATERIAL)
    room.platform.grant(RING, USER, ADMIN)
    room.platform.grant(RING, USER, DECRYPTER)
    with pytest.raises(PermissionDenied, match="manageRawAesCbcKeys"):
        room.send_trusted(key, wrapped, kek, "AES_256_CBC", USER)


def test_every_export_is_recorded_without_the_key(room: ImportRoom) -> None:
    """Allowed or denied, failed or not; what was wrapped is in no record, of exports and imports alike."""
    version, kek = generated(room), wrapping(room)
    wrapped = room.export(version, kek).wrapped_key
    with pytest.raises(PermissionDenied):
        room.export(version, kek, USER)
    with pytest.raises(FailedPrecondition):
        room.export(kek, kek)
    room.send_trusted(room.key(MAC), wrapped, kek, MAC)
    bodies = room.platform.audit_bodies()
    assert sum(b"ExportTrustedKeyWrappedCryptoKeyVersion" in body for body in bodies) == 3
    assert sum(b"ImportTrustedKeyWrappedCryptoKeyVersion" in body for body in bodies) == 1
    for spelling in (wrapped, base64.b64encode(wrapped)):
        assert not any(spelling in body for body in bodies)


def test_a_wrapping_key_does_nothing_else(room: ImportRoom) -> None:
    """Encrypt, Decrypt and their like refuse keys of purpose AES_WRAPPING."""
    kek = wrapping(room)
    with pytest.raises(FailedPrecondition, match="AES_WRAPPING"):
        room.platform.encrypt(kek, b"data")
    with pytest.raises(FailedPrecondition, match="AES_WRAPPING"):
        room.platform.call("Decrypt", DecryptRequest(name=key_of(kek), ciphertext=b"data"))
    with pytest.raises(FailedPrecondition, match="AES_WRAPPING"):
        room.platform.call("MacSign", MacSignRequest(name=kek, data=b"data"))
