"""Opened keys in memory, each good for one epoch of the store.

SECURITY: whatever changes a key, a version or a policy moves the store's epoch, and nothing of another
epoch is used: a disabled version is refused by the next call. `key_changed`, subscribed to the key events,
lets go of a changed key at once, so that they do not stay in memory until that next call.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import Any

from keystead.api.call import WouldBlock
from keystead.api.errors import Internal, NotFound
from keystead.crypto.ciphertext import SOFTWARE_FORMAT, TOKEN_FORMAT, KeyVersionRef
from keystead.kms import lifecycle
from keystead.kms.algorithms import ALGORITHMS, Algorithm
from keystead.kms.backends import Backend, Key
from keystead.kms.events import Change
from keystead.kms.material import Material
from keystead.kms.seals import SealError
from keystead.kms.service import KEYS, VERSIONS, version_name, version_number

_MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class UsableVersion:
    """A version as its use needs it; `key` and `public` only where it is ENABLED."""

    message: Any
    ref: KeyVersionRef
    key: Key | None
    public: bytes
    name: str
    protection_level: int
    algorithm: Algorithm
    backend: Backend


class CachedKey:
    """A key in one epoch, with those of its versions that were asked for."""

    __slots__ = ("encrypting", "message", "primary", "versions")

    def __init__(self, message: Any, primary: int) -> None:
        self.message = message
        self.primary = primary
        self.versions: dict[int, UsableVersion] = {}
        self.encrypting: UsableVersion | None = None  # the primary, once it was found fit to encrypt


class KeyCache:
    """Keys and versions for Encrypt and Decrypt; everything else reads the store."""

    def __init__(self, store: Any, material: Material) -> None:
        self._store = store
        self._material = material
        self._lock = threading.Lock()
        # One value, so that no reader takes the keys of one epoch for those of another.
        self._cached: tuple[int, dict[str, CachedKey]] = (-1, {})

    def key(self, name: str, *, inline: bool) -> CachedKey:
        """The key as it stands. Raises NotFound, and WouldBlock when `inline` and not in memory."""
        epoch, keys = self._cached
        found = keys.get(name) if self._store.epoch == epoch else None
        if found is None:
            if inline:
                raise WouldBlock
            found = self._load_key(name)
        return found

    def version(self, key: CachedKey, number: int, *, inline: bool) -> UsableVersion:
        """A version of that key in the same epoch. Raises as `key` does."""
        found = key.versions.get(number)
        if found is None:
            if inline:
                raise WouldBlock
            found = self._load_version(key, number)
        return found

    def clear(self) -> None:
        """Drop every cipher."""
        with self._lock:
            # Of this epoch, so that what somebody is still loading of an earlier one is not kept.
            self._cached = (self._store.epoch, {})

    def key_changed(self, key: str, change: Change) -> None:
        """A version of the key, or its primary, changed: drop the ciphers of all its versions."""
        del change
        with self._lock:
            self._cached[1].pop(key, None)

    def _load_key(self, name: str) -> CachedKey:
        epoch = self._store.epoch
        with self._store.read() as tx:
            message = KEYS.require(tx, name).message
        primary = version_number(message.primary.name) if message.HasField("primary") else 0
        loaded = CachedKey(message, primary)
        with self._lock:
            cached_at, keys = self._cached
            if cached_at < epoch or (cached_at == epoch and len(keys) >= _MAX_KEYS):
                self._cached = (epoch, {name: loaded})
            elif cached_at == epoch:
                keys[name] = loaded
        return loaded

    def _load_version(self, key: CachedKey, number: int) -> UsableVersion:
        name = version_name(key.message.name, number)
        with self._store.read() as tx:
            stored = VERSIONS.find(tx, name)
            if stored is None:
                raise NotFound(f"CryptoKeyVersion {name} not found.")
            version = stored.message
            opened, public = None, b""
            if version.state == lifecycle.ENABLED and tx.material.get(name) is not None:
                opened, public = self._open(tx, version), tx.material.public(name)
        backend = self._material.backend(version.protection_level)
        form = TOKEN_FORMAT if backend.blocking else SOFTWARE_FORMAT
        loaded = UsableVersion(
            version,
            KeyVersionRef(key_id(key.message.name), key.message.name, number, form),
            opened,
            public,
            name,
            version.protection_level,
            ALGORITHMS[version.algorithm],
            backend,
        )
        key.versions[number] = loaded
        return loaded

    def _open(self, tx: Any, version: Any) -> Key:
        try:
            return self._material.open(tx, version)
        except SealError as error:
            raise Internal(f"{error} Restore the store from a backup.") from None


def key_id(key_name: str) -> bytes:
    """16 bytes that name a key in its ciphertexts: names are never used twice, so a digest of it does."""
    return hashlib.sha256(b"keystead/kms/key-id/v1\0" + key_name.encode()).digest()[:16]
