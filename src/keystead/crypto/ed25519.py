"""Ed25519 keys (RFC 8032), pure: the data itself is signed.

Private keys are PKCS#8 DER (RFC 8410), public keys SubjectPublicKeyInfo DER. Signatures are deterministic.
Objects are safe to share between threads.
"""

from __future__ import annotations

from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keystead.crypto import pkcs8
from keystead.crypto.errors import MalformedError
from keystead.crypto.secret import SecretBytes


class Ed25519:
    """A private key."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Self:
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private(cls, private: SecretBytes) -> Self:
        """The key in PKCS#8. MalformedError unless it is an Ed25519 key."""
        key = pkcs8.load_private(private)
        if not isinstance(key, Ed25519PrivateKey):
            raise MalformedError("the private key is not an Ed25519 key")
        return cls(key)

    def sign(self, payload: bytes) -> bytes:
        """The signature of the data: 64 bytes."""
        return self._key.sign(payload)

    def to_private(self) -> SecretBytes:
        """PKCS#8 DER."""
        return pkcs8.private_bytes(self._key)

    @property
    def public(self) -> bytes:
        """SubjectPublicKeyInfo DER."""
        return pkcs8.public_bytes(self._key)
