"""One call: who asks, through which door, until when; and what it may use while it runs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

_EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)


class WouldBlock(Exception):
    """A hot function met something that is not in memory: run it again in a thread."""


class NeedsMain(WouldBlock):
    """What only the main process may do was about to be done, and nothing was done yet: a record or a change
    must be written, or a token used. To the main process a WouldBlock like any other."""


class Transactions(Protocol):
    """Where transactions come from (store.Store). `epoch` rises with every change of what is cached."""

    @property
    def epoch(self) -> int: ...
    def read(self) -> AbstractContextManager[Any]: ...
    def write(self) -> AbstractContextManager[Any]: ...


@dataclass(slots=True)
class Call:
    """What a listener or a room knows of a call, and what dispatch adds.

    principal: the proven caller as an IAM member (`user:a@example.com`), or None.
    tx: the store transaction the function runs in; None for hot functions and those that open their
    own by `transaction()`.
    caller_ip, user_agent, deadline: not asked for where a hot call is answered on the event loop.
    resource: the canonical name that was authorized. service: the API that was asked.
    response: what is answered, for the audit record; a function with a transaction of its own sets it there.
    audit: facts a function adds to its audit record (`metadata` of AuditLog).
    needs: what was asked beside the method's permission, as permission, resource and whether it was granted.
    """

    principal: str | None
    caller_ip: str = "private"
    user_agent: str = ""
    deadline: dt.datetime | None = None
    inline: bool = False
    tx: Any = None
    resource: str = ""
    service: str = ""
    response: Any = None
    now: dt.datetime = _EPOCH
    audit: dict[str, Any] = field(default_factory=dict)
    needs: tuple[tuple[str, str, bool], ...] = ()
    opener: Callable[[], AbstractContextManager[Any]] | None = None

    def transaction(self) -> AbstractContextManager[Any]:
        """The one transaction of a function that opens its own: its audit record is committed with it."""
        if self.opener is None:
            raise RuntimeError("this call was given its transaction by dispatch")
        return self.opener()
