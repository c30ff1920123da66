"""SECURITY: the versioned ciphertext that a symmetric Encrypt returns.

Property: a ciphertext names the key version that made it, and opens only under that version, that key's name
and the caller's own associated data; copied to another key, relabelled with another version, or altered in
any bit it fails like any wrong ciphertext. Decrypt therefore never tries keys until one fits.

Layout (docs/formats.md, section 2): format (1) || key id (16) || version (4, big endian) || message of the
key, which is XAES-256-GCM for keys in this process (format 1) and AES-256-GCM for keys in a token (format 2).
Owns no key lookup: `parse_header` tells the caller which key to fetch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from keystead.crypto.aad import encode_aad, encode_field
from keystead.crypto.aead import SEAL_OVERHEAD
from keystead.crypto.errors import DecryptionError, MalformedError

SOFTWARE_FORMAT = 1
TOKEN_FORMAT = 2
KEY_ID_SIZE = 16
_HEADER = struct.Struct(f">B{KEY_ID_SIZE}sI")
HEADER_SIZE = _HEADER.size
CIPHERTEXT_OVERHEAD = HEADER_SIZE + SEAL_OVERHEAD
"""How many bytes longer a ciphertext of format 1 is than its plaintext."""
_SHORTEST = {SOFTWARE_FORMAT: CIPHERTEXT_OVERHEAD, TOKEN_FORMAT: HEADER_SIZE + 12 + 16}
MAX_VERSION = (1 << 32) - 1


class MessageCipher(Protocol):
    """A key that seals messages under nonces of its own choice; `open` raises CryptoError."""

    def seal(self, plaintext: bytes, aad: bytes) -> bytes: ...
    def open(self, message: bytes | memoryview, aad: bytes) -> bytes: ...


@dataclass(frozen=True)
class KeyVersionRef:
    """Which key version seals: the key's permanent id, its resource name, the version number, and the format
    of its messages.

    `key_id` is 16 random bytes made when the key is created; unlike the name it is never used twice, so a
    ciphertext of a deleted key cannot be taken for one of a later key with the same name. Raises ValueError
    for an impossible id or a version outside 1..2^32-1.
    """

    key_id: bytes
    key_name: str
    version: int
    format: int = SOFTWARE_FORMAT

    def __post_init__(self) -> None:
        if len(self.key_id) != KEY_ID_SIZE:
            raise ValueError(f"a key id has {KEY_ID_SIZE} bytes")
        if not 1 <= self.version <= MAX_VERSION:
            raise ValueError(f"a key version is a number from 1 to {MAX_VERSION}")

    @cached_property
    def header(self) -> bytes:
        """The first HEADER_SIZE bytes of every ciphertext of this version."""
        return _HEADER.pack(self.format, self.key_id, self.version)

    @cached_property
    def _bound(self) -> bytes:
        # Everything of the associated data that is the same for all messages: this is the hot path of the
        # service.
        return encode_aad("keystead.ciphertext", self.header, self.key_name, self.version)

    def message_aad(self, caller_aad: bytes) -> bytes:
        """What a message of this version is bound to."""
        return self._bound + encode_field(caller_aad) if caller_aad else self._bound_to_nothing_more

    @cached_property
    def _bound_to_nothing_more(self) -> bytes:
        return self._bound + encode_field(b"")


@dataclass(frozen=True)
class CiphertextHeader:
    """The public beginning of a ciphertext: claims to be checked by opening, not facts."""

    format: int
    key_id: bytes
    version: int


def seal_message(aead: MessageCipher, ref: KeyVersionRef, plaintext: bytes, caller_aad: bytes) -> bytes:
    """The ciphertext of `plaintext` by the key version `ref`, whose key `aead` holds.

    The plaintext may be empty.
    """
    return ref.header + aead.seal(plaintext, ref.message_aad(caller_aad))


def parse_header(ciphertext: bytes) -> CiphertextHeader:
    """Which key version a ciphertext claims.

    MalformedError if it is too short, of an unknown format or version 0.
    """
    if len(ciphertext) < HEADER_SIZE:
        raise MalformedError("a ciphertext is too short")
    form, key_id, version = _HEADER.unpack_from(ciphertext)
    shortest = _SHORTEST.get(form)
    if shortest is None:
        raise MalformedError("a ciphertext has an unknown format")
    if len(ciphertext) < shortest:
        raise MalformedError("a ciphertext is too short")
    if version == 0:
        raise MalformedError("a ciphertext names no key version")
    return CiphertextHeader(form, key_id, version)


def open_message(aead: MessageCipher, ref: KeyVersionRef, ciphertext: bytes, caller_aad: bytes) -> bytes:
    """The plaintext of `seal_message(aead, ref, ..., caller_aad)`.

    Raises MalformedError as `parse_header` does, DecryptionError for everything else that does not fit.
    """
    header = parse_header(ciphertext)
    if (header.format, header.key_id, header.version) != (ref.format, ref.key_id, ref.version):
        raise DecryptionError
    return aead.open(memoryview(ciphertext)[HEADER_SIZE:], ref.message_aad(caller_aad))
