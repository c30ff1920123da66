"""The errors of this room, and what each may reveal.

    CryptoError
    ├── DecryptionError     some input was not what was sealed; never says which
    ├── MalformedError      the public structure of a format is wrong; says how, without quoting content
    └── SecretWipedError    the key material is no longer in memory

Owns nothing else: mapping to API errors belongs to the callers.
"""

from __future__ import annotations


class CryptoError(Exception):
    """Root of everything this room raises on bad input.

    Misuse by the program itself is a ValueError or TypeError.
    """


class DecryptionError(CryptoError):
    """Opening failed: wrong key, wrong associated data, or altered bytes.

    Takes no arguments and has one text, so that no caller can tell (or leak) which of these it was.
    """

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return "decryption failed"


class MalformedError(CryptoError):
    """Bytes that cannot be the format they are read as.

    Too short, wrong magic, unknown version, impossible size.
    """


class SecretWipedError(CryptoError):
    """Key material was asked for after it was wiped."""

    def __init__(self) -> None:
        super().__init__()

    def __str__(self) -> str:
        return "the secret has been wiped"
