"""A deployment for tests of this room: a real store and dispatcher, with rings and keys as bare rows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, options_pb2, policy_pb2

from keystead.api.call import Call
from keystead.api.clock import ManualClock
from keystead.api.dispatch import AuditEvent, Dispatcher
from keystead.api.errors import NotFound
from keystead.api.method import LogKind, Method, Service, method
from keystead.api.registry import Registry
from keystead.iam.audit_configs import AuditConfigs
from keystead.iam.authorizer import Authorizer
from keystead.iam.bootstrap import prepare_organization
from keystead.iam.hierarchy import Projects
from keystead.iam.iam_policy import IamPolicy, ResourceType
from keystead.iam.policies import PolicyEvents
from keystead.iam.resource_manager import OrganizationsV3, ProjectsV3
from keystead.iam.resource_manager_v1 import OrganizationsV1, ProjectsV1
from keystead.iam.role_catalog import RoleCatalog
from keystead.iam.service_usage import ServiceUsage
from keystead.iam.services import IAM, RESOURCE_MANAGER, SERVICE_USAGE
from keystead.store import Resource, Store

KMS = Service("cloudkms.googleapis.com", "Cloud Key Management Service (KMS) API", short_method_names=True)
GetKeyRequest: Any = kms_v1.GetCryptoKeyRequest.pb()
Key: Any = kms_v1.CryptoKey.pb()
CreateRingRequest: Any = kms_v1.CreateKeyRingRequest.pb()
Ring: Any = kms_v1.KeyRing.pb()

OWNER = "user:owner@example.com"
ALICE = "user:alice@example.com"
RING = "projects/p1/locations/global/keyRings/r"
KEY = f"{RING}/cryptoKeys/k"
VERSION = f"{KEY}/cryptoKeyVersions/1"
ENCRYPTER = "roles/cloudkms.cryptoKeyEncrypter"
ENCRYPT = "cloudkms.cryptoKeyVersions.useToEncrypt"


def exists(tx: Any, name: str) -> None:
    """Raises NotFound unless there is a row of this name."""
    if tx.resources.get(name) is None:
        raise NotFound(f"{name} not found.")


class Keys:
    """Two RPCs of Cloud KMS, enough to be granted and denied."""

    service = KMS

    @method(
        "google.cloud.kms.v1.KeyManagementService/GetCryptoKey",
        http="GET /v1/{name=projects/*/locations/*/keyRings/*/cryptoKeys/*}",
        permission="cloudkms.cryptoKeys.get",
        on="name",
        log=LogKind.ADMIN_READ,
        hot=True,
    )
    def get(self, call: Call, request: GetKeyRequest) -> Key:
        return Key(name=request.name)

    @method(
        "google.cloud.kms.v1.KeyManagementService/CreateKeyRing",
        http="POST /v1/{parent=projects/*/locations/*}/keyRings",
        body="key_ring",
        permission="cloudkms.keyRings.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
    )
    def create(self, call: Call, request: CreateRingRequest) -> Ring:
        name = f"{request.parent}/keyRings/{request.key_ring_id}"
        call.tx.resources.insert(Resource(name, "KeyRing", request.parent, request.key_ring_id, b""))
        return Ring(name=name)


@dataclass
class Trail:
    """An audit trail in memory, with the Data Access settings of the store."""

    configs: AuditConfigs
    events: list[AuditEvent] = field(default_factory=list)

    def wanted(self, method: Method, call: Call, *, inline: bool) -> bool:
        if method.spec.log is LogKind.NONE:
            return False
        if method.spec.log is LogKind.ADMIN_WRITE:
            return True
        return self.configs.wanted(
            method.service.name, method.spec.log, call.resource, call.principal or "", inline=inline
        )

    def record(self, tx: Any, event: AuditEvent) -> None:
        self.events.append(event)


class Deployment:
    """Everything of this room wired as the server wires it, and short ways to call it."""

    def __init__(self, store: Store, clock: ManualClock, *, dev: bool = True) -> None:
        self.store, self.clock = store, clock
        self.organization = prepare_organization(store, clock, owner=OWNER)
        self.projects = Projects(self.organization, clock)
        self.authorizer = Authorizer(store, self.projects, dev=dev)
        self.events = PolicyEvents()
        self.trail = Trail(AuditConfigs(store, self.organization))
        types = [
            ResourceType("projects/*/locations/*/keyRings/*", "cloudkms.keyRings", KMS, exists),
            ResourceType(
                "projects/*/locations/*/keyRings/*/cryptoKeys/*", "cloudkms.cryptoKeys", KMS, exists
            ),
        ]
        registry = Registry()
        wired = (self.projects, self.authorizer, self.events)
        registry.add(
            [
                Keys(),
                IamPolicy(types, self.authorizer, self.events, services=[KMS]),
                ProjectsV3(*wired),
                OrganizationsV3(*wired),
                ProjectsV1(*wired),
                OrganizationsV1(*wired),
                RoleCatalog(),
                ServiceUsage([KMS, IAM, RESOURCE_MANAGER, SERVICE_USAGE]),
            ]
        )
        self.registry = registry
        self.dispatcher = Dispatcher(registry, store, self.authorizer, self.trail, clock)

    def add_key(self, key: str = KEY) -> None:
        """Makes the project, ring and key of a key name, without asking anybody."""
        ring = key.rsplit("/", 2)[0]
        with self.store.write() as tx:
            self.projects.ensure(tx, key.split("/")[1])
            tx.resources.insert(Resource(ring, "KeyRing", ring.rsplit("/", 2)[0], ring, b""))
            tx.resources.insert(Resource(key, "CryptoKey", ring, key, b""))

    def call(self, rpc: str, request: Any, principal: str | None = OWNER) -> Any:
        """One call through the dispatcher, to its end."""
        return self.dispatcher.call(rpc, request, Call(principal=principal))

    def allowed(self, principal: str, permission: str, resource: str) -> bool:
        """The decision, from the store if need be."""
        return self.authorizer.allowed(principal, permission, resource, self.clock.now(), inline=False)

    def get_policy(self, resource: str, version: int = 3, principal: str = OWNER) -> policy_pb2.Policy:
        """getIamPolicy on whatever carries a policy."""
        options = options_pb2.GetPolicyOptions(requested_policy_version=version)
        request = iam_policy_pb2.GetIamPolicyRequest(resource=resource, options=options)
        return self.call(f"{_api(resource)}/GetIamPolicy", request, principal)

    def set_policy(
        self, resource: str, policy: policy_pb2.Policy, principal: str = OWNER, mask: tuple[str, ...] = ()
    ) -> policy_pb2.Policy:
        """setIamPolicy on whatever carries a policy."""
        request = iam_policy_pb2.SetIamPolicyRequest(resource=resource, policy=policy)
        request.update_mask.paths.extend(mask)
        return self.call(f"{_api(resource)}/SetIamPolicy", request, principal)

    def grant(self, resource: str, role: str, *members: str, condition: str = "") -> policy_pb2.Policy:
        """Adds a binding, as `add-iam-policy-binding` does."""
        policy = self.get_policy(resource)
        binding = policy.bindings.add(role=role, members=members)
        if condition:
            binding.condition.expression = condition
            binding.condition.title = "t"
        policy.version = 3
        return self.set_policy(resource, policy)

    def revoke(self, resource: str) -> policy_pb2.Policy:
        """Takes all bindings away, as the last `remove-iam-policy-binding` does."""
        policy = self.get_policy(resource)
        del policy.bindings[:]
        return self.set_policy(resource, policy)

    def revoke_last(self, resource: str) -> policy_pb2.Policy:
        """Takes the last binding away."""
        policy = self.get_policy(resource)
        del policy.bindings[-1]
        return self.set_policy(resource, policy)

    def test(self, resource: str, *permissions: str, principal: str = ALICE) -> list[str]:
        """testIamPermissions."""
        request = iam_policy_pb2.TestIamPermissionsRequest(resource=resource, permissions=permissions)
        return list(self.call(f"{_api(resource)}/TestIamPermissions", request, principal).permissions)

    def project_ids(self) -> list[str]:
        """All projects there are."""
        with self.store.read() as tx:
            return [str(each.project_id) for each in self.projects.list(tx, None, 1000)]


def _api(resource: str) -> str:
    if resource.count("/") == 1:
        collection = "Projects" if resource.startswith("projects/") else "Organizations"
        return f"google.cloud.resourcemanager.v3.{collection}"
    return "google.iam.v1.IAMPolicy"


def hours(count: float) -> dt.timedelta:
    """A time span."""
    return dt.timedelta(hours=count)
