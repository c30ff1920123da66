"""Liveness and readiness, for load balancers and service managers.

`/healthz` says that the process answers; `/readyz` that it can serve: every check passes and it is not
stopping. Both are open to anybody who reaches the port, so an answer holds the names of checks and
nothing else: no reason, no address, no version.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from typing import Protocol

log = logging.getLogger(__name__)

Check = Callable[[], bool]
Report = tuple[int, dict[str, object]]


class Reports(Protocol):
    """What a listener asks: `Health`, or what stands for it in another process."""

    async def live(self) -> Report:
        """HTTP status and JSON object of `/healthz`."""

    async def ready(self) -> Report:
        """HTTP status (200 or 503) and JSON object of `/readyz`."""


class Health:
    """Answers of the two health paths.

    checks: name to a function that says whether that part is ready. It is called in a thread of
    `executor` (it may read the store); raising counts as not ready. optional: checks that are told, but
    without which the server is ready all the same. timeout: seconds for all checks.
    """

    def __init__(
        self,
        checks: Mapping[str, Check] | None = None,
        *,
        optional: Collection[str] = (),
        executor: Executor | None = None,
        timeout: float = 2.0,
    ) -> None:
        self._checks = dict(checks or {})
        self._optional = frozenset(optional)
        self._executor = executor
        self._timeout = timeout
        self._stopping = False

    def stopping(self) -> None:
        """From now on not ready: balancers send new calls elsewhere while running ones end."""
        self._stopping = True

    async def live(self) -> Report:
        """HTTP status and JSON object of `/healthz`."""
        return 200, {"status": "ok"}

    async def ready(self) -> Report:
        """HTTP status (200 or 503) and JSON object of `/readyz`."""
        if self._stopping:
            return 503, {"status": "stopping"}
        loop = asyncio.get_running_loop()
        runs = [loop.run_in_executor(self._executor, _passes, name, c) for name, c in self._checks.items()]
        if runs:
            _, late = await asyncio.wait(runs, timeout=self._timeout)
            for run in late:
                run.cancel()
        results = [run.done() and not run.cancelled() and run.result() for run in runs]
        checks = {name: "ok" if good else "failed" for name, good in zip(self._checks, results, strict=True)}
        if all(good for name, good in zip(self._checks, results, strict=True) if name not in self._optional):
            return 200, {"status": "ok", "checks": checks}
        return 503, {"status": "unavailable", "checks": checks}


def _passes(name: str, check: Check) -> bool:
    try:
        return bool(check())
    except Exception as error:
        log.warning("readiness check %s raised %s", name, type(error).__name__)
        return False
