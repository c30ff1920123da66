"""Grants with the real gcloud: policies of keys, key rings and projects, conditions, and stale writes."""

from __future__ import annotations

import json

import pytest

from tests.clients.gcloud import Gcloud

pytestmark = pytest.mark.gcloud

WHERE = ("--location=us-central1", "--keyring=kr1")
RING = "projects/p1/locations/us-central1/keyRings/kr1"
CRYPTER = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
CONDITION = "expression=request.time < timestamp('{}'),title=t1"
ABORTED = (
    "ABORTED: There were concurrent policy changes. Please retry the whole read-modify-write with "
    "exponential backoff."
)


@pytest.fixture(scope="module", autouse=True)
def ring(gcloud: Gcloud) -> None:
    """The key ring kr1."""
    gcloud.ok("kms", "keyrings", "create", "kr1", "--location=us-central1")
    (gcloud.directory / "pt").write_bytes(b"hello")
    policy = {"bindings": [{"role": "roles/owner", "members": ["user:a@x.com"]}], "version": 3}
    (gcloud.directory / "stale.json").write_text(json.dumps({**policy, "etag": "ACAB"}))
    (gcloud.directory / "blind.json").write_text(json.dumps(policy))


def make_key(gcloud: Gcloud, key: str) -> str:
    """A key of that id in kr1."""
    gcloud.ok("kms", "keys", "create", key, *WHERE, "--purpose=encryption")
    return key


def policy_text(*bindings: str, version: int = 1) -> str:
    """A policy as gcloud prints it, its etag left out."""
    shown = f"bindings:\n{''.join(bindings)}" if bindings else ""
    return f"{shown}etag: ETAG\nversion: {version}\n"


def binding(role: str, member: str) -> str:
    """An unconditional binding as gcloud prints it."""
    return f"- members:\n  - {member}\n  role: {role}\n"


def conditional(role: str, member: str, until: str) -> str:
    """A binding with the condition t1."""
    return (
        f"- condition:\n    expression: request.time < timestamp('{until}')\n    title: t1\n"
        f"  members:\n  - {member}\n  role: {role}\n"
    )


def test_a_service_agent_is_granted_a_key(gcloud: Gcloud) -> None:
    """The documented way to let a service use a key: make its agent, then bind it on the key."""
    key = make_key(gcloud, "agent")
    empty = gcloud.ok("kms", "keys", "get-iam-policy", key, *WHERE).out
    made = gcloud.ok("beta", "services", "identity", "create", "--service=financialservices.googleapis.com")
    agent = made.err.strip().removeprefix("Service identity created: ")
    member = f"serviceAccount:{agent}"

    granted = gcloud.ok(
        "kms", "keys", "add-iam-policy-binding", key, *WHERE, f"--member={member}", f"--role={CRYPTER}"
    )  # fmt: skip

    assert empty == "etag: ACAB\n"
    assert agent.endswith("@gcp-sa-financialservices.iam.gserviceaccount.com")
    assert granted.err == f"Updated IAM policy for key [{key}].\n"
    assert granted.shape == policy_text(binding(CRYPTER, member))
    shown = json.loads(gcloud.ok("kms", "keys", "get-iam-policy", key, *WHERE, "--format=json").out)
    assert shown["bindings"] == [{"members": [member], "role": CRYPTER}]


def test_an_agent_that_was_never_made_cannot_be_granted(gcloud: Gcloud) -> None:
    """A typing error in an agent's number is refused instead of granting nobody."""
    key = make_key(gcloud, "noagent")
    agent = "service-1@gcp-sa-financialservices.iam.gserviceaccount.com"
    text = gcloud.refused(
        "kms", "keys", "add-iam-policy-binding", key, *WHERE,
        f"--member=serviceAccount:{agent}", f"--role={CRYPTER}",
    )  # fmt: skip

    assert f"INVALID_ARGUMENT: Service account {agent} does not exist." in text


def test_a_grant_lets_a_user_in_and_its_removal_locks_him_out(gcloud: Gcloud) -> None:
    """The very next command sees a binding added or removed."""
    key = make_key(gcloud, "grant")
    bob = "user:bob@example.com"
    encrypt = ("kms", "encrypt", "--key", key, *WHERE, "--plaintext-file=pt", "--ciphertext-file=ct")
    who = (f"--member={bob}", f"--role={CRYPTER}")

    gcloud.ok("kms", "keys", "add-iam-policy-binding", key, *WHERE, *who)
    gcloud.ok(*encrypt, token=bob)
    removed = gcloud.ok("kms", "keys", "remove-iam-policy-binding", key, *WHERE, *who)
    denied = gcloud.refused(*encrypt, token=bob)

    assert removed.shape == policy_text()
    assert "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied" in denied


def test_a_condition_is_kept_evaluated_and_removed(gcloud: Gcloud) -> None:
    """A binding that holds until a time grants before it and not after it."""
    key = make_key(gcloud, "cond")
    add = ("kms", "keys", "add-iam-policy-binding", key, *WHERE)
    viewer = "roles/cloudkms.viewer"
    gcloud.ok(*add, "--member=user:a@x.com", f"--role={CRYPTER}")

    for member, until in (("user:a@x.com", "2100-01-01T00:00:00Z"), ("user:b@x.com", "2020-01-01T00:00:00Z")):
        granted = gcloud.ok(
            *add, f"--member={member}", f"--role={viewer}", f"--condition={CONDITION.format(until)}"
        )  # fmt: skip
        assert conditional(viewer, member, until) in granted.out
        assert granted.out.endswith("version: 3\n")

    assert gcloud.ok("kms", "keys", "describe", key, *WHERE, token="user:a@x.com").out
    assert "PERMISSION_DENIED" in gcloud.refused("kms", "keys", "describe", key, *WHERE, token="user:b@x.com")
    remove = ("kms", "keys", "remove-iam-policy-binding", key, *WHERE, f"--role={viewer}", "--all")
    gcloud.ok(*remove, "--member=user:b@x.com")
    left = gcloud.ok(*remove, "--member=user:a@x.com")
    assert left.shape == policy_text(binding(CRYPTER, "user:a@x.com"))
    assert "PERMISSION_DENIED" in gcloud.refused("kms", "keys", "describe", key, *WHERE, token="user:a@x.com")


def test_a_stale_etag_is_aborted_and_none_overwrites(gcloud: Gcloud) -> None:
    """A file with an old etag is refused as a concurrent change; one without an etag replaces the policy."""
    key = make_key(gcloud, "stale")
    gcloud.ok(
        "kms", "keys", "add-iam-policy-binding", key, *WHERE, "--member=user:a@x.com", f"--role={CRYPTER}"
    )  # fmt: skip

    stale = gcloud.refused("kms", "keys", "set-iam-policy", key, *WHERE, "stale.json")
    blind = gcloud.ok("kms", "keys", "set-iam-policy", key, *WHERE, "blind.json")

    assert stale == f"ERROR: (gcloud.kms.keys.set-iam-policy) {ABORTED}\n"
    assert blind.shape == policy_text(binding("roles/owner", "user:a@x.com"))


def test_a_key_ring_has_a_policy_that_its_keys_inherit(gcloud: Gcloud) -> None:
    """The four policy commands work on key rings, and a grant there reaches the keys below."""
    key = make_key(gcloud, "below")
    carol = "user:carol@example.com"
    ring = ("kr1", "--location=us-central1")
    keyrings = ("kms", "keyrings")
    admin = (f"--member={carol}", "--role=roles/cloudkms.admin")

    added = gcloud.ok(*keyrings, "add-iam-policy-binding", *ring, *admin)
    assert added.err == "Updated IAM policy for keyring [kr1].\n"
    assert added.shape == policy_text(binding("roles/cloudkms.admin", carol))
    assert gcloud.ok(*keyrings, "get-iam-policy", *ring).shape == added.shape
    assert gcloud.ok("kms", "keys", "describe", key, *WHERE, token=carol).out

    replaced = gcloud.ok(*keyrings, "set-iam-policy", *ring, "blind.json")
    assert replaced.shape == policy_text(binding("roles/owner", "user:a@x.com"))
    assert "PERMISSION_DENIED" in gcloud.refused("kms", "keys", "describe", key, *WHERE, token=carol)
    owner = ("--member=user:a@x.com", "--role=roles/owner")
    assert gcloud.ok(*keyrings, "remove-iam-policy-binding", *ring, *owner).shape == policy_text()


def test_a_policy_filter_runs_in_the_client(gcloud: Gcloud) -> None:
    """A filter that nothing matches lists nothing and warns, as against Google's service."""
    key = make_key(gcloud, "filtered")
    listed = gcloud.ok("kms", "keys", "get-iam-policy", key, *WHERE, "--filter=bindings.role:roles/x")

    assert listed.out == ""
    assert "Listed 0 items." in listed.err


def test_projects_have_policies_with_and_without_conditions(gcloud: Gcloud) -> None:
    """`projects` get, add and remove bindings; a conditional one turns the policy to version 3."""
    dave = "user:dave@example.com"
    admin = ("p1", f"--member={dave}", "--role=roles/cloudkms.admin")
    until = "2100-01-01T00:00:00Z"
    viewer = (
        "p1",
        f"--member={dave}",
        "--role=roles/cloudkms.viewer",
        f"--condition={CONDITION.format(until)}",
    )
    before = gcloud.ok("projects", "get-iam-policy", "p1").out

    added = gcloud.ok("projects", "add-iam-policy-binding", *admin, "--condition=None")
    assert before == "etag: ACAB\n"
    assert added.err == "Updated IAM policy for project [p1].\n"
    assert added.shape == policy_text(binding("roles/cloudkms.admin", dave))
    gcloud.ok("kms", "keyrings", "list", "--location=us-central1", token=dave)

    both = gcloud.ok("projects", "add-iam-policy-binding", *viewer)
    assert conditional("roles/cloudkms.viewer", dave, until) in both.out
    assert both.out.endswith("version: 3\n")
    gcloud.ok("projects", "remove-iam-policy-binding", *viewer)
    removed = gcloud.ok("projects", "remove-iam-policy-binding", *admin, "--condition=None")
    assert removed.shape == policy_text()
    denied = gcloud.refused("kms", "keyrings", "list", "--location=us-central1", token=dave)
    assert "PERMISSION_DENIED" in denied


def test_roles_describe_shows_the_permissions_of_a_predefined_role(gcloud: Gcloud) -> None:
    """`iam roles describe` prints title, stage and what the role permits."""
    role = json.loads(gcloud.ok("iam", "roles", "describe", "roles/cloudkms.admin", "--format=json").out)

    assert (role["name"], role["stage"], role["title"]) == ("roles/cloudkms.admin", "GA", "Cloud KMS Admin")
    assert "cloudkms.cryptoKeys.create" in role["includedPermissions"]
    assert "cloudkms.cryptoKeyVersions.useToEncrypt" not in role["includedPermissions"]
    missing = gcloud.refused("iam", "roles", "describe", "roles/cloudkms.nothing")
    assert "NOT_FOUND" in missing or "not found" in missing
