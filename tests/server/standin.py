"""A small key service over the official messages, and a server that listens for it on both doors.

It does no cryptography: what is tested here is how calls reach a function and how answers leave it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from google.cloud.kms_v1.types import resources, service
from google.iam.v1 import iam_policy_pb2, policy_pb2

from keystead.api.call import Call
from keystead.api.clock import SystemClock
from keystead.api.dispatch import Dispatcher
from keystead.api.errors import AlreadyExists, InvalidArgument, NotFound, precondition
from keystead.api.method import LogKind, Service, method
from keystead.api.registry import Registry
from keystead.server.grpc_listener import GrpcListener
from keystead.server.health import Health
from keystead.server.rest import Limits, RestApp, uvicorn_config
from keystead.server.settings import Settings
from tests.api.fakes import Grants, MemoryStore, Tokens, Trail

KMS = Service("cloudkms.googleapis.com", "Cloud KMS API", short_method_names=True)
OBJECTS = Service("storage.googleapis.com", "Cloud Storage API", at_root=True)
API = "google.cloud.kms.v1.KeyManagementService"
OWNER = "user:owner@example.com"
LOCATION = "projects/p1/locations/us-central1"
RING = f"{LOCATION}/keyRings/r1"
KEY = f"{RING}/cryptoKeys/k1"

KeyRing = resources.KeyRing.pb()
CryptoKey = resources.CryptoKey.pb()
CreateKeyRingRequest = service.CreateKeyRingRequest.pb()
GetKeyRingRequest = service.GetKeyRingRequest.pb()
ListKeyRingsRequest = service.ListKeyRingsRequest.pb()
ListKeyRingsResponse = service.ListKeyRingsResponse.pb()
CreateCryptoKeyRequest = service.CreateCryptoKeyRequest.pb()
UpdateCryptoKeyRequest = service.UpdateCryptoKeyRequest.pb()
EncryptRequest = service.EncryptRequest.pb()
EncryptResponse = service.EncryptResponse.pb()
Policy = policy_pb2.Policy
GetIamPolicyRequest = iam_policy_pb2.GetIamPolicyRequest
SetIamPolicyRequest = iam_policy_pb2.SetIamPolicyRequest
_R = "projects/*/locations/*/keyRings/*"


class Keys:
    """RPCs that between them use every kind of binding. `seen` holds the requests and calls that arrived."""

    service = KMS

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.calls: list[Call] = []
        self.blocked = threading.Event()
        self.blocked.set()

    def _note(self, call: Call, request: Any) -> None:
        copy = type(request)()
        copy.CopyFrom(request)
        self.seen.append(copy)
        self.calls.append(call)

    @method(
        f"{API}/CreateKeyRing",
        http="POST /v1/{parent=projects/*/locations/*}/keyRings",
        body="key_ring",
        permission="cloudkms.keyRings.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        required=("key_ring_id",),
    )
    def create_ring(self, call: Call, request: CreateKeyRingRequest) -> KeyRing:
        self._note(call, request)
        name = f"{request.parent}/keyRings/{request.key_ring_id}"
        if name in call.tx.rows:
            raise AlreadyExists(f"KeyRing {name} already exists.")
        call.tx.rows[name] = b""
        return KeyRing(name=name)

    @method(
        f"{API}/GetKeyRing",
        http=f"GET /v1/{{name={_R}}}",
        permission="cloudkms.keyRings.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get_ring(self, call: Call, request: GetKeyRingRequest) -> KeyRing:
        self._note(call, request)
        self.blocked.wait(5)
        if request.name.endswith("/unexpected"):
            raise RuntimeError("plaintext-canary")
        if request.name not in call.tx.rows:
            raise NotFound(f"KeyRing {request.name} not found.")
        return KeyRing(name=request.name)

    @method(
        f"{API}/ListKeyRings",
        http="GET /v1/{parent=projects/*/locations/*}/keyRings",
        permission="cloudkms.keyRings.list",
        on="parent",
        log=LogKind.ADMIN_READ,
    )
    def list_rings(self, call: Call, request: ListKeyRingsRequest) -> ListKeyRingsResponse:
        self._note(call, request)
        rings = [KeyRing(name=name) for name in sorted(call.tx.rows) if "/keyRings/" in name]
        return ListKeyRingsResponse(key_rings=rings, total_size=len(rings))

    @method(
        f"{API}/CreateCryptoKey",
        http=f"POST /v1/{{parent={_R}}}/cryptoKeys",
        body="crypto_key",
        permission="cloudkms.cryptoKeys.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        unsupported=("crypto_key.key_access_justifications_policy",),
    )
    def create_key(self, call: Call, request: CreateCryptoKeyRequest) -> CryptoKey:
        self._note(call, request)
        result = CryptoKey()
        result.CopyFrom(request.crypto_key)
        result.name = f"{request.parent}/cryptoKeys/{request.crypto_key_id}"
        return result

    @method(
        f"{API}/UpdateCryptoKey",
        http=f"PATCH /v1/{{crypto_key.name={_R}/cryptoKeys/*}}",
        body="crypto_key",
        permission="cloudkms.cryptoKeys.update",
        on="crypto_key.name",
        log=LogKind.ADMIN_WRITE,
    )
    def update_key(self, call: Call, request: UpdateCryptoKeyRequest) -> CryptoKey:
        self._note(call, request)
        if not request.update_mask.paths:
            raise InvalidArgument("The update mask is required.")
        return request.crypto_key

    @method(
        f"{API}/Encrypt",
        http=f"POST /v1/{{name={_R}/cryptoKeys/**}}:encrypt",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToEncrypt",
        on="name",
        log=LogKind.DATA_READ,
        hot=True,
    )
    def encrypt(self, call: Call, request: EncryptRequest) -> EncryptResponse:
        self._note(call, request)
        if request.name.endswith("/off"):
            version = f"{request.name}/cryptoKeyVersions/1"
            raise precondition(
                f"{version} is not enabled, current state is: DISABLED.", "KEY_DISABLED", version
            )
        response = EncryptResponse(
            name=f"{request.name}/cryptoKeyVersions/1",
            ciphertext=bytes(request.plaintext)[::-1],
            verified_plaintext_crc32c="plaintext_crc32c" in request,
            protection_level=1,
        )
        response.ciphertext_crc32c.value = 0
        return response

    @method(
        "google.iam.v1.IAMPolicy/GetIamPolicy",
        http=f"GET /v1/{{resource={_R}}}:getIamPolicy",
        permission="cloudkms.keyRings.getIamPolicy",
        on="resource",
        log=LogKind.ADMIN_READ,
    )
    def get_policy(self, call: Call, request: GetIamPolicyRequest) -> Policy:
        self._note(call, request)
        return Policy(version=request.options.requested_policy_version, etag=b"\xff\xfe\xfd")

    @method(
        "google.iam.v1.IAMPolicy/SetIamPolicy",
        http=f"POST /v1/{{resource={_R}}}:setIamPolicy",
        body="*",
        permission="cloudkms.keyRings.setIamPolicy",
        on="resource",
        log=LogKind.ADMIN_WRITE,
    )
    def set_policy(self, call: Call, request: SetIamPolicyRequest) -> Policy:
        self._note(call, request)
        return request.policy


class Objects:
    """An API that keeps its own paths at the root of the port."""

    service = OBJECTS

    @method(
        "keystead.test.Objects/Get",
        http="GET /storage/v1/b/{name}",
        permission=None,
        on="name",
        log=LogKind.NONE,
    )
    def get(self, call: Call, request: GetKeyRingRequest) -> KeyRing:
        return KeyRing(name=request.name)


class Server:
    """Both listeners over the small key service, with everything under them within reach of a test."""

    def __init__(self, **changes: Any) -> None:
        self.keys = Keys()
        self.store = MemoryStore()
        self.grants = Grants()
        self.grants.everything.add(OWNER)
        self.trail = Trail()
        self.ready = True
        self.registry = Registry()
        self.registry.add([self.keys, Objects()])
        self.registry.know(
            KMS, {f"{API}/GenerateRandomBytes": [("POST /v1/{location=projects/*/locations/*}:random", "*")]}
        )
        self.dispatcher = Dispatcher(self.registry, self.store, self.grants, self.trail, SystemClock())
        self.health = Health({"store": lambda: self.ready})
        self.settings = Settings(data_dir=Path("unused"), port=0, grpc_port=0, dev=True, drain=1, **changes)
        self.port = self.grpc_port = 0

    def app(self) -> RestApp:
        return RestApp(
            self.registry,
            self.dispatcher,
            Tokens(),
            clock=SystemClock(),
            health=self.health,
            limits=Limits(max_body=self.settings.max_body),
            loopback_names_only=True,
        )

    @property
    def url(self) -> str:
        scheme = "https" if self.settings.tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Listen on free ports from a thread, until the end of the block."""
        started, failure = threading.Event(), []
        rest = uvicorn.Server(uvicorn_config(self.app(), self.settings))

        async def main() -> None:
            grpc_listener = GrpcListener(
                self.registry,
                self.dispatcher,
                Tokens(),
                clock=SystemClock(),
                max_message=self.settings.max_body,
            )
            self.grpc_port = await grpc_listener.start(self.settings.host, 0, self.settings.tls)
            serving = asyncio.create_task(rest.serve())
            while not rest.started and not serving.done():
                await asyncio.sleep(0.005)
            self.port = rest.servers[0].sockets[0].getsockname()[1]
            started.set()
            await serving
            await grpc_listener.stop(0)

        def run() -> None:
            try:
                uvloop.run(main())
            except BaseException as error:
                failure.append(error)
                started.set()

        thread = threading.Thread(target=run)
        thread.start()
        started.wait(15)
        try:
            if failure:
                raise failure[0]
            yield self
        finally:
            rest.should_exit = True
            thread.join(15)
        assert not thread.is_alive()
