"""Cloud Resource Manager v1: the same projects and policies as v3, as gcloud still asks for them.

v1 has no published RPC names; those here follow v3. Its REST paths are Google's.
"""

from __future__ import annotations

from typing import Any

from google.iam.v1 import iam_policy_pb2, policy_pb2

from keystead.api import lists
from keystead.api.call import Call
from keystead.api.method import LogKind, method
from keystead.iam.authorizer import Authorizer
from keystead.iam.hierarchy import Projects, number_of, read_organization
from keystead.iam.messages import Project
from keystead.iam.official import (
    V1GetAncestryRequest,
    V1GetAncestryResponse,
    V1GetOrganizationRequest,
    V1GetProjectRequest,
    V1ListProjectsRequest,
    V1ListProjectsResponse,
    V1Organization,
    V1Project,
)
from keystead.iam.policies import PolicyEvents
from keystead.iam.resource_manager import OrganizationsV3, ProjectsV3, VisibleProjects, require_project
from keystead.iam.services import RESOURCE_MANAGER

_API = "google.cloudresourcemanager.v1"


def _project(found: Project) -> V1Project:
    """A project as v1 shows it."""
    shown = V1Project(
        project_number=number_of(found),
        project_id=found.project_id,
        lifecycle_state="ACTIVE",
        name=found.display_name,
        create_time=found.create_time,
        labels=dict(found.labels),
    )
    shown.parent.type = "organization"
    shown.parent.id = found.parent.removeprefix("organizations/")
    return shown


class ProjectsV1:
    """projects of v1: get, list, getAncestry and the policy methods."""

    service = RESOURCE_MANAGER

    def __init__(self, projects: Projects, authorizer: Authorizer, events: PolicyEvents) -> None:
        self._organization = projects.organization
        self._visible = VisibleProjects(projects, authorizer)
        self._v3 = ProjectsV3(projects, authorizer, events)

    @method(
        f"{_API}.Projects/GetProject",
        http="GET /v1/{name=projects/*}",
        permission="resourcemanager.projects.get",
        on="name",
        log=LogKind.ADMIN_READ,
        own_transaction=True,
    )
    def get(self, call: Call, request: V1GetProjectRequest) -> V1Project:
        with call.transaction() as tx:
            return _project(require_project(tx, request.name))

    # A list names no resource: each project found is authorized by itself.
    @method(
        f"{_API}.Projects/ListProjects",
        http="GET /v1/projects",
        permission=None,
        on="page_token",
        log=LogKind.ADMIN_READ,
    )
    def list(self, call: Call, request: V1ListProjectsRequest) -> V1ListProjectsResponse:
        call.resource = self._organization
        page = lists.page_request(request, of=V1Project.DESCRIPTOR)

        def rows(after: str | None, limit: int) -> list[tuple[str, Any]]:
            return [(key, _project(found)) for key, found in self._visible.rows(call, after, limit)]

        found = lists.collect(page, rows)
        return V1ListProjectsResponse(projects=found.items, next_page_token=found.next_page_token)

    @method(
        f"{_API}.Projects/GetAncestry",
        http="POST /v1/{name=projects/*}:getAncestry",
        body="*",
        permission="resourcemanager.projects.get",
        on="name",
        log=LogKind.ADMIN_READ,
        own_transaction=True,
    )
    def get_ancestry(self, call: Call, request: V1GetAncestryRequest) -> V1GetAncestryResponse:
        with call.transaction() as tx:
            project = require_project(tx, request.name)
        response = V1GetAncestryResponse()
        for kind, identity in (
            ("project", project.project_id),
            ("organization", project.parent.removeprefix("organizations/")),
        ):
            response.ancestor.add(resource_id={"type": kind, "id": identity})
        return response

    @method(
        f"{_API}.Projects/GetIamPolicy",
        http="POST /v1/{resource=projects/*}:getIamPolicy",
        body="*",
        permission="resourcemanager.projects.getIamPolicy",
        on="resource",
        log=LogKind.ADMIN_READ,
    )
    def get_iam_policy(self, call: Call, request: iam_policy_pb2.GetIamPolicyRequest) -> policy_pb2.Policy:
        return self._v3.get_iam_policy(call, request)

    @method(
        f"{_API}.Projects/SetIamPolicy",
        http="POST /v1/{resource=projects/*}:setIamPolicy",
        body="*",
        permission="resourcemanager.projects.setIamPolicy",
        on="resource",
        log=LogKind.ADMIN_WRITE,
        required=("policy",),
    )
    def set_iam_policy(self, call: Call, request: iam_policy_pb2.SetIamPolicyRequest) -> policy_pb2.Policy:
        return self._v3.set_iam_policy(call, request)

    @method(
        f"{_API}.Projects/TestIamPermissions",
        http="POST /v1/{resource=projects/*}:testIamPermissions",
        body="*",
        permission=None,
        on="resource",
        log=LogKind.NONE,
    )
    def test_iam_permissions(
        self, call: Call, request: iam_policy_pb2.TestIamPermissionsRequest
    ) -> iam_policy_pb2.TestIamPermissionsResponse:
        return self._v3.test_iam_permissions(call, request)


class OrganizationsV1:
    """organizations of v1: get and the policy methods."""

    service = RESOURCE_MANAGER

    def __init__(self, projects: Projects, authorizer: Authorizer, events: PolicyEvents) -> None:
        self._v3 = OrganizationsV3(projects, authorizer, events)

    @method(
        f"{_API}.Organizations/GetOrganization",
        http="GET /v1/{name=organizations/*}",
        permission="resourcemanager.organizations.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get(self, call: Call, request: V1GetOrganizationRequest) -> V1Organization:
        found = read_organization(call.tx)
        return V1Organization(
            name=found.name,
            display_name=found.display_name,
            lifecycle_state="ACTIVE",
            creation_time=found.create_time,
        )

    @method(
        f"{_API}.Organizations/GetIamPolicy",
        http="POST /v1/{resource=organizations/*}:getIamPolicy",
        body="*",
        permission="resourcemanager.organizations.getIamPolicy",
        on="resource",
        log=LogKind.ADMIN_READ,
    )
    def get_iam_policy(self, call: Call, request: iam_policy_pb2.GetIamPolicyRequest) -> policy_pb2.Policy:
        return self._v3.get_iam_policy(call, request)

    @method(
        f"{_API}.Organizations/SetIamPolicy",
        http="POST /v1/{resource=organizations/*}:setIamPolicy",
        body="*",
        permission="resourcemanager.organizations.setIamPolicy",
        on="resource",
        log=LogKind.ADMIN_WRITE,
        required=("policy",),
    )
    def set_iam_policy(self, call: Call, request: iam_policy_pb2.SetIamPolicyRequest) -> policy_pb2.Policy:
        return self._v3.set_iam_policy(call, request)

    @method(
        f"{_API}.Organizations/TestIamPermissions",
        http="POST /v1/{resource=organizations/*}:testIamPermissions",
        body="*",
        permission=None,
        on="resource",
        log=LogKind.NONE,
    )
    def test_iam_permissions(
        self, call: Call, request: iam_policy_pb2.TestIamPermissionsRequest
    ) -> iam_policy_pb2.TestIamPermissionsResponse:
        return self._v3.test_iam_permissions(call, request)
