"""How every change of an AML AI resource is made: one transaction that announces it and starts its operation.

A call that carries a request id is done once: sent again by the same principal it gets the operation that
the first try started (AIP-155). What an operation does is not decided here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keystead.api.call import Call
from keystead.api.clock import timestamp
from keystead.api.errors import bad_field
from keystead.api.operations import OperationRunner
from keystead.financialservices.messages import OperationMetadata
from keystead.financialservices.service import AML, location_name_of


@dataclass(frozen=True, slots=True)
class Change:
    """One change as it was asked for: `kind` names the work, `verb` is what the metadata shows."""

    kind: str
    verb: str
    target: str
    request_id: str = ""


class Changes:
    """Announces changes and starts their operations."""

    def __init__(self, store: Any, runner: OperationRunner) -> None:
        self._store = store
        self._runner = runner

    def earlier(self, call: Call, change: Change) -> Any:
        """The operation that an earlier try of this call started, if there was one.

        Raises InvalidArgument for a request id that is no UUID, is zero, or was used for something else. Not
        to be used inside a write transaction: the operation's response may need the key.
        """
        check_request_id(change.request_id)
        if not change.request_id:
            return None
        with self._store.read() as tx:
            row = self._find(tx, call, change)
        return None if row is None else self._runner.render(row)

    def commit(
        self, call: Call, change: Change, announce: Callable[[Any], None], *, arguments: bytes = b""
    ) -> Any:
        """`announce` the change and start its operation, in the call's one transaction; the operation."""
        with call.transaction() as tx:
            row = self._find(tx, call, change)
            if row is None:
                announce(tx)
                call.response = self._start(tx, call, change, arguments)
                return call.response
        return self._runner.render(row)  # another try of the same call was faster

    def _find(self, tx: Any, call: Call, change: Change) -> Any:
        if not change.request_id:
            return None
        row = tx.operations.by_request_id(AML.name, call.principal or "", change.request_id)
        if row is not None and (row.kind, row.target) != (change.kind, change.target):
            raise bad_field("request_id", "This request id was already used for another request.")
        return row

    def _start(self, tx: Any, call: Call, change: Change, arguments: bytes) -> Any:
        metadata = OperationMetadata(
            create_time=timestamp(call.now), target=change.target, verb=change.verb, api_version="v1"
        )
        return self._runner.start(
            tx,
            AML,
            change.kind,
            parent=location_name_of(change.target),
            target=change.target,
            metadata=metadata,
            call=call,
            arguments=arguments,
            request_id=change.request_id,
        )


def check_request_id(request_id: str) -> None:
    """INVALID_ARGUMENT unless it is empty or a UUID other than zero, as the API reference demands."""
    if not request_id:
        return
    try:
        parsed = uuid.UUID(request_id)
    except ValueError:
        parsed = uuid.UUID(int=0)
    if parsed.int == 0 or str(parsed) != request_id.lower():
        raise bad_field("request_id", "It must be a UUID other than the zero UUID.")
