"""SECURITY: AES in the modes that Cloud KMS offers raw, for interoperation with other systems.

Property: none beyond the mode's own. The initialization vector is the caller's, and it must never repeat
under a key (GCM, CTR) or be foreseeable (CBC). CBC and CTR detect no alteration; no padding is added or
looked for, so there is no padding oracle here, but there is one in every caller that checks a padding after
`decrypt`. Everything of Keystead's own is sealed with `aead` instead.

The three classes have one shape: `encrypt(plaintext, iv, aad)`, `decrypt(ciphertext, iv, aad, tag_length)`.
Keys are 16 or 32 bytes (else ValueError). Objects are safe to share between threads.
"""

from __future__ import annotations

from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR

from keystead.crypto.errors import DecryptionError, MalformedError
from keystead.crypto.secret import SecretBytes

GCM_IV_SIZE = 12
GCM_TAG_SIZE = 16
BLOCK_SIZE = 16
_KEY_SIZES = (16, 32)


class AesGcm:
    """AES-GCM (NIST SP 800-38D) with a 12-byte IV; a ciphertext ends with its tag of 16 bytes."""

    __slots__ = ("_cipher",)

    def __init__(self, key: SecretBytes) -> None:
        _require_key(key)
        self._cipher = key.use(AESGCM)

    def encrypt(self, plaintext: bytes, iv: bytes, aad: bytes) -> bytes:
        """Ciphertext || tag. MalformedError for an IV of another length."""
        _require_iv(iv, GCM_IV_SIZE)
        return self._cipher.encrypt(iv, plaintext, aad)

    def decrypt(self, ciphertext: bytes, iv: bytes, aad: bytes, tag_length: int) -> bytes:
        """The plaintext. DecryptionError; MalformedError for an IV or a tag of another length."""
        _require_iv(iv, GCM_IV_SIZE)
        if tag_length != GCM_TAG_SIZE:
            raise MalformedError(f"the tag has {GCM_TAG_SIZE} bytes, not {tag_length}")
        try:
            return self._cipher.decrypt(iv, ciphertext, aad)
        except InvalidTag:
            raise DecryptionError from None


class _Unauthenticated:
    """What CBC and CTR share. The key is kept here, because the library needs it anew for every message."""

    __slots__ = ("_aes", "_key")
    _mode: ClassVar[type[CBC] | type[CTR]]
    _unit: ClassVar[int]

    def __init__(self, key: SecretBytes) -> None:
        _require_key(key)
        self._key = key.use(SecretBytes)
        self._aes = AES(self._key.expose())

    def encrypt(self, plaintext: bytes, iv: bytes, aad: bytes) -> bytes:
        """As long as the plaintext. MalformedError for lengths the mode does not take, and for any `aad`."""
        context = self._cipher(plaintext, iv, aad).encryptor()
        return context.update(plaintext) + context.finalize()

    def decrypt(self, ciphertext: bytes, iv: bytes, aad: bytes, tag_length: int) -> bytes:
        """Whatever the bytes decrypt to. MalformedError as `encrypt`, and for any `tag_length`."""
        if tag_length:
            raise MalformedError("only GCM has a tag")
        context = self._cipher(ciphertext, iv, aad).decryptor()
        return context.update(ciphertext) + context.finalize()

    def _cipher(self, data: bytes, iv: bytes, aad: bytes) -> Cipher[CBC | CTR]:
        _require_iv(iv, BLOCK_SIZE)
        if aad:
            raise MalformedError("only GCM authenticates additional data")
        if len(data) % self._unit:
            raise MalformedError(f"CBC takes whole blocks of {BLOCK_SIZE} bytes; no padding is added")
        return Cipher(self._aes, self._mode(iv))


class AesCbc(_Unauthenticated):
    """AES-CBC (NIST SP 800-38A) of whole blocks, without padding; the IV has 16 bytes."""

    __slots__ = ()
    _mode = CBC
    _unit = BLOCK_SIZE


class AesCtr(_Unauthenticated):
    """AES-CTR (NIST SP 800-38A); the IV is the first counter block of 16 bytes, counted big-endian."""

    __slots__ = ()
    _mode = CTR
    _unit = 1


def _require_key(key: SecretBytes) -> None:
    if len(key) not in _KEY_SIZES:
        raise ValueError("an AES key has 16 or 32 bytes here")


def _require_iv(iv: bytes, size: int) -> None:
    if len(iv) != size:
        raise MalformedError(f"the initialization vector has {size} bytes, not {len(iv)}")
