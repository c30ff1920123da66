"""A small served world whose calls are audited: two KMS methods of its own, grants, and the real dispatch.

It owns no assertion: tests make calls and look at the store.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from google.cloud.audit import audit_log_pb2
from google.cloud.kms_v1 import types
from google.longrunning import operations_pb2

from keystead.api.call import Call
from keystead.api.clock import ManualClock
from keystead.api.dispatch import Dispatcher
from keystead.api.errors import AlreadyExists, FailedPrecondition
from keystead.api.method import LogKind, Method, Service, method
from keystead.api.registry import Registry
from keystead.audit import messages
from keystead.audit.logging_api import Logs
from keystead.audit.trail import Trail
from keystead.store import AuditRow, Resource, Store

CreateKeyRingRequest = types.CreateKeyRingRequest.pb()
KeyRing = types.KeyRing.pb()
EncryptRequest = types.EncryptRequest.pb()
EncryptResponse = types.EncryptResponse.pb()

KMS = "google.cloud.kms.v1.KeyManagementService"
READ = "google.logging.v2.LoggingServiceV2/ListLogEntries"
LOGS = "google.logging.v2.LoggingServiceV2/ListLogs"
LOCATION = "projects/p1/locations/us-central1"
KEY = f"{LOCATION}/keyRings/r/cryptoKeys/k"
ALICE = "user:alice@example.com"
MALLORY = "user:mallory@example.com"
AUDITOR = "user:auditor@example.com"


class Keys:
    """Stand-ins for handlers of Cloud KMS, small enough to see through."""

    service = Service("cloudkms.googleapis.com", "Cloud KMS API", short_method_names=True)

    @method(
        f"{KMS}/CreateKeyRing",
        http="POST /v1/{parent=projects/*/locations/*}/keyRings",
        body="key_ring",
        permission="cloudkms.keyRings.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
    )
    def create(self, call: Call, request: CreateKeyRingRequest) -> KeyRing:
        """Keep a ring; the id `broken` fails after the row was written."""
        ring = KeyRing(name=f"{request.parent}/keyRings/{request.key_ring_id}")
        row = Resource(ring.name, "KeyRing", request.parent, request.key_ring_id, ring.SerializeToString())
        if not call.tx.resources.insert(row):
            raise AlreadyExists(f"KeyRing {ring.name} already exists.")
        call.audit["note"] = "made"
        if request.key_ring_id == "broken":
            raise FailedPrecondition("The ring is broken.")
        return ring

    @method(
        f"{KMS}/Encrypt",
        http="POST /v1/{name=projects/*/locations/*/keyRings/*/cryptoKeys/*}:encrypt",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToEncrypt",
        on="name",
        log=LogKind.DATA_READ,
        redact=("plaintext", "ciphertext"),
    )
    def encrypt(self, call: Call, request: EncryptRequest) -> EncryptResponse:
        """Answer something that stands for a ciphertext."""
        return EncryptResponse(name=f"{request.name}/cryptoKeyVersions/1", ciphertext=request.plaintext[::-1])

    @method(
        f"{KMS}/GenerateRandomBytes",
        permission="cloudkms.locations.generateRandomBytes",
        on="location",
        log=LogKind.NONE,
    )
    def random(
        self, call: Call, request: types.GenerateRandomBytesRequest.pb()
    ) -> types.GenerateRandomBytesResponse.pb():
        """Answer no bytes at all."""
        return types.GenerateRandomBytesResponse.pb()()

    @method(
        "google.cloud.kms.v1.Autokey/CreateKeyHandle",
        permission="cloudkms.keyHandles.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        templates=["projects/*/locations/*"],
    )
    def start(self, call: Call, request: types.CreateKeyHandleRequest.pb()) -> operations_pb2.Operation:
        """Answer an operation that goes on."""
        return operations_pb2.Operation(name=f"{request.parent}/operations/o1")


@dataclass
class Grants:
    """An authorizer of exact triples; the project number 123 is p1."""

    held: set[tuple[str, str, str]] = field(default_factory=set)

    def give(self, principal: str, resource: str, *permissions: str) -> None:
        self.held.update((principal, permission, resource) for permission in permissions)

    def canonical(self, name: str, *, inline: bool = False) -> str:
        head = "projects/123"
        return name.replace(head, "projects/p1", 1) if f"{name}/".startswith(f"{head}/") else name

    def allowed(
        self, principal: str, permission: str, resource: str, now: dt.datetime, *, inline: bool = False
    ) -> bool:
        return (principal, permission, resource) in self.held

    def admit(self, tx: Any, resource: str) -> None:
        """Every project is there."""

    def admitted(self, resource: str, *, inline: bool) -> bool:
        return True


@dataclass
class Configs:
    """Audit configs: which kinds of Data Access are asked for, and what was asked of them."""

    kinds: set[LogKind] = field(default_factory=set)
    asked: list[tuple[str, LogKind, str, str, bool]] = field(default_factory=list)

    def wanted(self, service: str, kind: LogKind, resource: str, principal: str, *, inline: bool) -> bool:
        self.asked.append((service, kind, resource, principal, inline))
        return kind in self.kinds


class World:
    """Dispatch over a real store, with the trail and the Logging API."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = ManualClock(dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC))
        self.grants = Grants()
        self.configs = Configs()
        self.registry = Registry()
        self.registry.add([Keys(), Logs(self.grants.allowed, self.grants.canonical)])
        self.trail = Trail(self.configs.wanted, self.clock)
        self.dispatcher = Dispatcher(self.registry, store, self.grants, self.trail, self.clock)
        self.grants.give(ALICE, LOCATION, "cloudkms.keyRings.create", "cloudkms.keyHandles.create")
        self.grants.give(ALICE, LOCATION, "cloudkms.locations.generateRandomBytes")
        self.grants.give(ALICE, KEY, "cloudkms.cryptoKeyVersions.useToEncrypt")
        self.grants.give(AUDITOR, "projects/p1", "logging.logEntries.list", "logging.logs.list")
        self.grants.give(AUDITOR, "projects/p1", "logging.privateLogEntries.list")

    def method(self, rpc: str) -> Method:
        return self.registry.methods[rpc]

    def run(self, rpc: str, request: Any, principal: str = ALICE, **facts: Any) -> Any:
        """A call; a second passes after it, as it would between two calls of a person."""
        try:
            return self.dispatcher.call(rpc, request, Call(principal, **facts))
        finally:
            self.clock.advance(dt.timedelta(seconds=1))

    def create(self, ring: str, principal: str = ALICE, **facts: Any) -> Any:
        request = CreateKeyRingRequest(parent=LOCATION, key_ring_id=ring)
        return self.run(f"{KMS}/CreateKeyRing", request, principal, **facts)

    def encrypt(self, plaintext: bytes = b"data", principal: str = ALICE) -> Any:
        return self.run(f"{KMS}/Encrypt", EncryptRequest(name=KEY, plaintext=plaintext), principal)

    def read(self, principal: str = AUDITOR, **fields: Any) -> Any:
        request = messages.ListLogEntriesRequest(**{"resource_names": ["projects/p1"], **fields})
        return self.run(READ, request, principal)

    def rows(self) -> list[AuditRow]:
        with self.store.read() as tx:
            return list(tx.audit.walk())

    def entries(self) -> list[tuple[Any, audit_log_pb2.AuditLog]]:
        """Every recorded entry with its AuditLog, first one first."""
        return [(entry, opened(entry)) for entry in map(entry_in, self.rows())]


def entry_in(row: AuditRow) -> Any:
    """The LogEntry in a row."""
    return messages.LogEntry.FromString(row.body)


def opened(entry: Any) -> audit_log_pb2.AuditLog:
    """The AuditLog in an entry."""
    log = audit_log_pb2.AuditLog()
    assert entry.proto_payload.Unpack(log)
    return log
