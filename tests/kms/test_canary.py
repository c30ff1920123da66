"""SECURITY: key material and customer data leave no trace outside of their ciphertexts."""

from __future__ import annotations

import base64
import datetime as dt
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from keystead.api.errors import ApiError
from keystead.crypto import secret
from keystead.kms.messages import DecryptRequest, EncryptRequest
from tests.platform import LOCATION, Platform

KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
ROTATED = f"{KEY}/cryptoKeyVersions/2"
PLAINTEXT = b"canary-plaintext-4f1d"
AAD = b"canary-aad-9b27"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every piece of 32 random bytes that is drawn: root key, material; keys have no other source."""
    pieces: list[bytes] = []
    original = secret.random_bytes

    def recording(n: int) -> bytes:
        data = original(n)
        if n == 32:
            pieces.append(data)
        return data

    monkeypatch.setattr(secret, "random_bytes", recording)
    return pieces


@pytest.fixture
def platform(tmp_path: Path, drawn: list[bytes]) -> Iterator[Platform]:
    """A platform whose keys are all known to the test."""
    made = Platform(tmp_path)
    yield made
    made.close()


def spellings(data: bytes) -> list[bytes]:
    """How a log or a message might spell bytes."""
    return [
        data,
        data.hex().encode(),
        base64.b64encode(data).rstrip(b"="),
        base64.urlsafe_b64encode(data).rstrip(b"="),
        repr(data)[2:-1].encode(),
        repr(list(data))[1:-1].encode(),
    ]


def assert_absent(canaries: list[bytes], haystack: bytes, where: str) -> None:
    for canary in canaries:
        for spelled in spellings(canary):
            assert spelled not in haystack, f"a canary is in {where}"


def provoke(platform: Platform) -> list[str]:
    """Use keys in every way that may go wrong; the texts of what was raised."""
    ciphertext = platform.encrypt(KEY, PLAINTEXT, AAD)
    assert platform.decrypt(KEY, ciphertext, AAD) == PLAINTEXT
    texts = []
    encrypting = EncryptRequest(
        name=KEY, plaintext=PLAINTEXT, additional_authenticated_data=AAD, plaintext_crc32c={"value": 1}
    )
    decrypting = DecryptRequest(name=KEY, ciphertext=ciphertext, additional_authenticated_data=b"wrong")
    for rpc, request, principal in (
        ("Encrypt", encrypting, "user:owner@example.com"),
        ("Encrypt", encrypting, "user:eve@example.com"),
        ("Decrypt", decrypting, "user:owner@example.com"),
        ("Decrypt", decrypting, "user:eve@example.com"),
    ):
        with pytest.raises(ApiError) as refused:
            platform.call(rpc, request, principal)
        texts += ["".join(traceback.format_exception(refused.value)), repr(refused.value.details)]
    with platform.store.write() as tx:
        wrapped = bytearray(tx.material.get(ROTATED) or b"")
        wrapped[40] ^= 1
        tx.material.put(ROTATED, bytes(wrapped))
    with pytest.raises(ApiError) as refused:
        platform.decrypt(KEY, ciphertext, AAD)
    texts.append("".join(traceback.format_exception(refused.value)))
    return texts


def test_no_key_and_no_customer_data_leave_a_trace(
    platform: Platform, drawn: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither root key, material, plaintext nor AAD is in logs, errors, audit records or the store's files,
    with data access recorded and everything logged."""
    caplog.set_level(logging.DEBUG)
    platform.record_data_access()
    platform.key(rotation_period={"seconds": 86_400})
    platform.clock.advance(dt.timedelta(days=1))
    platform.schedule.run_due(platform.clock.now())
    # The seal file's key, the root key, and two versions' material.
    assert len(drawn) == 4
    texts = provoke(platform)
    canaries = [*drawn, PLAINTEXT, AAD]
    assert_absent(canaries, "\n".join(texts).encode(), "an error")
    assert_absent(canaries, caplog.text.encode(), "the log")
    bodies = platform.audit_bodies()
    assert len(bodies) > 8
    assert_absent(canaries, b"\0".join(bodies), "the audit trail")
    for path in platform.directory.rglob("*"):
        if path.is_file() and path.name != "root.key":
            assert_absent(canaries, path.read_bytes(), path.name)


def test_the_search_would_find_what_it_looks_for(platform: Platform, drawn: list[bytes]) -> None:
    """The canaries are the real keys: the seal file holds the first of them."""
    sealing = (platform.directory / "seal" / "root.key").read_bytes()
    assert sealing in drawn
    with pytest.raises(AssertionError):
        assert_absent([sealing], b"..." + sealing.hex().encode(), "a log")
