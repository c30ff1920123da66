"""Key material of software versions: generated, stored wrapped by the root key, unwrapped for use, removed.

SECURITY: material exists in clear only in `SecretBytes` and in ciphers made of it; what is stored is wrapped
and bound to its version's name.
"""

from __future__ import annotations

from typing import Any

from keystead.crypto.aead import Aead
from keystead.crypto.secret import SecretBytes
from keystead.kms.rootkey import RootKey
from keystead.kms.seals import SealError

_KEY_BYTES = 32


class Material:
    """Symmetric key material (256 bits) by version name."""

    def __init__(self, root_key: RootKey) -> None:
        self._root_key = root_key

    def generate(self, tx: Any, version_name: str) -> None:
        """Make the material of a new version, in the transaction that creates it."""
        with SecretBytes.random(_KEY_BYTES) as key:
            tx.material.put(version_name, self._root_key.wrap(version_name, key))

    def cipher(self, tx: Any, version_name: str) -> Aead:
        """The cipher of a version. Raises SealError when its material is missing or damaged."""
        wrapped = tx.material.get(version_name)
        if wrapped is None:
            raise SealError(f"The material of {version_name} is missing.")
        with self._root_key.unwrap(version_name, wrapped) as key:
            return Aead(key)

    def remove(self, tx: Any, version_name: str) -> None:
        """Delete the wrapped material; `store.scrub` then leaves no copy of it in the store's files."""
        tx.material.delete(version_name)
