"""The decision, through the dispatcher: who is let through, who is not, and how soon a change holds."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
from google.iam.v1 import policy_pb2

from keystead.api.call import Call, WouldBlock
from keystead.api.errors import PermissionDenied, Unauthenticated
from tests.iam.deployment import (
    ALICE,
    ENCRYPT,
    ENCRYPTER,
    KEY,
    OWNER,
    RING,
    VERSION,
    CreateRingRequest,
    Deployment,
    GetKeyRequest,
    hours,
)

GET_KEY = "google.cloud.kms.v1.KeyManagementService/GetCryptoKey"
CREATE_RING = "google.cloud.kms.v1.KeyManagementService/CreateKeyRing"
BOB = "user:bob@example.com"


def test_nothing_is_granted_to_whom_no_policy_names(iam: Deployment) -> None:
    """A caller without any grant is denied on every level, and the denial is recorded."""
    iam.add_key()
    for resource in (VERSION, KEY, RING, "projects/p1", iam.organization):
        assert not iam.allowed(ALICE, ENCRYPT, resource)
    with pytest.raises(PermissionDenied, match=r"Permission 'cloudkms.cryptoKeys.get' denied on resource"):
        iam.call(GET_KEY, GetKeyRequest(name=KEY), ALICE)
    assert [event.granted for event in iam.trail.events] == [False]


def test_no_credentials_are_no_permission(iam: Deployment) -> None:
    """A call without a principal is refused even where everybody is granted."""
    iam.add_key()
    iam.grant(KEY, "roles/cloudkms.viewer", "allUsers")
    with pytest.raises(Unauthenticated):
        iam.call(GET_KEY, GetKeyRequest(name=KEY), None)


@pytest.mark.parametrize("level", ["key", "ring", "project", "organization"])
def test_grants_are_inherited_by_what_stands_below(iam: Deployment, level: str) -> None:
    """A role granted on key, ring, project or organization holds on the key's version, not beside it."""
    iam.add_key()
    other = "projects/p2/locations/global/keyRings/r/cryptoKeys/k"
    iam.add_key(other)
    resource = {"key": KEY, "ring": RING, "project": "projects/p1", "organization": iam.organization}[level]
    iam.grant(resource, ENCRYPTER, ALICE)
    assert iam.allowed(ALICE, ENCRYPT, VERSION)
    assert iam.allowed(ALICE, ENCRYPT, KEY)
    assert not iam.allowed(ALICE, "cloudkms.cryptoKeyVersions.useToDecrypt", VERSION)
    assert iam.allowed(ALICE, ENCRYPT, other) == (level == "organization")
    assert not iam.allowed(BOB, ENCRYPT, VERSION)


def test_a_grant_below_does_not_hold_above(iam: Deployment) -> None:
    """A role on a key gives nothing on its ring, its project or a sibling whose name begins alike."""
    iam.add_key()
    iam.grant(KEY, ENCRYPTER, ALICE)
    for resource in (RING, "projects/p1", f"{KEY}2", f"{RING}2/cryptoKeys/k"):
        assert not iam.allowed(ALICE, ENCRYPT, resource)


def test_a_revocation_holds_for_the_very_next_call(iam: Deployment) -> None:
    """After setIamPolicy answered, a warm inline decision already knows of it; the same for a new grant."""
    iam.add_key()
    iam.grant(KEY, "roles/cloudkms.viewer", ALICE)
    iam.call(GET_KEY, GetKeyRequest(name=KEY), ALICE)
    now = iam.clock.now()
    assert iam.authorizer.allowed(ALICE, "cloudkms.cryptoKeys.get", KEY, now, inline=True)
    iam.revoke(KEY)
    with pytest.raises(WouldBlock):
        iam.authorizer.allowed(ALICE, "cloudkms.cryptoKeys.get", KEY, now, inline=True)
    with pytest.raises(PermissionDenied):
        iam.call(GET_KEY, GetKeyRequest(name=KEY), ALICE)
    iam.grant(KEY, "roles/cloudkms.viewer", ALICE)
    iam.call(GET_KEY, GetKeyRequest(name=KEY), ALICE)


def test_revocations_hold_while_others_read(iam: Deployment) -> None:
    """With threads deciding all the time, no decision that began after a revocation was answered grants."""
    iam.add_key()
    stop, wrong = threading.Event(), []
    # Even while the grant is taken away, odd from before it is given until the revocation was answered.
    phase = [0]

    def decide() -> None:
        while not stop.is_set():
            before = phase[0]
            granted = iam.allowed(ALICE, ENCRYPT, VERSION)
            if granted and before % 2 == 0 and phase[0] == before:
                wrong.append(before)

    readers = [threading.Thread(target=decide) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(15):
        phase[0] += 1
        iam.grant(KEY, ENCRYPTER, ALICE)
        iam.revoke(KEY)
        phase[0] += 1
        assert not iam.allowed(ALICE, ENCRYPT, VERSION)
    stop.set()
    for reader in readers:
        reader.join(timeout=30)
    assert not wrong


def test_members_that_stand_for_many(iam: Deployment) -> None:
    """allUsers and domain: match whom they name; group:, principal: and deleted: match nobody."""
    iam.add_key()
    agent = "serviceAccount:job@p1.iam.gserviceaccount.com"
    everybody = {"alice": True, "agent": True, "stranger": True}
    cases = {
        "allUsers": everybody,
        "allAuthenticatedUsers": everybody,
        "domain:example.com": {"alice": True, "agent": False, "stranger": False},
        "domain:p1.iam.gserviceaccount.com": {},
        "group:alice@example.com": {},
        "deleted:user:alice@example.com?uid=123": {},
        "principal://iam.googleapis.com/locations/global/x/subject/alice@example.com": {},
    }
    for member, expected in cases.items():
        iam.revoke(KEY)
        iam.grant(KEY, ENCRYPTER, member)
        for name, who in (("alice", ALICE), ("agent", agent), ("stranger", "user:x@elsewhere.org")):
            assert iam.allowed(who, ENCRYPT, VERSION) == expected.get(name, False), (member, name)


def test_holders_of_a_projects_basic_role(iam: Deployment) -> None:
    """projectOwner:P is whoever P's own policy makes Owner without a condition, as of now."""
    iam.add_key()
    iam.add_key("projects/p2/locations/global/keyRings/r/cryptoKeys/k")
    iam.grant(KEY, ENCRYPTER, "projectOwner:p2")
    assert not iam.allowed(ALICE, ENCRYPT, KEY)
    iam.grant("projects/p2", "roles/owner", ALICE)
    iam.grant("projects/p2", "roles/owner", BOB, condition="request.time.getFullYear() > 2000")
    assert iam.allowed(ALICE, ENCRYPT, KEY)
    assert not iam.allowed(BOB, ENCRYPT, KEY)
    iam.revoke("projects/p2")
    assert not iam.allowed(ALICE, ENCRYPT, KEY)


def test_basic_roles(iam: Deployment) -> None:
    """Owner may use keys and set policies; Editor creates but does neither; Viewer only reads metadata."""
    iam.add_key()
    for role, member in (("owner", ALICE), ("editor", BOB), ("viewer", "user:eve@example.com")):
        iam.grant("projects/p1", f"roles/{role}", member)
    expected = {
        ENCRYPT: "o",
        "cloudkms.cryptoKeys.setIamPolicy": "o",
        "cloudkms.cryptoKeyVersions.destroy": "o",
        "cloudkms.cryptoKeys.create": "oe",
        "financialservices.v1datasets.create": "oe",
        "cloudkms.cryptoKeys.get": "oev",
        "financialservices.v1datasets.list": "oev",
        "logging.privateLogEntries.list": "o",
    }
    for permission, letters in expected.items():
        for letter, who in (("o", ALICE), ("e", BOB), ("v", "user:eve@example.com")):
            assert iam.allowed(who, permission, KEY) == (letter in letters), (permission, letter)


def test_a_project_comes_into_being_with_the_first_granted_call(iam: Deployment) -> None:
    """In development mode a granted call on a new project creates it, with a number by which it then goes."""
    iam.call(CREATE_RING, CreateRingRequest(parent="projects/new/locations/global", key_ring_id="r"))
    with iam.store.read() as tx:
        project = iam.projects.get(tx, "new")
        assert tx.resources.get("projects/new/locations/global/keyRings/r") is not None
    number = project.name.removeprefix("projects/")
    assert len(number) == 12 and project.parent == iam.organization
    ring = iam.call(
        CREATE_RING, CreateRingRequest(parent=f"projects/{number}/locations/global", key_ring_id="s")
    )
    assert ring.name == "projects/new/locations/global/keyRings/s"
    assert iam.project_ids() == ["new"]


def test_a_read_that_is_granted_creates_its_project_too(iam: Deployment) -> None:
    """A hot read on a new project leaves the loop, answers, and the project is there afterwards."""
    iam.call(GET_KEY, GetKeyRequest(name=KEY))
    assert iam.project_ids() == ["p1"]


def test_a_denied_call_creates_nothing(iam: Deployment) -> None:
    """A call that is denied, and one that needs no permission, leave no project behind."""
    with pytest.raises(PermissionDenied):
        iam.call(CREATE_RING, CreateRingRequest(parent="projects/new/locations/l", key_ring_id="r"), ALICE)
    assert iam.project_ids() == []


def test_a_call_that_needs_no_permission_creates_no_project(iam: Deployment) -> None:
    """testIamPermissions on a project that nobody named before answers without creating it."""
    assert iam.test("projects/new", "resourcemanager.projects.get") == []
    assert iam.project_ids() == []


@pytest.mark.parametrize("project", ["123456789012", "Not-An-Id", "-", "a_b"])
def test_what_is_no_project_id_is_never_created(iam: Deployment, project: str) -> None:
    """Numbers that are nobody's, and texts that are no project id, are denied even to the owner."""
    with pytest.raises(PermissionDenied):
        iam.call(CREATE_RING, CreateRingRequest(parent=f"projects/{project}/locations/l", key_ring_id="r"))
    assert iam.project_ids() == []


def test_without_development_mode_unknown_projects_are_denied(strict: Deployment) -> None:
    """Outside of development mode not even the owner has anything on a project that is not there."""
    with pytest.raises(PermissionDenied):
        strict.call(CREATE_RING, CreateRingRequest(parent="projects/p1/locations/l", key_ring_id="r"))
    assert strict.project_ids() == []
    strict.add_key()
    strict.call(CREATE_RING, CreateRingRequest(parent="projects/p1/locations/l", key_ring_id="r"))


def test_another_organization_is_nobodys(iam: Deployment) -> None:
    """Only the deployment's own organization grants anything."""
    assert iam.allowed(OWNER, "resourcemanager.organizations.get", iam.organization)
    for name in ("organizations/1", "organizations/-", "folders/1", "", "operations/x"):
        assert not iam.allowed(OWNER, "resourcemanager.organizations.get", name)


def test_inline_decisions_read_nothing(iam: Deployment) -> None:
    """Cold, an inline decision, canonical name or admission raises WouldBlock; warm, it answers."""
    iam.add_key()
    now = iam.clock.now()
    number = _number(iam)
    by_number = KEY.replace("p1", number)
    for ask in (
        lambda inline: iam.authorizer.allowed(OWNER, ENCRYPT, KEY, now, inline=inline),
        lambda inline: iam.authorizer.canonical(by_number, inline=inline) == KEY,
        lambda inline: iam.authorizer.admitted(KEY.replace("/k", "/k2"), inline=inline),
    ):
        with pytest.raises(WouldBlock):
            ask(True)
        assert ask(False)
        assert ask(True)


def test_a_number_that_becomes_a_projects_is_seen(iam: Deployment) -> None:
    """A number looked up while it was nobody's is looked up again once a project has it."""
    iam.add_key()
    number = _number(iam)
    assert iam.authorizer.canonical("projects/999999999999/x/y", inline=False) == "projects/999999999999/x/y"
    assert iam.authorizer.canonical(f"projects/{number}", inline=False) == "projects/p1"
    assert iam.authorizer.canonical(f"projects/{number}/a/b", inline=False) == "projects/p1/a/b"


def test_what_is_remembered_is_bounded(iam: Deployment) -> None:
    """More resources than are remembered do not grow memory, and decisions stay right."""
    iam.add_key()
    iam.grant(KEY, ENCRYPTER, ALICE)
    iam.authorizer._standings._limit = 8
    iam.authorizer._policies._limit = 1
    for index in range(40):
        assert iam.allowed(ALICE, ENCRYPT, f"{KEY}/cryptoKeyVersions/{index}")
        assert not iam.allowed(ALICE, ENCRYPT, f"{RING}/cryptoKeys/k{index}")
    assert len(iam.authorizer._standings.at()) <= 8


def test_a_stored_policy_that_cannot_be_understood_grants_nothing(iam: Deployment) -> None:
    """A role that is gone and a condition that no longer compiles grant nothing and break nothing."""
    iam.add_key()
    policy = policy_pb2.Policy(version=3)
    policy.bindings.add(role="roles/gone", members=[ALICE])
    policy.bindings.add(role=ENCRYPTER, members=[ALICE]).condition.expression = "resource.tags == 1"
    policy.bindings.add(role="roles/cloudkms.viewer", members=[ALICE])
    with iam.store.write() as tx:
        tx.policies.put(KEY, policy.SerializeToString())
    assert not iam.allowed(ALICE, ENCRYPT, KEY)
    assert iam.allowed(ALICE, "cloudkms.cryptoKeys.get", KEY)


def test_a_condition_is_evaluated_at_every_call(iam: Deployment) -> None:
    """A grant that expires holds until its time and not after, with nothing written in between."""
    iam.add_key()
    end = (iam.clock.now() + hours(1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    iam.grant("projects/p1", ENCRYPTER, ALICE, condition=f"request.time < timestamp('{end}')")
    assert iam.allowed(ALICE, ENCRYPT, VERSION)
    iam.clock.advance(hours(0.9))
    assert iam.authorizer.allowed(ALICE, ENCRYPT, VERSION, iam.clock.now(), inline=True)
    iam.clock.advance(hours(0.2))
    assert not iam.authorizer.allowed(ALICE, ENCRYPT, VERSION, iam.clock.now(), inline=True)


def test_a_condition_on_the_resource_narrows_an_inherited_grant(iam: Deployment) -> None:
    """A grant on the project with a condition on name and type holds on that key only."""
    iam.add_key()
    condition = (
        "resource.type == 'cloudkms.googleapis.com/CryptoKey' && resource.name.endsWith('/cryptoKeys/k') "
        "&& resource.service == 'cloudkms.googleapis.com'"
    )
    iam.grant("projects/p1", ENCRYPTER, ALICE, condition=condition)
    assert iam.allowed(ALICE, ENCRYPT, KEY)
    assert not iam.allowed(ALICE, ENCRYPT, VERSION)
    assert not iam.allowed(ALICE, ENCRYPT, f"{RING}/cryptoKeys/other")
    assert not iam.allowed(ALICE, ENCRYPT, RING)


def test_an_unconditional_binding_wins(iam: Deployment) -> None:
    """Of two bindings of one role, the one without a condition grants whatever the other says."""
    iam.add_key()
    iam.grant(KEY, ENCRYPTER, ALICE, condition="false")
    assert not iam.allowed(ALICE, ENCRYPT, KEY)
    iam.grant(KEY, ENCRYPTER, ALICE)
    assert iam.allowed(ALICE, ENCRYPT, KEY)


def _number(iam: Deployment) -> str:
    with iam.store.read() as tx:
        name: str = iam.projects.get(tx, "p1").name
    return name.removeprefix("projects/")


async def test_the_event_loop_decides_when_all_is_in_memory(iam: Deployment) -> None:
    """A hot call runs inline once warm, in a thread before; both give the same answer."""
    iam.add_key()
    method = iam.registry.methods[GET_KEY]
    iam.clock.advance(dt.timedelta(seconds=1))
    first = Call(principal=OWNER)
    await iam.dispatcher.dispatch(method, GetKeyRequest(name=KEY), first)
    second = Call(principal=OWNER)
    await iam.dispatcher.dispatch(method, GetKeyRequest(name=KEY), second)
    assert (first.inline, second.inline) == (False, True)
