"""Background loops: boring on purpose. Each does one unit of work, logs a failure, and goes on."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Loop:
    """Calls `work` every `interval_s` seconds (a random part of it first, so that servers do not beat as
    one) in a thread of its own, until stopped. The work is a function of its own, tested without a loop."""

    def __init__(self, name: str, work: Callable[[], object], interval_s: float) -> None:
        self._name = name
        self._work = work
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the current unit of work."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)

    def _run(self) -> None:
        delay = self._interval_s * random.random()  # noqa: S311  (spreads load, decides nothing)
        while not self._stop.wait(delay):
            delay = self._interval_s
            try:
                self._work()
            except Exception as error:  # a loop must outlive one bad turn
                log.error("%s failed: %s", self._name, type(error).__name__)  # noqa: TRY400
