"""A policy made ready for decisions: for each permission, who holds it, and under which conditions.

SECURITY: what a policy does not clearly grant is not granted.

It owns the meaning of one policy. It neither reads policies nor knows what inherits from what.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable

from google.iam.v1 import policy_pb2

from keystead.api.errors import InvalidArgument
from keystead.iam import roles
from keystead.iam.conditions import Condition, compile_condition

log = logging.getLogger(__name__)

_NOBODY: frozenset[str] = frozenset()

#: Turns a member into those it stands for here (`projectOwner:p` into the owners of p).
Expand = Callable[[str], frozenset[str]]


class Grants:
    """What one policy grants. Immutable to its users, and shared between threads."""

    def __init__(self, policy: policy_pb2.Policy, expand: Expand) -> None:
        """A binding that cannot be understood (a role that was taken out of the catalog, a condition that no
        longer compiles) grants nothing."""
        self._plain: list[tuple[frozenset[str], frozenset[str]]] = []
        self._conditional: list[tuple[frozenset[str], frozenset[str], Condition]] = []
        self._holders: dict[str, frozenset[str]] = {}
        for binding in policy.bindings:
            role = roles.predefined().get(binding.role)
            if role is None:
                log.warning("a binding of unknown role %s grants nothing", binding.role)
                continue
            members = _NOBODY.union(*(expand(member) for member in binding.members))
            if not binding.HasField("condition"):
                self._plain.append((role.permissions, members))
                continue
            try:
                condition = compile_condition(binding.condition.expression)
            except InvalidArgument:
                log.warning("a binding of %s has a condition that does not compile", binding.role)
                continue
            self._conditional.append((role.permissions, members, condition))
        self.has_conditions = bool(self._conditional)

    def holders(self, permission: str) -> frozenset[str]:
        """The members that hold a permission without a condition."""
        found = self._holders.get(permission)
        if found is None:
            found = _NOBODY.union(*(members for held, members in self._plain if permission in held))
            # Only permissions that a role has: callers cannot make this grow by naming others.
            if permission in roles.known_permissions():
                self._holders[permission] = found
        return found

    def holds(self, who: frozenset[str], permission: str, resource: str, now: dt.datetime) -> bool:
        """Whether one of these members holds a permission on a resource now under some condition."""
        return any(
            permission in held and not members.isdisjoint(who) and condition.holds(now, resource, permission)
            for held, members, condition in self._conditional
        )


def role_members(policy: policy_pb2.Policy, role: str) -> frozenset[str]:
    """The members that a policy grants a role without a condition."""
    return frozenset(
        member
        for binding in policy.bindings
        if binding.role == role and not binding.HasField("condition")
        for member in binding.members
    )
