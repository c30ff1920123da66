"""What a software key of each family is: how it is made, what its material is, and what opens it.

The material of a secret key is its bytes; that of a private key is its PKCS#8 (DER).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from keystead.crypto.aead import Aead
from keystead.crypto.ec import Ecdsa
from keystead.crypto.ed25519 import Ed25519
from keystead.crypto.mac import HmacKey
from keystead.crypto.mldsa import MlDsaKey
from keystead.crypto.mlkem import MlKemKey
from keystead.crypto.raw_aes import AesCbc, AesCtr, AesGcm
from keystead.crypto.rsa import RsaOaep, RsaPkcs1, RsaPss, RsaRawPkcs1
from keystead.crypto.secret import SecretBytes
from keystead.crypto.xwing import XWingKey
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.backends import Decapsulator, Decrypter, Key, Signer, require_length


class _Asymmetric(Protocol):
    @property
    def public(self) -> bytes: ...

    def to_private(self) -> SecretBytes: ...


class _SignerKey(_Asymmetric, Signer, Protocol): ...


class _DecrypterKey(_Asymmetric, Decrypter, Protocol): ...


class _DecapsulatorKey(_Asymmetric, Decapsulator, Protocol): ...


PrivateKey = _SignerKey | _DecrypterKey | _DecapsulatorKey


@dataclass(frozen=True)
class _Kind:
    """generate: a new key. read: the key in this material; `check` proves what costs time to prove, for
    material that comes from outside. `read` raises MalformedError."""

    generate: Callable[[Algorithm], PrivateKey]
    read: Callable[[Algorithm, SecretBytes, bool], PrivateKey]


def _rsa(kind: type[RsaPss | RsaPkcs1 | RsaRawPkcs1 | RsaOaep]) -> _Kind:
    return _Kind(
        lambda of: kind.generate(of.bits, of.hash),
        lambda of, material, check: kind.from_private(material, of.bits, of.hash, check=check),
    )


def _takes_mu(algorithm: Algorithm) -> bool:
    return algorithm.digest == "external_mu"


_PRIVATE: dict[Family, _Kind] = {
    Family.RSA_PSS: _rsa(RsaPss),
    Family.RSA_PKCS1: _rsa(RsaPkcs1),
    Family.RSA_RAW_PKCS1: _rsa(RsaRawPkcs1),
    Family.RSA_OAEP: _rsa(RsaOaep),
    Family.ECDSA: _Kind(
        lambda of: Ecdsa.generate(of.curve, of.hash),
        lambda of, material, _: Ecdsa.from_private(material, of.curve, of.hash),
    ),
    Family.ED25519: _Kind(
        lambda _: Ed25519.generate(),
        lambda _, material, __: Ed25519.from_private(material),
    ),
    Family.ML_DSA: _Kind(
        lambda of: MlDsaKey.generate(of.bits, external_mu=_takes_mu(of)),
        lambda of, material, _: MlDsaKey.from_private(material, of.bits, external_mu=_takes_mu(of)),
    ),
    Family.ML_KEM: _Kind(
        lambda of: MlKemKey.generate(of.bits),
        lambda of, material, _: MlKemKey.from_private(material, of.bits),
    ),
    Family.XWING: _Kind(
        lambda _: XWingKey.generate(),
        lambda _, material, __: XWingKey.from_private(material),
    ),
}

_SECRET: dict[Family, Callable[[Algorithm, SecretBytes], Key]] = {
    Family.SYMMETRIC: lambda _, material: Aead(material),
    Family.AES_GCM: lambda _, material: AesGcm(material),
    Family.AES_CBC: lambda _, material: AesCbc(material),
    Family.AES_CTR: lambda _, material: AesCtr(material),
    Family.HMAC: lambda of, material: HmacKey(material, of.hash),
}

FAMILIES = frozenset(_PRIVATE) | frozenset(_SECRET) | {Family.AES_KWP}
"""The families that software keys can be of."""


@dataclass(frozen=True)
class Material:
    """The material of a key and its public key, empty for secret keys (encoded as `Made.public`)."""

    private: SecretBytes
    public: bytes


def generate(algorithm: Algorithm) -> Material:
    """The material of a new key."""
    if algorithm.symmetric:
        return Material(SecretBytes.random(algorithm.key_bytes), b"")
    return _material(_PRIVATE[algorithm.family].generate(algorithm))


def accept(algorithm: Algorithm, private: SecretBytes) -> Material:
    """Material from outside, checked to be a key of that algorithm, in the form in which it is kept, which is
    the same for the same key.

    Raises MalformedError, and ImportFailedError for a secret key of a wrong length.
    """
    if algorithm.symmetric:
        require_length(private, algorithm)
        return Material(private, b"")
    return _material(_PRIVATE[algorithm.family].read(algorithm, private, True))


def opened(algorithm: Algorithm, private: SecretBytes) -> Key:
    """The key in material that `generate` or `accept` gave; the caller may wipe it. Not for AES_KWP."""
    secret = _SECRET.get(algorithm.family)
    if secret is not None:
        return secret(algorithm, private)
    return _PRIVATE[algorithm.family].read(algorithm, private, False)


def _material(key: PrivateKey) -> Material:
    return Material(key.to_private(), key.public)
