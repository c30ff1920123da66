"""What seals the root key: one small protocol, one module per way."""

from __future__ import annotations

from typing import Protocol

from keystead.crypto.secret import SecretBytes


class Seal(Protocol):
    """Wraps and unwraps the root key. `kind` is stored beside the wrapped root key, so that a deployment
    is not opened with another kind of seal than it was sealed with."""

    kind: str

    def wrap(self, root_key: SecretBytes) -> bytes: ...

    def unwrap(self, wrapped: bytes) -> SecretBytes:
        """The root key. Raises SealError."""


class SealError(Exception):
    """The seal cannot be opened; the text says what to do."""
