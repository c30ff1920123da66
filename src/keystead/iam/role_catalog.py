"""The roles of the IAM API: predefined ones, read-only (`gcloud iam roles describe`)."""

from __future__ import annotations

from keystead.api.call import Call
from keystead.api.errors import NotFound
from keystead.api.method import LogKind, method
from keystead.iam import roles
from keystead.iam.official import GetRoleRequest, Role
from keystead.iam.services import IAM


class RoleCatalog:
    """Serves what each predefined role permits: public knowledge, to every authenticated caller."""

    service = IAM

    @method(
        "google.iam.admin.v1.IAM/GetRole",
        http="GET /v1/{name=roles/*}",
        permission=None,
        on="name",
        log=LogKind.NONE,
    )
    def get(self, call: Call, request: GetRoleRequest) -> Role:
        found = roles.predefined().get(request.name)
        if found is None:
            raise NotFound(f"The role named {request.name} was not found.")
        return Role(
            name=found.name,
            title=found.title,
            included_permissions=sorted(found.permissions),
            stage=Role.RoleLaunchStage.GA,
        )
