"""Which successful calls a customer wants recorded: the `auditConfigs` of the project and the organization.

A kind of call is recorded if the policy of the project or that of the organization asks for it, for the
service or for `allServices`, and does not exempt the caller. Within one policy exemptions add up over both;
an exemption in the project does not take away what the organization asks for.

Denials and administrative writes are recorded whatever is set; that is not decided here. Source: IAM
`AuditConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from google.iam.v1 import policy_pb2

from keystead.api import names
from keystead.api.call import WouldBlock
from keystead.api.method import LogKind
from keystead.iam.hierarchy import find_project
from keystead.iam.members import identities
from keystead.iam.memory import Remembered

ALL_SERVICES = "allServices"

_KINDS = {
    policy_pb2.AuditLogConfig.ADMIN_READ: LogKind.ADMIN_READ,
    policy_pb2.AuditLogConfig.DATA_WRITE: LogKind.DATA_WRITE,
    policy_pb2.AuditLogConfig.DATA_READ: LogKind.DATA_READ,
}
_LIMIT = 4_096

# Service and kind to the members that are exempt.
_Table = Mapping[tuple[str, LogKind], frozenset[str]]


class _ReadableStore(Protocol):
    @property
    def epoch(self) -> int: ...
    def read(self) -> AbstractContextManager[Any]: ...


class AuditConfigs:
    """Answers from memory, as fresh as the last commit."""

    def __init__(self, store: _ReadableStore, organization: str) -> None:
        self._store = store
        self._organization = organization
        self._tables: Remembered[str, tuple[_Table, ...]] = Remembered(store, _LIMIT)

    def wanted(
        self, service: str, log_kind: LogKind, project_or_name: str, principal: str, *, inline: bool
    ) -> bool:
        """Whether a principal's call of a kind is to be recorded.

        `service` is the API's name (`cloudkms.googleapis.com`), `project_or_name` the resource or its
        project; a name outside of any project falls under the organization alone. Raises WouldBlock if
        `inline` and the store must be read.
        """
        project = names.project_of(project_or_name)
        scope = f"projects/{project}" if project else ""
        entries = self._tables.at()
        if inline and scope not in entries:
            raise WouldBlock
        tables = self._tables.find(scope, entries, self._read)
        return any(_asks(table, service, log_kind, principal) for table in tables)

    def _read(self, scope: str) -> tuple[_Table, ...]:
        with self._store.read() as tx:
            found = find_project(tx, scope) if scope else None
            wanted = [self._organization, *([f"projects/{found.project_id}"] if found else [])]
            rows = tx.policies.get_many(wanted)
        tables = (_table(policy_pb2.Policy.FromString(row.body)) for row in rows.values())
        return tuple(table for table in tables if table)


def _asks(table: _Table, service: str, kind: LogKind, principal: str) -> bool:
    named, everywhere = table.get((service, kind)), table.get((ALL_SERVICES, kind))
    if named is None and everywhere is None:
        return False
    exempt = (named or frozenset()) | (everywhere or frozenset())
    return exempt.isdisjoint(identities(principal))


def _table(policy: policy_pb2.Policy) -> _Table:
    table: dict[tuple[str, LogKind], frozenset[str]] = {}
    for config in policy.audit_configs:
        for entry in config.audit_log_configs:
            kind = _KINDS.get(entry.log_type)
            if kind is not None:
                key = (config.service, kind)
                table[key] = table.get(key, frozenset()) | frozenset(entry.exempted_members)
    return table
