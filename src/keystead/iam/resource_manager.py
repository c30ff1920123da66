"""Cloud Resource Manager v3: projects and the organization, and their policies.

Projects are listed and found only by those who may see them (`resourcemanager.projects.get` on each). A
project that is named for the first time in development mode comes into being with the call, so what needs
its row runs in a transaction of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from google.iam.v1 import iam_policy_pb2, policy_pb2

from keystead.api import filters, lists
from keystead.api.call import Call
from keystead.api.errors import PermissionDenied
from keystead.api.method import LogKind, method
from keystead.iam.authorizer import Authorizer
from keystead.iam.hierarchy import Projects, find_project, read_organization
from keystead.iam.iam_policy import check_permissions, tested
from keystead.iam.messages import (
    GetOrganizationRequest,
    GetProjectRequest,
    ListProjectsRequest,
    ListProjectsResponse,
    Organization,
    Project,
    SearchOrganizationsRequest,
    SearchOrganizationsResponse,
    SearchProjectsRequest,
    SearchProjectsResponse,
)
from keystead.iam.policies import PolicyEvents, read_policy, write_policy
from keystead.iam.services import RESOURCE_MANAGER

_API = "google.cloud.resourcemanager.v3"


def require_project(tx: Any, name: str) -> Project:
    """The project of a name. Raises PermissionDenied, as Google answers for one that does not exist."""
    found = find_project(tx, name)
    if found is None:
        raise PermissionDenied("The caller does not have permission")
    return found


class VisibleProjects:
    """Pages of the projects that a caller may see."""

    def __init__(self, projects: Projects, authorizer: Authorizer) -> None:
        self._projects = projects
        self._authorizer = authorizer

    def page(self, call: Call, page: lists.PageRequest) -> lists.Page[Any]:
        """One page of v3 projects, ascending by id."""
        return lists.collect(page, lambda after, limit: self.rows(call, after, limit))

    def rows(self, call: Call, after: str | None, limit: int) -> list[tuple[str, Project]]:
        """Up to `limit` visible projects after an id; fewer only at the end."""
        rows: list[tuple[str, Project]] = []
        while len(rows) < limit:
            batch = self._projects.list(call.tx, after, limit)
            rows += [(str(each.project_id), each) for each in batch if self._visible(call, each)]
            if len(batch) < limit:
                break
            after = batch[-1].project_id
        return rows[:limit]

    def _visible(self, call: Call, project: Project) -> bool:
        return self._authorizer.allowed_in(
            call.tx,
            call.principal or "",
            "resourcemanager.projects.get",
            f"projects/{project.project_id}",
            call.now,
        )


class ProjectsV3:
    """google.cloud.resourcemanager.v3.Projects, as far as projects can be read and granted."""

    service = RESOURCE_MANAGER

    def __init__(self, projects: Projects, authorizer: Authorizer, events: PolicyEvents) -> None:
        self._visible = VisibleProjects(projects, authorizer)
        self._organization = projects.organization
        self._authorizer = authorizer
        self._events = events

    @method(
        f"{_API}.Projects/GetProject",
        http="GET /v3/{name=projects/*}",
        permission="resourcemanager.projects.get",
        on="name",
        log=LogKind.ADMIN_READ,
        own_transaction=True,
    )
    def get(self, call: Call, request: GetProjectRequest) -> Project:
        with call.transaction() as tx:
            return require_project(tx, request.name)

    @method(
        f"{_API}.Projects/ListProjects",
        http="GET /v3/projects",
        permission="resourcemanager.projects.list",
        on="parent",
        log=LogKind.ADMIN_READ,
        templates=("organizations/*",),
    )
    def list(self, call: Call, request: ListProjectsRequest) -> ListProjectsResponse:
        found = self._visible.page(call, lists.page_request(request))
        return ListProjectsResponse(projects=found.items, next_page_token=found.next_page_token)

    # A search names no resource: each project found is authorized by itself.
    @method(
        f"{_API}.Projects/SearchProjects",
        http="GET /v3/projects:search",
        permission=None,
        on="page_token",
        log=LogKind.ADMIN_READ,
    )
    def search(self, call: Call, request: SearchProjectsRequest) -> SearchProjectsResponse:
        call.resource = self._organization
        page = lists.page_request(request)
        if request.query.strip():
            chosen = filters.parse(request.query)
            chosen.check(Project.DESCRIPTOR)
            page = dataclasses.replace(page, filter=chosen)
        found = self._visible.page(call, page)
        return SearchProjectsResponse(projects=found.items, next_page_token=found.next_page_token)

    @method(
        f"{_API}.Projects/GetIamPolicy",
        http="POST /v3/{resource=projects/*}:getIamPolicy",
        body="*",
        permission="resourcemanager.projects.getIamPolicy",
        on="resource",
        log=LogKind.ADMIN_READ,
    )
    def get_iam_policy(self, call: Call, request: iam_policy_pb2.GetIamPolicyRequest) -> policy_pb2.Policy:
        return read_policy(call.tx, request.resource, request.options.requested_policy_version)

    @method(
        f"{_API}.Projects/SetIamPolicy",
        http="POST /v3/{resource=projects/*}:setIamPolicy",
        body="*",
        permission="resourcemanager.projects.setIamPolicy",
        on="resource",
        log=LogKind.ADMIN_WRITE,
        required=("policy",),
    )
    def set_iam_policy(self, call: Call, request: iam_policy_pb2.SetIamPolicyRequest) -> policy_pb2.Policy:
        return write_policy(
            call.tx, request.resource, request.policy, request.update_mask.paths, self._events
        )

    @method(
        f"{_API}.Projects/TestIamPermissions",
        http="POST /v3/{resource=projects/*}:testIamPermissions",
        body="*",
        permission=None,
        on="resource",
        log=LogKind.NONE,
    )
    def test_iam_permissions(
        self, call: Call, request: iam_policy_pb2.TestIamPermissionsRequest
    ) -> iam_policy_pb2.TestIamPermissionsResponse:
        check_permissions(request.permissions)
        return tested(self._authorizer, call, request)


class OrganizationsV3:
    """google.cloud.resourcemanager.v3.Organizations."""

    service = RESOURCE_MANAGER

    def __init__(self, projects: Projects, authorizer: Authorizer, events: PolicyEvents) -> None:
        self._organization = projects.organization
        self._authorizer = authorizer
        self._events = events

    @method(
        f"{_API}.Organizations/GetOrganization",
        http="GET /v3/{name=organizations/*}",
        permission="resourcemanager.organizations.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get(self, call: Call, request: GetOrganizationRequest) -> Organization:
        return read_organization(call.tx)

    # A search names no resource: the one organization is authorized by itself.
    @method(
        f"{_API}.Organizations/SearchOrganizations",
        http="GET /v3/organizations:search",
        permission=None,
        on="page_token",
        log=LogKind.ADMIN_READ,
    )
    def search(self, call: Call, request: SearchOrganizationsRequest) -> SearchOrganizationsResponse:
        call.resource = self._organization
        visible = self._authorizer.allowed_in(
            call.tx,
            call.principal or "",
            "resourcemanager.organizations.get",
            self._organization,
            call.now,
        )
        return SearchOrganizationsResponse(organizations=[read_organization(call.tx)] if visible else [])

    @method(
        f"{_API}.Organizations/GetIamPolicy",
        http="POST /v3/{resource=organizations/*}:getIamPolicy",
        body="*",
        permission="resourcemanager.organizations.getIamPolicy",
        on="resource",
        log=LogKind.ADMIN_READ,
    )
    def get_iam_policy(self, call: Call, request: iam_policy_pb2.GetIamPolicyRequest) -> policy_pb2.Policy:
        return read_policy(call.tx, request.resource, request.options.requested_policy_version)

    @method(
        f"{_API}.Organizations/SetIamPolicy",
        http="POST /v3/{resource=organizations/*}:setIamPolicy",
        body="*",
        permission="resourcemanager.organizations.setIamPolicy",
        on="resource",
        log=LogKind.ADMIN_WRITE,
        required=("policy",),
    )
    def set_iam_policy(self, call: Call, request: iam_policy_pb2.SetIamPolicyRequest) -> policy_pb2.Policy:
        return write_policy(
            call.tx, request.resource, request.policy, request.update_mask.paths, self._events
        )

    @method(
        f"{_API}.Organizations/TestIamPermissions",
        http="POST /v3/{resource=organizations/*}:testIamPermissions",
        body="*",
        permission=None,
        on="resource",
        log=LogKind.NONE,
    )
    def test_iam_permissions(
        self, call: Call, request: iam_policy_pb2.TestIamPermissionsRequest
    ) -> iam_policy_pb2.TestIamPermissionsResponse:
        check_permissions(request.permissions)
        return tested(self._authorizer, call, request)
