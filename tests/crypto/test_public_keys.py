"""Public keys are handed out as the PEM that everybody reads."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from keystead.crypto.ec import Ecdsa
from keystead.crypto.ed25519 import Ed25519
from keystead.crypto.errors import MalformedError
from keystead.crypto.public_keys import mldsa_to_der, to_pem
from keystead.crypto.rsa import RsaPss

from .published import unhex, wycheproof

SPKI = PublicFormat.SubjectPublicKeyInfo


@pytest.mark.parametrize(
    "public",
    [
        RsaPss.generate(2048, "sha256").public,
        Ecdsa.generate("P-256", "sha256").public,
        Ecdsa.generate("P-384", "sha384").public,
        Ecdsa.generate("secp256k1", "sha256").public,
        Ed25519.generate().public,
    ],
    ids=["rsa", "p256", "p384", "secp256k1", "ed25519"],
)
def test_pem_is_the_same_key(public: bytes) -> None:
    """What another reader finds in the PEM is the DER it was made of."""
    pem = to_pem(public)
    assert pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert pem.endswith("-----END PUBLIC KEY-----\n")
    assert max(map(len, pem.splitlines())) <= 64
    assert load_pem_public_key(pem.encode()).public_bytes(Encoding.DER, SPKI) == public


@pytest.mark.parametrize(
    "name", ["ed25519_test", "ecdsa_secp256r1_sha256_test", "rsa_signature_2048_sha256_test"]
)
def test_pem_comes_out_as_published(name: str) -> None:
    """DER and PEM of the same key, as Wycheproof gives both."""
    seen = {group["publicKeyDer"]: group["publicKeyPem"] for group, _ in wycheproof("Signature", name)}
    assert seen
    for der, pem in seen.items():
        assert to_pem(bytes.fromhex(der)).split() == pem.split()


@pytest.mark.parametrize("wrong", [b"", b"\x30\x00", bytes(1184), bytes(1216), b"-----BEGIN PUBLIC KEY-----"])
def test_what_is_no_subject_public_key_info_is_refused(wrong: bytes) -> None:
    """Raw post-quantum keys have no PEM here."""
    with pytest.raises(MalformedError, match="not a SubjectPublicKeyInfo"):
        to_pem(wrong)


ML_DSA_SIZES = {44: 1312, 65: 1952, 87: 2592}


@pytest.mark.parametrize("bits", ML_DSA_SIZES)
def test_ml_dsa_keys_have_the_published_der(bits: int) -> None:
    """Raw and SubjectPublicKeyInfo (RFC 9881) of the same key, as Wycheproof gives both; PEM is made of the
    latter, and keys of wrong lengths have neither."""
    groups = {group["publicKey"]: group for group, _ in wycheproof("Signature", f"mldsa_{bits}_verify_test")}
    good = [each for each in groups if len(each) == 2 * ML_DSA_SIZES[bits]]
    assert good
    for raw in good:
        der = mldsa_to_der(unhex(raw), bits)
        assert der == unhex(groups[raw]["publicKeyDer"])
        assert to_pem(der).startswith("-----BEGIN PUBLIC KEY-----\n")
    wrong = {unhex(each) for each in groups if each not in good}
    for public in {b"", *map(bytes, {1311, *ML_DSA_SIZES.values()} - {ML_DSA_SIZES[bits]}), *wrong}:
        with pytest.raises(MalformedError, match=f"not a public key of ML-DSA-{bits}"):
            mldsa_to_der(public, bits)
