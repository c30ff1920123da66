"""What dispatch stands on, in memory: transactions, an authorizer, an audit trail, an authenticator."""

from __future__ import annotations

import copy
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from keystead.api.call import Call, WouldBlock
from keystead.api.dispatch import AuditEvent
from keystead.api.errors import Unauthenticated
from keystead.api.method import Method


class MemoryTx:
    """A view of the rows and audit records; changes show when the transaction ends well."""

    def __init__(self, rows: dict[str, Any], records: list[AuditEvent], *, writable: bool) -> None:
        self.rows = rows
        self.records = records
        self.writable = writable
        self.callbacks: list[Callable[[], None]] = []

    @property
    def resources(self) -> dict[str, Any]:
        return self.rows

    def after_commit(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)


class MemoryStore:
    """Transactions over a dictionary: one writer, all or nothing."""

    epoch = 0

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.records: list[AuditEvent] = []
        self._lock = threading.RLock()

    @contextmanager
    def read(self) -> Iterator[MemoryTx]:
        yield MemoryTx(copy.deepcopy(self.rows), list(self.records), writable=False)

    @contextmanager
    def write(self) -> Iterator[MemoryTx]:
        with self._lock:
            tx = MemoryTx(copy.deepcopy(self.rows), list(self.records), writable=True)
            yield tx
            self.rows, self.records = tx.rows, tx.records
        for callback in tx.callbacks:
            callback()


class Grants:
    """An authorizer: who holds which permission, on every resource, and which project numbers mean which id.

    cold: everything must be read from the store, so nothing can be answered inline.
    """

    def __init__(self) -> None:
        self.granted: set[tuple[str, str]] = set()
        self.everything: set[str] = set()
        self.numbers: dict[str, str] = {}
        self.projects: set[str] = set()
        self.cold = False
        self.broken: Exception | None = None

    def canonical(self, name: str, *, inline: bool) -> str:
        self._warm(inline=inline)
        parts = name.split("/")
        if parts[0] == "projects" and len(parts) > 1:
            parts[1] = self.numbers.get(parts[1], parts[1])
        return "/".join(parts)

    def allowed(
        self, principal: str, permission: str, resource: str, now: dt.datetime, *, inline: bool
    ) -> bool:
        self._warm(inline=inline)
        return principal in self.everything or (principal, permission) in self.granted

    def admit(self, tx: MemoryTx, resource: str) -> None:
        tx.rows[self._project(resource)] = "Project"
        tx.after_commit(lambda: self.projects.add(self._project(resource)))

    def admitted(self, resource: str, *, inline: bool) -> bool:
        return self._project(resource) in self.projects

    def timeless(self, resource: str) -> bool:
        return False  # every call is decided anew

    def _warm(self, *, inline: bool) -> None:
        if self.broken is not None:
            raise self.broken
        if inline and self.cold:
            raise WouldBlock

    @staticmethod
    def _project(resource: str) -> str:
        return "/".join(resource.split("/")[:2])


class Trail:
    """An audit trail: which methods' successes it wants, and whether it can write at all."""

    def __init__(self) -> None:
        self.methods: set[str] = set()
        self.full = False

    def wanted(self, method: Method, call: Call, *, inline: bool) -> bool:
        return method.spec.short_name in self.methods

    def record(self, tx: MemoryTx, event: AuditEvent) -> None:
        if self.full:
            raise OSError("no space left for plaintext-canary")
        assert tx.writable
        tx.records.append(event)


class Tokens:
    """An authenticator: a bearer token is the IAM member itself; one that is not proves nothing."""

    def principal(self, authorization: str | None) -> str | None:
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.startswith("user:"):
            raise Unauthenticated("Request had invalid authentication credentials.")
        return token
