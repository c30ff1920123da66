"""What happens to keys by itself: rotation at its time, destruction when its time has come, the end of import
jobs, and whatever a crash or an absent token left pending.

One call of `run_due` does what is due at `now`; when it is called is the server's business. A crash in
between loses nothing: what was not committed is due again. One key that cannot be rotated does not keep
others from being rotated or destroyed; it is tried again by the next call.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

from keystead.api.errors import ApiError
from keystead.kms import lifecycle
from keystead.kms.events import Change, KeyEvents
from keystead.kms.material import Material
from keystead.kms.pending import PendingKeys
from keystead.kms.service import JOBS, KEYS, VERSIONS, key_of
from keystead.kms.versions import CryptoKeyVersions, micros

log = logging.getLogger(__name__)
_BATCH = 100


class KeySchedule:
    """Rotates, destroys and expires what is due."""

    def __init__(
        self,
        store: Any,
        versions: CryptoKeyVersions,
        pending: PendingKeys,
        material: Material,
        events: KeyEvents,
    ) -> None:
        self._store = store
        self._versions = versions
        self._pending = pending
        self._material = material
        self._events = events
        # A crash may have come between a destruction and its scrub: the first run makes up for it.
        self._scrub_wanted = True
        self._making = True

    def run_due(self, now: dt.datetime, *, making: bool = True) -> int:
        """Do everything that is due; returns how many keys, versions and import jobs were changed.

        making: whether keys can be made at all; while the root key is sealed, only destructions are due.
        """
        self._making = making
        rotated = self._each(KEYS.kind, now, self._rotate_one) if making else 0
        destroyed = self._each(VERSIONS.kind, now, self._version_due)
        expired = self._each(JOBS.kind, now, self._job_due)
        self._scrub()
        return rotated + destroyed + expired

    def _each(self, kind: str, now: dt.datetime, act: Callable[[str, dt.datetime], bool]) -> int:
        """Act on everything of a kind that is due, each once; returns how often there was something to do."""
        changed = 0
        left: set[str] = set()
        while names := self._due(kind, now, left):
            for name in names:
                try:
                    if act(name, now):
                        changed += 1
                        continue
                except ApiError as error:
                    log.error("what is due of %s failed and is tried again: %s", name, error.message)  # noqa: TRY400
                left.add(name)
        return changed

    def _due(self, kind: str, now: dt.datetime, left: set[str]) -> list[str]:
        with self._store.read() as tx:
            rows = tx.resources.due(kind, micros(now), _BATCH + len(left))
        return [row.name for row in rows if row.name not in left]

    def _rotate_one(self, name: str, now: dt.datetime) -> bool:
        with self._store.write() as tx:
            stored = KEYS.require(tx, name)
            if not lifecycle.advance_rotation(stored.message, now):
                return False
            version = self._versions.add(tx, stored.message, now)
            stored.message.primary.Clear()
            stored.message.primary.name = version.name
            upcoming = stored.message.HasField("next_rotation_time")
            due = stored.message.next_rotation_time.ToMicroseconds() if upcoming else None
            KEYS.update(tx, stored, due=due)
            tx.after_commit(lambda: self._events.publish(name, Change.PRIMARY))
        log.info("rotated %s", name)
        return True

    def _scrub(self) -> None:
        """Take the bytes of removed material from the disk; the next run tries again if it cannot be now."""
        if not self._scrub_wanted:
            return
        try:
            self._store.scrub()
        except ApiError as error:
            log.warning("removed key material is still in the store's log: %s", error.message)
            return
        self._scrub_wanted = False

    def _version_due(self, name: str, now: dt.datetime) -> bool:
        with self._store.read() as tx:
            version = VERSIONS.require(tx, name).message
            if version.state not in lifecycle.PENDING:
                # Repeatable, and no use or restoration comes between: the time of both is over.
                self._material.remove_from_backend(tx, version)
        if version.state in lifecycle.PENDING:
            self._submit(name)
            return False
        return self._destroy_one(name, now)

    def _submit(self, name: str) -> None:
        if self._making:
            self._pending.submit(name)

    def _destroy_one(self, name: str, now: dt.datetime) -> bool:
        """State and material go in one transaction; `scrub` afterwards is repeatable."""
        with self._store.write() as tx:
            stored = VERSIONS.require(tx, name)
            if not lifecycle.destroyed(stored.message, now):
                return False
            self._material.forget(tx, name)
            VERSIONS.update(tx, stored, due=None)
            tx.after_commit(lambda: self._events.publish(key_of(name), Change.VERSION_STATE))
        self._scrub_wanted = True
        log.info("destroyed %s", name)
        return True

    def _job_due(self, name: str, now: dt.datetime) -> bool:
        with self._store.read() as tx:
            over = lifecycle.job_expired(JOBS.require(tx, name).message, now)
        if not over:
            self._submit(name)
            return False
        with self._pending.alone(name):
            self._expire_one(name, now)
        return True

    def _expire_one(self, name: str, now: dt.datetime) -> None:
        """The wrapping key goes, from the back end first: repeatable, and no import comes between, since the
        time of the job is over."""
        with self._store.read() as tx:
            self._material.remove_from_backend(tx, JOBS.require(tx, name).message)
        with self._store.write() as tx:
            stored = JOBS.require(tx, name)
            lifecycle.job_expired(stored.message, now)
            self._material.forget(tx, name)
            JOBS.update(tx, stored, due=None)
        self._scrub_wanted = True
        log.info("%s expired", name)
