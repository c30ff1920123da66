"""google-cloud-resource-manager and google-cloud-logging against a live server, over gRPC and over REST."""

from __future__ import annotations

from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import logging as cloud_logging
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports.grpc import (
    LoggingServiceV2GrpcTransport,
)
from google.iam.v1 import iam_policy_pb2, policy_pb2

from tests.clients.pyclients import TRANSPORTS, Token, channel, kms_client, projects_client, refusal
from tests.live import OWNER, LiveServer

LOCATION = "projects/p1/locations/europe-west4"
ACTIVITY = "projects/p1/logs/cloudaudit.googleapis.com%2Factivity"
DATA_ACCESS = "projects/p1/logs/cloudaudit.googleapis.com%2Fdata_access"
BOB = "user:bob@example.com"
GET_RING = "cloudkms.keyRings.get"


@pytest.fixture(scope="module", autouse=True)
def ring(live: LiveServer) -> str:
    """A key ring in p1, and a denied attempt to read it."""
    kms = kms_client(live, "grpc")
    made = kms.create_key_ring(request={"parent": LOCATION, "key_ring_id": "kr1", "key_ring": {}})
    with pytest.raises(exceptions.PermissionDenied):
        kms_client(live, "grpc", BOB).get_key_ring(request={"name": made.name})
    return str(made.name)


@pytest.fixture(scope="module", params=TRANSPORTS)
def projects(request: pytest.FixtureRequest, live: LiveServer) -> Any:
    """The official projects client as the owner, over each transport in turn."""
    return projects_client(live, request.param)


def test_projects_are_found_by_id_and_number(projects: Any) -> None:
    """A project is read by its id or number, listed under its organization, and found by a search."""
    found = projects.get_project(request={"name": "projects/p1"})

    assert found.project_id == "p1"
    assert found.name.removeprefix("projects/").isdigit()
    assert found.parent.startswith("organizations/")
    assert projects.get_project(request={"name": found.name}) == found
    assert [each.project_id for each in projects.list_projects(request={"parent": found.parent})] == ["p1"]
    assert [each.project_id for each in projects.search_projects(request={})] == ["p1"]


def test_a_grant_on_a_project_reaches_down(projects: Any, ring: str, live: LiveServer) -> None:
    """A binding on the project opens the key ring below; without it the ring is closed again."""
    bob = kms_client(live, projects.transport.kind, BOB)
    read = iam_policy_pb2.GetIamPolicyRequest(resource="projects/p1")
    policy = projects.get_iam_policy(request=read)
    policy.bindings.append(policy_pb2.Binding(role="roles/cloudkms.viewer", members=[BOB]))
    policy = projects.set_iam_policy(
        request=iam_policy_pb2.SetIamPolicyRequest(resource="projects/p1", policy=policy)
    )

    assert bob.get_key_ring(request={"name": ring}).name == ring
    asked = iam_policy_pb2.TestIamPermissionsRequest(resource="projects/p1", permissions=[GET_RING])
    assert list(projects.test_iam_permissions(request=asked).permissions) == [GET_RING]
    del policy.bindings[-1]
    projects.set_iam_policy(request=iam_policy_pb2.SetIamPolicyRequest(resource="projects/p1", policy=policy))
    assert isinstance(refusal(bob.get_key_ring, {"name": ring}), exceptions.Forbidden)


def test_a_stranger_sees_no_project(projects: Any, live: LiveServer) -> None:
    """Reading is denied, and a search finds nothing."""
    bob = projects_client(live, projects.transport.kind, BOB)

    assert isinstance(refusal(bob.get_project, {"name": "projects/p1"}), exceptions.Forbidden)
    assert list(bob.search_projects(request={})) == []


def test_the_logging_client_reads_entries_over_http(live: LiveServer) -> None:
    """google.cloud.logging finds the creation of the key ring as a protobuf entry with its audit record."""
    client = cloud_logging.Client(
        project="p1",
        credentials=Token(OWNER),
        _use_grpc=False,
        client_options={"api_endpoint": f"{live.url}/logging"},
    )
    entries = list(client.list_entries(filter_='protoPayload.methodName="CreateKeyRing"'))

    assert [entry.log_name for entry in entries] == [ACTIVITY]
    assert entries[0].resource.type == "cloudkms_keyring"
    assert entries[0].payload["authenticationInfo"]["principalEmail"] == "owner@example.com"
    assert entries[0].payload["resourceName"].startswith(LOCATION)


def test_the_logging_client_pages_newest_first(live: LiveServer) -> None:
    """Descending order and pages of one entry still give every entry once."""
    client = cloud_logging.Client(
        project="p1",
        credentials=Token(OWNER),
        _use_grpc=False,
        client_options={"api_endpoint": f"{live.url}/logging"},
    )
    of_keys = 'protoPayload.serviceName="cloudkms.googleapis.com"'
    ascending = [entry.insert_id for entry in client.list_entries(filter_=of_keys)]
    paged = client.list_entries(filter_=of_keys, order_by="timestamp desc", page_size=1)

    assert len(ascending) >= 2
    assert [entry.insert_id for entry in paged] == ascending[::-1]


def test_the_logging_api_over_grpc(live: LiveServer) -> None:
    """The gRPC logging client finds a denied read in the Data Access log; a stranger may not look."""
    client = LoggingServiceV2Client(transport=LoggingServiceV2GrpcTransport(channel=channel(live, OWNER)))
    stranger = LoggingServiceV2Client(transport=LoggingServiceV2GrpcTransport(channel=channel(live, BOB)))
    request = {
        "resource_names": ["projects/p1"],
        "filter": 'protoPayload.authenticationInfo.principalEmail="bob@example.com" '
        'AND protoPayload.methodName="GetKeyRing"',
    }

    found = list(client.list_log_entries(request=request))

    assert found
    assert {entry.log_name for entry in found} == {DATA_ACCESS}
    assert all(entry.proto_payload.type_url.endswith("google.cloud.audit.AuditLog") for entry in found)
    assert list(client.list_logs(request={"parent": "projects/p1"})) == [ACTIVITY, DATA_ACCESS]
    assert isinstance(refusal(stranger.list_log_entries, request), exceptions.Forbidden)


def test_without_a_valid_token_nothing_is_read(live: LiveServer) -> None:
    """A client whose token is nobody's is refused as unauthenticated."""
    client = cloud_logging.Client(
        project="p1",
        credentials=Token("rubbish"),
        _use_grpc=False,
        client_options={"api_endpoint": f"{live.url}/logging"},
    )

    with pytest.raises(exceptions.Unauthorized):
        list(client.list_entries())
