"""XAES-256-GCM is the published algorithm, and wrapping binds a key to its context."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from keystead.crypto.aead import (
    NONCE_SIZE,
    SEAL_OVERHEAD,
    WRAP_OVERHEAD,
    Aead,
    decrypt_into,
    unwrap_key,
    wrap_key,
)
from keystead.crypto.errors import CryptoError, DecryptionError, MalformedError, SecretWipedError
from keystead.crypto.secret import SecretBytes

from . import independent

KEY = bytes(range(32))
C2SP_NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


def seal_with(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    with mock.patch("os.urandom", lambda n: nonce[:n]):
        return Aead(SecretBytes(key)).seal(plaintext, aad)


@pytest.mark.parametrize(
    ("key", "aad", "expected"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (
            b"\x03" * 32,
            b"c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ],
)
def test_the_specification_s_vectors_hold(key: bytes, aad: bytes, expected: str) -> None:
    """Both C2SP vectors (the CMAC subkey with and without carry) come out, and open again."""
    sealed = seal_with(key, C2SP_NONCE, b"XAES-256-GCM", aad)
    assert sealed.hex() == C2SP_NONCE.hex() + expected
    assert Aead(SecretBytes(key)).open(sealed, aad) == b"XAES-256-GCM"


def test_the_specification_s_accumulated_vector_holds() -> None:
    """Ten thousand randomized messages hash to the value that the C2SP specification gives."""
    stream = memoryview(hashlib.shake_128().digest(10_000 * (32 + 24 + 2 * 256)))
    assert stream[:16].hex() == "7f9c2ba4e88f827d616045507605853e"
    result = hashlib.shake_128()
    position = 0

    def take(n: int) -> bytes:
        nonlocal position
        position += n
        return bytes(stream[position - n : position])

    for _ in range(10_000):
        key, nonce = take(32), take(24)
        plaintext = take(take(1)[0])
        aad = take(take(1)[0])
        result.update(seal_with(key, nonce, plaintext, aad)[NONCE_SIZE:])
    assert result.hexdigest(32) == "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


GCM_KEY = "feffe9928665731c6d6a8f9467308308" * 2
GCM_TEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
GCM_CIPHER = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
)


@pytest.mark.parametrize(
    ("key", "nonce", "aad", "plaintext", "expected"),
    [
        ("00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            "00" * 32,
            "00" * 12,
            "",
            "00" * 16,
            "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (
            GCM_KEY,
            "cafebabefacedbaddecaf888",
            "",
            GCM_TEXT + "1aafd255",
            GCM_CIPHER + "898015adb094dac5d93471bdec1a502270e3cc6c",
        ),
        (
            GCM_KEY,
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            GCM_TEXT,
            GCM_CIPHER + "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ],
)
def test_the_gcm_beneath_agrees_with_the_vectors_submitted_to_nist(
    key: str, nonce: str, aad: str, plaintext: str, expected: str
) -> None:
    """AES-256-GCM test cases 13 to 16 of the GCM specification hold in both forms that this room uses."""
    cipher = AESGCM(bytes.fromhex(key))
    arguments = bytes.fromhex(nonce), bytes.fromhex(plaintext), bytes.fromhex(aad)
    assert cipher.encrypt(*arguments).hex() == expected
    out = bytearray(len(expected) // 2)
    cipher.encrypt_into(*arguments, out)
    assert out.hex() == expected
    opened = bytearray(len(plaintext) // 2)
    decrypt_into(cipher, arguments[0], out, arguments[2], memoryview(opened))
    assert opened.hex() == plaintext


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_it_agrees_with_another_implementation(plaintext: bytes, aad: bytes) -> None:
    """What we seal Tink opens, and what Tink seals we open."""
    ours = Aead(SecretBytes(KEY))
    assert independent.xaes_open(KEY, aad, ours.seal(plaintext, aad)) == plaintext
    assert ours.open(independent.xaes_seal(KEY, aad, plaintext), aad) == plaintext


def test_every_message_has_its_own_nonce_and_the_stated_size() -> None:
    """Sealing the same message twice gives different bytes, SEAL_OVERHEAD longer."""
    aead = Aead(SecretBytes(KEY))
    sealed = {aead.seal(b"same", b"") for _ in range(100)}
    assert len({s[:NONCE_SIZE] for s in sealed}) == 100
    assert {len(s) for s in sealed} == {4 + SEAL_OVERHEAD}


@given(st.binary(max_size=40), st.data())
def test_anything_altered_is_refused_alike(plaintext: bytes, data: st.DataObject) -> None:
    """A flipped bit, a cut, an extension, other associated data, another key.

    All fail with the same error.
    """
    aead = Aead(SecretBytes(KEY))
    sealed = aead.seal(plaintext, b"aad")
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    flipped = bytearray(sealed)
    flipped[bit // 8] ^= 1 << bit % 8
    cut = data.draw(st.integers(0, len(sealed) - 1))
    attempts: list[Callable[[], object]] = [
        lambda: aead.open(flipped, b"aad"),
        lambda: aead.open_secret(flipped, b"aad"),
        lambda: aead.open(sealed[:cut], b"aad"),
        lambda: aead.open_secret(sealed[:cut], b"aad"),
        lambda: aead.open(sealed + b"\0", b"aad"),
        lambda: aead.open(sealed, b"aae"),
        lambda: Aead(SecretBytes.random()).open(sealed, b"aad"),
    ]
    texts = set()
    for attempt in attempts:
        with pytest.raises(DecryptionError) as caught:
            attempt()
        texts.add((str(caught.value), caught.value.__cause__, caught.value.__suppress_context__))
    assert {text for text, _, _ in texts} == {"decryption failed"}


def test_refused_plaintext_is_not_left_in_the_buffer() -> None:
    """When a tag is wrong, the plaintext the library has already written is gone from the caller's buffer."""
    cipher = AESGCM(KEY)
    sealed = bytearray(cipher.encrypt(bytes(12), b"secret plaintext" * 10, None))
    sealed[-1] ^= 1
    out = bytearray(b"\xee" * 160)
    with pytest.raises(DecryptionError):
        decrypt_into(cipher, bytes(12), sealed, b"", memoryview(out))
    assert out == bytes(160)


def test_a_key_of_another_size_is_a_programming_error() -> None:
    """Only 256-bit keys exist here; anything else is refused before use."""
    for size in (0, 16, 24, 31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            Aead(SecretBytes(bytes(size)))


def test_a_wiped_cipher_and_a_wiped_key_do_nothing() -> None:
    """After `wipe` neither sealing nor opening works, and no cipher can be made from a wiped key."""
    key = SecretBytes(KEY)
    aead = Aead(key)
    sealed = aead.seal(b"x", b"")
    key.wipe()
    assert aead.open(sealed, b"") == b"x"
    aead.wipe()
    for use in (lambda: aead.seal(b"x", b""), lambda: aead.open(sealed, b""), lambda: Aead(key)):
        with pytest.raises(SecretWipedError):
            use()


def test_the_kept_cipher_of_a_key_is_wiped_with_it() -> None:
    """`Aead.of` expands a key once; the expanded copy goes when the key is wiped or dropped."""
    key = SecretBytes(KEY)
    kept = Aead.of(key)
    assert Aead.of(key) is kept
    sealed = kept.seal(b"x", b"")
    assert Aead(SecretBytes(KEY)).open(sealed, b"") == b"x"
    key.wipe()
    for use in (lambda: kept.open(sealed, b""), lambda: Aead.of(key).seal(b"x", b"")):
        with pytest.raises(SecretWipedError):
            use()
    dropped = Aead.of(SecretBytes(KEY))
    with pytest.raises(SecretWipedError):
        dropped.open(sealed, b"")


def test_a_cipher_kept_too_late_is_wiped_at_once() -> None:
    """A wipe that overtakes the expansion of a key leaves no expanded copy behind."""
    key, late = SecretBytes(KEY), Aead(SecretBytes(KEY))
    key.wipe()
    with pytest.raises(SecretWipedError):
        key.attach(late)
    with pytest.raises(SecretWipedError):
        late.seal(b"x", b"")


def test_one_cipher_serves_many_threads() -> None:
    """Threads sharing an Aead never see each other's derived keys."""
    aead = Aead(SecretBytes(KEY))
    failures: list[BaseException] = []

    def work(name: bytes) -> None:
        try:
            for number in range(500):
                message = name * 8 + bytes((number % 256,))
                assert aead.open(aead.seal(message, name), name) == message
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(bytes((65 + i,)),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


@given(st.binary(min_size=1, max_size=80), st.binary(max_size=30))
def test_a_wrapped_key_comes_back_whole(key: bytes, context: bytes) -> None:
    """Unwrapping gives the same key back, whatever its length, and the wrap has the stated size."""
    kek = SecretBytes(KEY)
    wrapped = wrap_key(kek, SecretBytes(key), context)
    assert len(wrapped) == len(key) + WRAP_OVERHEAD
    assert unwrap_key(kek, wrapped, context) == SecretBytes(key)
    assert key not in wrapped or len(key) < 4


def test_a_wrapped_key_opens_only_in_its_place() -> None:
    """Flipped bits, cuts, another context, another KEK and a message that is no wrap are refused."""
    kek = SecretBytes(KEY)
    wrapped = wrap_key(kek, SecretBytes.random(), b"resource a")
    damaged = [wrapped[:cut] for cut in range(len(wrapped))] + [wrapped + b"\0"]
    for bit in range(len(wrapped) * 8):
        flipped = bytearray(wrapped)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for attempt in damaged:
        with pytest.raises((DecryptionError, MalformedError)):
            unwrap_key(kek, attempt, b"resource a")
    for other_kek, context in ((kek, b"resource b"), (SecretBytes.random(), b"resource a")):
        with pytest.raises(DecryptionError):
            unwrap_key(other_kek, wrapped, context)
    with pytest.raises(DecryptionError):
        unwrap_key(kek, b"\x01" + Aead(kek).seal(bytes(32), b"resource a"), b"resource a")


def test_a_wiped_key_cannot_be_wrapped() -> None:
    """A key that is gone is not silently wrapped as zeros."""
    gone = SecretBytes.random()
    gone.wipe()
    with pytest.raises(CryptoError):
        wrap_key(SecretBytes(KEY), gone, b"")
    with pytest.raises(CryptoError):
        wrap_key(gone, SecretBytes(KEY), b"")


def nonces(aead: Aead, count: int) -> list[bytes]:
    return [aead.seal(b"", b"")[:24] for _ in range(count)]


def test_no_nonce_is_given_out_twice_to_threads() -> None:
    """Threads that seal with one cipher at the same time never share a nonce."""
    aead = Aead(SecretBytes(bytes(32)))
    with ThreadPoolExecutor(8) as threads:
        drawn = [nonce for part in threads.map(lambda _: nonces(aead, 500), range(16)) for nonce in part]
    assert len(set(drawn)) == len(drawn) == 8000


def test_no_nonce_is_given_out_twice_across_a_fork() -> None:
    """What was drawn before a fork is used by the parent only: a shared nonce would betray both messages."""
    aead = Aead(SecretBytes(bytes(32)))
    nonces(aead, 3)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"".join(nonces(aead, 100)))
        os._exit(0)
    os.close(writing)
    theirs = b""
    while piece := os.read(reading, 4096):
        theirs += piece
    os.close(reading)
    os.waitpid(child, 0)
    mine = nonces(aead, 300)
    assert len(theirs) == 2400
    assert not set(mine) & {theirs[at : at + 24] for at in range(0, len(theirs), 24)}


def test_every_message_key_is_fresh_after_its_turn() -> None:
    """The first half of the nonce, from which the message key is derived, changes every 256 messages."""
    halves = [nonce[:12] for nonce in nonces(Aead(SecretBytes(bytes(32))), 1024)]
    assert len(set(halves)) == 4
