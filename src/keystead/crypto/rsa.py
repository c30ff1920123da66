"""RSA keys (RFC 8017): three ways to sign, and OAEP decryption.

SECURITY: no failed decryption says why. PKCS#1 v1.5 is offered for signatures only, so there is no padding
oracle of Bleichenbacher's kind to ask. Blinding and constant-time unpadding are OpenSSL's.

Private keys are PKCS#8 DER, public keys SubjectPublicKeyInfo DER. Making a key takes from a tenth of a second
to seconds and lets other threads run. Objects are safe to share between threads.
"""

from __future__ import annotations

from typing import Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed

from keystead.crypto import pkcs8
from keystead.crypto.errors import DecryptionError, MalformedError
from keystead.crypto.hashes import hash_of
from keystead.crypto.secret import SecretBytes

PUBLIC_EXPONENT = 65537
PKCS1_OVERHEAD = 11
"""How many bytes shorter than the modulus the longest data for PKCS#1 v1.5 is (RFC 8017 9.2)."""


class _RsaKey:
    """A private key bound to one use. `hash_name` as `hashes.hash_of` takes it."""

    __slots__ = ("_key",)

    def __init__(self, key: rsa.RSAPrivateKey, hash_name: str) -> None:
        self._key = key
        self._bind(hash_name)

    def _bind(self, hash_name: str) -> None:
        """Make once what every call would need again."""

    @classmethod
    def generate(cls, bits: int, hash_name: str = "") -> Self:
        """A new key with a modulus of `bits` and the exponent 65537."""
        return cls(rsa.generate_private_key(PUBLIC_EXPONENT, bits), hash_name)

    @classmethod
    def from_private(
        cls, private: SecretBytes, bits: int, hash_name: str = "", *, check: bool = True
    ) -> Self:
        """The key in PKCS#8. MalformedError unless it is RSA with a modulus of exactly `bits` and, with
        `check` (see `pkcs8.load_private`), consistent. Any odd exponent from 3 is taken."""
        # The size is looked at first: checking a key of absurd size would take very long.
        key = _rsa(pkcs8.load_private(private, check=False))
        if key.key_size != bits:
            raise MalformedError(f"the RSA key has {key.key_size} bits, not {bits}")
        return cls(_rsa(pkcs8.load_private(private)) if check else key, hash_name)

    def to_private(self) -> SecretBytes:
        """PKCS#8 DER."""
        return pkcs8.private_bytes(self._key)

    @property
    def public(self) -> bytes:
        """SubjectPublicKeyInfo DER."""
        return pkcs8.public_bytes(self._key)


def _rsa(key: PrivateKeyTypes) -> rsa.RSAPrivateKey:
    if not isinstance(key, rsa.RSAPrivateKey):
        raise MalformedError("the private key is not an RSA key")
    return key


class RsaPss(_RsaKey):
    """RSASSA-PSS with MGF1 of the same hash and a salt as long as the hash (Cloud KMS)."""

    __slots__ = ("_hash", "_padding")

    def _bind(self, hash_name: str) -> None:
        algorithm = hash_of(hash_name)
        self._hash = Prehashed(algorithm)
        self._padding = PSS(MGF1(algorithm), algorithm.digest_size)

    def sign(self, payload: bytes) -> bytes:
        """The signature of a digest, as long as the modulus; ValueError for a digest of another length."""
        return self._key.sign(payload, self._padding, self._hash)


class RsaPkcs1(_RsaKey):
    """RSASSA-PKCS1-v1_5; signatures are deterministic."""

    __slots__ = ("_hash", "_padding")

    def _bind(self, hash_name: str) -> None:
        self._hash = Prehashed(hash_of(hash_name))
        self._padding = PKCS1v15()

    def sign(self, payload: bytes) -> bytes:
        """The signature of a digest, as long as the modulus; ValueError for a digest of another length."""
        return self._key.sign(payload, self._padding, self._hash)


class RsaRawPkcs1(_RsaKey):
    """PKCS#1 v1.5 padding over the data itself: no hash and no DigestInfo (Cloud KMS RSA_SIGN_RAW_PKCS1)."""

    __slots__ = ("_hash", "_padding")

    def _bind(self, hash_name: str) -> None:
        del hash_name
        self._hash = NoDigestInfo()
        self._padding = PKCS1v15()

    def sign(self, payload: bytes) -> bytes:
        """The signature of up to modulus bytes - PKCS1_OVERHEAD of data; ValueError for more."""
        return self._key.sign(payload, self._padding, self._hash)


class RsaOaep(_RsaKey):
    """RSAES-OAEP with MGF1 of the same hash and an empty label (Cloud KMS)."""

    __slots__ = ("_padding",)

    def _bind(self, hash_name: str) -> None:
        algorithm = hash_of(hash_name)
        self._padding = OAEP(MGF1(algorithm), algorithm, None)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The plaintext; DecryptionError for everything else, a wrong length included."""
        try:
            return self._key.decrypt(ciphertext, self._padding)
        except ValueError:
            raise DecryptionError from None
