"""The first start: an organization, and somebody who owns it.

It runs before any call is served, as the operator who starts the server; there is nobody yet to ask.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from google.iam.v1 import policy_pb2

from keystead.api.clock import Clock
from keystead.iam.hierarchy import ensure_organization
from keystead.iam.policies import PolicyEvents, write_policy
from keystead.iam.roles import OWNER


class _WritableStore(Protocol):
    def write(self) -> AbstractContextManager[Any]: ...


def prepare_organization(store: _WritableStore, clock: Clock, *, owner: str | None) -> str:
    """The organization's name; it is made if there is none.

    `owner` (a member, `user:owner@example.com`) becomes its Owner if its policy was never set; a policy that
    somebody set is left alone.
    """
    with store.write() as tx:
        organization = ensure_organization(tx, clock)
        if owner is not None and tx.policies.get(organization) is None:
            policy = policy_pb2.Policy()
            policy.bindings.add(role=OWNER, members=[owner])
            write_policy(tx, organization, policy, (), PolicyEvents())
    return organization
