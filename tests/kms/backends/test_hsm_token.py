"""A token that is missing, refuses, is lost or comes back: clear errors, and no restart of the server."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, TokenFlag

from keystead.api.errors import Unavailable
from keystead.crypto.errors import DecryptionError
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends import Made
from keystead.kms.backends.hsm import session as session_module
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.hsm.config import HsmConfig
from keystead.kms.backends.hsm.module import module_at
from keystead.kms.backends.hsm.session import Session
from keystead.kms.backends.hsm.token import Token
from tests.hsm import PIN, SO_PIN, SoftToken, make_token

KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
SYMMETRIC = BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"]


@pytest.fixture
def backend(soft_token: SoftToken) -> Iterator[HsmBackend]:
    """A back end on a token of the test's own."""
    made = HsmBackend(soft_token.config())
    yield made
    made.close()


@pytest.fixture
def key(backend: HsmBackend) -> Any:
    """A symmetric key in it."""
    return backend.load(KEY, SYMMETRIC, backend.generate(KEY, SYMMETRIC).stored)


def eventually(call: Callable[[], Any]) -> Any:
    """The answer of a call once the token is looked for again, which it is after a pause of 2 s at most."""
    for _ in range(200):
        try:
            return call()
        except Unavailable:
            time.sleep(0.05)
    return call()


def refused(call: Callable[[], Any]) -> str:
    """The text of the UNAVAILABLE that a call ends with."""
    with pytest.raises(Unavailable) as error:
        call()
    return error.value.message


def count_openings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list that grows whenever a token is looked for."""
    calls: list[float] = []
    before = Token._open

    def counted(self: Token) -> Session:
        calls.append(time.monotonic())
        return before(self)

    monkeypatch.setattr(Token, "_open", counted)
    return calls


# What is wrong from the beginning


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    """It is named, with what to do; `status` says the same."""
    missing = HsmBackend(HsmConfig(tmp_path / "none.so", "t", lambda: SecretBytes(b"1234")))
    text = refused(lambda: missing.random(8))
    assert f"The PKCS#11 library {tmp_path / 'none.so'} cannot be used" in text
    assert "Install it" in text
    assert missing.status().usable is False
    assert missing.status().text == text


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    """Neither a text nor a library of something else crashes the process."""
    text = tmp_path / "text.so"
    text.write_text("no library")
    for path in (text, Path(ctypes.util.find_library("c") or "libc.so.6")):
        status = HsmBackend(HsmConfig(path, "t", lambda: SecretBytes(b"1234"))).status()
        assert not status.usable
        assert "cannot be used" in status.text


def test_a_token_that_comes_later(softhsm: Path, tmp_path: Path, soft_token: SoftToken) -> None:
    """The server may be started before its token is there."""
    other = make_token(softhsm, tmp_path / "other-pin")
    waiting = HsmBackend(other.config())
    parked = softhsm.with_name("parked")
    parked.mkdir()
    directories = [each for each in softhsm.iterdir() if other.label.encode() in _all_bytes(each)]
    assert len(directories) == 1
    directories[0].rename(parked / directories[0].name)
    try:
        module_at(other.library).restart()
        text = refused(lambda: waiting.random(8))
        assert f"There is no token '{other.label}' at " in text
        assert "tries again by itself" in text
        # Another token of the same library is not touched by that.
        assert len(HsmBackend(soft_token.config()).random(16)) == 16
    finally:
        (parked / directories[0].name).rename(directories[0])
        parked.rmdir()
    assert len(eventually(lambda: waiting.random(16))) == 16


def _all_bytes(directory: Path) -> bytes:
    return b"".join(each.read_bytes() for each in directory.iterdir())


def test_two_tokens_of_one_label(softhsm: Path, tmp_path: Path, soft_token: SoftToken) -> None:
    """None of them is guessed at; the serial number tells."""
    twin = make_token(softhsm, tmp_path / "twin-pin", label=soft_token.label)
    module_at(twin.library).restart()
    assert "more than one token" in refused(lambda: HsmBackend(twin.config()).random(8))
    serials = set()
    for slot in module_at(twin.library).started().get_slots():
        token = slot.get_token()
        if token.label == twin.label:
            serials.add(token.serial.decode())
    assert len(serials) == 2
    for serial in serials:
        backend = HsmBackend(twin.config(serial=serial))
        assert len(backend.random(8)) == 8
        assert serial in backend.status().text
        backend.close()


# The PIN


def test_a_wrong_pin_is_tried_once(
    softhsm: Path, soft_token: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused PIN is not sent again, whatever is asked and however long: even when the token would take it
    by now. Writing the file, with the same PIN too, is what allows another try."""
    soft_token.write_pin("wrong-pin")
    backend = HsmBackend(soft_token.config())
    before = len(soft_token.sessions()) if module_at(soft_token.library)._library else 0
    assert "The token refused the PIN." in refused(lambda: backend.random(8))
    assert len(soft_token.sessions()) <= before
    _set_pin(soft_token, "wrong-pin")
    later = time.monotonic()
    for _ in range(5):
        later += 60
        monkeypatch.setattr(time, "monotonic", lambda now=later: now)
        text = refused(lambda: backend.random(8))
        assert "not tried again" in text
        assert str(soft_token.pin_file) in text
    os.utime(soft_token.pin_file, ns=(1, 1))
    monkeypatch.setattr(time, "monotonic", lambda: later + 60)
    assert len(backend.random(8)) == 8
    backend.close()


def test_the_right_pin_helps_without_a_restart(soft_token: SoftToken) -> None:
    """After the file is corrected the next calls succeed."""
    soft_token.write_pin("wrong-pin")
    backend = HsmBackend(soft_token.config())
    refused(lambda: backend.random(8))
    soft_token.write_pin(PIN)
    assert len(eventually(lambda: backend.random(8))) == 8
    backend.close()


def test_reset_allows_another_try(soft_token: SoftToken) -> None:
    """Whoever knows that the token has changed can say so."""
    backend = HsmBackend(soft_token.config(pin=lambda: SecretBytes(b"wrong-pin")))
    refused(lambda: backend.random(8))
    _set_pin(soft_token, "wrong-pin")
    backend.reset()
    assert len(backend.random(8)) == 8
    backend.close()


def _set_pin(token: SoftToken, pin: str) -> None:
    """As its security officer."""
    module = module_at(token.library)
    found = next(s.get_token() for s in module.restart().get_slots() if s.get_token().label == token.label)
    officer = found.open(rw=True, so_pin=SO_PIN)
    officer.init_pin(pin)
    officer.close()


def test_a_pin_that_cannot_be_read(soft_token: SoftToken) -> None:
    """Missing, open to others, empty or no text: each is named, and healed by the right file."""
    backend = HsmBackend(soft_token.config())
    soft_token.pin_file.unlink()
    assert f"cannot be read from {soft_token.pin_file}" in refused(lambda: backend.random(8))
    soft_token.write_pin(PIN)
    soft_token.pin_file.chmod(0o644)
    assert "chmod 600" in eventually_refused(backend, "chmod 600")
    for content in (b"", b"\xff\xfe\xfd\xfc"):
        soft_token.pin_file.write_bytes(content)
        soft_token.pin_file.chmod(0o600)
        eventually_refused(backend, "refused")
    soft_token.write_pin(PIN)
    assert len(eventually(lambda: backend.random(8))) == 8
    backend.close()


def eventually_refused(backend: HsmBackend, part: str) -> str:
    """The error text once it holds `part`: after the pause of the error before."""
    text = ""
    for _ in range(200):
        text = refused(lambda: backend.random(8))
        if part in text:
            return text
        time.sleep(0.05)
    raise AssertionError(text)


def test_the_pin_is_not_kept(soft_token: SoftToken) -> None:
    """What the function gives is wiped after the login, and asked for anew at the next one."""
    given: list[SecretBytes] = []

    def ask() -> SecretBytes:
        given.append(SecretBytes(PIN.encode()))
        return given[-1]

    backend = HsmBackend(soft_token.config(pin=ask))
    backend.random(8)
    assert [each.wiped for each in given] == [True]
    module_at(soft_token.library).restart()
    backend.random(8)
    assert [each.wiped for each in given] == [True, True]
    assert PIN not in repr(vars(backend._token)) + repr(vars(backend._token._pin))
    backend.close()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (TokenFlag.USER_PIN_INITIALIZED | TokenFlag.USER_PIN_LOCKED, "PIN is locked"),
        (TokenFlag.USER_PIN_INITIALIZED | TokenFlag.USER_PIN_FINAL_TRY, "would lock at one more wrong PIN"),
        (TokenFlag.TOKEN_INITIALIZED, "has no PIN yet"),
    ],
)
def test_a_login_that_could_lock_the_token_is_not_tried(
    soft_token: SoftToken, flags: TokenFlag, part: str
) -> None:
    """What the token says of its PIN is heeded before a PIN is sent. (SoftHSM2 never locks, so the token's
    word is put in its mouth.)"""
    token = Token(soft_token.config())
    said: Any = SimpleNamespace(flags=flags)
    assert part in refused(lambda: token._check(said))
    usable: Any = SimpleNamespace(flags=TokenFlag.USER_PIN_INITIALIZED | TokenFlag.USER_PIN_COUNT_LOW)
    token._check(usable)


# Sessions that end


def close_all_sessions(token: SoftToken) -> None:
    assert token.call("C_CloseAllSessions", ctypes.c_ulong(token.slot())) == 0


def log_out(token: SoftToken) -> None:
    ended = [token.call("C_Logout", ctypes.c_ulong(handle)) for handle in token.sessions()]
    assert 0 in ended


def finalize(token: SoftToken) -> None:
    assert token.call("C_Finalize", None) == 0


def restart(token: SoftToken) -> None:
    module_at(token.library).restart()


def leave_a_search_open(token: SoftToken) -> None:
    begun = [token.call("C_FindObjectsInit", ctypes.c_ulong(each), None, 0) for each in token.sessions()]
    assert {0, 0x90} & set(begun)  # CKR_OK, or CKR_OPERATION_ACTIVE: begun before


@pytest.mark.parametrize("end", [close_all_sessions, log_out, finalize, restart, leave_a_search_open])
def test_an_ended_session_is_opened_again(
    soft_token: SoftToken, backend: HsmBackend, key: Any, end: Callable[[SoftToken], None]
) -> None:
    """Whatever ended it, no caller notices, and nothing is left open."""
    sealed = key.seal(b"text", b"aad")
    for _ in range(3):
        end(soft_token)
        assert key.open(sealed, b"aad") == b"text"
        end(soft_token)
        assert key.open(key.seal(b"more", b""), b"") == b"more"
        end(soft_token)
        with pytest.raises(DecryptionError):
            key.open(sealed, b"other")
        end(soft_token)
        assert len(backend.random(16)) == 16
        end(soft_token)
        assert backend._token.use(lambda session: session.search({}))
        end(soft_token)
        assert backend.status().usable
    restart(soft_token)
    backend.random(8)
    assert len(soft_token.sessions()) == 1
    backend.close()
    assert len(soft_token.sessions()) == 0


def test_a_handle_never_means_another_key(soft_token: SoftToken, backend: HsmBackend) -> None:
    """The numbers of objects begin anew after a restart of the library: each key is found again by name."""
    versions = [f"{KEY}{number}" for number in range(6)]
    keys: list[Any] = [
        backend.load(each, SYMMETRIC, backend.generate(each, SYMMETRIC).stored) for each in versions
    ]
    sealed = [each.seal(str(number).encode(), b"") for number, each in enumerate(keys)]
    for turn in range(4):
        restart(soft_token)
        order = sorted(range(6), key=lambda at: (at * 7 + turn * 5) % 6)
        for number in order:
            assert keys[number].open(sealed[number], b"") == str(number).encode()
            with pytest.raises(DecryptionError):
                keys[number].open(sealed[(number + 1) % 6], b"")


@pytest.mark.parametrize(
    "error",
    [
        pkcs11.DeviceError, pkcs11.DeviceRemoved, pkcs11.SessionHandleInvalid, pkcs11.SessionClosed,
        pkcs11.TokenNotPresent, pkcs11.UserNotLoggedIn, pkcs11.OperationActive, pkcs11.KeyHandleInvalid,
    ],
)  # fmt: skip
def test_work_that_lost_the_token_is_done_again(soft_token: SoftToken, error: type[Exception]) -> None:
    """Once, in a session that is new; if that is lost too, the caller is told and the token is left alone for
    a moment."""
    token = Token(soft_token.config())
    seen: list[Session] = []

    def work(session: Session) -> int:
        seen.append(session)
        if len(seen) == 1:
            raise error
        return 7

    assert token.use(work) == 7
    assert seen[0] is not seen[1]

    def never(session: Session) -> int:
        seen.append(session)
        raise error

    text = refused(lambda: token.use(never))
    assert soft_token.label in text
    assert len(seen) == 4
    assert refused(lambda: token.use(never)) == text
    assert len(seen) == 4
    assert eventually(lambda: token.use(lambda session: len(session.random(4)))) == 4
    token.close()


def test_an_error_without_a_reason(soft_token: SoftToken, monkeypatch: pytest.MonkeyPatch) -> None:
    """CKR_GENERAL_ERROR of a token that is well: told at once in a young session, tried anew in an old one,
    and other calls go on."""
    token = Token(soft_token.config())
    seen: list[Session] = []

    def failing(session: Session) -> None:
        seen.append(session)
        raise pkcs11.GeneralError

    token.use(lambda session: session.random(1))
    assert "GeneralError" in refused(lambda: token.use(failing))
    assert len(seen) == 1
    monkeypatch.setattr(session_module, "TRUSTED_S", -1.0)
    refused(lambda: token.use(failing))
    assert len(seen) == 3
    assert seen[1] is not seen[2]
    assert len(token.use(lambda session: session.random(4))) == 4
    token.close()


# Tokens that go away


def test_a_token_that_goes_and_comes_back(
    soft_token: SoftToken, backend: HsmBackend, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away every use is UNAVAILABLE and says what to do, right and wrong ciphertexts alike, and
    most calls do not even look for it. When it is back everything works again, nothing was lost."""
    sealed = key.seal(b"text", b"")
    soft_token.take_away()
    openings = count_openings(monkeypatch)
    try:
        calls: list[Callable[[], Any]] = [
            lambda: key.seal(b"text", b""),
            lambda: key.open(sealed, b""),
            lambda: key.open(sealed, b"wrong"),
            lambda: backend.random(16),
            lambda: backend.generate(KEY + "1", SYMMETRIC),
            lambda: backend.facts(KEY, SYMMETRIC, _stored(backend, key)),
        ]
        for call in calls * 20:
            assert soft_token.label in refused(call)
        assert backend.status().usable is False
        assert len(openings) < 40
    finally:
        soft_token.put_back()
    assert eventually(lambda: key.open(sealed, b"")) == b"text"
    assert key.open(key.seal(b"more", b""), b"") == b"more"
    assert backend.status().usable
    assert len(soft_token.sessions()) >= 1


def _stored(backend: HsmBackend, key: Any) -> bytes:
    return bytes(key._ref.encode())


def test_a_short_absence_is_not_noticed(soft_token: SoftToken, key: Any) -> None:
    """Away and back between two calls: the second works, though the library has lost its objects."""
    sealed = key.seal(b"text", b"")
    soft_token.take_away()
    refused(lambda: key.open(sealed, b""))
    soft_token.put_back()
    assert eventually(lambda: key.open(sealed, b"")) == b"text"
    soft_token.take_away()
    soft_token.put_back()
    assert key.open(sealed, b"") == b"text"


def test_removing_is_not_believed_while_the_token_is_away(soft_token: SoftToken, backend: HsmBackend) -> None:
    """A token that is gone answers that the object is not there. Taken for its word, a key would be reported
    destroyed and come back with the token."""
    made = backend.generate(KEY, SYMMETRIC)
    key: Any = backend.load(KEY, SYMMETRIC, made.stored)
    sealed = key.seal(b"text", b"")
    soft_token.take_away()
    try:
        for _ in range(5):
            refused(lambda: backend.remove(KEY, made.stored))
            time.sleep(0.1)
    finally:
        soft_token.put_back()
    assert eventually(lambda: key.open(sealed, b"")) == b"text"
    backend.remove(KEY, made.stored)
    backend.remove(KEY, made.stored)
    text = refused(lambda: key.open(sealed, b""))
    assert f"The key of {KEY} is not in the token" in text


def test_removing_is_not_believed_while_logged_out(soft_token: SoftToken, backend: HsmBackend) -> None:
    """A login belongs to the process, and another part of it may end it. Public halves can then be found and
    destroyed, private ones not even seen."""
    algorithm = BY_NAME["EC_SIGN_P256_SHA256"]
    made = backend.generate(KEY, algorithm)
    log_out(soft_token)
    backend.remove(KEY, made.stored)
    assert backend._token.use(lambda session: session.search({Attribute.LABEL: KEY})) == []
    made = backend.generate(KEY, algorithm)
    fresh = HsmBackend(soft_token.config())
    key: Any = fresh.load(KEY, algorithm, made.stored)
    fresh.random(8)
    log_out(soft_token)
    assert len(key.sign(bytes(32))) > 60


def test_a_missing_key_concerns_nobody_else(soft_token: SoftToken, backend: HsmBackend, key: Any) -> None:
    """An object that somebody deleted is named, the other keys of the token work on, and looking for it does
    not end their sessions over and over."""
    other = backend.generate(KEY + "2", SYMMETRIC)
    gone: Any = backend.load(KEY + "2", SYMMETRIC, other.stored)
    gone.seal(b"", b"")
    HsmBackend(soft_token.config()).remove(KEY + "2", other.stored)
    sealed = key.seal(b"text", b"")
    generation = module_at(soft_token.library).generation
    for _ in range(10):
        assert "Restore the token" in refused(lambda: gone.seal(b"", b""))
        assert key.open(sealed, b"") == b"text"
    assert module_at(soft_token.library).generation <= generation + 1


def test_wrong_ciphertexts_do_not_disturb_the_session(
    soft_token: SoftToken, backend: HsmBackend, key: Any
) -> None:
    """SoftHSM2 answers CKR_GENERAL_ERROR to them; the token is asked whether it is well, and that is all."""
    made: Made = backend.generate(KEY + "3", BY_NAME["RSA_DECRYPT_OAEP_2048_SHA1"])
    oaep: Any = backend.load(KEY + "3", BY_NAME["RSA_DECRYPT_OAEP_2048_SHA1"], made.stored)
    sealed = key.seal(b"text", b"")
    generation, session = module_at(soft_token.library).generation, backend._token._session
    for wrong in (b"", b"x" * 28, sealed[:-1], sealed + b"x", bytes(len(sealed))):
        with pytest.raises(DecryptionError):
            key.open(wrong, b"")
    for wrong in (b"", bytes(256), b"\xff" * 256, b"\1" * 255, b"\1" * 257):
        with pytest.raises(DecryptionError):
            oaep.decrypt(wrong)
    assert (module_at(soft_token.library).generation, backend._token._session) == (generation, session)


# Who else is there


def test_two_users_of_a_token_share_its_login(soft_token: SoftToken) -> None:
    """A login belongs to the process. Neither who comes second nor who leaves first disturbs the other."""
    one, two = Token(soft_token.config()), Token(soft_token.config())
    assert len(one.use(lambda session: session.random(4))) == 4
    assert len(two.use(lambda session: session.random(4))) == 4
    for _ in range(3):
        one.close()
        assert two.use(lambda session: session.search({}) and session.healthy())
        assert one.use(lambda session: session.search({}) and session.healthy())
        two.close()
        assert one.status().usable
    one.close()
    two.close()
    assert len(soft_token.sessions()) == 0


def test_a_child_does_not_use_its_parents_token(soft_token: SoftToken, backend: HsmBackend, key: Any) -> None:
    """After a fork sessions and locks are the parent's; the child is told so, and the parent works on."""
    sealed = key.seal(b"text", b"")
    child = os.fork()
    if child == 0:
        try:
            key.open(sealed, b"")
        except Unavailable as error:
            os._exit(0 if "child of the process" in error.message else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert key.open(sealed, b"") == b"text"


def test_a_library_that_does_not_return(soft_token: SoftToken) -> None:
    """Callers wait for their turn, but not for ever: then they are told, at once when it has lasted long."""
    patient = HsmBackend(soft_token.config())
    impatient = HsmBackend(soft_token.config(patience_s=0.05))
    patient.random(8)
    module = module_at(soft_token.library)
    assert module.enter(1.0)
    try:
        for _ in range(3):
            assert "is busy: a call to it does not return" in refused(lambda: impatient.random(8))
    finally:
        module.leave()
    assert len(impatient.random(8)) == 8
    patient.close()
    impatient.close()
