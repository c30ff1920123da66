"""Policies as they are read and written: etags, versions, masks, and what they may not hold."""

from __future__ import annotations

import threading

import pytest
from google.iam.v1 import policy_pb2

from keystead.api.errors import Aborted, InvalidArgument, NotFound, PermissionDenied, Unimplemented
from tests.iam.deployment import ALICE, ENCRYPT, ENCRYPTER, KEY, RING, VERSION, Deployment

VIEWER = "roles/cloudkms.viewer"
CONFLICT = (
    "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff."
)
FOREVER = "request.time.getFullYear() > 2000"


def one(role: str, *members: str, version: int = 1) -> policy_pb2.Policy:
    """A policy of one binding, without an etag."""
    policy = policy_pb2.Policy(version=version)
    policy.bindings.add(role=role, members=members)
    return policy


def conditional(role: str = VIEWER, *, version: int = 3, expression: str = FOREVER) -> policy_pb2.Policy:
    """A policy of one conditional binding of ALICE."""
    policy = one(role, ALICE, version=version)
    policy.bindings[0].condition.expression = expression
    policy.bindings[0].condition.title = "t1"
    return policy


def test_a_policy_that_was_never_set_is_an_etag(iam: Deployment) -> None:
    """It reads as etag ACAB and nothing else."""
    iam.add_key()
    assert iam.get_policy(KEY) == policy_pb2.Policy(etag=b"\x00\x20\x01")


def test_an_emptied_policy_does_not_look_like_one_never_set(iam: Deployment) -> None:
    """After the last binding went, the etag is a new one: who read ACAB before cannot write unnoticed."""
    iam.add_key()
    before = iam.get_policy(KEY)
    iam.grant(KEY, VIEWER, ALICE)
    emptied = iam.revoke(KEY)
    assert not emptied.bindings and iam.get_policy(KEY) == emptied
    before.bindings.add(role=VIEWER, members=[ALICE])
    with pytest.raises(Aborted):
        iam.set_policy(KEY, before)


def test_a_stale_etag_aborts(iam: Deployment) -> None:
    """Of two read-modify-writes from one state, the second aborts in IAM's words and changes nothing."""
    iam.add_key()
    first, second = iam.get_policy(KEY), iam.get_policy(KEY)
    first.bindings.add(role=VIEWER, members=[ALICE])
    second.bindings.add(role=ENCRYPTER, members=[ALICE])
    written = iam.set_policy(KEY, first)
    with pytest.raises(Aborted) as caught:
        iam.set_policy(KEY, second)
    assert caught.value.message == CONFLICT
    assert iam.get_policy(KEY) == written


def test_of_many_writers_with_one_etag_one_wins(iam: Deployment) -> None:
    """Eight threads that write from the same read: exactly one succeeds, all others abort."""
    iam.add_key()
    read = iam.get_policy(KEY)
    outcomes: list[str] = []

    def write(index: int) -> None:
        policy = policy_pb2.Policy()
        policy.CopyFrom(read)
        policy.bindings.add(role=VIEWER, members=[f"user:u{index}@example.com"])
        try:
            iam.set_policy(KEY, policy)
            outcomes.append("written")
        except Aborted:
            outcomes.append("aborted")

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(outcomes) == ["aborted"] * 7 + ["written"]
    assert len(iam.get_policy(KEY).bindings) == 1


def test_without_an_etag_a_policy_is_overwritten(iam: Deployment) -> None:
    """A write without etag, or whose mask leaves the etag out, replaces what is there."""
    iam.add_key()
    iam.grant(KEY, VIEWER, ALICE)
    assert iam.set_policy(KEY, one(ENCRYPTER, ALICE)).bindings[0].role == ENCRYPTER
    stale = one(VIEWER, ALICE)
    stale.etag = b"\x00\x20\x01"
    iam.set_policy(KEY, stale, mask=("bindings", "version"))
    with pytest.raises(Aborted):
        iam.set_policy(KEY, stale, mask=("bindings", "etag", "version"))


def test_etags_differ_with_every_write(iam: Deployment) -> None:
    """Writing the same policy again gives another etag, on any resource."""
    iam.add_key()
    etags = {iam.set_policy(resource, one(VIEWER, ALICE)).etag for resource in (KEY, RING) * 3}
    assert len(etags) == 6


def test_versions_follow_from_the_conditions(iam: Deployment) -> None:
    """Version 3 as sent is 1 without conditions and 3 with one."""
    iam.add_key()
    assert iam.set_policy(KEY, one(VIEWER, ALICE, version=3)).version == 1
    assert iam.set_policy(KEY, conditional()).version == 3
    assert iam.get_policy(KEY).bindings[0].condition.title == "t1"


@pytest.mark.parametrize("version", [0, 1])
def test_an_old_client_reads_conditions_as_roles_that_say_so(iam: Deployment, version: int) -> None:
    """Asked for less than version 3, the role ends in _withcond_ and a hash that differs by condition."""
    iam.add_key()
    policy = conditional()
    policy.bindings.append(conditional(expression="false").bindings[0])
    policy.bindings.add(role=ENCRYPTER, members=[ALICE])
    iam.set_policy(KEY, policy)
    read = iam.get_policy(KEY, version=version)
    roles = [binding.role for binding in read.bindings]
    assert read.version == 1 and roles[2] == ENCRYPTER and len(set(roles)) == 3
    assert all(role.startswith(f"{VIEWER}_withcond_") for role in roles[:2])
    assert not any(binding.HasField("condition") for binding in read.bindings)
    with pytest.raises(InvalidArgument, match="cannot be less than the existing policy version"):
        iam.set_policy(KEY, read)
    read.ClearField("etag")
    with pytest.raises(InvalidArgument, match=r"_withcond_.* is not supported for this resource"):
        iam.set_policy(KEY, read)


def test_conditions_need_version_3(iam: Deployment) -> None:
    """A conditional binding in a policy of version 1 is refused; versions other than 0, 1 and 3 always."""
    iam.add_key()
    for policy in (conditional(version=1), conditional(version=0), one(VIEWER, ALICE, version=2)):
        with pytest.raises(InvalidArgument):
            iam.set_policy(KEY, policy)
    with pytest.raises(InvalidArgument):
        iam.get_policy(KEY, version=2)


def test_an_old_client_cannot_drop_conditions_unknowingly(iam: Deployment) -> None:
    """With the etag, a version 1 write over conditions is refused; without it, IAM lets it through."""
    iam.add_key()
    current = iam.set_policy(KEY, conditional())
    policy = one(ENCRYPTER, ALICE)
    policy.etag = current.etag
    with pytest.raises(InvalidArgument, match=r"Specified policy version \(1\) cannot be less than"):
        iam.set_policy(KEY, policy)
    policy.ClearField("etag")
    assert iam.set_policy(KEY, policy).version == 1


@pytest.mark.parametrize(
    "expression", ["", "1 +", "'text'", "resource.tag == 'x'", "request.time < 'noon'", "resource.name"]
)
def test_a_condition_that_does_not_compile_is_refused(iam: Deployment, expression: str) -> None:
    """A policy with a bad condition is not written."""
    iam.add_key()
    with pytest.raises(InvalidArgument):
        iam.set_policy(KEY, conditional(expression=expression))
    assert not iam.get_policy(KEY).bindings


def test_bindings_are_merged_and_members_canonical(iam: Deployment) -> None:
    """Duplicates become one, addresses lower case, empty bindings vanish; conditions keep bindings apart."""
    iam.add_key()
    policy = one(VIEWER, "user:Alice@Example.com", ALICE, "user:bob@example.com", version=3)
    policy.bindings.add(role=VIEWER, members=["user:carol@example.com", ALICE])
    policy.bindings.add(role=ENCRYPTER)
    policy.bindings.append(conditional().bindings[0])
    written = iam.set_policy(KEY, policy)
    assert [(b.role, list(b.members), b.HasField("condition")) for b in written.bindings] == [
        (VIEWER, [ALICE, "user:bob@example.com", "user:carol@example.com"], False),
        (VIEWER, [ALICE], True),
    ]
    assert iam.allowed(ALICE, "cloudkms.cryptoKeys.get", KEY)


@pytest.mark.parametrize("role", ["roles/nope", "", "roles/", "projects/p1/roles/custom", "owner"])
def test_unknown_roles_are_refused(iam: Deployment, role: str) -> None:
    """A role that is not predefined is refused in IAM's words."""
    iam.add_key()
    with pytest.raises(InvalidArgument) as caught:
        iam.set_policy(KEY, one(role, ALICE))
    assert caught.value.message == f"Role {role} is not supported for this resource."


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("alice@example.com", 'Policy members must be of the form "<type>:<value>".'),
        ("user:", 'Policy members must be of the form "<type>:<value>".'),
        ("user:alice", "User alice does not exist."),
        ("serviceAccount:x", "Service account x does not exist."),
        ("group:no space@example.com", "Group no space@example.com does not exist."),
        ("domain:nodot", "Domain nodot does not exist."),
        ("robot:x@example.com", "The member robot:x@example.com is of an unknown type."),
        ("deleted:user:alice@example.com", "Invalid member"),
        ("projectOwner:Not An Id", "Invalid member"),
        ("allusers", 'Policy members must be of the form "<type>:<value>".'),
    ],
)
def test_what_is_no_member_is_refused(iam: Deployment, member: str, message: str) -> None:
    """A member of no known kind or shape is refused and nothing is written."""
    iam.add_key()
    with pytest.raises(InvalidArgument) as caught:
        iam.set_policy(KEY, one(VIEWER, ALICE, member))
    assert caught.value.message.startswith(message)
    assert not iam.get_policy(KEY).bindings


def test_the_limits_of_a_policy(iam: Deployment) -> None:
    """1,500 members fit and 1,501 do not, over all bindings; of groups and domains 250."""
    iam.add_key()
    users = [f"user:u{index}@example.com" for index in range(1500)]
    policy = one(VIEWER, *users[:1000])
    policy.bindings.add(role=ENCRYPTER, members=users[1000:])
    iam.set_policy(KEY, policy)
    policy.bindings.add(role=ENCRYPTER, members=[users[0]])
    with pytest.raises(InvalidArgument, match=r"\(1,501\) is larger than the maximum allowed size 1,500"):
        iam.set_policy(KEY, policy)
    with pytest.raises(InvalidArgument, match=r"\(251\)"):
        iam.set_policy(KEY, one(VIEWER, *(f"group:g{index}@example.com" for index in range(251))))


def test_everybody_is_not_a_member_of_projects(iam: Deployment) -> None:
    """allUsers and allAuthenticatedUsers may be granted on keys, not on projects or the organization."""
    iam.add_key()
    iam.set_policy(KEY, one(VIEWER, "allUsers", "allAuthenticatedUsers"))
    for resource in ("projects/p1", iam.organization):
        with pytest.raises(InvalidArgument):
            iam.grant(resource, VIEWER, "allUsers")


def test_masks_say_what_is_replaced(iam: Deployment) -> None:
    """Without a mask audit configs stay; with one, only what it names changes; unknown paths are refused."""
    iam.add_key()
    policy = one(VIEWER, ALICE)
    policy.audit_configs.add(service="allServices").audit_log_configs.add(log_type="DATA_READ")
    written = iam.set_policy("projects/p1", policy)
    assert written.bindings and not written.audit_configs
    written = iam.set_policy("projects/p1", policy, mask=("audit_configs",))
    assert written.bindings and written.audit_configs
    written = iam.set_policy("projects/p1", policy_pb2.Policy(), mask=("bindings",))
    assert not written.bindings and written.audit_configs
    assert not iam.set_policy("projects/p1", policy_pb2.Policy(), mask=("auditConfigs",)).audit_configs
    with pytest.raises(InvalidArgument):
        iam.set_policy("projects/p1", policy, mask=("bindings", "owner"))


def test_audit_configs_are_set_on_projects_and_the_organization_only(iam: Deployment) -> None:
    """A key's policy holds none; a service or log type that there is not is refused."""
    iam.add_key()
    mask = ("bindings", "audit_configs")
    for service, log_type, resource in (
        ("allServices", "DATA_READ", KEY),
        ("kms", "DATA_READ", "projects/p1"),
        ("allServices", "LOG_TYPE_UNSPECIFIED", "projects/p1"),
    ):
        policy = policy_pb2.Policy()
        policy.audit_configs.add(service=service).audit_log_configs.add(log_type=log_type)
        with pytest.raises(InvalidArgument):
            iam.set_policy(resource, policy, mask=mask)


def test_policies_of_missing_resources(iam: Deployment) -> None:
    """Reading or writing is NOT_FOUND for who may, denied for who may not; testing gives an empty set."""
    with pytest.raises(NotFound):
        iam.get_policy(KEY)
    with pytest.raises(NotFound):
        iam.set_policy(KEY, one(VIEWER, ALICE))
    with pytest.raises(PermissionDenied):
        iam.get_policy(KEY, principal=ALICE)
    assert iam.test(KEY, ENCRYPT) == []


def test_testing_permissions_answers_what_is_held(iam: Deployment) -> None:
    """The subset held, each once, in order; wildcards and what is no permission are refused."""
    iam.add_key()
    iam.grant(RING, ENCRYPTER, ALICE)
    decrypt = "cloudkms.cryptoKeyVersions.useToDecrypt"
    assert iam.test(KEY, decrypt, ENCRYPT, "cloudkms.locations.get", ENCRYPT) == [
        ENCRYPT,
        "cloudkms.locations.get",
    ]
    for bad in ("cloudkms.*", "cloudkms.cryptoKeys.*", "*", "encrypt", "a..b"):
        with pytest.raises(InvalidArgument):
            iam.test(KEY, bad)


def test_setting_a_policy_needs_its_own_permission(iam: Deployment) -> None:
    """Who administers keys may grant; who uses them may neither read nor change their policy."""
    iam.add_key()
    iam.grant(KEY, "roles/cloudkms.cryptoKeyEncrypterDecrypter", ALICE)
    with pytest.raises(PermissionDenied):
        iam.set_policy(KEY, one("roles/owner", ALICE), principal=ALICE)
    with pytest.raises(PermissionDenied):
        iam.get_policy(KEY, principal=ALICE)
    iam.set_policy(KEY, one("roles/cloudkms.admin", ALICE))
    assert iam.set_policy(KEY, one("roles/cloudkms.admin", ALICE), principal=ALICE).bindings


def test_versions_carry_no_policy(iam: Deployment) -> None:
    """A shape that is not registered for policies is refused and has none."""
    iam.add_key()
    with pytest.raises(InvalidArgument):
        iam.get_policy(VERSION)
    with pytest.raises(Unimplemented):
        iam.get_policy(f"{RING}/importJobs/j")


def test_changes_are_told_after_the_commit(iam: Deployment) -> None:
    """Subscribers hear of each committed change once, see it in the store, and do not disturb each other."""
    iam.add_key()
    heard: list[tuple[str, int]] = []

    def fails(_: str) -> None:
        raise RuntimeError("a subscriber's own problem")

    iam.events.subscribe(fails)
    iam.events.subscribe(lambda name: heard.append((name, len(iam.get_policy(name).bindings))))
    iam.grant(KEY, VIEWER, ALICE)
    with pytest.raises(InvalidArgument):
        iam.set_policy(KEY, one("roles/nope", ALICE))
    iam.grant("projects/p1", VIEWER, ALICE)
    assert heard == [(KEY, 1), ("projects/p1", 1)]


def test_projects_may_be_named_by_number(iam: Deployment) -> None:
    """A policy set through the project number is that of the id."""
    iam.add_key()
    with iam.store.read() as tx:
        number = iam.projects.get(tx, "p1").name
    iam.grant(KEY.replace("projects/p1", number), ENCRYPTER, ALICE)
    assert iam.allowed(ALICE, ENCRYPT, KEY)
    assert iam.get_policy(KEY).bindings
