"""The key guard: knows, for every protected resource, what its key answers, and acts on a change.

Told at once by the key service of the same deployment (`key_changed`, `policy_changed`), it first puts
every lease under that key in doubt, in the thread that made the change: when a Disable call returns, no lease
is used again without asking the key. What takes longer (asking every key, re-wrapping after a rotation)
follows in a thread of its own. `poll` asks all keys, for what nobody tells: conditions that expire, other
deployments.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable

from keystead.api.errors import ApiError
from keystead.cmek.answers import Answer
from keystead.cmek.keychain import Keychain
from keystead.kms.events import Change

log = logging.getLogger(__name__)

Rule = Callable[[str, Answer], None]


class KeyGuard:
    """Watches the keys of some keychains.

    `rules` are told of every change of a resource's answer, once; only if one of them failed are all told
    again by the next check, so a rule must be repeatable.
    """

    def __init__(self, keychains: Iterable[Keychain], rules: Iterable[Rule] = ()) -> None:
        self._keychains = tuple(keychains)
        self._rules = tuple(rules)
        self._answers: dict[str, Answer] = {}
        self._told: dict[str, Answer] = {}
        self._work: queue.Queue[tuple[Keychain, str] | None] = queue.Queue()
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work off what is queued."""
        self._thread = threading.Thread(target=self._run, name="key-guard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is queued is found again by the next start's poll."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(timeout=30)
            self._thread = None

    def answer(self, resource: str) -> Answer | None:
        """The last answer known for a resource."""
        return self._answers.get(resource)

    def key_changed(self, key: str, change: Change) -> None:
        """A version of the key, or its primary, changed."""
        del change  # every change is answered alike: ask the key
        self._doubt(key)

    def policy_changed(self, resource: str) -> None:
        """The policy of a key, ring or project changed; that of an organization concerns every key."""
        self._doubt("" if resource.startswith(("organizations/", "folders/")) else resource)

    def poll(self) -> None:
        """Queue a check of every protected resource."""
        self._doubt("")

    def settle(self, timeout_s: float) -> bool:
        """Wait until everything queued so far is worked off; whether it was in time."""
        waiter = threading.Thread(target=self._work.join, daemon=True)
        waiter.start()
        waiter.join(timeout_s)
        return not waiter.is_alive()

    def _doubt(self, key_prefix: str) -> None:
        for keychain in self._keychains:
            for resource in keychain.doubt(key_prefix):
                with self._lock:
                    if resource in self._waiting:
                        continue
                    self._waiting.add(resource)
                self._work.put((keychain, resource))

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            keychain, resource = item
            with self._lock:
                self._waiting.discard(resource)
            try:
                self._check(keychain, resource)
            except ApiError as error:
                log.warning("checking the key of %s failed: %s", resource, error.message)
            except Exception as error:  # the guard must outlive whatever one resource does
                log.error("checking the key of %s failed: %s", resource, type(error).__name__)  # noqa: TRY400
            finally:
                self._work.task_done()
        self._work.task_done()

    def _check(self, keychain: Keychain, resource: str) -> None:
        answer = keychain.check(resource)
        before = self._told.get(resource)
        self._answers[resource] = answer
        if answer is before:
            return
        if before is not None or answer is not Answer.ENABLED:
            log.warning("the key of %s is now %s", resource, answer.value)
        for rule in self._rules:
            rule(resource, answer)
        self._told[resource] = answer
