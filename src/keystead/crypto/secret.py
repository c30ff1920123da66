"""SECURITY: how key material is held in memory, and where key randomness comes from.

Property: a `SecretBytes` never shows its bytes by accident (no repr, str, format, pickle, copy, hash,
iteration), is compared in constant time, and is overwritten with zeros when it is wiped or dropped. This is
as far as Python goes: the interpreter may still hold what existed before (the `bytes` a secret was made from,
and the short-lived object in which the operating system hands out random bytes), OpenSSL holds its own copy
while a cipher object lives, and pages may be swapped. Owns no key hierarchy and no lifetime rule; leases
decide when to wipe.

Example: `with SecretBytes.random() as dek: aead = Aead(dek)`.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Protocol, Self, SupportsIndex, TypeVar

from keystead.crypto.errors import SecretWipedError

BytesLike = bytes | bytearray | memoryview
"""A contiguous buffer of bytes, accepted wherever this room reads data."""

T = TypeVar("T")


def random_bytes(n: int) -> bytes:
    """`n` bytes from the operating system's generator, for nonces and identifiers (for keys.

    `SecretBytes.random`).
    """
    return os.urandom(n)


def zeroise(buffer: bytearray | memoryview) -> None:
    """Overwrite a writable byte buffer with zeros in place."""
    buffer[:] = bytes(len(buffer))


class Wipeable(Protocol):
    """Something that holds key material of its own and can let go of it."""

    def wipe(self) -> None:
        """Let go of the key material; later use raises SecretWipedError."""


class SecretBytes:
    """Key material: fixed length, copied in, readable only through `expose` or `use`, zeroed by `wipe`."""

    __slots__ = ("__weakref__", "_data", "_derived", "_wiped")

    def __init__(self, data: BytesLike) -> None:
        """Copy `data`; the caller still owns, and should wipe, the original where it can."""
        self._wiped = False
        self._derived: Wipeable | None = None
        self._data = bytearray(data)

    @classmethod
    def random(cls, n: int = 32) -> Self:
        """A fresh secret of `n` random bytes: the only source of keys in the product."""
        return cls(random_bytes(n))

    @classmethod
    def adopt(cls, buffer: bytearray) -> Self:
        """Take `buffer` over without a copy; the caller must not use it again."""
        secret = cls(b"")
        secret._data = buffer
        return secret

    @property
    def wiped(self) -> bool:
        """Whether the bytes are gone."""
        return self._wiped

    def expose(self) -> memoryview:
        """A read-only view of the bytes; SecretWipedError after `wipe`.

        A view that was taken earlier reads zeros once the secret is wiped. Whoever makes a cipher from a view
        while another thread may wipe must use `use` instead, or data could be encrypted under a key of zeros.
        """
        if self._wiped:
            raise SecretWipedError
        return memoryview(self._data).toreadonly()

    def use(self, function: Callable[[memoryview], T]) -> T:
        """`function(view)`, or SecretWipedError if the secret was wiped before or while the function ran."""
        result = function(self.expose())
        # `wipe` raises its flag before it writes the first zero, so seeing no flag now proves the view was
        # whole.
        if self._wiped:
            raise SecretWipedError
        return result

    @property
    def derived(self) -> Wipeable | None:
        """What `attach` last attached."""
        return self._derived

    def attach(self, derived: Wipeable) -> None:
        """Wipe `derived`, which was made from these bytes and is kept for reuse, together with this secret.

        If that has already happened, `derived` is wiped at once: SecretWipedError.
        """
        self._derived = derived
        # The counterpart of `use`: either `wipe` finds what is attached, or its flag is seen here.
        if self._wiped:
            derived.wipe()
            raise SecretWipedError

    def wipe(self) -> None:
        """Overwrite with zeros, for good; repeating it is harmless."""
        self._wiped = True
        zeroise(self._data)
        if self._derived is not None:
            self._derived.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wipe()

    def __del__(self) -> None:
        # __init__ may have failed before there was anything to wipe.
        if hasattr(self, "_data"):
            self.wipe()

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        """Constant-time comparison; a wiped secret equals nothing, not even itself."""
        if not isinstance(other, SecretBytes):
            return NotImplemented
        if self._wiped or other._wiped:
            return False
        return hmac.compare_digest(self._data, other._data)

    def __hash__(self) -> NoReturn:
        """Refuse: a hash would be a fingerprint of the key, kept in dictionaries."""
        raise TypeError("SecretBytes is unhashable")

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._data)} bytes>)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse pickling and copying alike (the copy module goes through here)."""
        raise TypeError("SecretBytes can be neither pickled nor copied")
