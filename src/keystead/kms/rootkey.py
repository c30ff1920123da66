"""The root key: wraps the material of every software key, and is itself stored only sealed.

SECURITY: the root key is in clear only in this process's memory, and only between opening and closing of its
seal; sealed, whatever needs it answers UNAVAILABLE. Material is bound to the name of its version, so a row
copied to another version does not open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from keystead.api.call import Transactions
from keystead.api.errors import Aborted, Unavailable
from keystead.crypto.aad import encode_aad
from keystead.crypto.aead import unwrap_key, wrap_key
from keystead.crypto.errors import CryptoError
from keystead.crypto.mac import HmacKey
from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import Seal, SealError
from keystead.kms.seals.record import SealedRootKey, seal_with

ROOT_KEY = "root-key"
_SIZE = 32
_FINGERPRINT_KEY = encode_aad("keystead/kms/fingerprint-key/v1")

T = TypeVar("T")


class RootKey:
    """Wraps and unwraps key material while it is open. Safe to use from many threads.

    Made without a key it is sealed. `put` opens it, `close` seals it again; in between, everything that was
    begun either ends or raises Unavailable.
    """

    def __init__(self, key: SecretBytes | None = None) -> None:
        self._key = key
        self._why = "it was not opened yet."
        self._lock = threading.Lock()

    @staticmethod
    def open(store: Transactions, seal: Seal) -> RootKey:
        """The root key of a store, made and sealed at the first start. Raises SealError."""
        return RootKey(unseal(read_sealed(store) or create_sealed(store, seal), seal))

    @property
    def is_open(self) -> bool:
        """Whether keys can be used."""
        return self._key is not None

    def put(self, key: SecretBytes) -> None:
        """Open with this root key; it belongs to this object from now on."""
        with self._lock:
            before, self._key = self._key, key
        if before is not None:
            before.wipe()

    def close(self, why: str = "it was closed.") -> None:
        """Wipe the key; `why` is what callers read from now on: the end of a sentence about Keystead."""
        with self._lock:
            before, self._key, self._why = self._key, None, why
        if before is not None:
            before.wipe()

    def require_open(self) -> None:
        """Raises Unavailable while it is sealed."""
        self._opened()

    def use(self, function: Callable[[memoryview], T]) -> T:
        """`function(the 32 bytes)`, for handing the key to a process of the same server.

        Raises Unavailable while it is sealed.
        """
        key = self._opened()
        try:
            return key.use(function)
        except CryptoError:
            raise self._sealed() from None

    def wrap(self, version_name: str, material: SecretBytes) -> bytes:
        """The material of a version, as it is stored. Raises Unavailable while the root key is sealed."""
        key = self._opened()
        try:
            return wrap_key(key, material, _bound_to(version_name))
        except CryptoError:
            if key.wiped:  # it was closed meanwhile
                raise self._sealed() from None
            raise

    def unwrap(self, version_name: str, wrapped: bytes) -> SecretBytes:
        """The material of a version. Raises SealError when the row was damaged or belongs to another,
        Unavailable while the root key is sealed."""
        key = self._opened()
        try:
            return unwrap_key(key, wrapped, _bound_to(version_name))
        except CryptoError:
            if key.wiped:
                raise self._sealed() from None
            raise SealError(f"The stored material of {version_name} is damaged.") from None

    def fingerprint(self, material: SecretBytes) -> bytes:
        """32 bytes that only the same material gives again under this root key, and that reveal nothing of it
        (HMAC-SHA256 under a key derived from the root key). Raises Unavailable while the root key is sealed.
        """
        key = self._opened()
        try:
            with SecretBytes(HmacKey(key, "sha256").mac(_FINGERPRINT_KEY)) as derived:
                return HmacKey(derived, "sha256").mac(material.expose())
        except CryptoError:
            if key.wiped:
                raise self._sealed() from None
            raise

    def _opened(self) -> SecretBytes:
        key = self._key
        if key is None:
            raise self._sealed()
        return key

    def _sealed(self) -> Unavailable:
        return Unavailable(f"Keystead is sealed: {self._why}")


def read_sealed(store: Transactions) -> SealedRootKey | None:
    """The sealed root key of a store; None before its first start. Raises SealError for a damaged one."""
    with store.read() as tx:
        stored = tx.meta.get(ROOT_KEY)
    return None if stored is None else SealedRootKey.decode(stored)


def create_sealed(store: Transactions, seal: Seal) -> SealedRootKey:
    """Make the root key of a new store and seal it; what is stored, also where another was faster.

    Raises SealError.
    """
    with SecretBytes.random(_SIZE) as key:
        sealed = seal_with(seal, key)
        require_opens(sealed, seal, key)
    with store.write() as tx:
        present: Any = tx.meta.get(ROOT_KEY)
        if present is not None:
            return SealedRootKey.decode(bytes(present))
        tx.meta.put(ROOT_KEY, sealed.encode())
    return sealed


def unseal(sealed: SealedRootKey, seal: Seal) -> SecretBytes:
    """The root key. Raises SealError, also where the seal is of another kind than the root key's."""
    if seal.kind != sealed.kind:
        raise SealError(
            f"This store is sealed by '{sealed.kind[:40]}', but the server was started with '{seal.kind}'. "
            "Start it without --seal, and change the seal with: keystead seal change."
        )
    key = seal.unwrap(sealed.wrapped, sealed.aad)
    if len(key) != _SIZE:
        key.wipe()
        raise SealError("What the seal holds is not a root key. Restore the store from a backup.")
    return key


def require_opens(sealed: SealedRootKey, seal: Seal, root_key: SecretBytes) -> None:
    """Raises SealError unless the seal gives this root key back: before a wrapped key is stored."""
    with unseal(sealed, seal) as opened:
        if opened != root_key:
            raise SealError("The new seal gave back another key. Nothing was changed.")


def replace_sealed(
    store: Transactions,
    before: SealedRootKey,
    after: SealedRootKey,
    also: Callable[[Any], object] = lambda _: None,
) -> None:
    """Store the root key as another seal wraps it; `also(tx)` is done in the same transaction.

    A crash leaves the one or the other. Raises Aborted where what is stored is not `before` any more.
    """
    with store.write() as tx:
        if tx.meta.get(ROOT_KEY) != before.encode():
            raise Aborted("The seal was changed by somebody else meanwhile. Look at: keystead seal status.")
        tx.meta.put(ROOT_KEY, after.encode())
        also(tx)


def _bound_to(version_name: str) -> bytes:
    return encode_aad("keystead/kms/material/v1", version_name)
