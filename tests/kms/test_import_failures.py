"""Imports that fail after they were answered, and those that a crash or an absent token holds up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.errors import (
    ApiError,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends import Made, WrappedKey
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.importing import ImportRecord
from keystead.kms.messages import (
    DeleteCryptoKeyVersionRequest,
    ImportCryptoKeyVersionRequest,
)
from keystead.kms.seals import SealError
from keystead.kms.service import VERSIONS
from tests.hsm import make_token
from tests.kms.backends import outside
from tests.kms.importroom import (
    DAY,
    MATERIAL,
    METHOD,
    METHODS,
    SYMMETRIC,
    TOKEN_METHODS,
    ImportRoom,
    crashed,
    failed,
    state,
)
from tests.platform import Platform, running

NOT_UNWRAPPED = "The key material in the import request couldn't be unwrapped or wasn't formatted correctly"


# --- what fails afterwards -------------------------------------------------------------------------


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
    imports: ImportRoom, method: str, spoil: Any, reason: str
) -> None:
    """In the words of Cloud KMS: the call is answered, and the version becomes IMPORT_FAILED."""
    wrapped = spoil(imports.wrap(MATERIAL, method))
    failed(imports, imports.send(imports.key(), wrapped, import_job=imports.job(method)), reason)


# An algorithm, and the algorithm whose key comes instead, or the bytes that do.
MISFITS: list[tuple[str, str | bytes]] = [
    (SYMMETRIC, bytes(16)),
    (SYMMETRIC, bytes(33)),
    ("AES_128_GCM", bytes(32)),
    ("EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384"),
    ("EC_SIGN_P256_SHA256", "EC_SIGN_ED25519"),
    ("EC_SIGN_P256_SHA256", b"\x30\x82garbage that is no PKCS#8"),
    ("RSA_SIGN_PSS_2048_SHA256", "EC_SIGN_P256_SHA256"),
    ("RSA_SIGN_PSS_2048_SHA256", b"\x30\x82\x04\xbe" + bytes(1214)),
]
MORE_MISFITS: list[tuple[str, str | bytes]] = [
    ("HMAC_SHA512", bytes(32)),
    ("RSA_SIGN_PSS_3072_SHA256", "RSA_SIGN_PSS_2048_SHA256"),
    ("PQ_SIGN_ML_DSA_65", "PQ_SIGN_ML_DSA_44"),
    ("ML_KEM_768", bytes(5)),
]


def misfits(room: ImportRoom, algorithm: str, given: str | bytes) -> None:
    """Import something else than a key of the algorithm."""
    material = outside.known(BY_NAME[given]).private if isinstance(given, str) else given
    method = TOKEN_METHODS[0]
    wrapped = room.wrap(material, method)
    answered = room.send(room.key(algorithm), wrapped, algorithm, import_job=room.job(method))
    version = room.version(answered.name)
    assert state(version) == "IMPORT_FAILED"
    assert len(version.import_failure_reason) > 20
    assert version.reimport_eligible
    room.check_settled(version.name)


@pytest.mark.parametrize(("algorithm", "given"), [*MISFITS, *MORE_MISFITS])
def test_a_key_of_something_else_fails(imports: ImportRoom, algorithm: str, given: str | bytes) -> None:
    """Another length, size, curve or kind than the algorithm's, or nothing that is a key."""
    misfits(imports, algorithm, given)


@pytest.mark.parametrize(("algorithm", "given"), MISFITS)
def test_a_token_takes_in_nothing_else(token_imports: ImportRoom, algorithm: str, given: str | bytes) -> None:
    """The same at protection level HSM, where nothing is unwrapped in the server's process."""
    misfits(token_imports, algorithm, given)


def test_what_was_wrapped_to_another_job_fails(imports: ImportRoom) -> None:
    """Only the job that is named opens it, not one of the same method in the same key ring."""
    other = imports.create_job().name
    wrapped = outside.wrap(METHOD, imports.public(other), MATERIAL)
    failed(imports, imports.send(imports.key(), wrapped), f"{NOT_UNWRAPPED}.")
    answered = imports.send(imports.key(), wrapped, import_job=other)
    assert state(imports.version(answered.name)) == "ENABLED"


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


# --- crashes, absent tokens, and the end of a job --------------------------------------------------


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
    with pytest.raises(Unavailable, match="is not in the token"):
        backend.load(version.name, BY_NAME[SYMMETRIC], taken[0]).seal(b"data", b"")  # type: ignore[union-attr]
    second.close()
    backend.close()


# --- whatever comes in -----------------------------------------------------------------------------


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


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_wrapped_bytes_do_more_than_fail(imports: ImportRoom, data: st.DataObject) -> None:
    """Whatever the bytes, the method and the algorithm: documented errors, a version that is either ENABLED
    with the key that was wrapped or IMPORT_FAILED with a reason, and nothing left pending."""
    method = data.draw(st.sampled_from(METHODS))
    algorithm = data.draw(st.sampled_from(["HMAC_SHA256", "HMAC_SHA1"]))
    good = imports.wrap(MATERIAL, method)
    wrapped = data.draw(spoiled(good))
    legacy = data.draw(st.booleans())
    fields = {"rsa_aes_wrapped_key": wrapped, "wrapped_key": b""} if legacy else {"wrapped_key": wrapped}
    request = ImportCryptoKeyVersionRequest(
        parent=imports.key("HMAC_SHA256"),
        algorithm=algorithm,
        import_job=imports.job(method),
        **fields,
    )
    try:
        answered = imports.platform.call("ImportCryptoKeyVersion", request)
    except ApiError as error:
        assert isinstance(error, InvalidArgument)
        return
    imports.check_settled(answered.name)
    version = imports.version(answered.name)
    assert (state(version) == "ENABLED") == (wrapped == good and algorithm == "HMAC_SHA256")


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """What looks like a record."""
    length = draw(st.sampled_from([0, 32, 32, 31, 255]))
    head = bytes((draw(st.sampled_from([1, 1, 1, 0, 2])), length))
    kind = bytes((draw(st.integers(0, 4)),))
    request = ImportCryptoKeyVersionRequest(parent="p", wrapped_key=b"w").SerializeToString()
    rest = draw(st.sampled_from([b"", request, request[:-1]]) | st.binary(max_size=20))
    whole = head + draw(st.binary(min_size=length, max_size=length)) + kind + rest
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


@settings(max_examples=400)
@given(stored=records() | st.binary(max_size=80))
def test_the_record_of_an_import_is_read_strictly(stored: bytes) -> None:
    """Whatever is in its place is either a record or said to be damaged."""
    try:
        record = ImportRecord.decode(stored)
    except SealError:
        return
    assert ImportRecord.decode(record.encode()) == record
    assert len(record.fingerprint) in {0, 32}
