"""The gRPC listener, and the promise that both doors say the same: one suite of calls over each."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.api_core import exceptions
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcTransport,
)
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2

from keystead.api.clock import SystemClock
from keystead.server.grpc_listener import GrpcListener
from tests.api.fakes import Tokens
from tests.server.standin import (
    API,
    KEY,
    LOCATION,
    OWNER,
    RING,
    CreateCryptoKeyRequest,
    CreateKeyRingRequest,
    CryptoKey,
    EncryptRequest,
    EncryptResponse,
    GetKeyRingRequest,
    KeyRing,
    Server,
)

NOBODY = "user:nobody@example.com"


@dataclass
class Outcome:
    """What a client sees: the status name, the message, the details as JSON; the response as JSON."""

    status: str
    message: str = ""
    details: tuple[Any, ...] = ()
    response: Any = None


class Door(Protocol):
    """One way in."""

    def call(self, rpc: str, request: Any, response_type: Any, token: str | None) -> Outcome: ...


class RestDoor:
    """Calls by the HTTP binding of the RPC."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def call(self, rpc: str, request: Any, response_type: Any, token: str | None) -> Outcome:
        verb, path, query, body = self._binding(rpc, request)
        answer = requests.request(
            verb,
            f"{self._server.url}/cloudkms/v1/{path}",
            params=query,
            json=body,
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=10,
        )
        if answer.status_code == 200:
            return Outcome("OK", response=answer.json())
        error = answer.json()["error"]
        return Outcome(error["status"], error["message"], tuple(error.get("details", ())))

    @staticmethod
    def _binding(rpc: str, request: Any) -> tuple[str, str, dict[str, str], Any]:
        fields = json_format.MessageToDict(request)
        match rpc.rsplit("/", 1)[1]:
            case "CreateKeyRing":
                query = {"keyRingId": request.key_ring_id}
                return "POST", f"{request.parent}/keyRings", query, fields.get("keyRing", {})
            case "CreateCryptoKey":
                query = {"cryptoKeyId": request.crypto_key_id}
                return "POST", f"{request.parent}/cryptoKeys", query, fields.get("cryptoKey", {})
            case "GetKeyRing":
                return "GET", request.name, {}, None
            case "Encrypt":
                name = fields.pop("name")
                return "POST", f"{name}:encrypt", {}, fields
            case "GenerateRandomBytes":
                return "POST", f"{LOCATION}:random", {}, {}
        raise AssertionError(rpc)


class GrpcDoor:
    """Calls by the RPC's own path."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call(self, rpc: str, request: Any, response_type: Any, token: str | None) -> Outcome:
        invoke = self._channel.unary_unary(
            f"/{rpc}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            response = invoke(request, metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
            if status.details:
                assert status.code == error.code().value[0]
                assert status.message == error.details()
            details = tuple(json_format.MessageToDict(detail) for detail in status.details)
            return Outcome(error.code().name, error.details(), details)
        return Outcome("OK", response=json_format.MessageToDict(response))


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    with Server().running() as server:
        yield server


@pytest.fixture
def server(module_server: Server) -> Server:
    module_server.keys.seen.clear()
    module_server.keys.calls.clear()
    module_server.store.rows.clear()
    module_server.store.records.clear()
    return module_server


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(params=["rest", "grpc"])
def door(request: pytest.FixtureRequest, server: Server, channel: grpc.Channel) -> Door:
    return RestDoor(server) if request.param == "rest" else GrpcDoor(channel)


# --- the contract of both doors ---------------------------------------------------------------


def test_success(door: Door, server: Server) -> None:
    """A call answers its message, and its function saw the request and the caller."""
    request = EncryptRequest(name=KEY, plaintext=b"abc")
    outcome = door.call(f"{API}/Encrypt", request, EncryptResponse, OWNER)
    assert outcome == Outcome(
        "OK",
        response={
            "name": f"{KEY}/cryptoKeyVersions/1",
            "ciphertext": "Y2Jh",
            "ciphertextCrc32c": "0",
            "protectionLevel": "SOFTWARE",
        },
    )
    assert server.keys.seen == [request]
    assert server.keys.calls[0].principal == OWNER


def test_no_credentials(door: Door) -> None:
    """A call without credentials is UNAUTHENTICATED and says why in its details."""
    outcome = door.call(f"{API}/GetKeyRing", GetKeyRingRequest(name=RING), KeyRing, None)
    assert outcome.status == "UNAUTHENTICATED"
    assert outcome.message.startswith("Request is missing required authentication credential.")
    assert outcome.details[0]["reason"] == "CREDENTIALS_MISSING"


def test_wrong_credentials(door: Door) -> None:
    """A credential that proves nothing is UNAUTHENTICATED, also where no function serves the RPC."""
    for rpc in ("GetKeyRing", "GenerateRandomBytes"):
        outcome = door.call(f"{API}/{rpc}", GetKeyRingRequest(name=RING), KeyRing, "nonsense")
        assert (outcome.status, outcome.details) == ("UNAUTHENTICATED", ())
        assert outcome.message == "Request had invalid authentication credentials."


def test_denial(door: Door, server: Server) -> None:
    """A denial carries the permission and resource, is recorded once, and nothing else changes."""
    request = CreateKeyRingRequest(parent=LOCATION, key_ring_id="r1")
    outcome = door.call(f"{API}/CreateKeyRing", request, KeyRing, NOBODY)
    permission = "cloudkms.keyRings.create"
    text = f"Permission '{permission}' denied on resource '{LOCATION}' (or it may not exist)."
    assert (outcome.status, outcome.message) == ("PERMISSION_DENIED", text)
    assert outcome.details == (
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "IAM_PERMISSION_DENIED",
            "domain": "cloudkms.googleapis.com",
            "metadata": {"permission": permission, "resource": LOCATION},
        },
    )
    assert [event.granted for event in server.store.records] == [False]
    assert not server.store.rows


def test_precondition(door: Door) -> None:
    """A failed precondition arrives with the violation that clients match on."""
    name = f"{RING}/cryptoKeys/off"
    outcome = door.call(f"{API}/Encrypt", EncryptRequest(name=name), EncryptResponse, OWNER)
    version = f"{name}/cryptoKeyVersions/1"
    assert outcome.status == "FAILED_PRECONDITION"
    assert outcome.message == f"{version} is not enabled, current state is: DISABLED."
    assert outcome.details[0]["violations"] == [{"type": "KEY_DISABLED", "subject": version}]


def test_not_found_and_already_exists(door: Door, server: Server) -> None:
    """What is missing and what is there twice are told apart in the same words."""
    outcome = door.call(f"{API}/GetKeyRing", GetKeyRingRequest(name=RING), KeyRing, OWNER)
    assert outcome == Outcome("NOT_FOUND", f"KeyRing {RING} not found.")
    server.store.rows[RING] = b""
    request = CreateKeyRingRequest(parent=LOCATION, key_ring_id="r1")
    outcome = door.call(f"{API}/CreateKeyRing", request, KeyRing, OWNER)
    code = code_pb2.Code.Name(code_pb2.ALREADY_EXISTS)
    # google.rpc.Code and HTTP agree on the name, where the official clients look for it.
    assert outcome == Outcome(code, f"KeyRing {RING} already exists.")


def test_missing_field(door: Door) -> None:
    """A required field that is not set is INVALID_ARGUMENT naming the field."""
    outcome = door.call(f"{API}/CreateKeyRing", CreateKeyRingRequest(parent=LOCATION), KeyRing, OWNER)
    assert outcome.status == "INVALID_ARGUMENT"
    assert outcome.details[0]["fieldViolations"][0]["field"] == "key_ring_id"


def test_malformed_name(door: Door, server: Server) -> None:
    """A name of the wrong shape is INVALID_ARGUMENT naming the field, and reaches no function."""
    request = CreateKeyRingRequest(parent="projects/p 1/locations/l", key_ring_id="r1")
    outcome = door.call(f"{API}/CreateKeyRing", request, KeyRing, OWNER)
    assert outcome.status == "INVALID_ARGUMENT"
    assert outcome.details[0]["fieldViolations"][0]["field"] == "parent"
    assert not server.keys.seen


def test_unsupported_field(door: Door) -> None:
    """A field this server does not support is UNIMPLEMENTED, never silently dropped."""
    key = CryptoKey()
    key.key_access_justifications_policy.SetInParent()
    request = CreateCryptoKeyRequest(parent=RING, crypto_key_id="k", crypto_key=key)
    outcome = door.call(f"{API}/CreateCryptoKey", request, CryptoKey, OWNER)
    assert outcome.status == "UNIMPLEMENTED"
    assert "key_access_justifications_policy" in outcome.message


def test_rpc_without_a_function(door: Door) -> None:
    """A known RPC that nobody serves is UNIMPLEMENTED and names itself."""
    outcome = door.call(f"{API}/GenerateRandomBytes", GetKeyRingRequest(), KeyRing, OWNER)
    assert outcome == Outcome("UNIMPLEMENTED", f"The method {API}/GenerateRandomBytes is not implemented.")


def test_unexpected_exception(door: Door) -> None:
    """What a function should not have let out is INTERNAL, without its text."""
    request = GetKeyRingRequest(name=f"{LOCATION}/keyRings/unexpected")
    outcome = door.call(f"{API}/GetKeyRing", request, KeyRing, OWNER)
    assert outcome == Outcome("INTERNAL", "Internal error encountered.")


# --- gRPC alone -------------------------------------------------------------------------------


def test_unknown_rpc(channel: grpc.Channel) -> None:
    """An RPC of no served API is UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/nobody.Knows/This")(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message(channel: grpc.Channel, server: Server) -> None:
    """A request that cannot be parsed is INVALID_ARGUMENT and reaches no function."""
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{API}/Encrypt")(b"\xff\xff", timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not server.keys.seen


def test_messages_over_the_limit(channel: grpc.Channel, server: Server) -> None:
    """A message over 1 MiB is RESOURCE_EXHAUSTED and reaches no function."""
    request = EncryptRequest(name=KEY, plaintext=bytes(1 << 20)).SerializeToString()
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{API}/Encrypt")(request, timeout=10)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not server.keys.seen


def test_deadline_reaches_the_call(channel: grpc.Channel, server: Server) -> None:
    """The client's deadline is the call's; a call without one has none."""
    server.store.rows[RING] = b""
    request = GetKeyRingRequest(name=RING).SerializeToString()
    invoke = channel.unary_unary(f"/{API}/GetKeyRing")
    metadata = (("authorization", f"Bearer {OWNER}"),)
    invoke(request, metadata=metadata)
    invoke(request, metadata=metadata, timeout=30)
    without, within = server.keys.calls
    assert without.deadline is None
    assert within.deadline is not None
    assert dt.timedelta(seconds=20) < within.deadline - within.now < dt.timedelta(seconds=31)


def test_deadline_passes_while_a_call_runs(channel: grpc.Channel, server: Server) -> None:
    """A client whose deadline passes sees DEADLINE_EXCEEDED, and the server goes on serving others."""
    server.keys.blocked.clear()
    try:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/{API}/GetKeyRing")(
                GetKeyRingRequest(name=RING).SerializeToString(),
                metadata=(("authorization", f"Bearer {OWNER}"),),
                timeout=0.3,
            )
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        outcome = GrpcDoor(channel).call(f"{API}/Encrypt", EncryptRequest(name=KEY), EncryptResponse, OWNER)
        assert outcome.status == "OK"
    finally:
        server.keys.blocked.set()


def test_call_knows_where_it_comes_from(channel: grpc.Channel, server: Server) -> None:
    """The call carries the peer's address and the client's user agent."""
    server.store.rows[RING] = b""
    GrpcDoor(channel).call(f"{API}/GetKeyRing", GetKeyRingRequest(name=RING), KeyRing, OWNER)
    call = server.keys.calls[-1]
    assert call.caller_ip == "127.0.0.1"
    assert "grpc-python" in call.user_agent


def test_long_errors_still_arrive(channel: grpc.Channel) -> None:
    """An error too long for a client's metadata limit arrives as itself, cut short."""
    request = CreateKeyRingRequest(parent=LOCATION, key_ring_id="r" * 60000)
    server_says = GrpcDoor(channel)
    assert server_says.call(f"{API}/CreateKeyRing", request, KeyRing, OWNER).status == "OK"
    outcome = server_says.call(f"{API}/CreateKeyRing", request, KeyRing, OWNER)
    assert outcome.status == "ALREADY_EXISTS"
    assert len(outcome.message) < 2000


def test_many_calls_at_once(channel: grpc.Channel, server: Server) -> None:
    """Concurrent calls each get their own answer, from both the loop and the threads."""
    server.store.rows[RING] = b""
    metadata = (("authorization", f"Bearer {OWNER}"),)
    encrypt = channel.unary_unary(f"/{API}/Encrypt")
    get = channel.unary_unary(f"/{API}/GetKeyRing")
    waiting = []
    for i in range(50):
        text = f"{i:04}".encode()
        request = EncryptRequest(name=KEY, plaintext=text).SerializeToString()
        waiting.append((text[::-1], encrypt.future(request, metadata=metadata, timeout=20)))
        get_request = GetKeyRingRequest(name=RING).SerializeToString()
        waiting.append((RING.encode(), get.future(get_request, metadata=metadata, timeout=20)))
    assert all(expected in future.result() for expected, future in waiting)


class _Token(grpc.UnaryUnaryClientInterceptor):
    """Adds the caller's token on a channel without TLS, where grpcio sends no call credentials."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {OWNER}")]
        return continuation(details._replace(metadata=metadata), request)


def official_client(channel: grpc.Channel) -> kms_v1.KeyManagementServiceClient:
    with_token = grpc.intercept_channel(channel, _Token())
    transport = KeyManagementServiceGrpcTransport(channel=with_token)
    return kms_v1.KeyManagementServiceClient(transport=transport)


def test_official_python_client_over_grpc(channel: grpc.Channel) -> None:
    """google-cloud-kms over gRPC creates, lists, encrypts, and sees typed errors."""
    client = official_client(channel)
    assert client.create_key_ring(parent=LOCATION, key_ring_id="r1", key_ring={}).name == RING
    assert [ring.name for ring in client.list_key_rings(parent=LOCATION)] == [RING]
    assert client.encrypt(name=KEY, plaintext=b"abc").ciphertext == b"cba"
    assert client.get_iam_policy(request={"resource": RING}).etag == b"\xff\xfe\xfd"
    with pytest.raises(exceptions.FailedPrecondition) as refused:
        client.encrypt(name=f"{RING}/cryptoKeys/off", plaintext=b"x")
    assert refused.value.details[0].violations[0].type == "KEY_DISABLED"
    with pytest.raises(exceptions.AlreadyExists):
        client.create_key_ring(parent=LOCATION, key_ring_id="r1", key_ring={})


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for loopback, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


def test_tls_on_both_doors(certificate: tuple[Path, Path]) -> None:
    """With a certificate both listeners speak TLS, and take call credentials as the official clients send."""
    cert, key = certificate
    with Server(tls_cert=cert, tls_key=key).running() as server:
        answer = requests.get(f"{server.url}/healthz", verify=str(cert), timeout=10)
        assert answer.status_code == 200
        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(cert.read_bytes()), grpc.access_token_call_credentials(OWNER)
        )
        with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
            outcome = GrpcDoor(channel).call(
                f"{API}/Encrypt", EncryptRequest(name=KEY, plaintext=b"ab"), EncryptResponse, None
            )
    assert outcome.response["ciphertext"] == "YmE="


def test_a_taken_port_is_an_error(server: Server) -> None:
    """Two servers never share a gRPC port silently: the second one fails to start."""

    async def second() -> None:
        listener = GrpcListener(server.registry, server.dispatcher, Tokens(), clock=SystemClock())
        await listener.start("127.0.0.1", server.grpc_port)

    with pytest.raises((RuntimeError, OSError)):
        asyncio.run(second())
