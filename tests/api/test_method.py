"""The declaration of an RPC: what is read from it, and what registries refuse."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud.kms_v1.types import resources, service

from keystead.api.call import Call
from keystead.api.method import HttpRule, LogKind, Service, method, methods_of
from keystead.api.registry import Registry

KMS = Service("cloudkms.googleapis.com", "Cloud KMS", short_method_names=True)
IAM = Service("iam.googleapis.com", "IAM")
KeyRing = resources.KeyRing.pb()
GetKeyRingRequest = service.GetKeyRingRequest.pb()
RPC = "google.cloud.kms.v1.KeyManagementService/GetKeyRing"


def _permission(served: Any, request: Any) -> str:
    return f"{served.handler.kind}.get"


class Rings:
    service = KMS
    kind = "cloudkms.keyRings"

    @method(
        RPC,
        http=("GET /v1/{name=projects/*/keyRings/*}", "GET /v1/{name=folders/*/keyRings/*}"),
        permission=_permission,
        on="name",
        log=LogKind.ADMIN_READ,
        templates=("organizations/*/keyRings/*",),
    )
    def get(self, call: Call, request: GetKeyRingRequest) -> KeyRing:
        return KeyRing(name=request.name)

    def helper(self) -> None:
        """Carries no declaration."""


class Shared(Rings):
    services = (IAM, KMS)


def test_declaration_is_read_from_the_method() -> None:
    """Types come from the annotations, shapes from path variables and templates, the function is bound."""
    [found] = methods_of(Rings())
    assert (found.request_type, found.response_type) == (GetKeyRingRequest, KeyRing)
    assert [t.template for t in found.spec.templates] == [
        "projects/*/keyRings/*",
        "folders/*/keyRings/*",
        "organizations/*/keyRings/*",
    ]
    assert found.function(Call(None), GetKeyRingRequest(name="x")).name == "x"
    assert found.permission(GetKeyRingRequest()) == "cloudkms.keyRings.get"
    assert found.spec.short_name == "GetKeyRing"


def test_audit_name_is_short_for_cloud_kms_only() -> None:
    """Audit logs name Cloud KMS methods by their short name, others in full."""
    assert methods_of(Rings())[0].audit_name == "GetKeyRing"
    assert methods_of(Shared())[0].audit_name == RPC.replace("/", ".")


def test_mixins_belong_to_several_services() -> None:
    """A mixin's RPC is served by each of its services, and belongs to the first."""
    [found] = methods_of(Shared())
    assert (found.service, found.services) == (IAM, (IAM, KMS))


def test_one_rpc_has_one_function() -> None:
    """A second function for the same RPC is refused when the server is put together."""
    registry = Registry()
    registry.add([Rings()])
    with pytest.raises(ValueError, match="two functions declare"):
        registry.add([Shared()])


def test_known_but_not_declared() -> None:
    """What is known of a served API and has no function is listed, what has one is not."""
    registry = Registry()
    registry.add([Rings()])
    other = "google.cloud.kms.v1.KeyManagementService/ListKeyRings"
    registry.know(KMS, {RPC: [("GET /v1/x", None)], other: [("GET /v1/y", None)]})
    assert list(registry.unimplemented()) == [other]
    assert registry.services == [KMS]


def test_http_rule() -> None:
    """A binding is a verb, a template and a body; a variable without a pattern is one segment."""
    rule = HttpRule.parse("POST /v1/{parent=projects/*}/b/{bucket}", "*")
    assert (rule.verb, rule.body) == ("POST", "*")
    assert {k: t.template for k, t in rule.variables().items()} == {"parent": "projects/*", "bucket": "*"}


def test_service_prefix() -> None:
    """The path prefix is the first label of the service's name."""
    assert (KMS.prefix, IAM.prefix) == ("cloudkms", "iam")
