"""A Keystead for tests: real rooms from the store to the key service, in a directory of the test's own.

Owns how the rooms `kms` and `cmek` are put together when no data service and no listener is there: a SQLite
store, IAM in development mode, the audit trail, the root key under a file seal, a clock that stands still.
`tests.server` has the whole server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.iam.v1 import policy_pb2

from keystead.api.call import Call
from keystead.api.clock import ManualClock
from keystead.api.dispatch import Dispatcher
from keystead.api.locations import Locations
from keystead.api.method import Service
from keystead.api.operations import OperationRunner, Operations
from keystead.api.registry import Registry
from keystead.audit.trail import Trail
from keystead.iam.audit_configs import AuditConfigs
from keystead.iam.authorizer import Authorizer
from keystead.iam.hierarchy import Projects, ensure_organization
from keystead.iam.iam_policy import IamPolicy, ResourceType
from keystead.iam.policies import PolicyEvents, write_policy
from keystead.iam.service_agents import ensure_agent
from keystead.kms.assembly import assemble, policy_carriers
from keystead.kms.backends import Backend
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.events import KeyEvents
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CreateKeyRingRequest,
    DecryptRequest,
    DestroyCryptoKeyVersionRequest,
    EncryptRequest,
    UpdateCryptoKeyVersionRequest,
)
from keystead.kms.rootkey import RootKey
from keystead.kms.seals.file import FileSeal
from keystead.kms.service import KMS, RINGS
from keystead.store.collection import Collection
from keystead.store.engine import open_store

OWNER = "user:owner@example.com"
PROJECT = "projects/p1"
LOCATION = f"{PROJECT}/locations/europe-west4"
CRYPTER = "roles/cloudkms.cryptoKeyEncrypterDecrypter"


class AtOnce(Executor):
    """Runs what is submitted before `submit` returns: operations are done when their call is answered."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*args, **kwargs))
        return done


class Platform:
    """One process's worth of Keystead. `OWNER` is Owner of the organization; nobody else has any grant."""

    operation_services: tuple[Service, ...] = (KMS,)

    def __init__(
        self,
        directory: Path,
        clock: ManualClock | None = None,
        executor: Executor | None = None,
        backends: Iterable[Backend] = (),
        store_url: str = "",
        key_executor: Executor | None = None,
        operation_executor: Executor | None = None,
    ) -> None:
        self.directory = directory
        self.clock = clock or ManualClock()
        self.store = open_store(store_url or f"sqlite:///{directory / 'store.db'}")
        self.seal = FileSeal(directory / "seal" / "root.key", create=True)
        self.root_key = RootKey.open(self.store, self.seal)
        with self.store.write() as tx:
            self.organization = ensure_organization(tx, self.clock)
        self.authorizer = Authorizer(self.store, Projects(self.organization, self.clock), dev=True)
        self.registry = Registry()
        trail = Trail(AuditConfigs(self.store, self.organization).wanted, self.clock)
        self.dispatcher = Dispatcher(
            self.registry, self.store, self.authorizer, trail, self.clock, executor=executor
        )
        self.key_events, self.policy_events = KeyEvents(), PolicyEvents()
        self.operations = OperationRunner(self.store, self.clock, operation_executor or AtOnce())
        all_backends = [SoftwareBackend(self.root_key), *backends]
        self.keys = assemble(
            self.store, self.clock, self.operations, self.key_events, all_backends, executor=key_executor
        )
        self.cache, self.schedule = self.keys.cache, self.keys.schedule
        self.registry.add(self._handlers())
        self._rpcs = {method.spec.short_name: rpc for rpc, method in self.registry.methods.items()}
        self._given: dict[str, set[tuple[str, str]]] = {}
        self.grant(self.organization, OWNER, "roles/owner")

    def _handlers(self) -> list[Any]:
        types = [ResourceType(shape, prefix, KMS, exists) for shape, prefix, exists in policy_carriers()]
        return [
            *self.keys.handlers,
            Locations({KMS: self.keys.offer}),
            Operations(self.operations, self.operation_services),
            IamPolicy(types, self.authorizer, self.policy_events, services=[KMS]),
        ]

    # --- calls ---------------------------------------------------------------------------------------

    def call(self, rpc: str, request: Any, principal: str = OWNER) -> Any:
        """Run a call, named by its RPC's short name, to its end in this thread."""
        return self.dispatcher.call(self._rpcs[rpc], request, Call(principal=principal))

    def dispatch(self, rpc: str, request: Any, principal: str = OWNER) -> Any:
        """Run a call as a listener does, from an event loop."""
        method = self.registry.methods[self._rpcs[rpc]]
        return asyncio.run(self.dispatcher.dispatch(method, request, Call(principal=principal)))

    def ring(self, ring_id: str = "ring", parent: str = LOCATION) -> str:
        """Make a key ring; its name."""
        request = CreateKeyRingRequest(parent=parent, key_ring_id=ring_id)
        return str(self.call("CreateKeyRing", request).name)

    def key(self, key_id: str = "key", ring: str = f"{LOCATION}/keyRings/ring", **fields: Any) -> str:
        """Make a key, and its ring if need be; its name. `fields` are those of the CryptoKey."""
        if not self.exists(RINGS, ring):
            self.ring(ring.rsplit("/", 1)[1], ring.rsplit("/", 2)[0])
        request = CreateCryptoKeyRequest(
            parent=ring, crypto_key_id=key_id, crypto_key={"purpose": "ENCRYPT_DECRYPT", **fields}
        )
        return str(self.call("CreateCryptoKey", request).name)

    def encrypt(self, name: str, plaintext: bytes, aad: bytes = b"", principal: str = OWNER) -> bytes:
        """The ciphertext by a key or version."""
        request = EncryptRequest(name=name, plaintext=plaintext, additional_authenticated_data=aad)
        return bytes(self.call("Encrypt", request, principal).ciphertext)

    def decrypt(self, key: str, ciphertext: bytes, aad: bytes = b"", principal: str = OWNER) -> bytes:
        """The plaintext under a key."""
        request = DecryptRequest(name=key, ciphertext=ciphertext, additional_authenticated_data=aad)
        return bytes(self.call("Decrypt", request, principal).plaintext)

    def set_state(self, version: str, state: str) -> Any:
        """Enable or disable a version."""
        request = UpdateCryptoKeyVersionRequest(
            crypto_key_version={"name": version, "state": state}, update_mask={"paths": ["state"]}
        )
        return self.call("UpdateCryptoKeyVersion", request)

    def destroy(self, version: str) -> Any:
        """Schedule a version's destruction."""
        return self.call("DestroyCryptoKeyVersion", DestroyCryptoKeyVersionRequest(name=version))

    # --- what an administrator does ------------------------------------------------------------------

    def grant(self, resource: str, member: str, role: str) -> None:
        """Add a binding to the policy of a resource, which need not carry policies in the served APIs."""
        self._given.setdefault(resource, set()).add((role, member))
        self._write_policy(resource)

    def revoke(self, resource: str, member: str, role: str) -> None:
        """Take back what `grant` gave."""
        self._given[resource].remove((role, member))
        self._write_policy(resource)

    def _write_policy(self, resource: str) -> None:
        policy = policy_pb2.Policy()
        for role, member in sorted(self._given[resource]):
            policy.bindings.add(role=role, members=[member])
        with self.store.write() as tx:
            write_policy(tx, resource, policy, (), self.policy_events)

    def record_data_access(self) -> None:
        """Have every read of data recorded, by an audit config of the organization."""
        policy = policy_pb2.Policy()
        config = policy.audit_configs.add(service="allServices")
        for kind in ("ADMIN_READ", "DATA_READ", "DATA_WRITE"):
            config.audit_log_configs.add(log_type=kind)
        with self.store.write() as tx:
            write_policy(tx, self.organization, policy, ("audit_configs",), self.policy_events)

    def agent(self, service: str = "financialservices") -> str:
        """The service agent of a service in PROJECT, made if need be, as an IAM member."""
        with self.store.write() as tx:
            Projects(self.organization, self.clock).ensure(tx, PROJECT.removeprefix("projects/"))
            return f"serviceAccount:{ensure_agent(tx, PROJECT, service)}"

    # --- what a test looks at ------------------------------------------------------------------------

    def exists(self, kind: Collection, name: str) -> bool:
        """Whether the store has a resource of that kind and name."""
        with self.store.read() as tx:
            return kind.find(tx, name) is not None

    def audit_bodies(self) -> list[bytes]:
        """The audit records, oldest first, as stored."""
        with self.store.read() as tx:
            return [row.body for row in tx.audit.walk(1)]

    def close(self) -> None:
        self.cache.clear()
        self.root_key.close()
        self.store.close()


@contextmanager
def running(directory: Path, clock: ManualClock | None = None) -> Iterator[Platform]:
    """A platform over whatever the directory holds, closed at the end: to restart one."""
    platform = Platform(directory, clock)
    try:
        yield platform
    finally:
        platform.close()
