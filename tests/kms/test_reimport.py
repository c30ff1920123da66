"""Importing again into versions that are destroyed, or whose import failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keystead.api.clock import moment
from keystead.api.errors import (
    FailedPrecondition,
    InvalidArgument,
)
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.importing import ImportRecord
from keystead.kms.messages import (
    DeleteCryptoKeyVersionRequest,
)
from tests.hsm import make_token
from tests.kms.backends import outside
from tests.kms.importroom import (
    DAY,
    MATERIAL,
    METHOD,
    TOKEN_METHODS,
    ImportRoom,
    crashed,
    state,
)
from tests.platform import Platform, running


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
    room.destroy(held, 31 * DAY)
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
    for name in (generated, imported):
        with pytest.raises(FailedPrecondition, match=r"value ENABLED in field crypto_key_version\.state\."):
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
