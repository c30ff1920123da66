"""SECURITY: the audit trail that dispatch writes to: which calls are recorded, and the record itself.

Property: an administrative write and a denial are always recorded; nothing in this room can switch that off.
A record is appended inside the transaction of the mutation it tells of, so that neither is there without
the other. Records are chained (`chain`), which the store's single writer makes a total order.

Owns the decision and the append. Deliberately does not know audit configs: who wants Data Access records
is asked of a function that the room `iam` provides.
"""

from __future__ import annotations

from typing import Any, Protocol

from keystead.api.call import Call
from keystead.api.clock import Clock, timestamp
from keystead.api.dispatch import AuditEvent
from keystead.api.method import LogKind, Method
from keystead.audit import entries
from keystead.audit.chain import link
from keystead.store.rows import AuditRow

# Key inventory has no audit config of its own: that of Cloud KMS speaks for it (Cloud KMS audit logging).
_CONFIGURED_BY = {"kmsinventory.googleapis.com": "cloudkms.googleapis.com"}


class DataAccess(Protocol):
    """Whether audit configs ask for a Data Access record: of a service, a kind of access, a resource and a
    principal (an IAM member). Raises WouldBlock when `inline` and it must read the store."""

    def __call__(
        self, service: str, kind: LogKind, resource: str, principal: str, /, *, inline: bool
    ) -> bool: ...


class Trail:
    """`api.dispatch.AuditTrail` over the audit rows of the store."""

    def __init__(self, data_access: DataAccess, clock: Clock) -> None:
        self._data_access = data_access
        self._clock = clock

    def wanted(self, method: Method, call: Call, *, inline: bool) -> bool:
        """Whether a call of this method is recorded if it is not denied.

        Raises WouldBlock when `inline` and the audit configs are not in memory.
        """
        kind = method.spec.log
        if kind is LogKind.NONE:
            return False
        if kind is LogKind.ADMIN_WRITE:
            return True
        service = _CONFIGURED_BY.get(method.service.name, method.service.name)
        return self._data_access(service, kind, call.resource, call.principal or "", inline=inline)

    def record(self, tx: Any, event: AuditEvent) -> None:
        """Append the record of a call, inside the write transaction `tx`."""
        last = tx.audit.last()
        now = self._clock.now()
        # Logging orders entries of the same time by insert id: let that be the order of the chain.
        entry = entries.entry_of(event, insert_id=f"{last.seq + 1 if last else 1:016x}", recorded=now)
        row = AuditRow(
            log_name=entry.log_name,
            parent=entry.log_name.partition("/logs/")[0],
            time_us=timestamp(now).ToMicroseconds(),
            insert_id=entry.insert_id,
            body=entry.SerializeToString(),
            previous=b"",
            digest=b"",
        )
        tx.audit.append(link(row, last))
