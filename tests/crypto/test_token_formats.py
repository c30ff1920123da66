"""What a token says, in the forms of Cloud KMS: numbers to public keys, signatures to DER, and checks."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keystead.crypto import token_formats
from keystead.crypto.errors import MalformedError
from keystead.crypto.secret import SecretBytes

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "secp256k1": ec.SECP256K1()}
# SEC 2 version 2.0, 2.4.1, 2.4.2 and 2.5.1: the x and y coordinates of the base points.
BASE = {
    "P-256": (
        "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    ),
    "P-384": (
        "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7"
        "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f"
    ),
    "secp256k1": (
        "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
        "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
    ),
}


def spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("curve", CURVES)
def test_the_base_points(curve: str) -> None:
    """They are those of the standard; Diffie-Hellman with them gives one's own x coordinate."""
    assert token_formats.base_point(curve).hex() == "04" + BASE[curve]
    key = ec.generate_private_key(CURVES[curve])
    point = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[curve], token_formats.base_point(curve))
    x = key.exchange(ec.ECDH(), point)
    assert len(x) == token_formats.field_size(curve)
    publics = token_formats.ec_publics(curve, x)
    assert publics[0] != publics[1]
    assert spki(key.public_key()) in publics


@pytest.mark.parametrize("curve", CURVES)
def test_points_become_public_keys(curve: str) -> None:
    """Bare or in an OCTET STRING; a point that is not on the curve, or cut, is refused."""
    key = ec.generate_private_key(CURVES[curve]).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    packed = bytes((4, len(point))) + point
    assert token_formats.ec_public(curve, point) == token_formats.ec_public(curve, packed) == spki(key)
    for wrong in (b"", point[:-1], packed[:-1], point[:-1] + bytes((point[-1] ^ 1,)), b"\x05\x00", b"\x00"):
        with pytest.raises(MalformedError):
            token_formats.ec_public(curve, wrong)
    for off in range(2, 40):
        x = off.to_bytes(token_formats.field_size(curve), "big")
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(CURVES[curve], b"\x02" + x)
        except ValueError:
            with pytest.raises(MalformedError):
                token_formats.ec_publics(curve, x)
            break
    else:
        raise AssertionError("every x coordinate was on the curve")


def test_ed25519_points() -> None:
    """32 bytes, bare or packed."""
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    raw = key.public_bytes_raw()
    assert token_formats.ed25519_public(raw) == token_formats.ed25519_public(b"\x04\x20" + raw) == spki(key)
    for wrong in (b"", raw[:-1], b"\x04\x21" + raw):
        with pytest.raises(MalformedError):
            token_formats.ed25519_public(wrong)


def test_rsa_numbers(rsa_key: rsa.RSAPrivateKey) -> None:
    """Modulus and exponent, with leading zeros or not; impossible ones are refused."""
    numbers = rsa_key.public_key().public_numbers()
    modulus, exponent = numbers.n.to_bytes(256, "big"), b"\x01\x00\x01"
    expected = spki(rsa_key.public_key())
    assert token_formats.rsa_public(modulus, exponent) == expected
    assert token_formats.rsa_public(b"\0" + modulus, b"\0" + exponent) == expected
    assert token_formats.rsa_bits(modulus) == token_formats.rsa_bits(b"\0" + modulus) == 2048
    for wrong in (
        (modulus, b"\x02"),
        (modulus, b"\x01"),
        (b"", exponent),
        (b"\x05", exponent),
        (modulus, modulus),
    ):
        with pytest.raises(MalformedError):
            token_formats.rsa_public(*wrong)


def test_ecdsa_signatures_become_der() -> None:
    """r and s keep their values, leading zeros and high bits included."""
    for r, s in ((1, 2), (2**255 + 1, 2**200), (0x80, 0xFF)):
        made = token_formats.ecdsa_der(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        assert decode_dss_signature(made) == (r, s)


def test_digest_infos(rsa_key: rsa.RSAPrivateKey) -> None:
    """What RSASSA-PKCS1-v1_5 pads is what a verifier finds (RFC 8017 9.2); digests have their length."""
    for name, algorithm in (("sha256", SHA256()), ("sha512", SHA512())):
        digest = hashlib.new(name, b"data").digest()
        signature = rsa_key.sign(b"data", padding.PKCS1v15(), algorithm)
        found = rsa_key.public_key().recover_data_from_signature(signature, padding.PKCS1v15(), None)
        assert token_formats.digest_info(name, digest) == found
        with pytest.raises(ValueError, match="another length"):
            token_formats.digest_info(name, digest[:-1])


def test_signatures_are_verified(rsa_key: rsa.RSAPrivateKey) -> None:
    """Each kind by its key, and by no other payload, key or scheme."""
    curve, edwards = ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()
    payload = os.urandom(32)
    scheme, hashed = padding.PSS(padding.MGF1(SHA256()), 32), Prehashed(SHA256())
    cases = [
        (spki(rsa_key.public_key()), rsa_key.sign(payload, scheme, hashed), True),
        (spki(rsa_key.public_key()), rsa_key.sign(payload, padding.PKCS1v15(), hashed), False),
        (spki(curve.public_key()), curve.sign(payload, ec.ECDSA(hashed)), False),
        (spki(edwards.public_key()), edwards.sign(payload), False),
    ]
    for number, (public, signature, pss) in enumerate(cases):
        assert token_formats.verifies(public, signature, payload, hash_name="sha256", pss=pss)
        assert not token_formats.verifies(public, signature, bytes(32), hash_name="sha256", pss=pss)
        assert not token_formats.verifies(public, signature[:-1], payload, hash_name="sha256", pss=pss)
        for other, _, _ in cases[:number]:
            if other != public:
                assert not token_formats.verifies(other, signature, payload, hash_name="sha256", pss=pss)
    assert not token_formats.verifies(cases[0][0], cases[0][1], payload, hash_name="sha256", pss=False)


def test_oaep(rsa_key: rsa.RSAPrivateKey) -> None:
    """The private key opens it with the same hash for both; other keys are refused."""
    sealed = token_formats.oaep_encrypt(spki(rsa_key.public_key()), "sha1", SecretBytes(b"secret"))
    assert rsa_key.decrypt(sealed, padding.OAEP(padding.MGF1(SHA1()), SHA1(), None)) == b"secret"
    with pytest.raises(MalformedError):
        token_formats.oaep_encrypt(
            spki(ed25519.Ed25519PrivateKey.generate().public_key()), "sha1", SecretBytes(b"")
        )
