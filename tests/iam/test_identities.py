"""Who callers are, and the agents that nobody can be."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2

from keystead.api.errors import InvalidArgument, PermissionDenied, Unauthenticated
from keystead.iam.authentication import DevAuthenticator
from keystead.iam.members import email_of, parse_member
from keystead.iam.official import GenerateServiceIdentityRequest, ServiceIdentity
from keystead.iam.service_agents import AGENTS, agent_email, agent_principal, ensure_agent, is_agent_address
from tests.iam.deployment import ALICE, ENCRYPT, KEY, OWNER, Deployment

GENERATE = "google.api.serviceusage.v1beta1.ServiceUsage/GenerateServiceIdentity"
ENCRYPTER = "roles/cloudkms.cryptoKeyEncrypterDecrypter"


@pytest.mark.parametrize(
    ("header", "principal"),
    [
        (None, None),
        ("", None),
        ("Bearer user:alice@example.com", ALICE),
        ("bearer  user:Alice@Example.COM ", ALICE),
        ("Bearer serviceAccount:job@p1.example.com", "serviceAccount:job@p1.example.com"),
    ],
)
def test_a_token_that_is_a_member_is_believed(header: str | None, principal: str | None) -> None:
    """In development mode a bearer token is the caller's own word for who it is."""
    assert DevAuthenticator().principal(header) == principal


@pytest.mark.parametrize(
    "header",
    [
        "Basic dXNlcjphQGV4YW1wbGUuY29t",
        "Bearer",
        "Bearer ya29.a0AfH6",
        "Bearer user:alice",
        "Bearer group:admins@example.com",
        "Bearer allUsers",
        "Bearer domain:example.com",
        "Bearer deleted:user:a@example.com?uid=1",
        "Bearer projectOwner:p1",
        "user:alice@example.com",
        "Bearer user:alice@example.com extra",
    ],
)
def test_other_credentials_prove_nothing(header: str) -> None:
    """Whatever is no user or service account is UNAUTHENTICATED, with the reason as ErrorInfo."""
    with pytest.raises(Unauthenticated, match="invalid authentication credentials") as caught:
        DevAuthenticator().principal(header)
    (info,) = caught.value.details
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.domain == "googleapis.com" and info.reason.startswith("ACCESS_TOKEN_")


@pytest.mark.parametrize("service", sorted(AGENTS))
def test_nobody_can_be_a_service_agent(service: str) -> None:
    """A token that names any agent's address, in any spelling and kind, is refused."""
    email = agent_email(123456789012, service)
    assert is_agent_address(email)
    for token in (f"serviceAccount:{email}", f"serviceAccount:{email.upper()}", f"user:{email}"):
        with pytest.raises(Unauthenticated):
            DevAuthenticator().principal(f"Bearer {token}")


def test_addresses_that_are_no_agents() -> None:
    """Customers' own service accounts and users are not taken for agents."""
    for email in ("service-1@p1.iam.gserviceaccount.com", "gcp-sa-x@example.com", "a@b.c"):
        assert not is_agent_address(email)
    assert is_agent_address("service-1@gcp-sa-unknown.iam.gserviceaccount.com")


def test_agents_must_exist_before_they_are_granted(iam: Deployment) -> None:
    """An agent that was not created, or is typed wrong, is refused in IAM's words; once created it is taken,
    and stays in a policy that is written again."""
    iam.add_key()
    with iam.store.read() as tx:
        number = int(iam.projects.get(tx, "p1").name.removeprefix("projects/"))
    email = agent_email(number, "financialservices")
    with pytest.raises(InvalidArgument) as caught:
        iam.grant(KEY, ENCRYPTER, f"serviceAccount:{email}")
    assert caught.value.message == f"Service account {email} does not exist."
    operation = iam.call(
        GENERATE,
        GenerateServiceIdentityRequest(parent="projects/p1/services/financialservices.googleapis.com"),
    )
    identity = ServiceIdentity()
    assert operation.done and operation.response.Unpack(identity)
    assert identity.email == email and identity.unique_id.isdigit()
    iam.grant(KEY, ENCRYPTER, f"serviceAccount:{email}")
    iam.grant(KEY, ENCRYPTER, ALICE)
    assert iam.allowed(agent_principal(number, "financialservices"), ENCRYPT, KEY)
    with pytest.raises(InvalidArgument):
        iam.grant(KEY, ENCRYPTER, f"serviceAccount:service-1{email[len('service-') :]}")


def test_an_identity_is_made_once(iam: Deployment) -> None:
    """Asking again answers the same address and id; another project has another agent."""
    asked = [
        iam.call(
            GENERATE, GenerateServiceIdentityRequest(parent=f"projects/{p}/services/alloydb.googleapis.com")
        )
        for p in ("p1", "p1", "p2")
    ]
    assert asked[0] == asked[1] != asked[2]


def test_the_agents_of_cloud_kms_and_storage(iam: Deployment) -> None:
    """For Cloud KMS the EKM agent is named and both are created; Cloud Storage's is created and not named."""
    made = {}
    for service in ("cloudkms", "storage"):
        operation = iam.call(
            GENERATE,
            GenerateServiceIdentityRequest(parent=f"projects/p1/services/{service}.googleapis.com"),
        )
        identity = ServiceIdentity()
        operation.response.Unpack(identity)
        made[service] = identity.email
    assert made["cloudkms"].endswith("@gcp-sa-ekms.iam.gserviceaccount.com") and made["storage"] == ""
    with iam.store.read() as tx:
        found = [row.sort for row in tx.resources.list("ServiceAgent", "projects/p1")]
    assert found == ["cloudkms", "ekms", "storage"]


def test_services_without_an_agent(iam: Deployment) -> None:
    """An API that has no service agent is INVALID_ARGUMENT in Service Usage's words."""
    with pytest.raises(InvalidArgument, match=r"Service logging.googleapis.com has not been configured for"):
        iam.call(
            GENERATE,
            GenerateServiceIdentityRequest(parent="projects/p1/services/logging.googleapis.com"),
        )
    assert iam.project_ids() == []


def test_identities_are_generated_for_who_may(iam: Deployment) -> None:
    """Without serviceusage.services.enable nothing is created; in a project that is not there neither."""
    request = GenerateServiceIdentityRequest(parent="projects/p1/services/alloydb.googleapis.com")
    with pytest.raises(PermissionDenied):
        iam.call(GENERATE, request, ALICE)
    assert iam.project_ids() == []
    with iam.store.write() as tx, pytest.raises(PermissionDenied):
        ensure_agent(tx, "p9", "alloydb")


def test_members_keep_their_meaning(iam: Deployment) -> None:
    """Members are canonical once parsed, and only users and service accounts have an address."""
    for text in (OWNER, "allUsers", "projectViewer:p1", "group:g@example.com", "domain:example.com"):
        assert parse_member(parse_member(text)) == text
    assert email_of(OWNER) == "owner@example.com"
    assert email_of("group:g@example.com") == email_of("allUsers") == ""
