"""The root key: wraps the material of every software key, and is itself stored only sealed.

SECURITY: the root key is in clear only in this process's memory. Material is bound to the name of its
version, so a row copied to another version does not open.
"""

from __future__ import annotations

from typing import Any

from keystead.api.call import Transactions
from keystead.crypto.aad import encode_aad
from keystead.crypto.aead import unwrap_key, wrap_key
from keystead.crypto.errors import CryptoError
from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import Seal, SealError

ROOT_KEY = "root-key"


class RootKey:
    """Wraps and unwraps key material."""

    def __init__(self, key: SecretBytes) -> None:
        self._key = key

    @staticmethod
    def open(store: Transactions, seal: Seal) -> RootKey:
        """The root key of a store, made and sealed at the first start. Raises SealError."""
        with store.read() as tx:
            stored = tx.meta.get(ROOT_KEY)
        if stored is None:
            stored = _create(store, seal)
        kind, _, wrapped = stored.partition(b"\0")
        if kind != seal.kind.encode():
            sealed_by = kind[:40].decode(errors="replace")
            raise SealError(
                f"This store is sealed by '{sealed_by}', but the server was started with '{seal.kind}'."
            )
        return RootKey(seal.unwrap(wrapped))

    def wrap(self, version_name: str, material: SecretBytes) -> bytes:
        return wrap_key(self._key, material, _bound_to(version_name))

    def unwrap(self, version_name: str, wrapped: bytes) -> SecretBytes:
        """The material of a version. Raises SealError when the row was damaged or belongs to another."""
        try:
            return unwrap_key(self._key, wrapped, _bound_to(version_name))
        except CryptoError:
            raise SealError(f"The stored material of {version_name} is damaged.") from None

    def close(self) -> None:
        self._key.wipe()


def _bound_to(version_name: str) -> bytes:
    return encode_aad("keystead/kms/material/v1", version_name)


def _create(store: Transactions, seal: Seal) -> bytes:
    with SecretBytes.random(32) as key:
        sealed = seal.kind.encode() + b"\0" + seal.wrap(key)
    with store.write() as tx:
        present: Any = tx.meta.get(ROOT_KEY)
        if present is not None:
            return bytes(present)
        tx.meta.put(ROOT_KEY, sealed)
    return sealed
