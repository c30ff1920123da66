"""Told at once: what happened to a key, for whoever protects data with it in the same deployment."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class Change(enum.Enum):
    """What about a key changed."""

    VERSION_STATE = "version-state"
    PRIMARY = "primary"


Listener = Callable[[str, Change], None]


class KeyEvents:
    """Calls every listener, in the thread that made the change, after its commit and before its answer:
    when a Disable call returns, the listeners have acted."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def publish(self, key: str, change: Change) -> None:
        for listener in self._listeners:
            try:
                listener(key, change)
            except Exception as error:  # one listener must not keep the others from acting
                log.error("a listener failed on %s of %s: %s", change.value, key, type(error).__name__)  # noqa: TRY400
