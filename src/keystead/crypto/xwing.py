"""X-Wing, the hybrid of ML-KEM-768 and X25519 (draft-connolly-cfrg-xwing-kem-10).

SECURITY: the shared secret is safe while either of the two holds. Composed from the library's ML-KEM-768 and
X25519 exactly as section 5 of the draft says, and checked against its vectors.

Private keys are the PKCS#8 of the draft's section 5.8.2, which the library does not know: a fixed beginning,
then the seed of 32 bytes.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from keystead.crypto.errors import DecryptionError, MalformedError
from keystead.crypto.secret import SecretBytes

SEED_SIZE = 32
CIPHERTEXT_SIZE = 1120
_MLKEM_CIPHERTEXT_SIZE = 1088
_LABEL = b"\\.//^\\"
# SEQUENCE { INTEGER 0, SEQUENCE { OID 1.3.6.1.4.1.62253.25722 }, OCTET STRING of 32 bytes }
_PKCS8 = bytes.fromhex("3034020100300d060b2b0601040183e62d81c87a0420")


class XWingKey:
    """A private key of X-Wing. Safe to share between threads.

    mlkem, x25519: its halves as the library's keys, for `hpke`.
    """

    __slots__ = ("_seed", "_x25519_public", "mlkem", "x25519")

    def __init__(self, seed: SecretBytes) -> None:
        """`seed` has 32 bytes and is kept."""
        self._seed = seed
        expanded = seed.use(lambda view: hashlib.shake_256(view).digest(96))
        self.mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        self.x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self._x25519_public = self.x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> XWingKey:
        """A new key."""
        return cls(SecretBytes.random(SEED_SIZE))

    @classmethod
    def from_private(cls, private: SecretBytes) -> XWingKey:
        """The key of `to_private`, or of the bare seed of 32 bytes. MalformedError for anything else."""
        view = private.expose()
        if len(view) == len(_PKCS8) + SEED_SIZE and view[: len(_PKCS8)] == _PKCS8:
            view = view[len(_PKCS8) :]
        if len(view) != SEED_SIZE:
            raise MalformedError("this is not a private key of X-Wing: neither its PKCS#8 nor its seed")
        return cls(private.use(lambda _: SecretBytes(view)))

    def to_private(self) -> SecretBytes:
        """PKCS#8 (DER) with the seed, 54 bytes."""
        return self._seed.use(lambda view: SecretBytes(_PKCS8 + view))

    @property
    def public(self) -> bytes:
        """The encapsulation key: ML-KEM-768's (1184 bytes), then X25519's (32)."""
        return self.mlkem.public_key().public_bytes_raw() + self._x25519_public

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret of 32 bytes. An altered ciphertext gives another secret, not an error.

        MalformedError for a wrong length. DecryptionError where the X25519 half is a point of small order,
        which no encapsulation makes and the library refuses (RFC 7748, section 6.1).
        """
        if len(ciphertext) != CIPHERTEXT_SIZE:
            raise MalformedError(f"an X-Wing ciphertext has {CIPHERTEXT_SIZE} bytes")
        theirs = ciphertext[_MLKEM_CIPHERTEXT_SIZE:]
        try:
            agreed = self.x25519.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError:
            raise DecryptionError from None
        encapsulated = self.mlkem.decapsulate(ciphertext[:_MLKEM_CIPHERTEXT_SIZE])
        return hashlib.sha3_256(encapsulated + agreed + theirs + self._x25519_public + _LABEL).digest()
