"""Audit records of what an operator does to the server itself, beside all APIs: there is no call to record.

Such a record stands in the Admin Activity log of the organization. Its service is `keystead`, its principal
is the user of the machine (`os-user:NAME`), and what was done stands in its metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import empty_pb2

from keystead.api.call import Call
from keystead.api.clock import Clock
from keystead.api.dispatch import AuditEvent
from keystead.api.errors import ApiError
from keystead.api.method import LogKind, Method, MethodSpec, Service
from keystead.audit.trail import Trail

KEYSTEAD = Service("keystead", "Keystead")


class OperatorTrail:
    """Appends such records. `organization` gives the organization's name, inside a transaction."""

    def __init__(self, clock: Clock, organization: Callable[[Any], str]) -> None:
        self._clock = clock
        self._organization = organization
        self._trail = Trail(_always, clock)

    def record(
        self,
        tx: Any,
        act: str,
        operator: str,
        facts: Mapping[str, str],
        error: ApiError | None = None,
    ) -> None:
        """Append the record of an act (`Seal.Open`) inside the write transaction `tx`; `error` is why it
        failed, if it did."""
        call = Call(
            principal=f"os-user:{operator}",
            user_agent="keystead",
            resource=self._organization(tx),
            service=KEYSTEAD.name,
            now=self._clock.now(),
            audit=dict(facts),
        )
        event = AuditEvent(
            _method(act), call, empty_pb2.Empty(), None, error, granted=error is None, permission=""
        )
        self._trail.record(tx, event)


def _method(act: str) -> Method:
    spec = MethodSpec(
        rpc=f"keystead/{act}", http=(), permission=None, on="name", log=LogKind.ADMIN_WRITE, required=(),
        unsupported=(), redact=(), hot=False, own_transaction=True, templates=(),
    )  # fmt: skip
    return Method(spec, _nothing, empty_pb2.Empty, empty_pb2.Empty, KEYSTEAD, (KEYSTEAD,), None)


def _always(*_: object, inline: bool) -> bool:
    return True


def _nothing(*_: object) -> None:
    """These acts are not served."""
