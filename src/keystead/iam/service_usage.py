"""Service Usage: which APIs a project may use (all that are served), and their service agents.

Every served API is enabled in every project and cannot be disabled, so enabling one is done at once. An
operation is answered finished, under the name that Google gives such operations; it is not kept.

Google asks for no permission to generate a service identity. Here it takes `serviceusage.services.enable`,
because it creates a resource in the project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from keystead.api import lists, names
from keystead.api.call import Call
from keystead.api.errors import PermissionDenied
from keystead.api.method import LogKind, method
from keystead.api.method import Service as Api
from keystead.iam.hierarchy import find_project
from keystead.iam.official import (
    EnableServiceRequest,
    EnableServiceResponse,
    GenerateServiceIdentityRequest,
    GetServiceRequest,
    ListServicesRequest,
    ListServicesResponse,
    Service,
    ServiceIdentity,
)
from keystead.iam.service_agents import identity_for
from keystead.iam.services import SERVICE_USAGE

DONE = "operations/finished.DONE_OPERATION"
_SUFFIX = ".googleapis.com"


class ServiceUsage:
    """Serves the list of APIs, and the making of service agents."""

    service = SERVICE_USAGE

    def __init__(self, apis: Sequence[Api]) -> None:
        """`apis` are the served ones."""
        self._apis = {api.name: api for api in apis}

    @method(
        "google.api.serviceusage.v1beta1.ServiceUsage/GenerateServiceIdentity",
        http="POST /v1beta1/{parent=projects/*/services/*}:generateServiceIdentity",
        permission="serviceusage.services.enable",
        on="parent",
        log=LogKind.ADMIN_WRITE,
    )
    def generate_identity(
        self, call: Call, request: GenerateServiceIdentityRequest
    ) -> operations_pb2.Operation:
        service = names.last_of(request.parent).removesuffix(_SUFFIX)
        identity: ServiceIdentity = identity_for(call.tx, names.project_of(request.parent), service)
        return _done(identity)

    @method(
        "google.api.serviceusage.v1.ServiceUsage/EnableService",
        http="POST /v1/{name=projects/*/services/*}:enable",
        body="*",
        permission="serviceusage.services.enable",
        on="name",
        log=LogKind.ADMIN_WRITE,
    )
    def enable(self, call: Call, request: EnableServiceRequest) -> operations_pb2.Operation:
        api = self._api(request.name)
        return _done(EnableServiceResponse(service=_render(_number_name(call.tx, request.name), api)))

    @method(
        "google.api.serviceusage.v1.ServiceUsage/GetService",
        http="GET /v1/{name=projects/*/services/*}",
        permission="serviceusage.services.get",
        on="name",
        log=LogKind.ADMIN_READ,
        own_transaction=True,
    )
    def get(self, call: Call, request: GetServiceRequest) -> Service:
        with call.transaction() as tx:
            return _render(_number_name(tx, request.name), self._api(request.name))

    @method(
        "google.api.serviceusage.v1.ServiceUsage/ListServices",
        http="GET /v1/{parent=projects/*}/services",
        permission="serviceusage.services.list",
        on="parent",
        log=LogKind.ADMIN_READ,
        own_transaction=True,
    )
    def list(self, call: Call, request: ListServicesRequest) -> ListServicesResponse:
        page = lists.page_request(request, default=50, maximum=200, of=Service.DESCRIPTOR)
        with call.transaction() as tx:
            parent = _number_name(tx, request.parent)
        found = lists.paginate(
            [_render(parent, api) for api in self._apis.values()], page, key=lambda row: str(row.name)
        )
        return ListServicesResponse(services=found.items, next_page_token=found.next_page_token)

    @method(
        "google.api.serviceusage.v1.Operations/GetOperation",
        http="GET /v1/{name=operations/*}",
        permission=None,
        on="name",
        log=LogKind.NONE,
    )
    def get_operation(
        self, call: Call, request: operations_pb2.GetOperationRequest
    ) -> operations_pb2.Operation:
        if request.name != DONE:
            raise PermissionDenied(f"Operation {request.name} not found or permission denied.")
        return _done(empty_pb2.Empty())

    def _api(self, name: str) -> Api:
        api = self._apis.get(names.last_of(name))
        if api is None:
            raise PermissionDenied(
                f"Not found or permission denied for service(s): {names.last_of(name)[:200]}."
            )
        return api


def _number_name(tx: Any, name: str) -> str:
    """`projects/NUMBER` of the project that a name is in."""
    project = find_project(tx, names.project_of(name))
    if project is None:
        raise PermissionDenied("The caller does not have permission")
    return str(project.name)


def _render(project: str, api: Api) -> Service:
    return Service(
        name=f"{project}/services/{api.name}",
        parent=project,
        config={"name": api.name, "title": api.title},
        state="ENABLED",
    )


def _done(response: Any) -> operations_pb2.Operation:
    operation = operations_pb2.Operation(name=DONE, done=True)
    operation.response.Pack(response)
    return operation
