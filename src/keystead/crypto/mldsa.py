"""ML-DSA signatures (FIPS 204), of data with an empty context or of a mu that the caller has computed.

Private keys are PKCS#8 that holds the seed of 32 bytes (RFC 9881), never the expanded key: that one could
only be taken on trust. Signatures are hedged, so the same data gives another one each time.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA65PrivateKey,
    MLDSA87PrivateKey,
)

from keystead.crypto import pkcs8
from keystead.crypto.errors import MalformedError
from keystead.crypto.secret import SecretBytes

SEED_SIZE = 32
MU_SIZE = 64

_PrivateKey = MLDSA44PrivateKey | MLDSA65PrivateKey | MLDSA87PrivateKey
_CLASSES: dict[int, type[_PrivateKey]] = {44: MLDSA44PrivateKey, 65: MLDSA65PrivateKey, 87: MLDSA87PrivateKey}


class MlDsaKey:
    """A private key of ML-DSA-44, 65 or 87. Safe to share between threads."""

    __slots__ = ("_key", "_sign")

    def __init__(self, key: _PrivateKey, external_mu: bool) -> None:
        self._key = key
        self._sign = key.sign_mu if external_mu else key.sign

    @classmethod
    def generate(cls, bits: int, *, external_mu: bool = False) -> MlDsaKey:
        """A new key. bits: 44, 65 or 87. external_mu: whether `sign` takes mu instead of data."""
        return cls(_CLASSES[bits].generate(), external_mu)

    @classmethod
    def from_private(cls, private: SecretBytes, bits: int, *, external_mu: bool = False) -> MlDsaKey:
        """The key of `to_private`, or of the bare seed of 32 bytes. MalformedError for anything else."""
        if len(private) == SEED_SIZE:
            return cls(private.use(lambda seed: _from_seed(seed, bits)), external_mu)
        try:
            key = pkcs8.load_private(private)
        except MalformedError:
            raise MalformedError(
                f"this is neither the seed of an ML-DSA-{bits} key nor PKCS#8 (DER) that holds the seed alone"
            ) from None
        if not isinstance(key, _CLASSES[bits]):
            raise MalformedError(f"this is not a private key of ML-DSA-{bits}")
        return cls(key, external_mu)

    def to_private(self) -> SecretBytes:
        """PKCS#8 (DER) with the seed, 54 bytes."""
        return pkcs8.private_bytes(self._key)

    @property
    def public(self) -> bytes:
        """The public key as FIPS 204 encodes it: 1312, 1952 or 2592 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, payload: bytes) -> bytes:
        """The signature of the data (any length), or of mu (64 bytes, else ValueError)."""
        return self._sign(payload)


def _from_seed(seed: memoryview, bits: int) -> _PrivateKey:
    return _CLASSES[bits].from_seed_bytes(seed)
