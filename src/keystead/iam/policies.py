"""Reading and writing the policy of a resource: what all `getIamPolicy` and `setIamPolicy` calls share.

A policy is stored as its message, without etag; the etag is made of the store's revision, which is never
given twice, so a stale read-modify-write is always noticed. `version` is not stored as sent: it is 3 if the
policy has conditions, else 1 (IAM, "Policy versions").

Who may read or write a policy is not decided here, nor whether the resource exists.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from google.iam.v1 import policy_pb2

from keystead.api.errors import InvalidArgument, bad_field
from keystead.api.etags import new_etag, require_match
from keystead.iam.policy_checks import checked_audit_configs, checked_bindings

log = logging.getLogger(__name__)

_DEFAULT_MASK = ("bindings", "etag")
_FIELDS = frozenset({"bindings", "etag", "audit_configs", "version"})
_VERSIONS = frozenset({0, 1, 3})


class PolicyEvents:
    """Tells who wants to know that a policy was changed: the guards of protected data, for one."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[str], None]] = []

    def subscribe(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called with the resource's name after each committed change of its policy, in the
        thread that committed it."""
        self._subscribers.append(callback)

    def notify(self, resource: str) -> None:
        """Call all subscribers; one that fails does not keep it from the others."""
        for callback in self._subscribers:
            try:
                callback(resource)
            except Exception:
                log.exception("a subscriber failed after the policy of %s changed", resource)


def read_policy(tx: Any, resource: str, requested_version: int = 0) -> policy_pb2.Policy:
    """The policy of a resource as a caller asked for it.

    One that was never set has nothing but an etag. With a requested version below 3, conditional bindings
    come without their condition and with a role that says so, `roles/x_withcond_<hash>`. Raises
    InvalidArgument for a version that there is not.
    """
    if requested_version not in _VERSIONS:
        raise bad_field("options.requested_policy_version", "It must be 0, 1 or 3.")
    row = tx.policies.get(resource)
    if row is None:
        return policy_pb2.Policy(etag=new_etag(0))
    policy = policy_pb2.Policy.FromString(row.body)
    policy.etag = new_etag(row.revision)
    if requested_version < 3 and has_conditions(policy):
        policy.version = 1
        for binding in policy.bindings:
            if binding.HasField("condition"):
                binding.role = f"{binding.role}_withcond_{_fingerprint(binding)}"
                binding.ClearField("condition")
    return policy


def write_policy(
    tx: Any,
    resource: str,
    policy: policy_pb2.Policy,
    update_mask: Sequence[str],
    events: PolicyEvents,
) -> policy_pb2.Policy:
    """Replace those parts of a resource's policy that the mask names (`bindings` and `etag` if it is empty).

    Duplicate bindings are merged. Answers the policy as stored, conditions included. Raises Aborted if an
    etag was sent and is not the present one; InvalidArgument for what a policy may not hold.
    """
    fields = _masked(update_mask)
    row = tx.policies.get(resource)
    stored = policy_pb2.Policy() if row is None else policy_pb2.Policy.FromString(row.body)
    etag = policy.etag if "etag" in fields else b""
    require_match(etag, new_etag(0 if row is None else row.revision))
    _check_version(policy, stored, fields, with_etag=bool(etag))
    written = policy_pb2.Policy()
    written.CopyFrom(stored)
    if "bindings" in fields:
        del written.bindings[:]
        written.bindings.extend(checked_bindings(tx, resource, policy.bindings, stored.bindings))
    if "audit_configs" in fields:
        del written.audit_configs[:]
        written.audit_configs.extend(checked_audit_configs(resource, policy.audit_configs))
    written.version = 3 if has_conditions(written) else 1
    written.ClearField("etag")
    revision = tx.policies.put(resource, written.SerializeToString())
    tx.after_commit(lambda: events.notify(resource))
    written.etag = new_etag(revision)
    return written


def has_conditions(policy: policy_pb2.Policy) -> bool:
    """Whether a binding of the policy is conditional."""
    return any(binding.HasField("condition") for binding in policy.bindings)


def _masked(paths: Sequence[str]) -> frozenset[str]:
    fields = frozenset("audit_configs" if path == "auditConfigs" else path for path in paths or _DEFAULT_MASK)
    if "*" in fields:
        return _FIELDS
    unknown = sorted(fields - _FIELDS)
    if unknown:
        raise bad_field("update_mask", f"A policy has no field '{unknown[0][:100]}'.")
    return fields


def _check_version(
    policy: policy_pb2.Policy, stored: policy_pb2.Policy, fields: frozenset[str], *, with_etag: bool
) -> None:
    if policy.version not in _VERSIONS:
        raise bad_field("policy.version", "It must be 0, 1 or 3.")
    if "bindings" not in fields or policy.version == 3:
        return
    if has_conditions(policy):
        raise bad_field("policy.version", "A policy with conditional role bindings must have version 3.")
    # Without an etag IAM lets an old client overwrite a policy, conditions and all.
    if with_etag and has_conditions(stored):
        raise InvalidArgument(
            f"Specified policy version ({policy.version or 1}) cannot be less than the existing policy "
            "version (3). For more information, please refer to "
            "https://cloud.google.com/iam/docs/policies#versions."
        )


def _fingerprint(binding: policy_pb2.Binding) -> str:
    condition = binding.condition
    text = "\0".join((condition.title, condition.description, condition.expression))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
