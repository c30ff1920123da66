"""google.iam.v1.IAMPolicy: the mixin by which a service's resources are given policies.

A service says which of its resources carry one (`ResourceType`); permissions follow from the type, as in
`cloudkms.cryptoKeys.setIamPolicy`. A resource of a shape that no service registered answers UNIMPLEMENTED.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from google.iam.v1 import iam_policy_pb2, policy_pb2

from keystead.api.call import Call
from keystead.api.errors import InvalidArgument, NotFound, Unimplemented
from keystead.api.method import LogKind, Method, Service, method
from keystead.api.names import NameTemplate
from keystead.iam.authorizer import Authorizer
from keystead.iam.policies import PolicyEvents, read_policy, write_policy

# The resources that Cloud KMS's HTTP rules of this mixin name.
_SHAPES = (
    "projects/*/locations/*/keyRings/*",
    "projects/*/locations/*/keyRings/*/cryptoKeys/*",
    "projects/*/locations/*/keyRings/*/importJobs/*",
    "projects/*/locations/*/ekmConfig",
    "projects/*/locations/*/ekmConnections/*",
)


def _http(verb: str, custom: str) -> list[str]:
    return [f"{verb} /v1/{{resource={shape}}}:{custom}" for shape in _SHAPES]


@dataclasses.dataclass(frozen=True)
class ResourceType:
    """A kind of resource that carries a policy.

    `template` is the shape of its names, `permission_prefix` is `cloudkms.keyRings`; `exists(tx, name)`
    raises NotFound if there is no such resource.
    """

    template: str
    permission_prefix: str
    service: Service
    exists: Callable[[Any, str], None]


def _permission(verb: str) -> Callable[[Method, Any], str]:
    def permission(served: Method, request: Any) -> str:
        return f"{served.handler.type_of(request.resource).permission_prefix}.{verb}"

    return permission


class IamPolicy:
    """Serves the policies of the registered resource types."""

    def __init__(
        self,
        types: Sequence[ResourceType],
        authorizer: Authorizer,
        events: PolicyEvents,
        *,
        services: Sequence[Service],
    ) -> None:
        self.services = tuple(services)
        self._types = [(NameTemplate(each.template), each) for each in types]
        self._authorizer = authorizer
        self._events = events

    def type_of(self, resource: str) -> ResourceType:
        """The registered type of a resource. Raises Unimplemented if there is none."""
        for template, found in self._types:
            if template.match(resource):
                return found
        raise Unimplemented(f"Resource {resource[:200]} carries no policy in this server.")

    @method(
        "google.iam.v1.IAMPolicy/GetIamPolicy",
        http=_http("GET", "getIamPolicy"),
        permission=_permission("getIamPolicy"),
        on="resource",
        log=LogKind.ADMIN_READ,
    )
    def get_iam_policy(self, call: Call, request: iam_policy_pb2.GetIamPolicyRequest) -> policy_pb2.Policy:
        self.type_of(request.resource).exists(call.tx, request.resource)
        return read_policy(call.tx, request.resource, request.options.requested_policy_version)

    @method(
        "google.iam.v1.IAMPolicy/SetIamPolicy",
        http=_http("POST", "setIamPolicy"),
        body="*",
        permission=_permission("setIamPolicy"),
        on="resource",
        log=LogKind.ADMIN_WRITE,
        required=("policy",),
    )
    def set_iam_policy(self, call: Call, request: iam_policy_pb2.SetIamPolicyRequest) -> policy_pb2.Policy:
        self.type_of(request.resource).exists(call.tx, request.resource)
        return write_policy(
            call.tx, request.resource, request.policy, request.update_mask.paths, self._events
        )

    @method(
        "google.iam.v1.IAMPolicy/TestIamPermissions",
        http=_http("POST", "testIamPermissions"),
        body="*",
        permission=None,
        on="resource",
        log=LogKind.NONE,
    )
    def test_iam_permissions(
        self, call: Call, request: iam_policy_pb2.TestIamPermissionsRequest
    ) -> iam_policy_pb2.TestIamPermissionsResponse:
        kind = self.type_of(request.resource)
        check_permissions(request.permissions)
        try:
            kind.exists(call.tx, request.resource)
        except NotFound:
            return iam_policy_pb2.TestIamPermissionsResponse()
        return tested(self._authorizer, call, request)


def check_permissions(permissions: Sequence[str]) -> None:
    """Raises InvalidArgument for what is not the name of one permission, wildcards among it."""
    for permission in permissions:
        parts = permission.split(".")
        if len(parts) < 3 or not all(part.isalnum() and part.isascii() for part in parts):
            raise InvalidArgument(f"Permission {permission[:200]} is not valid.")


def tested(
    authorizer: Authorizer, call: Call, request: iam_policy_pb2.TestIamPermissionsRequest
) -> iam_policy_pb2.TestIamPermissionsResponse:
    """Which of the permissions asked for the caller holds."""
    found = authorizer.held_in(call.tx, call.principal or "", request.permissions, request.resource, call.now)
    return iam_policy_pb2.TestIamPermissionsResponse(permissions=found)
