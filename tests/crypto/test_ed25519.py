"""Ed25519 is that of RFC 8032, byte for byte."""

from __future__ import annotations

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keystead.crypto.ec import Ecdsa
from keystead.crypto.ed25519 import Ed25519
from keystead.crypto.errors import MalformedError
from keystead.crypto.secret import SecretBytes

from .published import clear, unhex, wycheproof

# PrivateKeyInfo and SubjectPublicKeyInfo of RFC 8410, up to the key itself.
PKCS8 = unhex("302e020100300506032b657004220420")
SPKI = unhex("302a300506032b6570032100")


def test_the_published_signatures_come_out() -> None:
    """All 1024 vectors of the algorithm's authors, which hold those of RFC 8032: public key and signature."""
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        rows = [line.strip().split(":") for line in file]
    assert len(rows) == 1024
    for secret, public, message, signed in (map(unhex, row[:4]) for row in rows):
        key = Ed25519.from_private(SecretBytes(PKCS8 + secret[:32]))
        assert key.public == SPKI + public
        assert key.sign(message) + message == signed


def test_signatures_verify_where_forgeries_do_not() -> None:
    """The verifier that accepts our signatures refuses every forgery of Wycheproof's."""
    accepted = refused = 0
    for group, test in wycheproof("Signature", "ed25519_test"):
        public = load_der_public_key(unhex(group["publicKeyDer"]))
        assert isinstance(public, Ed25519PublicKey)
        if test["result"] == "valid":
            accepted += 1
            public.verify(unhex(test["sig"]), unhex(test["msg"]))
        elif test["result"] == "invalid":
            refused += 1
            with pytest.raises(InvalidSignature):
                public.verify(unhex(test["sig"]), unhex(test["msg"]))
    assert accepted > 50
    assert refused > 50
    key = Ed25519.generate()
    ours = load_der_public_key(key.public)
    assert isinstance(ours, Ed25519PublicKey)
    ours.verify(key.sign(b"data"), b"data")
    with pytest.raises(InvalidSignature):
        ours.verify(key.sign(b"data"), b"other")


def test_a_key_comes_back_from_its_private_form() -> None:
    """PKCS#8 out, the same key in, and the same PKCS#8 again."""
    key = Ed25519.generate()
    private = key.to_private()
    again = Ed25519.from_private(private)
    assert again.public == key.public
    assert again.to_private() == private
    assert again.sign(b"data") == key.sign(b"data")
    assert len(private) == len(PKCS8) + 32


def test_only_pkcs8_of_an_ed25519_key_is_read() -> None:
    """The bare seed, cut and extended keys and keys of other kinds are MalformedError."""
    good = clear(Ed25519.generate().to_private())
    other = clear(Ecdsa.generate("P-256", "sha256").to_private())
    x25519 = good.replace(unhex("06032b6570"), unhex("06032b656e"))
    for wrong in (b"", good[-32:], good[:-1], good + b"\0", other, x25519, PKCS8):
        with pytest.raises(MalformedError, match="the private key is not "):
            Ed25519.from_private(SecretBytes(wrong))
