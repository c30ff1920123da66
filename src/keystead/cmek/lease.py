"""A lease: the only way an unwrapped KEK is held in memory.

SECURITY: `key()` gives the KEK only while the lease lives. The guard revokes it at once when it is told that
the key went; and at the latest `max_age` seconds after the key was last seen to open the KEK, `key()` asks
the key service again, by a real decryption of the wrapped KEK. Revoking wipes the KEK; open streams, which
call `key()` for every chunk, fail at their next one. So no data is readable longer than `max_age` after the
key went, whether or not anybody was told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from keystead.cmek.answers import KeyUnavailableError
from keystead.crypto.secret import SecretBytes


class Lease:
    """The KEK of one resource while the customer's key allows it. Shared by all that use the resource.

    `refresh` decrypts the wrapped KEK anew, or raises KeyUnavailableError. `asked` is when the key service
    was asked for `kek` (time.monotonic), now if not given.
    """

    def __init__(
        self,
        kek: SecretBytes,
        refresh: Callable[[], SecretBytes],
        max_age_s: float,
        asked: float | None = None,
    ) -> None:
        self._kek = kek
        self._refresh = refresh
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._seen = time.monotonic() if asked is None else asked
        self._ended: KeyUnavailableError | None = None
        # Guards `_seen` and `_doubts` together; held for moments only, never while the key service is asked.
        self._instant = threading.Lock()
        self._doubts = 0

    @property
    def alive(self) -> bool:
        return self._ended is None

    def key(self) -> SecretBytes:
        """The KEK. Raises KeyUnavailableError once the key refuses; a lease that ended stays so."""
        if self._ended is not None:
            raise self._ended
        if time.monotonic() - self._seen > self._max_age_s:
            self._renew()
        return self._kek

    def end(self, reason: KeyUnavailableError) -> None:
        """The key is known to refuse: wipe the KEK; whoever asks from now on gets `reason`."""
        self._ended = self._ended or reason
        self._kek.wipe()

    def doubt(self) -> None:
        """Something about the key or its grants changed: ask the key service before the next use."""
        with self._instant:
            self._doubts += 1
            self._seen = float("-inf")

    def _renew(self) -> None:
        arrived = time.monotonic()
        with self._lock:
            # What another thread asked after this one came is fresh enough, however long the answer took.
            while self._seen < arrived and time.monotonic() - self._seen > self._max_age_s:
                doubts, asked = self._doubts, time.monotonic()
                self._ask()
                with self._instant:
                    # Doubted while it asked: the answer may be from before what is doubted, so ask again.
                    if self._doubts == doubts:
                        self._seen = asked
            if self._ended is not None:
                raise self._ended

    def _ask(self) -> None:
        if self._ended is not None:
            raise self._ended
        try:
            with self._refresh() as fresh:
                same = fresh == self._kek
        except KeyUnavailableError as error:
            self.end(error)
            raise
        if self._ended is not None:
            raise self._ended
        if not same:
            raise RuntimeError("the wrapped key-encryption key changed under a lease")
