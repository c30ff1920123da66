"""Encrypt and Decrypt from memory: when they are, and that a change is seen by the very next call."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keystead.api.errors import ApiError, FailedPrecondition, NotFound, PermissionDenied
from keystead.kms import lifecycle
from keystead.kms.keycache import KeyCache, UsableVersion
from keystead.kms.messages import (
    CreateCryptoKeyVersionRequest,
    DecryptRequest,
    EncryptRequest,
    UpdateCryptoKeyPrimaryVersionRequest,
)
from keystead.kms.service import VERSIONS
from tests.platform import CRYPTER, LOCATION, OWNER, Platform

KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
FIRST = f"{KEY}/cryptoKeyVersions/1"
USER = "user:service@example.com"


class CountingExecutor(ThreadPoolExecutor):
    """Threads that count how often they were asked for."""

    def __init__(self) -> None:
        super().__init__(2)
        self.count = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        return super().submit(fn, *args, **kwargs)


@pytest.fixture
def threads() -> Iterator[CountingExecutor]:
    """The threads of the platform of this test."""
    with CountingExecutor() as executor:
        yield executor


@pytest.fixture
def platform(
    tmp_path: Path, threads: CountingExecutor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    """A platform with one key, on which USER may encrypt and decrypt."""
    made = Platform(tmp_path)
    monkeypatch.setattr(made.dispatcher, "_executor", threads)
    made.key()
    made.grant(KEY, USER, CRYPTER)
    yield made
    made.close()


def encrypt(platform: Platform, name: str = KEY) -> Any:
    return platform.dispatch("Encrypt", EncryptRequest(name=name, plaintext=b"plain"), USER)


def decrypt(platform: Platform, ciphertext: bytes) -> Any:
    return platform.dispatch("Decrypt", DecryptRequest(name=KEY, ciphertext=ciphertext), USER)


def rotate(platform: Platform) -> None:
    platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
    request = UpdateCryptoKeyPrimaryVersionRequest(name=KEY, crypto_key_version_id="2")
    platform.call("UpdateCryptoKeyPrimaryVersion", request)


def test_a_warm_call_uses_no_thread(platform: Platform, threads: CountingExecutor) -> None:
    """The first call reads the store in a thread; those after it run on the event loop."""
    ciphertext = encrypt(platform).ciphertext
    assert threads.count == 1
    for _ in range(5):
        assert decrypt(platform, encrypt(platform).ciphertext).plaintext == b"plain"
        assert decrypt(platform, ciphertext).plaintext == b"plain"
    assert threads.count == 1


def test_a_warm_call_reads_nothing_from_the_store(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the store out of reach a warm call still answers."""
    ciphertext = encrypt(platform).ciphertext

    def unreachable() -> None:
        raise AssertionError("a warm call opened a transaction")

    monkeypatch.setattr(platform.store, "read", unreachable)
    monkeypatch.setattr(platform.store, "write", unreachable)
    assert decrypt(platform, ciphertext).plaintext == b"plain"


def test_an_error_of_a_warm_call_uses_no_thread_either(platform: Platform, threads: CountingExecutor) -> None:
    """A disabled version is refused from memory as well."""
    encrypt(platform)
    platform.set_state(FIRST, "DISABLED")
    for _ in range(3):
        with pytest.raises(FailedPrecondition):
            encrypt(platform)
    assert threads.count == 2


def disable(platform: Platform) -> None:
    platform.set_state(FIRST, "DISABLED")


def destroy(platform: Platform) -> None:
    platform.destroy(FIRST)


def revoke_on_key(platform: Platform) -> None:
    platform.revoke(KEY, USER, CRYPTER)


@pytest.mark.parametrize(
    ("change", "kind"),
    [(disable, FailedPrecondition), (destroy, FailedPrecondition), (revoke_on_key, PermissionDenied)],
)
def test_what_takes_the_key_away_is_seen_by_the_very_next_call(
    platform: Platform, change: Callable[[Platform], None], kind: type[ApiError]
) -> None:
    """Disabled, scheduled for destruction, or the grant revoked: no call is answered from before."""
    ciphertext = encrypt(platform).ciphertext
    for _ in range(3):
        decrypt(platform, ciphertext)
    change(platform)
    with pytest.raises(kind):
        encrypt(platform)
    with pytest.raises(kind):
        decrypt(platform, ciphertext)


@pytest.mark.parametrize("level", ["projects/p1", "organization"])
def test_a_grant_revoked_above_the_key_is_seen_by_the_very_next_call(platform: Platform, level: str) -> None:
    """Project and organization count like the key itself."""
    above = platform.organization if level == "organization" else level
    platform.revoke(KEY, USER, CRYPTER)
    platform.grant(above, USER, CRYPTER)
    ciphertext = encrypt(platform).ciphertext
    assert decrypt(platform, ciphertext).plaintext == b"plain"
    platform.revoke(above, USER, CRYPTER)
    with pytest.raises(PermissionDenied):
        decrypt(platform, ciphertext)


def test_a_new_primary_is_used_by_the_very_next_call(platform: Platform) -> None:
    """After UpdateCryptoKeyPrimaryVersion no call encrypts by the old version."""
    assert encrypt(platform).name == FIRST
    rotate(platform)
    assert encrypt(platform).name == f"{KEY}/cryptoKeyVersions/2"


def test_a_change_that_no_event_tells_of_is_seen_too(platform: Platform) -> None:
    """Whoever writes to the store moves its epoch, and that alone makes the next call read anew."""
    encrypt(platform)
    with platform.store.write() as tx:
        stored = VERSIONS.require(tx, FIRST)
        lifecycle.enable_or_disable(stored.message, lifecycle.DISABLED)
        VERSIONS.update(tx, stored)
    with pytest.raises(FailedPrecondition):
        encrypt(platform)


def test_a_denial_is_recorded_even_when_all_is_warm(platform: Platform) -> None:
    """A hot call that is denied leaves its record, like any other."""
    encrypt(platform)
    before = len(platform.audit_bodies())
    with pytest.raises(PermissionDenied):
        platform.dispatch("Encrypt", EncryptRequest(name=KEY, plaintext=b"x"), "user:eve@example.com")
    assert len(platform.audit_bodies()) == before + 1


def test_data_access_is_recorded_where_it_is_asked_for(platform: Platform) -> None:
    """Once an audit config wants data reads, every Encrypt is recorded, warm or not."""
    encrypt(platform)
    before = len(platform.audit_bodies())
    encrypt(platform)
    assert len(platform.audit_bodies()) == before
    platform.record_data_access()
    for _ in range(3):
        encrypt(platform)
    assert len(platform.audit_bodies()) == before + 3


def test_a_disabled_keys_cipher_leaves_memory_at_once(platform: Platform) -> None:
    """Without any further call: when Disable has returned nothing holds the cipher any more."""
    encrypt(platform)
    cipher = platform.cache.version(platform.cache.key(KEY, inline=True), 1, inline=True).key
    assert holders_of(cipher)
    platform.set_state(FIRST, "DISABLED")
    gc.collect()
    assert not holders_of(cipher)


def holders_of(cipher: Any) -> list[Any]:
    return [holder for holder in gc.get_referrers(cipher) if isinstance(holder, UsableVersion)]


def test_a_slow_reader_does_not_bring_an_old_epoch_back(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key read before a commit and kept after it, while others read it anew, is not used."""
    cache = KeyCache(platform.store, platform.keys.material)
    original = platform.store.read
    slow: list[None] = []

    @contextmanager
    def read() -> Iterator[Any]:
        with original() as tx:
            if not slow:
                slow.append(None)
                assert tx.resources.get(KEY) is not None  # the snapshot is of before what comes now
                rotate(platform)
                assert cache.key(KEY, inline=False).primary == 2
            yield tx

    monkeypatch.setattr(platform.store, "read", read)
    assert cache.key(KEY, inline=False).primary == 1
    assert cache.key(KEY, inline=False).primary == 2


def test_the_cache_holds_so_many_keys_and_no_more(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys beyond the bound push the others out, and all still answer."""
    monkeypatch.setattr("keystead.kms.keycache._MAX_KEYS", 3)
    names = [platform.key(f"k{number}") for number in range(7)]
    for name in names * 2:
        assert platform.decrypt(name, platform.encrypt(name, b"x")) == b"x"
        assert len(platform.cache._cached[1]) <= 3


def test_a_key_that_is_not_there_is_not_remembered(platform: Platform) -> None:
    """NOT_FOUND once, found once it was made."""
    with pytest.raises(NotFound):
        platform.encrypt(f"{KEY}2", b"x", principal=OWNER)
    platform.key("key2")
    assert platform.encrypt(f"{KEY}2", b"x", principal=OWNER)
