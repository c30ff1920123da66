"""X.509 certificates of a deployment's attestation key (RFC 5280): a self-signed root, and one leaf under it.

SECURITY: the root's private key signs the leaf and is dropped; nobody can ever issue a second leaf under a
root. Whoever pins the root therefore pins the one key. Neither certificate has an end (RFC 5280 4.1.2.5):
what they attest is to be verified as long as anybody cares.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID

from keystead.crypto import pkcs8
from keystead.crypto.errors import MalformedError
from keystead.crypto.secret import SecretBytes

_NO_END = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
# What the library raises for certificates that it cannot read, when it reads the part in question.
_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True)
class Issued:
    """A new key (EC P-256, PKCS#8 DER) and its certificates in DER."""

    private: SecretBytes
    leaf: bytes
    root: bytes


def issue(name: str, now: dt.datetime) -> Issued:
    """A new attestation key with its certificates; `name` (at most 32 characters) stands in both subjects."""
    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, leaf_name = _name(f"Keystead attestation root {name}"), _name(f"Keystead attestation {name}")
    root = (
        _builder(root_name, root_name, root_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(root_key, SHA256())
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    leaf = (
        _builder(leaf_name, root_name, leaf_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(issuer, critical=False)
        .sign(root_key, SHA256())
    )
    return Issued(pkcs8.private_bytes(leaf_key), *(each.public_bytes(Encoding.DER) for each in (leaf, root)))


def signing_key(private: SecretBytes) -> ec.EllipticCurvePrivateKey:
    """The key that `issue` made, as PyJWT takes it for ES256."""
    key = pkcs8.load_private(private)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise MalformedError("the private key is not an EC key")
    return key


def verifying_key(leaf: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate, as PyJWT takes it for ES256. MalformedError for other keys."""
    try:
        key = _load(leaf).public_key()
    except _UNREADABLE:
        raise MalformedError("the certificate holds no usable key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError("the certificate's key is not an EC key on P-256")
    return key


def verify_chain(leaf: bytes, root: bytes, at: dt.datetime) -> None:
    """MalformedError, saying why, unless the leaf was issued by the root, both were good at that time, and
    the root is an authority that signed itself, while the leaf is none."""
    leaf_certificate, root_certificate = _load(leaf), _load(root)
    try:
        root_certificate.verify_directly_issued_by(root_certificate)
        leaf_certificate.verify_directly_issued_by(root_certificate)
    except (InvalidSignature, TypeError, *_UNREADABLE):
        raise MalformedError("the certificate was not issued by the root") from None
    if not _is_authority(root_certificate) or _is_authority(leaf_certificate):
        raise MalformedError("the certificates are not those of a root and of a key under it")
    for each in (leaf_certificate, root_certificate):
        if not each.not_valid_before_utc <= at <= each.not_valid_after_utc:
            raise MalformedError("a certificate was not valid at that time")


def to_pem(certificate: bytes) -> str:
    """A certificate in DER as PEM (RFC 7468), ending with a line feed."""
    return _load(certificate).public_bytes(Encoding.PEM).decode()


def from_pem(text: bytes) -> list[bytes]:
    """All certificates of a PEM file in DER, in their order. MalformedError where there is none."""
    try:
        return [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(text)]
    except _UNREADABLE:
        raise MalformedError("the file holds no certificate in PEM") from None


def subject(certificate: bytes) -> str:
    """Whose certificate it is (RFC 4514)."""
    return _load(certificate).subject.rfc4514_string()


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate in DER, in hexadecimal."""
    return hashlib.sha256(certificate).hexdigest()


def public_key_der(file: bytes) -> bytes:
    """A public key in PEM or DER as SubjectPublicKeyInfo in DER. MalformedError for anything else."""
    load = load_pem_public_key if file.lstrip().startswith(b"-----") else load_der_public_key
    try:
        return load(file).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("the file holds no public key in PEM or DER") from None


def _load(certificate: bytes) -> x509.Certificate:
    try:
        loaded = x509.load_der_x509_certificate(certificate)
    except _UNREADABLE:
        raise MalformedError("it is not a certificate") from None
    # The library also takes a signature that claims not to fill its last byte; one certificate has one form.
    if not certificate.endswith(b"\0" + loaded.signature):
        raise MalformedError("the certificate's signature is not a string of whole bytes")
    return loaded


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, *_UNREADABLE):
        return False


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    whose: x509.Name, by: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(whose)
        .issuer_name(by)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(_NO_END)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
