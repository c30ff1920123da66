"""AsymmetricDecrypt and Decapsulate: what others encrypt to a public key opens, and nothing else does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.errors import InvalidArgument
from keystead.crypto.rsa import RsaOaep
from keystead.kms.algorithms import BY_NAME, Algorithm
from tests.kms.keyroom import OFFERED, Keyroom, checked, crc, offered

OAEP_2048 = "RSA_DECRYPT_OAEP_2048_SHA256"
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha512": hashes.SHA512(),
}
SIZES = {"ML_KEM_768": 1088, "ML_KEM_1024": 1568, "KEM_XWING": 1120}


def encrypt(
    keyroom: Keyroom, version: str, hash_name: str, plaintext: bytes, label: bytes | None = None
) -> bytes:
    """RSA-OAEP by another library, to the public key that the service names."""
    key: Any = load_pem_public_key(keyroom.call("GetPublicKey", version).pem.encode())
    scheme = _HASHES[hash_name]
    return bytes(key.encrypt(plaintext, OAEP(MGF1(scheme), scheme, label)))


def encapsulate(keyroom: Keyroom, version: str, algorithm: str) -> tuple[bytes, bytes]:
    """Shared secret and ciphertext, by another library."""
    xwing = algorithm == "KEM_XWING"
    form = "XWING_RAW_BYTES" if xwing else "NIST_PQC"
    public = keyroom.call("GetPublicKey", version, public_key_format=form).public_key.data
    if algorithm == "ML_KEM_1024":
        return MLKEM1024PublicKey.from_public_bytes(public).encapsulate()
    secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
    if not xwing:
        return secret, ciphertext
    theirs, mine = public[1184:], X25519PrivateKey.generate()
    ours = mine.public_key().public_bytes_raw()
    agreed = mine.exchange(X25519PublicKey.from_public_bytes(theirs))
    combined = hashlib.sha3_256(secret + agreed + ours + theirs + rb"\.//^\ "[:-1]).digest()
    return combined, ciphertext + ours


def refused(keyroom: Keyroom, version: str, ciphertexts: Iterable[bytes]) -> None:
    for ciphertext in ciphertexts:
        with pytest.raises(InvalidArgument) as failed:
            keyroom.call("AsymmetricDecrypt", version, ciphertext=ciphertext)
        assert (failed.value.message, failed.value.details) == ("Decryption failed.", ())


# --- RSA-OAEP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", offered("ASYMMETRIC_DECRYPT"))
def test_what_was_encrypted_to_the_public_key_opens(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """From nothing to the longest message that OAEP takes."""
    version = keyroom.version(algorithm.name)
    longest = algorithm.bits // 8 - 2 * _HASHES[algorithm.hash].digest_size - 2
    for length in (0, 1, 32, longest):
        plaintext = os.urandom(length)
        ciphertext = encrypt(keyroom, version, algorithm.hash, plaintext)
        opened = keyroom.call("AsymmetricDecrypt", version, ciphertext=ciphertext)
        assert opened.plaintext == plaintext
        assert opened.HasField("plaintext_crc32c")
        assert opened.plaintext_crc32c.value == crc(plaintext)
        assert opened.protection_level == 1
        assert not opened.verified_ciphertext_crc32c


@pytest.mark.parametrize("algorithm", offered("ASYMMETRIC_DECRYPT"))
def test_every_failure_reads_the_same(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Another hash, a label, altered, cut off, lengthened, another number: one answer, no detail."""
    version, size = keyroom.version(algorithm.name), algorithm.bits // 8
    good = encrypt(keyroom, version, algorithm.hash, b"plain")
    others = [encrypt(keyroom, version, other, b"plain") for other in _HASHES if other != algorithm.hash]
    labelled = encrypt(keyroom, version, algorithm.hash, b"plain", b"label")
    flipped = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in (1, size // 2, size - 1)]
    lengths = [good[:-1], good + b"\0", b"\0" + good, b"x", bytes(100_000)]
    refused(keyroom, version, [*others, labelled, *flipped, *lengths, bytes(size), b"\xff" * size])


@given(ciphertext=st.binary(min_size=1, max_size=600) | st.binary(min_size=256, max_size=256))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_do_anything_else(keyroom: Keyroom, ciphertext: bytes) -> None:
    """Whatever the bytes, the answer is that they do not open."""
    refused(keyroom, keyroom.version(OAEP_2048), [ciphertext])


def test_the_ciphertext_of_another_key_does_not_open(keyroom: Keyroom) -> None:
    """The wrong version is INVALID_ARGUMENT, as a malformed ciphertext is."""
    ciphertext = encrypt(keyroom, keyroom.version(OAEP_2048), "sha256", b"plain")
    other = "RSA_DECRYPT_OAEP_3072_SHA256"
    refused(keyroom, keyroom.version(other), [ciphertext, ciphertext.ljust(384, b"\0")])


def test_the_key_is_not_asked_about_a_ciphertext_of_another_length(
    keyroom: Keyroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is, no token is troubled with it."""
    version = keyroom.version(OAEP_2048, "HSM")
    asked: list[int] = []

    def decrypt(_: RsaOaep, ciphertext: bytes) -> bytes:
        asked.append(len(ciphertext))
        return b""

    monkeypatch.setattr(RsaOaep, "decrypt", decrypt)
    refused(keyroom, version, [bytes(length) for length in (1, 255, 257, 384, 512, 500_000)])
    assert asked == []
    keyroom.call("AsymmetricDecrypt", version, ciphertext=bytes(256))
    assert asked == [256]


# --- key encapsulation -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", offered("KEY_ENCAPSULATION"))
def test_what_was_encapsulated_to_the_public_key_comes_out(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Both sides have the same 32 bytes."""
    version = keyroom.version(algorithm.name)
    secret, ciphertext = encapsulate(keyroom, version, algorithm.name)
    assert len(ciphertext) == SIZES[algorithm.name]
    opened = keyroom.call("Decapsulate", version, ciphertext=ciphertext)
    assert (opened.shared_secret, len(secret)) == (secret, 32)
    assert opened.HasField("shared_secret_crc32c")
    assert opened.shared_secret_crc32c == crc(secret)
    assert (opened.name, opened.protection_level) == (version, 1)
    assert not opened.verified_ciphertext_crc32c


@pytest.mark.parametrize("algorithm", SIZES)
def test_an_altered_ciphertext_gives_another_secret(keyroom: Keyroom, algorithm: str) -> None:
    """Implicit rejection: no error tells that it was altered, and the answer is always the same one."""
    version = keyroom.version(algorithm)
    secret, ciphertext = encapsulate(keyroom, version, algorithm)
    for at in (0, 500, len(ciphertext) - 1):
        altered = ciphertext[:at] + bytes([ciphertext[at] ^ 1]) + ciphertext[at + 1 :]
        first = keyroom.call("Decapsulate", version, ciphertext=altered).shared_secret
        assert len(first) == 32
        assert first != secret
        assert first == keyroom.call("Decapsulate", version, ciphertext=altered).shared_secret


@pytest.mark.parametrize("algorithm", SIZES)
def test_a_ciphertext_of_another_length_is_refused(keyroom: Keyroom, algorithm: str) -> None:
    """Also one of another algorithm; and for X-Wing a point of small order, alike."""
    size = SIZES[algorithm]
    wrong = [bytes(n) for n in {1, 32, size - 1, size + 1, *SIZES.values(), 100_000} - {size}]
    if algorithm == "KEM_XWING":
        wrong.append(bytes(size))
    for ciphertext in wrong:
        with pytest.raises(InvalidArgument, match=f"It is not a ciphertext of {algorithm}"):
            keyroom.call("Decapsulate", keyroom.version(algorithm), ciphertext=ciphertext)


# --- both --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rpc", "algorithm"), [("AsymmetricDecrypt", OAEP_2048), ("Decapsulate", "ML_KEM_768")]
)
def test_checksums_are_verified(keyroom: Keyroom, rpc: str, algorithm: str) -> None:
    """verified_ciphertext_crc32c is true exactly where it was sent; a wrong one is refused before the key is
    asked; an empty ciphertext is a missing one."""
    version = keyroom.version(algorithm)
    if rpc == "Decapsulate":
        ciphertext = encapsulate(keyroom, version, algorithm)[1]
    else:
        ciphertext = encrypt(keyroom, version, BY_NAME[algorithm].hash, b"plain")
    assert keyroom.call(rpc, version, **checked(ciphertext=ciphertext)).verified_ciphertext_crc32c
    for given_bytes in (ciphertext, b"ciphertext"):
        with pytest.raises(InvalidArgument, match=r"^The checksum in field ciphertext_crc32c did not match"):
            keyroom.call(rpc, version, ciphertext=given_bytes, ciphertext_crc32c={"value": 0})
    with pytest.raises(InvalidArgument, match="the field ciphertext is required"):
        keyroom.call(rpc, version)


@pytest.mark.parametrize("purpose", ["ASYMMETRIC_DECRYPT", "KEY_ENCAPSULATION"])
def test_every_algorithm_is_tested(keyroom: Keyroom, purpose: str) -> None:
    """The parameters above are all that software keys offer."""
    software = keyroom.platform.keys.material.backend(1).algorithms
    names = {each.name for each in OFFERED if each.purpose == purpose}
    assert names == {name for name in software if BY_NAME[name].purpose == purpose}
    assert len(names) == {"ASYMMETRIC_DECRYPT": 7, "KEY_ENCAPSULATION": 3}[purpose]
