"""ECDSA keys are those of NIST and SEC 2, and only keys of the curve that was asked for are taken."""

from __future__ import annotations

import base64
import hashlib
import re

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
    load_pem_private_key,
)

from keystead.crypto.ec import Ecdsa
from keystead.crypto.errors import MalformedError
from keystead.crypto.secret import SecretBytes

from .published import clear, records, unhex, wycheproof

CURVES = {
    "P-256": ("sha256", ec.SECP256R1),
    "P-384": ("sha384", ec.SECP384R1),
    "secp256k1": ("sha256", ec.SECP256K1),
}
# AlgorithmIdentifier of RFC 5480: id-ecPublicKey and the curve's name.
IDENTIFIERS = {
    "P-256": "301306072a8648ce3d020106082a8648ce3d030107",
    "P-384": "301006072a8648ce3d020106052b81040022",
    "secp256k1": "301006072a8648ce3d020106052b8104000a",
}


def der(tag: int, content: bytes) -> bytes:
    length = bytes((len(content),)) if len(content) < 128 else b"\x81" + bytes((len(content),))
    return bytes((tag,)) + length + content


def pkcs8_of(curve: str, scalar: bytes) -> bytes:
    """The shortest PKCS#8 of a private scalar: without the public key (RFC 5915)."""
    key = der(0x30, b"\x02\x01\x01" + der(0x04, scalar))
    return der(0x30, b"\x02\x01\x00" + unhex(IDENTIFIERS[curve]) + der(0x04, key))


def verify(public: bytes, signature: bytes, digest: bytes, name: str) -> None:
    key = load_der_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    algorithm = hashes.SHA384() if name == "sha384" else hashes.SHA256()
    key.verify(signature, digest, ec.ECDSA(Prehashed(algorithm)))


@pytest.mark.parametrize(
    ("curve", "file", "heading"),
    [
        ("P-256", "FIPS_186-3/SigGen.txt", "P-256,SHA-256"),
        ("P-384", "FIPS_186-3/SigGen.txt", "P-384,SHA-384"),
        ("secp256k1", "SECP256K1/SigGen.txt", "K-256,SHA-256"),
    ],
)
def test_a_private_key_has_the_public_key_that_nist_says(curve: str, file: str, heading: str) -> None:
    """From the bare scalar of each CAVP record we get its point; its published signature verifies under it,
    and so does ours."""
    name = CURVES[curve][0]
    count = 0
    for facts, record in records(f"asymmetric/ECDSA/{file}"):
        if heading not in facts:
            continue
        size = 48 if curve == "P-384" else 32
        scalar = int(record["d"], 16).to_bytes(size, "big")
        key = Ecdsa.from_private(SecretBytes(pkcs8_of(curve, scalar)), curve, name)
        point = key.public[-2 * size :]
        assert int.from_bytes(point[:size], "big") == int(record["Qx"], 16)
        assert int.from_bytes(point[size:], "big") == int(record["Qy"], 16)
        digest = hashlib.new(name, unhex(record["Msg"])).digest()
        published = encode_dss_signature(int(record["R"], 16), int(record["S"], 16))
        verify(key.public, published, digest, name)
        verify(key.public, key.sign(digest), digest, name)
        count += 1
    assert count >= 10


@pytest.mark.parametrize(
    ("curve", "file"),
    [
        ("P-256", "ecdsa_secp256r1_sha256_test"),
        ("P-384", "ecdsa_secp384r1_sha384_test"),
        ("secp256k1", "ecdsa_secp256k1_sha256_test"),
    ],
)
def test_signatures_verify_where_forgeries_do_not(curve: str, file: str) -> None:
    """The verifier that accepts our signatures refuses every forgery of Wycheproof's, as DER demands."""
    name = CURVES[curve][0]
    accepted = refused = 0
    for group, test in wycheproof("Signature", file):
        args = (unhex(group["publicKeyDer"]), unhex(test["sig"]))
        digest = hashlib.new(name, unhex(test["msg"])).digest()
        if test["result"] == "valid":
            accepted += 1
            verify(*args, digest, name)
        elif test["result"] == "invalid":
            refused += 1
            with pytest.raises(InvalidSignature):
                verify(*args, digest, name)
    assert accepted > 100
    assert refused > 100
    key = Ecdsa.generate(curve, name)
    digest = hashlib.new(name, b"data").digest()
    signatures = {key.sign(digest) for _ in range(8)}
    assert len({decode_dss_signature(each)[0] for each in signatures}) == 8
    for signature in signatures:
        verify(key.public, signature, digest, name)
        with pytest.raises(InvalidSignature):
            verify(key.public, signature, hashlib.new(name, b"other").digest(), name)


@pytest.mark.parametrize("curve", CURVES)
def test_a_key_comes_back_from_its_private_form(curve: str) -> None:
    """PKCS#8 out, the same key in; and the same PKCS#8 again, also of a key that came without its point."""
    name, kind = CURVES[curve]
    key = Ecdsa.generate(curve, name)
    private = key.to_private()
    again = Ecdsa.from_private(private, curve, name)
    assert again.public == key.public
    assert again.to_private() == private
    loaded = load_der_public_key(key.public)
    assert isinstance(loaded, ec.EllipticCurvePublicKey)
    assert isinstance(loaded.curve, kind)
    scalar = clear(private).partition(b"\x02\x01\x01\x04")[2][1:]
    bare = pkcs8_of(curve, scalar[: 48 if curve == "P-384" else 32])
    assert Ecdsa.from_private(SecretBytes(bare), curve, name).to_private() == private


@pytest.mark.parametrize("length", [0, 20, 31, 33, 48, 64])
def test_only_a_digest_of_the_right_length_is_signed(length: int) -> None:
    """A payload that is no digest of the key's hash is refused, not cut or hashed."""
    key = Ecdsa.generate("P-256", "sha256")
    with pytest.raises(ValueError, match="digest"):
        key.sign(bytes(length))


@pytest.mark.parametrize("asked", CURVES)
@pytest.mark.parametrize("given", CURVES)
def test_a_key_of_another_curve_is_refused(asked: str, given: str) -> None:
    """The error names both curves."""
    private = Ecdsa.generate(given, CURVES[given][0]).to_private()
    if asked == given:
        Ecdsa.from_private(private, asked, CURVES[asked][0])
        return
    with pytest.raises(MalformedError, match=rf"the EC key is on the curve \w+, not {re.escape(asked)}"):
        Ecdsa.from_private(private, asked, CURVES[asked][0])


@pytest.mark.parametrize("curve", CURVES)
def test_scalars_outside_of_the_curve_s_order_are_refused(curve: str) -> None:
    """Zero, the order itself and what lies above it are no private keys."""
    size = 48 if curve == "P-384" else 32
    for scalar in (bytes(size), b"\xff" * size, b"\x00" * (size - 1) + b"\x01" + b"\x00" * 8):
        with pytest.raises(MalformedError, match="not valid"):
            Ecdsa.from_private(SecretBytes(pkcs8_of(curve, scalar)), curve, CURVES[curve][0])


def test_a_public_key_that_is_another_s_is_refused() -> None:
    """PKCS#8 may carry the public key; one that does not belong to the private key makes it invalid."""
    own = Ecdsa.generate("P-256", "sha256")
    point, other = own.public[-64:], Ecdsa.generate("P-256", "sha256").public[-64:]
    forged = clear(own.to_private()).replace(point, other)
    with pytest.raises(MalformedError, match="not valid"):
        Ecdsa.from_private(SecretBytes(forged), "P-256", "sha256")


def test_only_unencrypted_pkcs8_of_an_ec_key_is_read() -> None:
    """RFC 5915 alone, keys of other kinds and damaged keys are MalformedError."""
    private = clear(Ecdsa.generate("P-256", "sha256").to_private())
    with cryptography_vectors.open_vector_file("asymmetric/PKCS8/ec_private_key.pem", "rb") as file:
        key = load_pem_private_key(file.read(), None)
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/ed25519-pkcs8.der", "rb") as file:
        other = file.read()
    wrong = [
        b"",
        private[:-1],
        private + b"\0",
        key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        other,
    ]
    for each in wrong:
        with pytest.raises(MalformedError, match="the private key is not "):
            Ecdsa.from_private(SecretBytes(each), "P-256", "sha256")


@pytest.mark.parametrize("name", ["ec-inconsistent-curve", "ec-inconsistent-curve2", "ec-invalid-version"])
def test_published_broken_keys_are_refused(name: str) -> None:
    """The library's own collection of PKCS#8 that must not load, through our door."""
    with cryptography_vectors.open_vector_file(f"asymmetric/PKCS8/{name}.pem", "r") as file:
        body = "".join(line for line in file if "-----" not in line)
    with pytest.raises(MalformedError):
        Ecdsa.from_private(SecretBytes(base64.b64decode(body)), "P-256", "sha256")
