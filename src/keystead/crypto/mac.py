"""Message authentication codes: HMAC (FIPS 198-1, RFC 2104)."""

from __future__ import annotations

from cryptography.hazmat.primitives.hmac import HMAC

from keystead.crypto.hashes import hash_of
from keystead.crypto.secret import BytesLike, SecretBytes


class HmacKey:
    """HMAC under one key. Safe to share between threads.

    What is kept is OpenSSL's state after the key, not the key: a tag costs no second setup. OpenSSL cleanses
    it when the object is dropped. Comparing tags is the caller's: `hmac.compare_digest`.
    """

    __slots__ = ("_keyed",)

    def __init__(self, key: SecretBytes, hash_name: str) -> None:
        """`key` of any length, the caller may wipe it afterwards; `hash_name` as `hashes.hash_of` takes it.

        SecretWipedError if the key is wiped.
        """
        self._keyed = key.use(lambda view: HMAC(view, hash_of(hash_name)))

    def mac(self, data: BytesLike) -> bytes:
        """The whole tag of `data`, as long as the hash."""
        context = self._keyed.copy()
        context.update(data)
        return context.finalize()
