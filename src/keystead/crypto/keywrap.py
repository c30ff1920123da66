"""AES key wrap with padding (RFC 5649, NIST SP 800-38F KWP): how keys travel under an AES key.

It is deterministic, and made for keys only: equal keys give equal results, and nothing is bound to them.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)

from keystead.crypto.errors import DecryptionError, MalformedError
from keystead.crypto.secret import BytesLike, SecretBytes

_BLOCK = 8
_SHORTEST = 16


def wrap(kek: SecretBytes, key: SecretBytes) -> bytes:
    """`key` (1 byte or more, else ValueError) under `kek` (an AES key): its length rounded up to 8 bytes, and
    8 more. Raises SecretWipedError when either is wiped."""
    return kek.use(lambda outer: key.use(lambda inner: aes_key_wrap_with_padding(outer, inner)))


def unwrap(kek: SecretBytes, wrapped: BytesLike) -> SecretBytes:
    """What `wrap` wrapped. MalformedError for a length that `wrap` cannot give, else DecryptionError."""
    if len(wrapped) < _SHORTEST:
        raise MalformedError("a wrapped key is too short")
    if len(wrapped) % _BLOCK:
        raise MalformedError("a wrapped key does not consist of 64-bit blocks")
    try:
        return kek.use(lambda view: SecretBytes(aes_key_unwrap_with_padding(view, wrapped)))
    except InvalidUnwrap:
        raise DecryptionError from None
