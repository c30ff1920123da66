"""ECDSA keys (FIPS 186-5; secp256k1: SEC 2).

Private keys are PKCS#8 DER, public keys SubjectPublicKeyInfo DER. Nonces come from OpenSSL, which mixes
randomness with the key and the digest; signatures of one digest differ. Objects are safe to share between
threads.
"""

from __future__ import annotations

from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from keystead.crypto import pkcs8
from keystead.crypto.errors import MalformedError
from keystead.crypto.hashes import hash_of
from keystead.crypto.secret import SecretBytes

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "secp256k1": ec.SECP256K1,
}


class Ecdsa:
    """A private key on one curve that signs digests of one hash, named as `hashes.hash_of` takes it."""

    __slots__ = ("_key", "_scheme")

    def __init__(self, key: ec.EllipticCurvePrivateKey, hash_name: str) -> None:
        self._key = key
        self._scheme = ec.ECDSA(Prehashed(hash_of(hash_name)))

    @classmethod
    def generate(cls, curve: str, hash_name: str) -> Self:
        """A new key on `P-256`, `P-384` or `secp256k1`."""
        return cls(ec.generate_private_key(_CURVES[curve]()), hash_name)

    @classmethod
    def from_private(cls, private: SecretBytes, curve: str, hash_name: str) -> Self:
        """The key in PKCS#8. MalformedError unless it is an EC key on that curve whose public key, where it
        is given, belongs to it."""
        key = pkcs8.load_private(private)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise MalformedError("the private key is not an EC key")
        if not isinstance(key.curve, _CURVES[curve]):
            raise MalformedError(f"the EC key is on the curve {key.curve.name}, not {curve}")
        return cls(key, hash_name)

    def sign(self, payload: bytes) -> bytes:
        """The signature of a digest, in DER (RFC 3279 2.2.3); ValueError for a digest of another length."""
        return self._key.sign(payload, self._scheme)

    def to_private(self) -> SecretBytes:
        """PKCS#8 DER, with the public key in it."""
        return pkcs8.private_bytes(self._key)

    @property
    def public(self) -> bytes:
        """SubjectPublicKeyInfo DER, the point uncompressed."""
        return pkcs8.public_bytes(self._key)
