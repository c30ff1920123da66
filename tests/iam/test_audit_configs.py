"""Audit configs: which successful calls are recorded."""

from __future__ import annotations

import pytest
from google.iam.v1 import policy_pb2

from keystead.api.call import WouldBlock
from keystead.api.errors import PermissionDenied
from keystead.api.method import LogKind
from tests.iam.deployment import ALICE, KEY, OWNER, Deployment, GetKeyRequest

GET_KEY = "google.cloud.kms.v1.KeyManagementService/GetCryptoKey"
KMS = "cloudkms.googleapis.com"
BOB = "user:bob@example.com"


def ask_for(iam: Deployment, resource: str, *configs: tuple[str, str, tuple[str, ...]]) -> None:
    """Sets the audit configs of a project or the organization: (service, log type, exempted members)."""
    policy = policy_pb2.Policy()
    for service, log_type, exempted in configs:
        policy.audit_configs.add(service=service).audit_log_configs.add(
            log_type=log_type, exempted_members=exempted
        )
    iam.set_policy(resource, policy, mask=("audit_configs",))


def wanted(iam: Deployment, kind: LogKind, principal: str = ALICE, resource: str = KEY) -> bool:
    return iam.trail.configs.wanted(KMS, kind, resource, principal, inline=False)


def test_nothing_is_wanted_by_default(iam: Deployment) -> None:
    """Data Access is recorded only where somebody asks for it."""
    iam.add_key()
    assert not any(wanted(iam, kind) for kind in LogKind)


@pytest.mark.parametrize("level", ["projects/p1", "organization"])
@pytest.mark.parametrize("service", [KMS, "allServices"])
def test_levels_and_services_add_up(iam: Deployment, level: str, service: str) -> None:
    """A config of project or organization, for the service or all services, asks for its kind only."""
    iam.add_key()
    ask_for(iam, iam.organization if level == "organization" else level, (service, "DATA_READ", ()))
    assert wanted(iam, LogKind.DATA_READ)
    assert not wanted(iam, LogKind.ADMIN_READ)
    assert not wanted(iam, LogKind.DATA_WRITE)
    asked = iam.trail.configs.wanted
    assert asked("iam.googleapis.com", LogKind.DATA_READ, KEY, ALICE, inline=False) == (service != KMS)
    elsewhere = wanted(iam, LogKind.DATA_READ, resource="projects/p2/locations/l/keyRings/r")
    assert elsewhere == (level == "organization")


def test_exempted_members(iam: Deployment) -> None:
    """Exemptions of one policy add up; those of a project leave the organization's wish alone."""
    iam.add_key()
    ask_for(
        iam,
        "projects/p1",
        (KMS, "DATA_READ", (ALICE,)),
        ("allServices", "DATA_READ", (BOB, "domain:example.org")),
    )
    assert [wanted(iam, LogKind.DATA_READ, who) for who in (ALICE, BOB, OWNER)] == [False, False, True]
    assert not wanted(iam, LogKind.DATA_READ, "user:x@example.org")
    ask_for(iam, iam.organization, (KMS, "DATA_READ", (BOB,)))
    assert [wanted(iam, LogKind.DATA_READ, who) for who in (ALICE, BOB)] == [True, False]


def test_a_change_holds_for_the_next_call(iam: Deployment) -> None:
    """Warm answers need no store; after a change the next call follows it, inline by leaving the loop."""
    iam.add_key()
    request = GetKeyRequest(name=KEY)
    iam.call(GET_KEY, request)
    ask = (KMS, LogKind.ADMIN_READ, KEY, OWNER)
    assert not iam.trail.configs.wanted(*ask, inline=True)
    ask_for(iam, "projects/p1", (KMS, "ADMIN_READ", ()))
    iam.trail.events.clear()
    with pytest.raises(WouldBlock):
        iam.trail.configs.wanted(*ask, inline=True)
    iam.call(GET_KEY, request)
    assert [event.method.spec.short_name for event in iam.trail.events] == ["GetCryptoKey"]
    ask_for(iam, "projects/p1")
    iam.trail.events.clear()
    iam.call(GET_KEY, request)
    assert iam.trail.events == []


def test_denials_are_recorded_whatever_is_set(iam: Deployment) -> None:
    """An exempted caller's denial is in the trail."""
    iam.add_key()
    ask_for(iam, "projects/p1", (KMS, "ADMIN_READ", (ALICE,)))
    iam.trail.events.clear()
    with pytest.raises(PermissionDenied):
        iam.call(GET_KEY, GetKeyRequest(name=KEY), ALICE)
    assert [event.granted for event in iam.trail.events] == [False]


def test_names_outside_of_projects_fall_under_the_organization(iam: Deployment) -> None:
    """A call on the organization or on nothing is recorded as the organization's policy asks."""
    ask_for(iam, iam.organization, ("allServices", "ADMIN_READ", ()))
    for name in (iam.organization, "", "opaque-token"):
        assert wanted(iam, LogKind.ADMIN_READ, resource=name)
