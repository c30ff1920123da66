"""Resource Manager, Service Usage and the role catalog, as gcloud and the client libraries call them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from google.cloud import resourcemanager_v3

from keystead.api import jsonpb, transcoding
from keystead.api.call import Call
from keystead.api.errors import InvalidArgument, NotFound, PermissionDenied
from keystead.api.transcoding import Router
from keystead.iam import official, roles
from keystead.iam.bootstrap import prepare_organization
from keystead.iam.hierarchy import ancestors
from tests.iam.deployment import ALICE, ENCRYPT, KEY, OWNER, RING, VERSION, Deployment

V3 = "google.cloud.resourcemanager.v3"


def rest(iam: Deployment, verb: str, path: str, body: Any = None, principal: str = OWNER) -> Any:
    """One REST call, `cloudresourcemanager/v1/projects/p1`, from its path to the JSON of its answer."""
    prefix, _, rest_of_path = path.partition("/")
    rest_of_path, _, query = rest_of_path.partition("?")
    match = Router(iam.registry).find(prefix, verb, "/" + rest_of_path)
    assert match is not None and match.route.method is not None, path
    payload = b"" if body is None else json.dumps(body).encode()
    request, _ = transcoding.bind(match, query.encode(), payload)
    answer = iam.dispatcher.run(match.route.method, request, Call(principal=principal))
    return json.loads(jsonpb.dumps(answer))


def test_projects_as_gcloud_describes_them(iam: Deployment) -> None:
    """`gcloud projects describe` of a new project in development mode creates it and shows v1's JSON."""
    shown = rest(iam, "GET", "cloudresourcemanager/v1/projects/p1?alt=json")
    assert shown["projectId"] == shown["name"] == "p1"
    assert shown["lifecycleState"] == "ACTIVE" and shown["projectNumber"].isdigit()
    assert shown["parent"] == {"type": "organization", "id": iam.organization.split("/")[1]}
    assert shown["createTime"] == "2026-01-01T00:00:00Z"
    by_number = rest(iam, "GET", f"cloudresourcemanager/v1/projects/{shown['projectNumber']}")
    assert by_number == shown
    v3 = rest(iam, "GET", "cloudresourcemanager/v3/projects/p1")
    assert v3["name"] == f"projects/{shown['projectNumber']}" and v3["state"] == "ACTIVE"
    ancestry = rest(iam, "POST", "cloudresourcemanager/v1/projects/p1:getAncestry?alt=json", {})
    assert [each["resourceId"]["type"] for each in ancestry["ancestor"]] == ["project", "organization"]


def test_a_project_that_is_not_there_is_denied(strict: Deployment) -> None:
    """Outside of development mode nobody learns whether a project exists."""
    with pytest.raises(PermissionDenied):
        rest(strict, "GET", "cloudresourcemanager/v1/projects/p1")


def test_listing_projects_shows_what_the_caller_may_see(iam: Deployment) -> None:
    """v1 list, v3 list and search page through exactly the visible projects, filters applied."""
    for index in range(7):
        rest(iam, "GET", f"cloudresourcemanager/v1/projects/p{index}")
    for index in (1, 4, 6):
        iam.grant(f"projects/p{index}", "roles/browser", ALICE)
    path = "cloudresourcemanager/v1/projects?alt=json&filter=lifecycleState%3AACTIVE&pageSize=2"
    pages, token = [], ""
    while True:
        answer = rest(iam, "GET", f"{path}&pageToken={token}", principal=ALICE)
        pages.append([each["projectId"] for each in answer["projects"]])
        token = answer.get("nextPageToken", "")
        if not token:
            break
    assert pages == [["p1", "p4"], ["p6"]]
    assert len(rest(iam, "GET", path.replace("pageSize=2", "pageSize=500"))["projects"]) == 7
    found = rest(iam, "GET", "cloudresourcemanager/v3/projects:search?query=projectId%3Ap4", principal=ALICE)
    assert [each["projectId"] for each in found["projects"]] == ["p4"]
    listed = rest(iam, "GET", f"cloudresourcemanager/v3/projects?parent={iam.organization}")
    assert len(listed["projects"]) == 7
    with pytest.raises(PermissionDenied):
        rest(iam, "GET", f"cloudresourcemanager/v3/projects?parent={iam.organization}", principal=ALICE)
    assert rest(iam, "GET", "cloudresourcemanager/v1/projects", principal="user:x@example.com") == {}


def test_project_policies_as_gcloud_sends_them(iam: Deployment) -> None:
    """`gcloud projects add-iam-policy-binding` and remove: read, write with the etag, and it holds."""
    iam.add_key()
    base = "cloudresourcemanager/v1/projects/p1"
    options = {"options": {"requestedPolicyVersion": 3}}
    read = rest(iam, "POST", f"{base}:getIamPolicy?alt=json", options)
    assert read == {"etag": "ACAB"}
    read["bindings"] = [{"members": [ALICE], "role": "roles/cloudkms.cryptoOperator"}]
    written = rest(iam, "POST", f"{base}:setIamPolicy?alt=json", {"policy": {**read, "version": 3}})
    assert written["bindings"] == read["bindings"] and written["version"] == 1
    assert iam.allowed(ALICE, ENCRYPT, VERSION)
    # gcloud decodes the etag and encodes it in the other alphabet.
    etag = written["etag"].replace("+", "-").replace("/", "_")
    emptied = rest(iam, "POST", f"{base}:setIamPolicy?alt=json", {"policy": {"etag": etag, "version": 3}})
    assert set(emptied) == {"etag", "version"} and not iam.allowed(ALICE, ENCRYPT, VERSION)
    asked = {"permissions": ["resourcemanager.projects.get", ENCRYPT]}
    assert rest(iam, "POST", f"{base}:testIamPermissions", asked) == asked


def test_key_policies_as_gcloud_sends_them(iam: Deployment) -> None:
    """`gcloud kms keys set-iam-policy FILE` and get-iam-policy on keys and rings."""
    iam.add_key()
    for resource in (KEY, RING):
        body = {
            "policy": {"bindings": [{"members": [ALICE], "role": "roles/owner"}], "version": 3},
            "updateMask": "bindings,version",
        }
        written = rest(iam, "POST", f"cloudkms/v1/{resource}:setIamPolicy?alt=json", body)
        read = rest(
            iam, "GET", f"cloudkms/v1/{resource}:getIamPolicy?alt=json&options.requestedPolicyVersion=3"
        )
        assert read == written and read["bindings"][0]["role"] == "roles/owner"


def test_the_organization_and_its_policy(iam: Deployment) -> None:
    """Get and search show the one organization to who may see it; its policy is read, written and tested."""
    for version in ("v1", "v3"):
        shown = rest(iam, "GET", f"cloudresourcemanager/{version}/{iam.organization}")
        assert shown["name"] == iam.organization
        policy = rest(iam, "POST", f"cloudresourcemanager/{version}/{iam.organization}:getIamPolicy", {})
        assert policy["bindings"] == [{"role": "roles/owner", "members": [OWNER]}]
        asked = {"permissions": ["resourcemanager.organizations.get"]}
        assert rest(
            iam, "POST", f"cloudresourcemanager/{version}/{iam.organization}:testIamPermissions", asked
        )
        policy["bindings"].append({"role": "roles/viewer", "members": [ALICE]})
        body = {"policy": policy}
        rest(iam, "POST", f"cloudresourcemanager/{version}/{iam.organization}:setIamPolicy", body)
        iam.revoke_last(iam.organization)
    searched = rest(iam, "GET", "cloudresourcemanager/v3/organizations:search")
    assert [each["name"] for each in searched["organizations"]] == [iam.organization]
    assert rest(iam, "GET", "cloudresourcemanager/v3/organizations:search", principal=ALICE) == {}
    with pytest.raises(PermissionDenied):
        rest(iam, "GET", "cloudresourcemanager/v1/organizations/1")


def test_the_organization_is_made_once(iam: Deployment) -> None:
    """A second start keeps the number, and does not give back an ownership that was taken away."""
    policy = iam.get_policy(iam.organization)
    policy.bindings[0].members[:] = [ALICE]
    iam.set_policy(iam.organization, policy)
    assert prepare_organization(iam.store, iam.clock, owner=OWNER) == iam.organization
    assert not iam.allowed(OWNER, "resourcemanager.organizations.get", iam.organization)


def test_services_as_gcloud_lists_and_enables_them(iam: Deployment) -> None:
    """list --enabled, enable, and the operation they would poll; what is not served is denied."""
    listed = rest(
        iam, "GET", "serviceusage/v1/projects/p1/services?alt=json&filter=state%3AENABLED&pageSize=200"
    )
    names = [each["config"]["name"] for each in listed["services"]]
    assert names == sorted(names) and "cloudkms.googleapis.com" in names
    enabled = rest(iam, "POST", "serviceusage/v1/projects/p1/services/cloudkms.googleapis.com:enable", {})
    assert enabled["done"] and enabled["response"]["service"]["state"] == "ENABLED"
    assert rest(iam, "GET", f"serviceusage/v1/{enabled['name']}?alt=json")["done"]
    shown = rest(iam, "GET", "serviceusage/v1/projects/p1/services/cloudkms.googleapis.com")
    assert shown["config"]["title"] == "Cloud Key Management Service (KMS) API"
    for verb, path in (
        ("POST", "projects/p1/services/compute.googleapis.com:enable"),
        ("GET", "projects/p1/services/compute.googleapis.com"),
        ("GET", "operations/acf.p2-1"),
    ):
        with pytest.raises(PermissionDenied):
            rest(iam, verb, f"serviceusage/v1/{path}", {} if verb == "POST" else None)


def test_a_service_identity_as_gcloud_creates_it(iam: Deployment) -> None:
    """generateServiceIdentity comes without a body and answers a finished operation with its response."""
    path = (
        "serviceusage/v1beta1/projects/p1/services/financialservices.googleapis.com:generateServiceIdentity"
    )
    answer = rest(iam, "POST", f"{path}?alt=json")
    assert answer["done"]
    assert (
        answer["response"]["@type"] == "type.googleapis.com/google.api.serviceusage.v1beta1.ServiceIdentity"
    )
    assert answer["response"]["email"].endswith("@gcp-sa-financialservices.iam.gserviceaccount.com")


def test_roles_as_gcloud_describes_them(iam: Deployment) -> None:
    """A predefined role shows its permissions to everybody; one that there is not is NOT_FOUND."""
    shown = rest(iam, "GET", "iam/v1/roles/cloudkms.cryptoKeyEncrypter?alt=json", principal=ALICE)
    assert shown["stage"] == "GA" and shown["includedPermissions"] == sorted(
        roles.predefined()["roles/cloudkms.cryptoKeyEncrypter"].permissions
    )
    with pytest.raises(NotFound):
        rest(iam, "GET", "iam/v1/roles/nope")


def test_what_the_roles_are_known_for() -> None:
    """The traps of the documentation: administrators of keys cannot use them, viewers read no policy."""
    admin = roles.predefined()["roles/cloudkms.admin"].permissions
    assert "cloudkms.cryptoKeys.setIamPolicy" in admin and ENCRYPT not in admin
    assert "cloudkms.cryptoKeyVersions.viewPublicKey" not in admin
    viewer = roles.predefined()["roles/cloudkms.viewer"].permissions
    assert "cloudkms.cryptoKeys.getIamPolicy" not in viewer
    signer = roles.predefined()["roles/cloudkms.signer"].permissions
    assert "cloudkms.cryptoKeyVersions.viewPublicKey" not in signer
    owner, editor, basic = (
        roles.predefined()[f"roles/{name}"].permissions for name in ("owner", "editor", "viewer")
    )
    assert basic < editor < owner
    forbidden = ("setIamPolicy", "useToEncrypt", "useToDecrypt", "useToSign", "destroy", "restore")
    assert not [each for each in editor if each.endswith(forbidden)]


def test_what_stands_under_what() -> None:
    """Only what can carry a policy is an ancestor, nearest first."""
    org = "organizations/1"
    assert ancestors(VERSION, org) == (KEY, RING, "projects/p1", org)
    assert ancestors("projects/p1/locations/l/instances/i/datasets/d", org) == ("projects/p1", org)
    assert ancestors("projects/p1/locations/l/ekmConfig", org) == (
        "projects/p1/locations/l/ekmConfig",
        "projects/p1",
        org,
    )
    assert ancestors(org, org) == (org,)
    assert ancestors("roles/x", org) == ancestors("", org) == ancestors("projects", org) == ()


def test_declared_messages_are_on_the_wire_as_googles() -> None:
    """Messages declared here have the official names, field numbers and JSON."""
    service = official.Service(name="projects/1/services/x", state="ENABLED", parent="projects/1")
    assert service.SerializeToString() == b"\n\x15projects/1/services/x \x02*\nprojects/1"
    assert service.DESCRIPTOR.full_name == "google.api.serviceusage.v1.Service"
    role = official.Role(name="r", stage="GA", included_permissions=["a"])
    assert role.SerializeToString() == b"\n\x01r:\x01a@\x02"
    project = official.V1Project(project_number=12, labels={"a": "b"})
    assert json.loads(jsonpb.dumps(project)) == {"projectNumber": "12", "labels": {"a": "b"}}


def test_a_bad_filter_is_refused(iam: Deployment) -> None:
    """A filter that names no field of a project is INVALID_ARGUMENT, whether or not there are projects."""
    with pytest.raises(InvalidArgument):
        rest(iam, "GET", "cloudresourcemanager/v1/projects?filter=nonsense%3D1")
    with pytest.raises(InvalidArgument):
        rest(iam, "GET", "cloudresourcemanager/v3/projects:search?query=nonsense%3D1")


def test_rpcs_are_googles(iam: Deployment) -> None:
    """Each RPC served of Resource Manager v3 is one of the official client, with its request type."""
    clients = {
        f"{V3}.Projects": resourcemanager_v3.ProjectsClient,
        f"{V3}.Organizations": resourcemanager_v3.OrganizationsClient,
    }
    served = [rpc.partition("/") for rpc in iam.registry.methods if rpc.startswith(V3)]
    assert len(served) == 11
    for service, _, name in served:
        assert hasattr(clients[service], re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())
        request = iam.registry.methods[f"{service}/{name}"].request_type.DESCRIPTOR.full_name
        assert request in {f"{V3}.{name}Request", f"google.iam.v1.{name}Request"}
