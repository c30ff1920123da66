"""The cryptographic methods on keys in a real PKCS#11 token, held against other libraries."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from keystead.api.errors import InvalidArgument, Unavailable
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.messages import GenerateRandomBytesRequest
from tests.hsm import SoftToken, make_token
from tests.kms.keyroom import Keyroom, checked, crc
from tests.platform import LOCATION

DATA = b"Here is some data, as long as three of the blocks"[:48]
SHA256 = hashes.SHA256()


@pytest.fixture(scope="module")
def soft(softhsm: Path, tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """The token of this module."""
    return make_token(softhsm, tmp_path_factory.mktemp("pin") / "pin")


@pytest.fixture(scope="module")
def room(soft: SoftToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyroom]:
    """A platform whose HSM back end is the token."""
    backend = HsmBackend(soft.config())
    room = Keyroom(tmp_path_factory.mktemp("room"), backend)
    yield room
    room.platform.close()
    backend.close()


def in_token(room: Keyroom, algorithm: str) -> str:
    """The version of a key in the token. Skips, loudly, where the token has no such keys."""
    if algorithm not in room.platform.keys.material.backend(2).algorithms:
        pytest.skip(f"this SoftHSM2 does not offer {algorithm}: NOT TESTED is that it works in a token")
    return room.version(algorithm, "HSM")


def public_key(room: Keyroom, version: str) -> Any:
    answer = room.call("GetPublicKey", version)
    assert (answer.name, answer.protection_level) == (version, 2)
    return load_pem_public_key(answer.pem.encode())


@pytest.mark.parametrize("algorithm", ["AES_128_GCM", "AES_256_GCM", "AES_256_CBC", "AES_256_CTR"])
def test_raw_encryption(room: Keyroom, algorithm: str) -> None:
    """There and back with every checksum, and a GCM ciphertext that was altered reads as in software."""
    version = in_token(room, algorithm)
    is_gcm = algorithm.endswith("GCM")
    aad = b"aad" if is_gcm else b""
    fields = checked(plaintext=DATA, additional_authenticated_data=aad)
    made = room.call("RawEncrypt", version, **fields)
    assert (made.name, made.protection_level, made.tag_length) == (version, 2, 16 if is_gcm else 0)
    assert made.ciphertext_crc32c.value == crc(made.ciphertext)

    def decrypt(ciphertext: bytes) -> Any:
        given = checked(ciphertext=ciphertext, initialization_vector=made.initialization_vector)
        return room.call("RawDecrypt", version, **given, additional_authenticated_data=aad)

    assert decrypt(made.ciphertext).plaintext == DATA
    if is_gcm:
        for wrong in (made.ciphertext[:-1] + bytes([made.ciphertext[-1] ^ 1]), made.ciphertext[:10]):
            with pytest.raises(InvalidArgument) as refused:
                decrypt(wrong)
            assert refused.value.message == "Decryption failed."


def test_signatures(room: Keyroom) -> None:
    """By data and by digest, of each kind of key, verified by the public key that the token gave."""
    digest = hashlib.sha256(DATA).digest()
    for algorithm in ("EC_SIGN_P256_SHA256", "EC_SIGN_SECP256K1_SHA256", "RSA_SIGN_PKCS1_2048_SHA256"):
        version = in_token(room, algorithm)
        key = public_key(room, version)
        scheme = (padding.PKCS1v15(), SHA256) if algorithm.startswith("RSA") else (ec.ECDSA(SHA256),)
        for fields in (checked(data=DATA), {"digest": {"sha256": digest}}):
            made = room.call("AsymmetricSign", version, **fields)
            key.verify(made.signature, DATA, *scheme)
            assert (made.name, made.protection_level) == (version, 2)
    version = in_token(room, "EC_SIGN_ED25519")
    public_key(room, version).verify(room.call("AsymmetricSign", version, data=DATA).signature, DATA)
    version = in_token(room, "RSA_SIGN_RAW_PKCS1_2048")
    signature = room.call("AsymmetricSign", version, data=DATA).signature
    assert public_key(room, version).recover_data_from_signature(signature, padding.PKCS1v15(), None) == DATA


def test_decryption(room: Keyroom) -> None:
    """OAEP of the hash that the token has; what does not open reads as in software."""
    version = in_token(room, "RSA_DECRYPT_OAEP_2048_SHA1")
    scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    ciphertext = public_key(room, version).encrypt(b"secret", scheme)
    opened = room.call("AsymmetricDecrypt", version, **checked(ciphertext=ciphertext))
    assert (opened.plaintext, opened.protection_level) == (b"secret", 2)
    for wrong in (bytes(256), b"\xff" * 256, os.urandom(256), b"short"):
        with pytest.raises(InvalidArgument) as refused:
            room.call("AsymmetricDecrypt", version, ciphertext=wrong)
        assert refused.value.message == "Decryption failed."


@pytest.mark.parametrize("name", ["sha1", "sha224", "sha256", "sha384", "sha512"])
def test_macs(room: Keyroom, name: str) -> None:
    """A tag of the right length that another key did not make; wrong ones are told apart."""
    version = in_token(room, f"HMAC_{name.upper()}")
    made = room.call("MacSign", version, **checked(data=DATA))
    assert len(made.mac) == len(hmac.digest(b"key", DATA, name))
    right = room.call("MacVerify", version, **checked(data=DATA, mac=made.mac))
    wrong = room.call("MacVerify", version, data=DATA + b"x", mac=made.mac)
    assert (right.success, wrong.success, right.protection_level) == (True, False, 2)


@pytest.mark.parametrize("length", [8, 32, 1024])
def test_random_bytes(room: Keyroom, length: int) -> None:
    """From the token's generator."""
    request = GenerateRandomBytesRequest(location=LOCATION, length_bytes=length, protection_level="HSM")
    first, second = (room.platform.call("GenerateRandomBytes", request) for _ in range(2))
    assert len(first.data) == len(second.data) == length
    assert first.data != second.data
    assert first.data_crc32c.value == crc(first.data)


def test_a_token_that_is_away(room: Keyroom, soft: SoftToken) -> None:
    """What uses it is UNAVAILABLE, and works again once it is back; public keys are still given out."""
    version = in_token(room, "EC_SIGN_P256_SHA256")
    backend = room.platform.keys.material.backend(2)
    assert isinstance(backend, HsmBackend)
    room.call("AsymmetricSign", version, data=DATA)
    backend.close()
    soft.take_away()
    try:
        with pytest.raises(Unavailable):
            room.call("AsymmetricSign", version, data=DATA)
        public_key(room, version)
    finally:
        soft.put_back()
        backend.reset()
    signature = room.call("AsymmetricSign", version, data=DATA).signature
    public_key(room, version).verify(signature, DATA, ec.ECDSA(SHA256))
