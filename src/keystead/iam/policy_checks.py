"""What a policy may hold: members, roles, conditions, audit configs, and how many of them.

It owns the checks made when a policy is set. What a policy grants is not decided here. Limits and words:
IAM "Quotas and limits", and answers of the real service where they are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from google.iam.v1 import policy_pb2

from keystead.api.errors import InvalidArgument, bad_field
from keystead.iam.audit_configs import ALL_SERVICES
from keystead.iam.conditions import compile_condition
from keystead.iam.members import EVERYONE, email_of, is_group, parse_member
from keystead.iam.roles import require_role
from keystead.iam.service_agents import agent_exists, is_agent_address

MAX_PRINCIPALS = 1500
MAX_GROUPS = 250


def checked_bindings(
    tx: Any,
    resource: str,
    bindings: Iterable[policy_pb2.Binding],
    stored: Iterable[policy_pb2.Binding],
) -> list[policy_pb2.Binding]:
    """The bindings as they are kept: one per role and condition, each member once, empty ones left out.

    Raises InvalidArgument for a binding that cannot be, too many members, and a service agent that does not
    exist and is not in the `stored` policy already.
    """
    merged: dict[tuple[str, bytes], policy_pb2.Binding] = {}
    for binding in bindings:
        require_role(binding.role)
        if binding.HasField("condition"):
            compile_condition(binding.condition.expression)
        condition = binding.condition.SerializeToString() if binding.HasField("condition") else b""
        kept = merged.setdefault((binding.role, condition), _empty_like(binding))
        present = set(kept.members)
        for text in binding.members:
            member = parse_member(text)
            if member not in present:
                present.add(member)
                kept.members.append(member)
    found = [binding for binding in merged.values() if binding.members]
    _check_size(found)
    known = {member for binding in stored for member in binding.members}
    for member in {member for binding in found for member in binding.members} - known:
        _check_member(tx, resource, member)
    return found


def _empty_like(binding: policy_pb2.Binding) -> policy_pb2.Binding:
    kept = policy_pb2.Binding(role=binding.role)
    if binding.HasField("condition"):
        kept.condition.CopyFrom(binding.condition)
    return kept


def _check_size(bindings: Sequence[policy_pb2.Binding]) -> None:
    members = [member for binding in bindings for member in binding.members]
    groups = sum(is_group(member) for member in members)
    for what, count, most in (("members", len(members), MAX_PRINCIPALS), ("groups", groups, MAX_GROUPS)):
        if count > most:
            raise InvalidArgument(
                f"The number of {what} in the policy ({count:,}) is larger than the maximum allowed size "
                f"{most:,}."
            )


def _check_member(tx: Any, resource: str, member: str) -> None:
    if member in EVERYONE and takes_audit_configs(resource):
        raise InvalidArgument(f"Members of type {member} are not supported for this resource.")
    email = email_of(member)
    if email and is_agent_address(email) and not agent_exists(tx, email):
        raise InvalidArgument(f"Service account {email} does not exist.")


def takes_audit_configs(resource: str) -> bool:
    """Whether a resource is a project or the organization: their policies hold audit configs, and may not
    grant to everybody."""
    return resource.count("/") == 1 and resource.startswith(("projects/", "organizations/"))


def checked_audit_configs(
    resource: str, configs: Sequence[policy_pb2.AuditConfig]
) -> list[policy_pb2.AuditConfig]:
    """The audit configs as they are kept. Raises InvalidArgument for one that cannot be, and for any on a
    resource below a project."""
    if configs and not takes_audit_configs(resource):
        raise bad_field("policy.audit_configs", "Audit configs are set on projects and organizations only.")
    found = []
    for config in configs:
        if config.service != ALL_SERVICES and not config.service.endswith(".googleapis.com"):
            raise bad_field("policy.audit_configs.service", f"There is no service '{config.service[:100]}'.")
        kept = policy_pb2.AuditConfig(service=config.service)
        for entry in config.audit_log_configs:
            if entry.log_type not in policy_pb2.AuditLogConfig.LogType.values()[1:]:
                raise bad_field("policy.audit_configs.audit_log_configs.log_type", "It must be specified.")
            exempted = [parse_member(member) for member in entry.exempted_members]
            kept.audit_log_configs.add(log_type=entry.log_type, exempted_members=dict.fromkeys(exempted))
        found.append(kept)
    return found
