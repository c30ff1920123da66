"""HPKE messages to ML-KEM and X-Wing recipients open as RFC 9180 says.

No published vector has our suite (HKDF-SHA256 with AES-256-GCM). So a second implementation of the RFC's key
schedule, written here on the standard library and proved on the published vectors of other suites, seals what
we open.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite
from hypothesis import given
from hypothesis import strategies as st

from keystead.crypto.errors import DecryptionError
from keystead.crypto.hpke import open_message
from keystead.crypto.mlkem import MlKemKey
from keystead.crypto.secret import SecretBytes
from keystead.crypto.xwing import XWingKey

from .published import unhex
from .test_xwing import encapsulate

KEMS = {0x0041: "ML-KEM-768", 0x0042: "ML-KEM-1024", 0x647A: "X-Wing"}
HASHES = {1: "sha256", 2: "sha384"}
AEADS: dict[int, tuple[Any, int]] = {1: (AESGCM, 16), 2: (AESGCM, 32), 3: (ChaCha20Poly1305, 32)}


@dataclass(frozen=True)
class Schedule:
    """RFC 9180, sections 4 and 5.1, mode base."""

    kem: int
    kdf: int
    aead: int

    @property
    def suite(self) -> bytes:
        return b"HPKE" + b"".join(each.to_bytes(2, "big") for each in (self.kem, self.kdf, self.aead))

    def extract(self, salt: bytes, label: bytes, secret: bytes) -> bytes:
        name = HASHES[self.kdf]
        salt = salt or bytes(hashlib.new(name).digest_size)
        return hmac.digest(salt, b"HPKE-v1" + self.suite + label + secret, name)

    def expand(self, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
        info = size.to_bytes(2, "big") + b"HPKE-v1" + self.suite + label + info
        # One block of the hash is enough for everything here (HKDF-Expand, RFC 5869 2.3).
        return hmac.digest(key, info + b"\1", HASHES[self.kdf])[:size]

    def keys(self, shared: bytes, info: bytes) -> tuple[bytes, bytes]:
        """Key and base nonce."""
        context = b"\0" + self.extract(b"", b"psk_id_hash", b"") + self.extract(b"", b"info_hash", info)
        secret = self.extract(shared, b"secret", b"")
        key = self.expand(secret, b"key", context, AEADS[self.aead][1])
        return key, self.expand(secret, b"base_nonce", context, 12)

    def seal(self, shared: bytes, plaintext: bytes, info: bytes = b"", aad: bytes = b"") -> bytes:
        key, nonce = self.keys(shared, info)
        sealed: bytes = AEADS[self.aead][0](key).encrypt(nonce, plaintext, aad)
        return sealed


def published() -> list[dict[str, Any]]:
    with cryptography_vectors.open_vector_file("HPKE/hpke-pq-test-vectors.json", "r") as file:
        return [v for v in json.load(file) if v["kem_id"] in KEMS and v["kdf_id"] in HASHES]


def recipient(kem: int, private: SecretBytes) -> MlKemKey | XWingKey:
    if kem == 0x647A:
        return XWingKey.from_private(private)
    return MlKemKey.from_private(private, {0x0041: 768, 0x0042: 1024}[kem])


@pytest.mark.parametrize("v", published(), ids=lambda v: f"{v['kem_id']:04x}-{v['kdf_id']}-{v['aead_id']}")
def test_the_published_exchanges_come_out(v: dict[str, Any]) -> None:
    """draft-ietf-hpke-pq: our recipients decapsulate the secret, and the second implementation seals with it
    what is published."""
    key = recipient(v["kem_id"], SecretBytes(unhex(v["skRm"])))
    assert key.public.hex() == v["pkRm"]
    shared = key.decapsulate(unhex(v["enc"]))
    assert shared.hex() == v["shared_secret"]
    schedule = Schedule(v["kem_id"], v["kdf_id"], v["aead_id"])
    keyed, nonce = schedule.keys(shared, unhex(v["info"]))
    assert (keyed.hex(), nonce.hex()) == (v["key"], v["base_nonce"])
    first = v["encryptions"][0]
    sealed = schedule.seal(shared, unhex(first["pt"]), unhex(v["info"]), unhex(first["aad"]))
    assert sealed.hex() == first["ct"]


def test_all_three_kems_were_published() -> None:
    """One exchange each."""
    assert sorted(v["kem_id"] for v in published()) == sorted(KEMS)


def encapsulated(kem: int, public: bytes) -> tuple[bytes, bytes]:
    if kem == 0x647A:
        return encapsulate(public)
    return (
        {0x0041: MLKEM768PublicKey, 0x0042: MLKEM1024PublicKey}[kem].from_public_bytes(public).encapsulate()
    )


def generated(kem: int) -> MlKemKey | XWingKey:
    return XWingKey.generate() if kem == 0x647A else MlKemKey.generate({0x0041: 768, 0x0042: 1024}[kem])


KEYS = {kem: generated(kem) for kem in KEMS}


@pytest.mark.parametrize("kem", KEMS, ids=KEMS.get)
@pytest.mark.parametrize("plaintext", [b"", b"k" * 32, bytes(5000)], ids=len)
def test_a_message_by_the_second_implementation_opens(kem: int, plaintext: bytes) -> None:
    """In our suite, with empty info and associated data."""
    shared, encapsulation = encapsulated(kem, KEYS[kem].public)
    message = encapsulation + Schedule(kem, 1, 2).seal(shared, plaintext)
    assert open_message(KEYS[kem], message) == SecretBytes(plaintext)


def test_a_message_by_the_library_opens() -> None:
    """Whoever wraps a key with `cryptography` is understood."""
    public = KEYS[0x647A].public
    hybrid = MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:1184]), X25519PublicKey.from_public_bytes(public[1184:])
    )
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert open_message(KEYS[0x647A], suite.encrypt(b"key", hybrid)) == SecretBytes(b"key")
    mlkem = MLKEM1024PublicKey.from_public_bytes(KEYS[0x0042].public)
    suite = Suite(KEM.MLKEM1024, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    assert open_message(KEYS[0x0042], suite.encrypt(b"key", mlkem)) == SecretBytes(b"key")


@pytest.mark.parametrize("kem", KEMS, ids=KEMS.get)
def test_other_suites_other_info_and_other_recipients_do_not_open(kem: int) -> None:
    """A message is for one suite, empty info and data, and one key."""
    shared, encapsulation = encapsulated(kem, KEYS[kem].public)
    ours = Schedule(kem, 1, 2)
    wrong = [
        Schedule(kem, 1, 3).seal(shared, b"key"),
        Schedule(kem, 2, 2).seal(shared, b"key"),
        ours.seal(shared, b"key", info=b"i"),
        ours.seal(shared, b"key", aad=b"a"),
    ]
    for sealed in wrong:
        with pytest.raises(DecryptionError):
            open_message(KEYS[kem], encapsulation + sealed)
    with pytest.raises(DecryptionError):
        open_message(generated(kem), encapsulation + ours.seal(shared, b"key"))


SHARED, ENCAPSULATION = encapsulated(0x647A, KEYS[0x647A].public)
MESSAGE = ENCAPSULATION + Schedule(0x647A, 1, 2).seal(SHARED, b"key")


@given(st.integers(0, len(MESSAGE) - 1), st.integers(1, 255), st.booleans())
def test_altered_and_cut_messages_do_not_open(at: int, flip: int, cut: bool) -> None:
    """Whatever is changed, the error is one."""
    altered = bytearray(MESSAGE)
    altered[at] ^= flip
    with pytest.raises(DecryptionError):
        open_message(KEYS[0x647A], MESSAGE[:at] if cut else bytes(altered))


def test_a_point_of_small_order_does_not_open() -> None:
    """Refused by the library's X25519; the same error as any other."""
    with pytest.raises(DecryptionError):
        open_message(KEYS[0x647A], MESSAGE[:1088] + bytes(32) + MESSAGE[1120:])
