"""The decision: whether a principal may do something to a resource.

SECURITY: deny unless granted. A permission is held on a resource if a binding of the policy of the resource,
or of anything it stands under (key, key ring, project, organization), names the principal and a role with
the permission, and its condition, if it has one, is met. There is nothing else that grants.

Decisions are made from memory. What is in memory is dropped with every commit that touched a policy or a
resource (`memory`), so a revocation that was answered holds for the very next call.

With `dev`, a project that nobody named before counts as standing under the organization, and comes into
being in the transaction of the first call that is granted on it. Without, nothing is granted on a project
that does not exist.

It does not read requests, and it does not record denials: dispatch does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from google.iam.v1 import policy_pb2

from keystead.api import names
from keystead.api.call import WouldBlock
from keystead.iam.grants import Grants, role_members
from keystead.iam.hierarchy import Projects, ancestors, is_number
from keystead.iam.members import CONVENIENCE, identities
from keystead.iam.memory import Remembered

# How many resources, policies and project numbers are remembered.
_RESOURCES = 65_536
_POLICIES = 16_384
_NUMBERS = 4_096


class ReadableStore(Protocol):
    """What is needed of store.Store."""

    @property
    def epoch(self) -> int: ...
    def read(self) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True, slots=True)
class _Standing:
    """Where a resource stands: the policies that hold for it, nearest first, those that grant nothing left
    out. `pending` is the project that comes into being when a call on the resource is granted."""

    grants: tuple[Grants, ...]
    conditional: tuple[Grants, ...]
    pending: str = ""


class Authorizer:
    """Implements `api.dispatch.Authorizer` over the store's policies."""

    def __init__(self, store: ReadableStore, projects: Projects, *, dev: bool) -> None:
        self._store = store
        self._projects = projects
        self._dev = dev
        self._standings: Remembered[str, _Standing] = Remembered(store, _RESOURCES)
        self._policies: Remembered[str, Grants] = Remembered(store, _POLICIES)
        self._ids: Remembered[str, str] = Remembered(store, _NUMBERS)

    def canonical(self, name: str, *, inline: bool) -> str:
        """The name with a project number replaced by the project's id; as it is if the number is nobody's.

        Raises WouldBlock if `inline` and the store must be read.
        """
        if not name.startswith("projects/") or not name[9:10].isdigit():
            return name
        number, slash, rest = name[9:].partition("/")
        if not is_number(number):
            return name
        entries = self._ids.at()
        if inline and number not in entries:
            raise WouldBlock
        return f"projects/{self._ids.find(number, entries, self._read_id)}{slash}{rest}"

    def allowed(
        self, principal: str, permission: str, resource: str, now: dt.datetime, *, inline: bool
    ) -> bool:
        """Whether a principal holds a permission on a resource at this time (aware UTC).

        Raises WouldBlock if `inline` and the store must be read.
        """
        return _decide(self._standing(resource, inline=inline), principal, permission, resource, now)

    def allowed_in(self, tx: Any, principal: str, permission: str, resource: str, now: dt.datetime) -> bool:
        """`allowed` for code inside a transaction: as the transaction sees the policies."""
        return _decide(self._read_standing(tx, resource, None), principal, permission, resource, now)

    def held_in(
        self, tx: Any, principal: str, permissions: Iterable[str], resource: str, now: dt.datetime
    ) -> list[str]:
        """Those of the permissions that a principal holds on a resource, each once, in the order given."""
        standing = self._read_standing(tx, resource, None)
        return [
            each for each in dict.fromkeys(permissions) if _decide(standing, principal, each, resource, now)
        ]

    def admit(self, tx: Any, resource: str) -> None:
        """In the transaction of a granted call: its project comes into being if it is a new one (`dev`)."""
        pending = self._read_standing(tx, resource, None).pending
        if pending:
            self._projects.ensure(tx, pending)

    def admitted(self, resource: str, *, inline: bool) -> bool:
        """Whether `admit` has nothing to do. Raises WouldBlock if `inline` and the store must be read."""
        return not self._standing(resource, inline=inline).pending

    def timeless(self, resource: str) -> bool:
        """Whether what was decided on the resource holds until the next commit: no condition is involved."""
        standing = self._standings.at().get(resource)
        return standing is not None and not standing.conditional

    def _standing(self, resource: str, *, inline: bool) -> _Standing:
        entries = self._standings.at()
        found = entries.get(resource)
        if found is not None:
            return found
        if inline:
            raise WouldBlock
        policies = self._policies.at()
        with self._store.read() as tx:
            return self._standings.find(
                resource, entries, lambda name: self._read_standing(tx, name, policies)
            )

    def _read_id(self, number: str) -> str:
        with self._store.read() as tx:
            project = self._projects.get(tx, number)
        return number if project is None else str(project.project_id)

    def _read_standing(self, tx: Any, resource: str, policies: dict[str, Grants] | None) -> _Standing:
        project = names.project_of(resource)
        pending = ""
        if project and self._projects.get(tx, project) is None:
            if not self._dev or not names.PROJECT_ID.fullmatch(project):
                return _Standing((), ())
            pending = project
        chain = ancestors(resource, self._projects.organization)
        if chain and chain[-1] != self._projects.organization:
            return _Standing((), ())
        grants = self._read_grants(tx, chain, {} if policies is None else policies)
        return _Standing(grants, tuple(each for each in grants if each.has_conditions), pending)

    def _read_grants(
        self, tx: Any, chain: tuple[str, ...], policies: dict[str, Grants]
    ) -> tuple[Grants, ...]:
        # Taken out at once: another thread may empty the map when it is full.
        known = {name: policies.get(name) for name in chain}
        rows = tx.policies.get_many([name for name in chain if known[name] is None])
        grants = []
        for name in chain:
            found = known[name]
            if found is None and name in rows:
                found = self._policies.find(name, policies, lambda each: _grants(tx, rows[each]))
            if found is not None:
                grants.append(found)
        return tuple(grants)


def _decide(standing: _Standing, principal: str, permission: str, resource: str, now: dt.datetime) -> bool:
    who = identities(principal)
    for grants in standing.grants:
        if not grants.holders(permission).isdisjoint(who):
            return True
    return any(grants.holds(who, permission, resource, now) for grants in standing.conditional)


def _grants(tx: Any, row: Any) -> Grants:
    return Grants(policy_pb2.Policy.FromString(row.body), lambda member: _expand(tx, member))


def _expand(tx: Any, member: str) -> frozenset[str]:
    """A member, or those that a `projectOwner:` and its like stand for. Such members do not stand for each
    other, so two projects cannot refer to one another without end."""
    kind, _, project = member.partition(":")
    role = CONVENIENCE.get(kind)
    if role is None:
        return frozenset({member})
    row = tx.policies.get(f"projects/{project}")
    return role_members(policy_pb2.Policy.FromString(row.body), role) if row is not None else frozenset()
