"""Whether an opened key does what its protocol promises, told from outside."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keystead.crypto.errors import CryptoError, DecryptionError
from keystead.kms.algorithms import Algorithm, Family

from . import outside

DATA = b"what is signed and sealed"
TAG = 16
_PUBLIC_SIZES = {"ML_DSA_44": 1312, "ML_DSA_65": 1952, "ML_DSA_87": 2592, "KEM_768": 1184, "KEM_1024": 1568}
_DETERMINISTIC = frozenset({Family.RSA_PKCS1, Family.RSA_RAW_PKCS1, Family.ED25519})


def works(key: Any, algorithm: Algorithm, public: bytes) -> None:
    """Fails unless `key` does all that a key of the algorithm does. AES_256_KWP is tried with other keys."""
    fits(algorithm, public)
    _WORK[algorithm.purpose](key, algorithm, public)


def fits(algorithm: Algorithm, public: bytes) -> None:
    """The public key is of that kind, size and curve, in its encoding."""
    if algorithm.symmetric:
        assert public == b""
    elif algorithm.family in outside.POST_QUANTUM:
        sizes = [size for part, size in _PUBLIC_SIZES.items() if part in algorithm.name]
        assert len(public) == (sizes or [1216])[0]
    else:
        key = load_der_public_key(public)
        if isinstance(key, rsa.RSAPublicKey):
            assert algorithm.family in outside.RSA
            assert key.key_size == algorithm.bits
        elif isinstance(key, ec.EllipticCurvePublicKey):
            assert isinstance(key.curve, type(outside.CURVES[algorithm.curve]))
        else:
            assert isinstance(key, ed25519.Ed25519PublicKey)
            assert algorithm.family is Family.ED25519


def _seals(key: Any, algorithm: Algorithm, public: bytes) -> None:
    del algorithm, public
    for plaintext, aad in ((b"", b""), (DATA, b""), (DATA, b"aad"), (os.urandom(4096), b"a" * 512)):
        sealed = key.seal(plaintext, aad)
        assert key.open(sealed, aad) == plaintext
        assert key.open(memoryview(sealed), aad) == plaintext
        assert key.seal(plaintext, aad) != sealed
        with pytest.raises(CryptoError):
            key.open(sealed, aad + b"x")
    for at in range(len(sealed := key.seal(DATA, b"aad"))):
        with pytest.raises(CryptoError):
            key.open(_flipped(sealed, at), b"aad")
    for wrong in (b"", sealed[:8], sealed[:-1], sealed[1:], sealed + b"\0"):
        with pytest.raises(CryptoError):
            key.open(wrong, b"aad")


def _raw(key: Any, algorithm: Algorithm, public: bytes) -> None:
    del public
    {Family.AES_GCM: _gcm, Family.AES_CBC: _cbc, Family.AES_CTR: _ctr}[algorithm.family](key)


def _gcm(key: Any) -> None:
    for size in (0, 1, 16, 4096):
        plaintext, iv = os.urandom(size), os.urandom(12)
        sealed = key.encrypt(plaintext, iv, b"aad")
        assert len(sealed) == size + TAG
        assert key.decrypt(sealed, iv, b"aad", TAG) == plaintext
        for wrong, other_iv, aad in (
            (_flipped(sealed, 0), iv, b"aad"),
            (_flipped(sealed, len(sealed) - 1), iv, b"aad"),
            (sealed, _flipped(iv, 11), b"aad"),
            (sealed, iv, b"aae"),
            (sealed[:-1], iv, b"aad"),
        ):
            with pytest.raises(DecryptionError):
                key.decrypt(wrong, other_iv, aad, TAG)
    with pytest.raises(CryptoError):
        key.decrypt(b"short", iv, b"aad", TAG)


def _cbc(key: Any) -> None:
    for blocks in (1, 2, 256):
        plaintext, iv = os.urandom(16 * blocks), os.urandom(16)
        sealed = key.encrypt(plaintext, iv, b"")
        assert len(sealed) == len(plaintext)
        assert key.decrypt(sealed, iv, b"", 0) == plaintext
        # What the mode is by its definition: the IV goes into the first block by exclusive or.
        assert key.decrypt(sealed, _flipped(iv, 3), b"", 0) == _flipped(plaintext, 3)
    for partial in (sealed[:-1], sealed[:17], sealed + b"\0"):
        with pytest.raises(CryptoError):
            key.decrypt(partial, iv, b"", 0)


def _ctr(key: Any) -> None:
    for size in (1, 16, 17, 4096):
        plaintext, iv = os.urandom(size), os.urandom(15) + b"\x00"
        sealed = key.encrypt(plaintext, iv, b"")
        assert len(sealed) == size
        assert key.decrypt(sealed, iv, b"", 0) == plaintext
        assert key.decrypt(_flipped(sealed, 0), iv, b"", 0) == _flipped(plaintext, 0)
    # The counter is the IV and goes up by one for each block.
    assert key.encrypt(bytes(32), iv, b"")[16:] == key.encrypt(bytes(16), iv[:15] + b"\x01", b"")


def _signs(key: Any, algorithm: Algorithm, public: bytes) -> None:
    longest = os.urandom(algorithm.bits // 8 - 11) if algorithm.family is Family.RSA_RAW_PKCS1 else DATA
    for data in (DATA, b"x", longest):
        signature = key.sign(outside.payload(algorithm, data, public))
        outside.verify(algorithm, public, signature, data)
        with pytest.raises((InvalidSignature, AssertionError)):
            outside.verify(algorithm, public, signature, data + b"!")
    again = key.sign(outside.payload(algorithm, longest, public))
    assert (again == signature) == (algorithm.family in _DETERMINISTIC)


def _decrypts(key: Any, algorithm: Algorithm, public: bytes) -> None:
    longest = algorithm.bits // 8 - 2 * outside.HASHES[algorithm.hash].digest_size - 2
    for plaintext in (b"", b"x", os.urandom(longest)):
        sealed = outside.encrypt(algorithm, public, plaintext)
        assert key.decrypt(sealed) == plaintext
    texts = set()
    for wrong in (
        b"",
        sealed[:-1],
        sealed + b"\0",
        _flipped(sealed, len(sealed) - 1),
        b"\xff" * len(sealed),
        bytes(len(sealed)),
        outside.encrypt(algorithm, public, b"x", label=b"label"),
    ):
        with pytest.raises(CryptoError) as error:
            key.decrypt(wrong)
        texts.add(str(error.value))
    assert len(texts) == 1


def _decapsulates(key: Any, algorithm: Algorithm, public: bytes) -> None:
    secret, ciphertext = outside.encapsulate(algorithm, public)
    assert key.decapsulate(ciphertext) == secret
    assert len(secret) == 32
    # Implicit rejection (FIPS 203): an altered ciphertext gives another secret, always the same.
    other = key.decapsulate(_flipped(ciphertext, 0))
    assert len(other) == 32
    assert other != secret
    assert key.decapsulate(_flipped(ciphertext, 0)) == other
    for wrong in (b"", ciphertext[:-1], ciphertext + b"\0"):
        with pytest.raises(CryptoError):
            key.decapsulate(wrong)


def _authenticates(key: Any, algorithm: Algorithm, public: bytes) -> None:
    del public
    tags = [key.mac(data) for data in (DATA, b"x", os.urandom(4096))]
    assert {len(tag) for tag in tags} == {algorithm.key_bytes}
    assert len(set(tags)) == 3
    assert key.mac(DATA) == tags[0]


def _wraps(key: Any, algorithm: Algorithm, public: bytes) -> None:
    del algorithm, public
    assert hasattr(key, "wrap")
    assert hasattr(key, "unwrap")


_WORK: dict[str, Callable[[Any, Algorithm, bytes], None]] = {
    "ENCRYPT_DECRYPT": _seals,
    "RAW_ENCRYPT_DECRYPT": _raw,
    "ASYMMETRIC_SIGN": _signs,
    "ASYMMETRIC_DECRYPT": _decrypts,
    "KEY_ENCAPSULATION": _decapsulates,
    "MAC": _authenticates,
    "AES_WRAPPING": _wraps,
}


def same_key(one: Any, other: Any, algorithm: Algorithm, public: bytes) -> None:
    """Fails unless what `one` makes is what `other` takes or makes."""
    if algorithm.family is Family.SYMMETRIC:
        assert other.open(one.seal(DATA, b"aad"), b"aad") == DATA
    elif algorithm.purpose == "RAW_ENCRYPT_DECRYPT":
        iv = os.urandom(12 if algorithm.family is Family.AES_GCM else 16)
        data = os.urandom(48)
        tag = 16 if algorithm.family is Family.AES_GCM else 0
        assert other.decrypt(one.encrypt(data, iv, b""), iv, b"", tag) == data
    elif algorithm.purpose == "ASYMMETRIC_SIGN":
        for key in (one, other):
            outside.verify(algorithm, public, key.sign(outside.payload(algorithm, DATA, public)), DATA)
    elif algorithm.purpose == "ASYMMETRIC_DECRYPT":
        sealed = outside.encrypt(algorithm, public, DATA)
        assert one.decrypt(sealed) == other.decrypt(sealed) == DATA
    elif algorithm.purpose == "KEY_ENCAPSULATION":
        secret, ciphertext = outside.encapsulate(algorithm, public)
        assert one.decapsulate(ciphertext) == other.decapsulate(ciphertext) == secret
    elif algorithm.purpose == "MAC":
        assert one.mac(DATA) == other.mac(DATA)


def is_the_key(key: Any, algorithm: Algorithm, secret: bytes) -> None:
    """Fails unless an opened secret key works with these very bytes. ENCRYPT_DECRYPT and AES_WRAPPING have
    no form that can be told from outside by the key alone."""
    plaintext, iv = os.urandom(64), os.urandom(12 if algorithm.family is Family.AES_GCM else 16)
    if algorithm.family is Family.AES_GCM:
        assert key.encrypt(plaintext, iv, b"aad") == AESGCM(secret).encrypt(iv, plaintext, b"aad")
    elif algorithm.family in {Family.AES_CBC, Family.AES_CTR}:
        mode = modes.CBC(iv) if algorithm.family is Family.AES_CBC else modes.CTR(iv)
        context = Cipher(algorithms.AES(secret), mode).encryptor()
        assert key.encrypt(plaintext, iv, b"") == context.update(plaintext) + context.finalize()
    elif algorithm.family is Family.HMAC:
        assert key.mac(plaintext) == hmac.digest(secret, plaintext, algorithm.hash)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
