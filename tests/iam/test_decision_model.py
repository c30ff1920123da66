"""The decision against a naive model of the documentation, over random policies and hierarchies."""

from __future__ import annotations

import tempfile
from pathlib import Path

from google.iam.v1 import policy_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from keystead.api.clock import ManualClock
from keystead.iam import roles
from keystead.store import open_store
from tests.iam.deployment import Deployment

_ROLES = [
    "roles/owner", "roles/viewer", "roles/cloudkms.cryptoKeyEncrypter", "roles/cloudkms.cryptoKeyDecrypter",
    "roles/cloudkms.admin", "roles/financialservices.viewer",
]  # fmt: skip
_MEMBERS = [
    "user:a@example.com", "user:b@example.com", "user:c@other.org",
    "serviceAccount:s@p1.iam.gserviceaccount.com",
    "domain:example.com", "allAuthenticatedUsers", "group:a@example.com", "projectOwner:p2",
]  # fmt: skip
_PRINCIPALS = _MEMBERS[:4]
_PERMISSIONS = [
    "cloudkms.cryptoKeyVersions.useToEncrypt", "cloudkms.cryptoKeyVersions.useToDecrypt",
    "cloudkms.cryptoKeys.setIamPolicy", "cloudkms.cryptoKeys.get", "financialservices.v1instances.get",
    "no.such.permission",
]  # fmt: skip
_RINGS = [f"projects/{p}/locations/l/keyRings/{r}" for p in ("p1", "p2") for r in ("r", "rr")]
_CARRIERS = ["ORG", "projects/p1", "projects/p2", *_RINGS, *(f"{ring}/cryptoKeys/k" for ring in _RINGS)]
_RESOURCES = [
    *_CARRIERS, *(f"{ring}/cryptoKeys/k/cryptoKeyVersions/1" for ring in _RINGS),
    *(f"{r}/cryptoKeys/kk" for r in _RINGS),
    "projects/p1/locations/l/instances/i", "projects/p3/locations/l/keyRings/r", "organizations/1",
]  # fmt: skip
_CONDITIONS = ["", "true", "false", "resource.type == 'cloudkms.googleapis.com/CryptoKey'"]

_binding = st.tuples(
    st.sampled_from(_ROLES),
    st.lists(st.sampled_from(_MEMBERS), min_size=1, max_size=3, unique=True),
    st.sampled_from(_CONDITIONS),
)
_world = st.dictionaries(st.sampled_from(_CARRIERS), st.lists(_binding, max_size=3), max_size=6)
_Binding = tuple[str, list[str], str]


def _condition_holds(condition: str, resource: str) -> bool:
    """The four conditions above, in Python."""
    is_key = resource.split("/")[-2] == "cryptoKeys"
    return {"": True, "true": True, "false": False}.get(condition, is_key)


def _is_member(world: dict[str, list[_Binding]], member: str, principal: str) -> bool:
    if member == "projectOwner:p2":
        owners = [b for b in world.get("projects/p2", []) if b[0] == "roles/owner" and not b[2]]
        return any(
            _is_member(world, each, principal) for b in owners for each in b[1] if each != "projectOwner:p2"
        )
    if member == "domain:example.com":
        return principal.startswith("user:") and principal.endswith("@example.com")
    return member in {principal, "allAuthenticatedUsers"}


def _reference(
    world: dict[str, list[_Binding]], organization: str, principal: str, permission: str, resource: str
) -> bool:
    """Is there a policy on the resource or above it with a binding that grants?"""
    inside = resource == organization or resource.startswith(("projects/p1/", "projects/p2/"))
    if not inside and resource not in {"projects/p1", "projects/p2"}:
        return False
    above = [
        carrier
        for carrier in world
        if carrier == "ORG" or resource == carrier or resource.startswith(f"{carrier}/")
    ]
    return any(
        permission in roles.predefined()[role].permissions
        and any(_is_member(world, member, principal) for member in members)
        and _condition_holds(condition, resource)
        for carrier in above
        for role, members, condition in world[carrier]
    )


def _write(iam: Deployment, world: dict[str, list[_Binding]]) -> None:
    with iam.store.write() as tx:
        for carrier in _CARRIERS:
            policy = policy_pb2.Policy(version=3)
            for role, members, condition in world.get(carrier, []):
                binding = policy.bindings.add(role=role, members=members)
                if condition:
                    binding.condition.expression = condition
            tx.policies.put(iam.organization if carrier == "ORG" else carrier, policy.SerializeToString())


def test_decisions_equal_the_model() -> None:
    """From the store, from memory and in a transaction, the decision is what a naive reading says."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{Path(folder) / 'store.db'}")
        iam = Deployment(store, ManualClock(), dev=False)
        for project in ("p1", "p2"):
            with store.write() as tx:
                iam.projects.ensure(tx, project)
        now = iam.clock.now()

        @settings(max_examples=40, deadline=None)
        @given(_world)
        def check(world: dict[str, list[_Binding]]) -> None:
            _write(iam, world)
            for name in _RESOURCES:
                resource = iam.organization if name == "ORG" else name
                for principal in _PRINCIPALS:
                    for permission in _PERMISSIONS:
                        asked = (principal, permission, resource, now)
                        expected = _reference(world, iam.organization, principal, permission, resource)
                        assert iam.authorizer.allowed(*asked, inline=False) is expected, asked
                        assert iam.authorizer.allowed(*asked, inline=True) is expected, asked
                with store.read() as tx:
                    held = iam.authorizer.held_in(tx, _PRINCIPALS[0], _PERMISSIONS, resource, now)
                assert held == [
                    each
                    for each in _PERMISSIONS
                    if _reference(world, iam.organization, _PRINCIPALS[0], each, resource)
                ]

        try:
            check()
        finally:
            store.close()
