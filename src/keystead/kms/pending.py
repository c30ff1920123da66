"""Keys that are made after the transaction that announced them: those of generated and imported versions, and
the key pairs of import jobs.

Making a key in a token cannot be rolled back, and making an RSA key takes long, so what will hold it is
committed first in a pending state, the key is made, and the outcome is committed. What a crash leaves pending
is found by its due time and made again by the next run of the schedule.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Protocol

from keystead.api.clock import Clock
from keystead.api.errors import ApiError
from keystead.kms import lifecycle
from keystead.kms.algorithms import ALGORITHMS
from keystead.kms.backends import GenerationFailedError, ImportFailedError, Made
from keystead.kms.events import Change, KeyEvents
from keystead.kms.material import Material
from keystead.kms.service import VERSIONS, key_of
from keystead.store.collection import Collection, Stored

log = logging.getLogger(__name__)

Attest = Callable[[Any, Made], Any]


class Work(Protocol):
    """How what is in one pending state gets its key."""

    def make(self, stored: Stored) -> Made:
        """Make the key, outside of any transaction; repeatable. Raises GenerationFailedError or
        ImportFailedError where it can never be made, ApiError where it cannot be made now."""

    def record(self, tx: Any, stored: Stored, made: Made | None, failure: str, now: dt.datetime) -> None:
        """Record the outcome, in the transaction that keeps the key; without `made` it failed, and `failure`
        says why."""


class PendingKeys:
    """Finishes what is pending. `attest(message, made)` gives the attestation of a CryptoKeyVersion or an
    ImportJob whose key was just made, or None; it is asked outside of any transaction, and may raise
    Unavailable: the key is then made again later."""

    def __init__(
        self,
        store: Any,
        clock: Clock,
        material: Material,
        *,
        executor: Executor | None = None,
        attest: Attest | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._material = material
        self._executor = executor
        self._attest = attest
        self._collections: dict[str, Collection] = {}
        self._works: dict[tuple[str, int], Work] = {}
        self._waiting: set[str] = set()
        self._running: set[str] = set()
        self._idle = threading.Condition()

    def register(self, collection: Collection, state: int, work: Work) -> None:
        """What is to be done for resources of a kind in a pending state."""
        self._collections[collection.kind] = collection
        self._works[collection.kind, state] = work

    def later(self, tx: Any, name: str) -> None:
        """Finish a resource in the background once this transaction is committed."""
        tx.after_commit(lambda: self.submit(name))

    def at_once(self, tx: Any, name: str, into: Any) -> None:
        """Finish a resource when this transaction is committed, before the call is answered; `into` is the
        message that is answered, and becomes what the resource became."""

        def finish() -> None:
            self.finish(name)
            with self._store.read() as reading:
                stored = self._find(reading, name)
            if stored is not None:
                into.CopyFrom(stored.message)

        tx.after_commit(finish)

    def submit(self, name: str) -> None:
        """Finish a resource in the background, unless that is being done."""
        if self._executor is None:
            self.finish(name)
            return
        with self._idle:
            if name in self._running or name in self._waiting:
                return
            self._waiting.add(name)
        try:
            self._executor.submit(self._logged, name)
        except RuntimeError:  # the server stops; the next one finishes it
            self._waiting.discard(name)

    def finish(self, name: str) -> None:
        """Finish a resource in this thread, or wait while another does. What cannot be done now stays
        pending."""
        with self.alone(name):
            with self._store.read() as tx:
                stored = self._find(tx, name)
            work = self._work(stored)
            if stored is None or work is None:
                return
            try:
                made = work.make(stored)
                attestation = self._attest(stored.message, made) if self._attest is not None else None
            except (GenerationFailedError, ImportFailedError) as error:
                self._commit(stored, work, None, failure=str(error))
            except ApiError as error:
                log.warning("the key of %s cannot be made yet: %s", name, error.message)
            else:
                self._commit(stored, work, made, attestation=attestation)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """While nobody else makes the key of this resource."""
        with self._idle:
            self._idle.wait_for(lambda: name not in self._running)
            self._running.add(name)
        try:
            yield
        finally:
            with self._idle:
                self._running.discard(name)
                self._idle.notify_all()

    def _logged(self, name: str) -> None:
        self._waiting.discard(name)
        try:
            self.finish(name)
        except Exception as error:  # the schedule comes back to it
            log.error("the key of %s could not be made: %s", name, type(error).__name__)  # noqa: TRY400

    def _find(self, tx: Any, name: str) -> Stored | None:
        row = tx.resources.get(name)
        return self._collections[row.kind].of(row) if row is not None else None

    def _work(self, stored: Stored | None) -> Work | None:
        return self._works.get((stored.row.kind, stored.message.state)) if stored is not None else None

    def _commit(
        self, stored: Stored, work: Work, made: Made | None, *, failure: str = "", attestation: Any = None
    ) -> None:
        """Record the outcome, if the resource still is what the key was made for."""
        name = stored.row.name
        with self._store.write() as tx:
            current = self._find(tx, name)
            if current is None or current.row.revision != stored.row.revision:
                log.warning("%s changed while its key was made", name)
                return
            if made is not None:
                self._material.keep(tx, name, made)
            if attestation is not None:
                current.message.attestation.CopyFrom(attestation)
            work.record(tx, current, made, failure, self._clock.now())


class Generation:
    """Versions in PENDING_GENERATION."""

    def __init__(self, material: Material, events: KeyEvents) -> None:
        self._material = material
        self._events = events

    def make(self, stored: Stored) -> Made:
        version = stored.message
        backend = self._material.backend(version.protection_level)
        algorithm = ALGORITHMS[version.algorithm]
        return backend.generate(version.name, algorithm, exportable=version.trusted_wrapping_enabled)

    def record(self, tx: Any, stored: Stored, made: Made | None, failure: str, now: dt.datetime) -> None:
        del made
        lifecycle.finished(stored.message, now, failure)
        VERSIONS.update(tx, stored, due=None)
        tell_of(tx, self._events, stored.message.name)


def tell_of(tx: Any, events: KeyEvents, version: str) -> None:
    """Publish, once this transaction is committed, that the state of a version changed."""
    tx.after_commit(lambda: events.publish(key_of(version), Change.VERSION_STATE))
