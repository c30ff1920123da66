"""Versions whose key is made after the transaction that announced them: generation and import.

Making a key in a token cannot be rolled back, and making an RSA key takes long, so the version is committed
first (PENDING_GENERATION, PENDING_IMPORT), the key is made, and the outcome is committed. What a crash
leaves pending is found by its due time and made again by the next run of the schedule.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from keystead.api.clock import Clock
from keystead.api.errors import ApiError
from keystead.kms import lifecycle
from keystead.kms.algorithms import ALGORITHMS
from keystead.kms.backends import GenerationFailedError, ImportFailedError, Made
from keystead.kms.events import Change, KeyEvents
from keystead.kms.material import Material
from keystead.kms.service import VERSIONS, key_of
from keystead.store.collection import Stored

log = logging.getLogger(__name__)

Step = Callable[[Stored], Made]
Keep = Callable[[Stored, "Made | None"], "bytes | None"]
Attest = Callable[[Any, Made], Any]


class PendingVersions:
    """Finishes what is pending. `attest(version, made)` gives the attestation of a version, or None."""

    def __init__(
        self,
        store: Any,
        clock: Clock,
        material: Material,
        events: KeyEvents,
        *,
        executor: Executor | None = None,
        attest: Attest | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._material = material
        self._events = events
        self._executor = executor
        self._attest = attest
        self._steps: dict[int, Step] = {lifecycle.PENDING_GENERATION: self._generate}
        self._keeps: dict[int, Keep] = {}
        self._running: set[str] = set()
        self._idle = threading.Condition()

    def register(self, state: int, step: Step, keep: Keep) -> None:
        """How versions in a pending state get their key, and what the row's `sealed` holds afterwards."""
        self._steps[state] = step
        self._keeps[state] = keep

    def later(self, tx: Any, name: str) -> None:
        """Finish a version in the background once this transaction is committed."""
        tx.after_commit(lambda: self.submit(name))

    def at_once(self, tx: Any, name: str, into: Any) -> None:
        """Finish a version when this transaction is committed, before the call is answered; `into` is the
        message that is answered, and becomes what the version became."""

        def finish() -> None:
            self.finish(name)
            with self._store.read() as reading:
                into.CopyFrom(VERSIONS.require(reading, name).message)

        tx.after_commit(finish)

    def submit(self, name: str) -> None:
        """Finish a version in the background, unless that is being done."""
        with self._idle:
            if name in self._running:
                return
        if self._executor is None:
            self.finish(name)
            return
        self._executor.submit(self._logged, name)

    def finish(self, name: str) -> None:
        """Finish a version in this thread, or wait while another does. What cannot be done now stays
        pending."""
        with self._only_one(name):
            with self._store.read() as tx:
                stored = VERSIONS.find(tx, name)
            step = self._steps.get(stored.message.state) if stored is not None else None
            if stored is None or step is None:
                return
            try:
                made = step(stored)
            except (GenerationFailedError, ImportFailedError) as error:
                self._commit(stored, None, str(error))
            except ApiError as error:
                log.warning("the key of %s cannot be made yet: %s", name, error.message)
            else:
                self._commit(stored, made, "")

    def _logged(self, name: str) -> None:
        try:
            self.finish(name)
        except Exception as error:  # the schedule comes back to it
            log.error("the key of %s could not be made: %s", name, type(error).__name__)  # noqa: TRY400

    @contextmanager
    def _only_one(self, name: str) -> Iterator[None]:
        with self._idle:
            self._idle.wait_for(lambda: name not in self._running)
            self._running.add(name)
        try:
            yield
        finally:
            with self._idle:
                self._running.discard(name)
                self._idle.notify_all()

    def _generate(self, stored: Stored) -> Made:
        version = stored.message
        backend = self._material.backend(version.protection_level)
        algorithm = ALGORITHMS[version.algorithm]
        return backend.generate(version.name, algorithm, exportable=version.trusted_wrapping_enabled)

    def _commit(self, stored: Stored, made: Made | None, reason: str) -> None:
        """Record the outcome, if the version still is what the key was made for."""
        name = stored.message.name
        with self._store.write() as tx:
            current = VERSIONS.find(tx, name)
            if current is None or current.row.revision != stored.row.revision:
                log.warning("%s changed while its key was made", name)
                return
            version = current.message
            changes: dict[str, Any] = {"due": None}
            keep = self._keeps.get(version.state)
            if keep is not None:
                changes["sealed"] = keep(current, made)
            lifecycle.finished(version, self._clock.now(), reason)
            if made is not None:
                self._material.keep(tx, name, made)
                attestation = self._attest(version, made) if self._attest is not None else None
                if attestation is not None:
                    version.attestation.CopyFrom(attestation)
            VERSIONS.update(tx, current, **changes)
            tx.after_commit(lambda: self._events.publish(key_of(name), Change.VERSION_STATE))
