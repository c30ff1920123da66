"""Keys in a real PKCS#11 token over their life, also while the token is away."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keystead.api.errors import FailedPrecondition, NotFound, Unavailable
from keystead.kms import lifecycle
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.messages import (
    CreateCryptoKeyVersionRequest,
    GetCryptoKeyRequest,
    GetCryptoKeyVersionRequest,
)
from tests.hsm import SoftToken
from tests.platform import LOCATION, Platform

HSM = {"version_template": {"algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION", "protection_level": "HSM"}}
KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
FIRST = f"{KEY}/cryptoKeyVersions/1"


@pytest.fixture
def backend(soft_token: SoftToken) -> Iterator[HsmBackend]:
    """The back end over a token of the test's own."""
    made = HsmBackend(soft_token.config())
    yield made
    made.close()


@pytest.fixture
def room(backend: HsmBackend, tmp_path: Path) -> Iterator[Platform]:
    """A platform over that back end."""
    (tmp_path / "data").mkdir()
    platform = Platform(tmp_path / "data", backends=[backend])
    yield platform
    platform.close()


@contextmanager
def away(soft_token: SoftToken, backend: HsmBackend) -> Iterator[None]:
    backend.close()
    soft_token.take_away()
    try:
        yield
    finally:
        soft_token.put_back()
        backend.reset()


def version(room: Platform, name: str = FIRST) -> Any:
    return room.call("GetCryptoKeyVersion", GetCryptoKeyVersionRequest(name=name))


def run_due(room: Platform, days: int = 0) -> None:
    room.clock.advance(dt.timedelta(days=days))
    room.schedule.run_due(room.clock.now())


def test_a_symmetric_key_is_enabled_when_its_call_returns(room: Platform) -> None:
    """Made in the token after the commit, before the answer; the answer shows it so, and it encrypts."""
    room.key(**HSM)
    key = room.call("GetCryptoKey", GetCryptoKeyRequest(name=KEY))
    assert key.primary.state == lifecycle.ENABLED
    assert not key.primary.HasField("attestation")
    made = room.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
    assert (made.state, made.protection_level) == (lifecycle.ENABLED, 2)
    assert made.HasField("generate_time")
    ciphertext = room.encrypt(KEY, b"text", b"aad")
    assert ciphertext[0] == 2
    assert room.decrypt(KEY, ciphertext, b"aad") == b"text"


def test_rotation_makes_the_new_key_in_the_token(room: Platform) -> None:
    """What the schedule rotates is ENABLED, primary and usable; the old ciphertext still opens."""
    room.key(rotation_period={"seconds": 86_400}, **HSM)
    old = room.encrypt(KEY, b"old")
    run_due(room, days=1)
    key = room.call("GetCryptoKey", GetCryptoKeyRequest(name=KEY))
    assert (key.primary.name, key.primary.state) == (f"{KEY}/cryptoKeyVersions/2", lifecycle.ENABLED)
    assert room.decrypt(KEY, room.encrypt(KEY, b"new")) == b"new"
    assert room.decrypt(KEY, old) == b"old"


def test_a_destroyed_key_is_gone_from_the_token(room: Platform, backend: HsmBackend) -> None:
    """Its object is not there any more: what the store held of it opens nothing."""
    room.key(**HSM)
    with room.store.read() as tx:
        stored = tx.material.get(FIRST)
    assert stored is not None
    assert backend.facts(FIRST, BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"], stored)
    room.destroy(FIRST)
    run_due(room, days=31)
    assert version(room).state == lifecycle.DESTROYED
    with pytest.raises(Unavailable):
        backend.facts(FIRST, BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"], stored)
    with room.store.read() as tx:
        assert tx.material.get(FIRST) is None


def test_destruction_waits_for_the_token(room: Platform, backend: HsmBackend, soft_token: SoftToken) -> None:
    """While the token is away a version is not called DESTROYED, and not used; afterwards it is."""
    room.key(**HSM)
    soft = room.key("soft")
    room.destroy(FIRST)
    room.destroy(f"{soft}/cryptoKeyVersions/1")
    with away(soft_token, backend):
        run_due(room, days=31)
        assert version(room).state == lifecycle.DESTROY_SCHEDULED
        assert version(room, f"{soft}/cryptoKeyVersions/1").state == lifecycle.DESTROYED
        with pytest.raises(FailedPrecondition):
            room.encrypt(FIRST, b"text")
    run_due(room)
    assert version(room).state == lifecycle.DESTROYED


def test_while_the_token_is_known_to_be_away_no_key_is_announced(
    room: Platform, backend: HsmBackend, soft_token: SoftToken
) -> None:
    """UNAVAILABLE with what to do, and nothing is left of the key; software keys are made all the same."""
    room.key(**HSM)
    with away(soft_token, backend):
        with pytest.raises(Unavailable, match="Put it back"):
            room.encrypt(KEY, b"text")
        with pytest.raises(Unavailable, match="Put it back"):
            room.key("other", **HSM)
        with pytest.raises(NotFound):
            room.call("GetCryptoKey", GetCryptoKeyRequest(name=f"{LOCATION}/keyRings/ring/cryptoKeys/other"))
        soft = room.key("soft")
        assert room.decrypt(soft, room.encrypt(soft, b"text")) == b"text"
    room.key("other", **HSM)


def test_what_was_announced_before_the_token_went_is_made_when_it_is_back(
    room: Platform, backend: HsmBackend, soft_token: SoftToken
) -> None:
    """A version waits as PENDING_GENERATION and becomes ENABLED by itself."""
    room.key(**HSM)
    with away(soft_token, backend):
        waiting = room.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
        assert waiting.state == lifecycle.PENDING_GENERATION
        run_due(room)
        assert version(room, waiting.name).state == lifecycle.PENDING_GENERATION
    run_due(room)
    assert version(room, waiting.name).state == lifecycle.ENABLED
    assert room.decrypt(KEY, room.encrypt(waiting.name, b"text")) == b"text"
