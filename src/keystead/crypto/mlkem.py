"""ML-KEM key encapsulation (FIPS 203).

Private keys are PKCS#8 that holds the seed of 64 bytes, d || z (RFC 9935), never the expanded key: that one
could only be taken on trust.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey

from keystead.crypto import pkcs8
from keystead.crypto.errors import MalformedError
from keystead.crypto.secret import SecretBytes

SEED_SIZE = 64

_PrivateKey = MLKEM768PrivateKey | MLKEM1024PrivateKey
_CLASSES: dict[int, type[_PrivateKey]] = {768: MLKEM768PrivateKey, 1024: MLKEM1024PrivateKey}
_CIPHERTEXT_SIZES = {768: 1088, 1024: 1568}


class MlKemKey:
    """A private key of ML-KEM-768 or 1024. Safe to share between threads.

    key: the library's own, for `hpke`.
    """

    __slots__ = ("bits", "key")

    def __init__(self, key: _PrivateKey, bits: int) -> None:
        self.key = key
        self.bits = bits

    @classmethod
    def generate(cls, bits: int) -> MlKemKey:
        """A new key. bits: 768 or 1024."""
        return cls(_CLASSES[bits].generate(), bits)

    @classmethod
    def from_private(cls, private: SecretBytes, bits: int) -> MlKemKey:
        """The key of `to_private`, or of the bare seed of 64 bytes. MalformedError for anything else."""
        if len(private) == SEED_SIZE:
            return cls(private.use(lambda seed: _from_seed(seed, bits)), bits)
        try:
            key = pkcs8.load_private(private)
        except MalformedError:
            raise MalformedError(
                f"this is neither the seed of an ML-KEM-{bits} key nor PKCS#8 (DER) that holds the seed alone"
            ) from None
        if not isinstance(key, _CLASSES[bits]):
            raise MalformedError(f"this is not a private key of ML-KEM-{bits}")
        return cls(key, bits)

    def to_private(self) -> SecretBytes:
        """PKCS#8 (DER) with the seed, 86 bytes."""
        return pkcs8.private_bytes(self.key)

    @property
    def public(self) -> bytes:
        """The encapsulation key as FIPS 203 encodes it: 1184 or 1568 bytes."""
        return self.key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret of 32 bytes. An altered ciphertext gives another secret, not an error (implicit
        rejection, FIPS 203 section 6.3); MalformedError for a wrong length."""
        try:
            return self.key.decapsulate(ciphertext)
        except ValueError:
            size = _CIPHERTEXT_SIZES[self.bits]
            raise MalformedError(f"an ML-KEM-{self.bits} ciphertext has {size} bytes") from None


def _from_seed(seed: memoryview, bits: int) -> _PrivateKey:
    return _CLASSES[bits].from_seed_bytes(seed)
