"""What this room keeps in memory of the store, and until when: until anything is committed.

It owns the rule that makes a revocation hold for the very next call. It does not know what is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Epochs(Protocol):
    """A store that counts the commits which touched what caches are made from (store.Store)."""

    @property
    def epoch(self) -> int: ...


class Remembered(Generic[K, V]):
    """A bounded map of what was read from the store at one epoch.

    SECURITY: `at` gives the map of the present epoch, and a reader fills the map it was given before it
    read. What is read while somebody else commits so ends up in a map that nobody asks any more.
    """

    def __init__(self, store: Epochs, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._epoch = store.epoch
        self._entries: dict[K, V] = {}

    def at(self) -> dict[K, V]:
        """The entries of the present epoch: empty after a commit."""
        epoch = self._store.epoch
        if epoch != self._epoch:
            # The map first: a reader that sees the new epoch must not get the old map with it.
            self._entries = {}
            self._epoch = epoch
        return self._entries

    def find(self, key: K, entries: dict[K, V], read: Callable[[K], V]) -> V:
        """The entry of `key`, read and kept in `entries` (what `at` gave before the reading began)."""
        found = entries.get(key)
        if found is None:
            found = read(key)
            if len(entries) >= self._limit:
                entries.clear()
            entries[key] = found
        return found
