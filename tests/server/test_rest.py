"""The REST listener over a real socket: what gcloud, the official Python client and curl send, and get."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.cloud import kms_v1
from google.oauth2.credentials import Credentials

from keystead.server.health import Health
from keystead.server.rest import RestApp
from tests.server.standin import KEY, LOCATION, OWNER, RING, Server

AUTH = {"authorization": f"Bearer {OWNER}"}
RAW = bytes(range(248, 256)) * 4  # base64 of it has both + and /


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
    module_server.ready = True
    return module_server


def send(server: Server, verb: str, path: str, **options: Any) -> requests.Response:
    """A request to a path under the key service's prefix, as the owner."""
    headers = {**AUTH, **options.pop("headers", {})}
    return requests.request(verb, f"{server.url}/cloudkms/v1/{path}", headers=headers, timeout=10, **options)


def error_of(response: requests.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == response.status_code
    return error


def raw_http(server: Server, head: str, body: bytes = b"") -> bytes:
    """The raw answer to hand-written bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


# --- what Google's clients send ---------------------------------------------------------------


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_both_base64_alphabets(server: Server, encode: Any, padded: bool) -> None:
    """gcloud's URL-safe and Python's standard base64 mean the same bytes; answers are standard and padded."""
    text = encode(RAW).decode()
    answer = send(server, "POST", f"{KEY}:encrypt", json={"plaintext": text if padded else text.rstrip("=")})
    assert answer.status_code == 200
    assert server.keys.seen[-1].plaintext == RAW
    assert answer.json()["ciphertext"] == base64.b64encode(RAW[::-1]).decode()


def test_policy_etag_survives_url_safe_recoding(server: Server) -> None:
    """An etag that gcloud decoded and encoded again in the other alphabet reaches the function unchanged."""
    etag = send(server, "GET", f"{RING}:getIamPolicy").json()["etag"]
    recoded = etag.replace("+", "-").replace("/", "_")
    assert recoded != etag
    send(server, "POST", f"{RING}:setIamPolicy", json={"policy": {"etag": recoded}})
    assert server.keys.seen[-1].policy.etag == base64.b64decode(etag)


@pytest.mark.parametrize("name", ["skipInitialVersionCreation", "skip_initial_version_creation"])
@pytest.mark.parametrize(("text", "value"), [("True", True), ("true", True), ("False", False), ("0", False)])
def test_query_names_and_booleans(server: Server, name: str, text: str, value: bool) -> None:
    """Query names count in both spellings, booleans in gcloud's capitals and Python's lower case."""
    answer = send(server, "POST", f"{RING}/cryptoKeys?cryptoKeyId=k&{name}={text}", json={})
    assert answer.status_code == 200
    assert server.keys.seen[-1].skip_initial_version_creation is value


@pytest.mark.parametrize("purpose", [1, "1", "ENCRYPT_DECRYPT"])
def test_enums_by_name_or_number(server: Server, purpose: Any) -> None:
    """An enum in a body may be its name, its number, or its number as a string."""
    answer = send(server, "POST", f"{RING}/cryptoKeys?cryptoKeyId=k", json={"purpose": purpose})
    assert answer.json()["purpose"] == "ENCRYPT_DECRYPT"


@pytest.mark.parametrize("alt", ["%24alt=json%3Benum-encoding%3Dint", "$alt=json;enum-encoding=int"])
def test_enum_encoding_int_answers_numbers(server: Server, alt: str) -> None:
    """`$alt=json;enum-encoding=int`, however encoded, asks for enums as numbers in the answer."""
    answer = send(server, "POST", f"{RING}/cryptoKeys?cryptoKeyId=k&{alt}", json={"purpose": 1})
    assert answer.json()["purpose"] == 1


def test_system_parameters_are_ignored(server: Server) -> None:
    """Parameters of Google's front end belong to no message and disturb none."""
    query = (
        "alt=json&prettyPrint=false&key=k&quotaUser=u&fields=name&access_token=x&$.xgafv=2&uploadType=media"
    )
    answer = send(server, "GET", f"{LOCATION}/keyRings?{query}&pageSize=100")
    assert answer.status_code == 200
    assert server.keys.seen[-1].page_size == 100


def test_access_token_parameter_proves_nothing(server: Server) -> None:
    """A credential in the query string is not one: such a call is unauthenticated."""
    answer = requests.get(
        f"{server.url}/cloudkms/v1/{LOCATION}/keyRings?access_token={OWNER}&oauth_token={OWNER}", timeout=10
    )
    assert answer.status_code == 401


def test_dotted_query_names_reach_nested_fields(server: Server) -> None:
    """`options.requestedPolicyVersion=3` fills the nested message."""
    answer = send(server, "GET", f"{RING}:getIamPolicy?alt=json&options.requestedPolicyVersion=3")
    assert answer.json()["version"] == 3


@pytest.mark.parametrize(
    "mask",
    ["labels,rotationPeriod,versionTemplate.algorithm", "labels,rotation_period,version_template.algorithm"],
)
@pytest.mark.parametrize("comma", [",", "%2C"])
def test_update_mask_in_either_spelling(server: Server, mask: str, comma: str) -> None:
    """An update mask arrives as proto paths, from camelCase or snake_case, its commas encoded or not; the
    name in the path wins over one in the body."""
    path = f"{KEY}?updateMask={mask.replace(',', comma)}"
    answer = send(server, "PATCH", path, json={"name": "projects/other", "labels": {"a": "b"}})
    assert answer.status_code == 200
    seen = server.keys.seen[-1]
    assert list(seen.update_mask.paths) == ["labels", "rotation_period", "version_template.algorithm"]
    assert seen.crypto_key.name == KEY


@pytest.mark.parametrize("body", [b"", b"{}", b'""', b"null", b"  "])
def test_bodies_that_say_nothing(server: Server, body: bytes) -> None:
    """No body, an empty object, and the empty JSON string of the Node client all mean an empty message."""
    answer = send(server, "POST", f"{LOCATION}/keyRings?keyRingId=r2", data=body)
    assert answer.status_code == 200
    assert server.keys.seen[-1].HasField("key_ring")


def test_crc_of_zero_stays_present(server: Server) -> None:
    """gcloud's checksum "0", a decimal string, is present and not a default that went missing."""
    answer = send(server, "POST", f"{KEY}:encrypt", json={"plaintext": "", "plaintextCrc32c": "0"})
    assert answer.json()["verifiedPlaintextCrc32c"] is True
    assert answer.json()["ciphertextCrc32c"] == "0"


def test_get_with_content_length_zero(server: Server) -> None:
    """gcloud's GET with `content-length: 0` is an ordinary GET."""
    assert send(server, "GET", f"{LOCATION}/keyRings", headers={"content-length": "0"}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded", ""]
)
def test_content_type_does_not_decide(server: Server, kind: str) -> None:
    """A JSON body is read as one whatever its content type says, curl's `-d` included."""
    answer = send(
        server, "POST", f"{KEY}:encrypt", data=b'{"plaintext":"AAEC"}', headers={"content-type": kind}
    )
    assert answer.status_code == 200
    assert server.keys.seen[-1].plaintext == b"\x00\x01\x02"


def test_routing_headers_are_ignored(server: Server) -> None:
    """`x-goog-request-params`, in any encoding and however wrong, changes nothing."""
    answer = send(
        server, "GET", f"{LOCATION}/keyRings", headers={"x-goog-request-params": "parent=projects%2Fother"}
    )
    assert answer.status_code == 200
    assert server.keys.seen[-1].parent == LOCATION


def test_method_override(server: Server) -> None:
    """A POST marked as GET takes its parameters from a form; one marked as PATCH keeps its body."""
    headers = {"x-http-method-override": "GET", "content-type": "application/x-www-form-urlencoded"}
    answer = send(server, "POST", f"{LOCATION}/keyRings?alt=json", data=b"pageSize=7", headers=headers)
    assert answer.status_code == 200
    assert server.keys.seen[-1].page_size == 7
    answer = send(
        server,
        "POST",
        f"{KEY}?updateMask=labels",
        json={"labels": {"a": "b"}},
        headers={"x-http-method-override": "patch"},
    )
    assert answer.json()["labels"] == {"a": "b"}


def test_gzipped_request_body(server: Server) -> None:
    """A gzip body is unpacked."""
    body = gzip.compress(b'{"plaintext":"AAEC"}')
    answer = send(server, "POST", f"{KEY}:encrypt", data=body, headers={"content-encoding": "gzip"})
    assert answer.status_code == 200
    assert server.keys.seen[-1].plaintext == b"\x00\x01\x02"


# --- answers ----------------------------------------------------------------------------------


def test_answer_headers(server: Server) -> None:
    """Every answer carries Google's content type, forbids sniffing and shared caching, names no software."""
    for answer in (send(server, "GET", f"{LOCATION}/keyRings"), send(server, "GET", RING)):
        assert answer.headers["content-type"] == "application/json; charset=UTF-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "private"
        assert "server" not in answer.headers


def test_long_answers_are_compressed_for_those_who_ask(server: Server) -> None:
    """Over 1 KiB an answer is gzip if the client takes gzip, and the same text either way."""
    for i in range(40):
        server.store.rows[f"{LOCATION}/keyRings/r{i:02}"] = b""
    packed = send(server, "GET", f"{LOCATION}/keyRings", headers={"accept-encoding": "gzip, deflate"})
    plain = send(server, "GET", f"{LOCATION}/keyRings", headers={"accept-encoding": "gzip;q=0, identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    assert packed.json() == plain.json()
    short = send(server, "GET", f"{LOCATION}/keyRings/r01", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in short.headers


def test_head_and_options(server: Server) -> None:
    """HEAD answers the headers of GET without a body; OPTIONS grants no other origin anything."""
    server.store.rows[RING] = b""
    full = send(server, "GET", RING)
    head = send(server, "HEAD", RING)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == full.headers["content-length"]
    options = requests.options(
        f"{server.url}/cloudkms/v1/{RING}",
        headers={"origin": "https://evil.example", "access-control-request-method": "GET"},
        timeout=10,
    )
    assert options.status_code == 200
    assert "POST" in options.headers["allow"]
    assert not [name for name in options.headers if name.lower().startswith("access-control")]


def test_errors_in_googles_shape(server: Server) -> None:
    """An error is `{"error": {code, message, status, details}}` with typed details."""
    answer = send(server, "POST", f"{RING}/cryptoKeys/off:encrypt", json={})
    error = error_of(answer)
    assert (answer.status_code, error["status"]) == (400, "FAILED_PRECONDITION")
    assert error["details"][0]["@type"] == "type.googleapis.com/google.rpc.PreconditionFailure"
    assert error["details"][0]["violations"][0]["type"] == "KEY_DISABLED"


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic eA=="}]
)
def test_unproven_callers_are_challenged(server: Server, headers: dict[str, str]) -> None:
    """No credential, and one that proves nothing, are 401 with a challenge."""
    answer = requests.get(f"{server.url}/cloudkms/v1/{RING}", headers=headers, timeout=10)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert error_of(answer)["status"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1/projects", "/nothing/v1/x", f"/cloudkms/v2/{RING}", f"/cloudkms/v1/{RING}/", "/cloudkms",
        f"/cloudkms/v1/{KEY}:frob", "/cloudkms/v1/projects//locations/l/keyRings", "/cloudkms/v1/%00",
        "/healthz/x",
    ],
)  # fmt: skip
def test_unknown_paths(server: Server, path: str) -> None:
    """A path that no RPC has is 404 in JSON."""
    answer = requests.get(server.url + path, headers=AUTH, timeout=10)
    assert (answer.status_code, error_of(answer)["message"]) == (404, "Method not found.")


def test_wrong_verb_is_not_found(server: Server) -> None:
    """A path under another verb than its own is 404 as at Google, not 405."""
    assert send(server, "DELETE", RING).status_code == 404


def test_rpc_without_a_function(server: Server) -> None:
    """A known RPC that nobody serves is 501 and names itself."""
    answer = send(server, "POST", f"{LOCATION}:random", json={})
    assert (answer.status_code, error_of(answer)["status"]) == (501, "UNIMPLEMENTED")
    assert "GenerateRandomBytes" in error_of(answer)["message"]


@pytest.mark.parametrize(
    ("query", "body", "words"),
    [
        ("", b"{", "Invalid JSON payload received."),
        ("", b"[]", "Invalid value"),
        ("", b"\xff\xfe", "Invalid JSON payload received."),
        ("", b'{"plain":"AA=="}', 'Unknown name "plain": Cannot find field.'),
        ("", b'{"plaintext":"A*=="}', "Base64 decoding failed"),
        ("", b'{"plaintext":5}', "TYPE_BYTES"),
        ("?frob=1", b"{}", 'Unknown name "frob": Cannot bind query parameter.'),
        ("?plaintextCrc32c=x", b"{}", "Invalid JSON payload received."),
    ],
)
def test_malformed_requests(server: Server, query: str, body: bytes, words: str) -> None:
    """What is not the request's message is 400, says what is wrong, and reaches no function."""
    answer = send(server, "POST", f"{KEY}:encrypt{query}", data=body)
    assert (answer.status_code, error_of(answer)["status"]) == (400, "INVALID_ARGUMENT")
    assert words in error_of(answer)["message"]
    assert not server.keys.seen


# --- limits, deadlines, disconnects -----------------------------------------------------------


@pytest.mark.parametrize("size", [(1 << 20) + 1, 3 << 20])
def test_bodies_over_the_limit(server: Server, size: int) -> None:
    """A body over 1 MiB is 413 in Google's shape, and the connection can be used again."""
    with requests.Session() as session:
        session.headers.update(AUTH)
        url = f"{server.url}/cloudkms/v1/{KEY}:encrypt"
        answer = session.post(url, data=b"x" * size, timeout=10)
        assert (answer.status_code, error_of(answer)["status"]) == (413, "INVALID_ARGUMENT")
        assert "1048576" in error_of(answer)["message"]
        assert session.post(url, json={}, timeout=10).status_code == 200


def test_absurd_bodies_are_not_read(server: Server) -> None:
    """A body that announces far more than the limit is refused unread, and the connection closed."""
    head = (
        f"POST /cloudkms/v1/{KEY}:encrypt HTTP/1.1\nhost: localhost\nauthorization: Bearer {OWNER}\n"
        "content-length: 9999999999"
    )
    answer = raw_http(server, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


def test_endless_chunked_bodies_end(server: Server) -> None:
    """A chunked body without end is cut off with 413."""
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /cloudkms/v1/{KEY}:encrypt HTTP/1.1\r\nhost: localhost\r\n"
        head += "transfer-encoding: chunked\r\n\r\n"
        try:
            connection.sendall(head.encode())
            for _ in range(1024):
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_gzip_bombs_are_over_the_limit(server: Server) -> None:
    """A small body that unpacks to more than the limit is 413; one that is not gzip is 400."""
    bomb = gzip.compress(b" " * (64 << 20))
    answer = send(server, "POST", f"{KEY}:encrypt", data=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 413
    for body, coding in ((b"no gzip", "gzip"), (bomb[:100], "gzip"), (b"{}", "br")):
        answer = send(server, "POST", f"{KEY}:encrypt", data=body, headers={"content-encoding": coding})
        assert answer.status_code == 400


def test_server_timeout_header(server: Server) -> None:
    """`X-Server-Timeout` is the call's deadline: 504 when it passes; nonsense in it is no deadline."""
    server.store.rows[RING] = b""
    server.keys.blocked.clear()
    try:
        begun = time.monotonic()
        answer = send(server, "GET", RING, headers={"x-server-timeout": "0.2"})
        assert (answer.status_code, error_of(answer)["status"]) == (504, "DEADLINE_EXCEEDED")
        assert time.monotonic() - begun < 4
    finally:
        server.keys.blocked.set()
    assert send(server, "GET", RING, headers={"x-server-timeout": "0"}).status_code == 504
    for text in ("nan", "-1", "soon", ""):
        assert send(server, "GET", RING, headers={"x-server-timeout": text}).status_code == 200


def test_client_that_leaves_early(server: Server) -> None:
    """A client that goes away in the middle of its body harms nobody, and its call does not run."""
    head = f"POST /cloudkms/v1/{KEY}:encrypt HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head.encode() + b'{"plain')
    assert send(server, "POST", f"{KEY}:encrypt", json={}).status_code == 200
    assert len(server.keys.seen) == 1


def test_call_knows_where_it_comes_from(server: Server) -> None:
    """The call carries the peer's address and the user agent; forwarding headers are not believed."""
    send(
        server,
        "GET",
        f"{LOCATION}/keyRings",
        headers={"user-agent": "gcloud/528", "x-forwarded-for": "10.9.8.7", "forwarded": "for=10.9.8.7"},
    )
    call = server.keys.calls[-1]
    assert (call.principal, call.caller_ip, call.user_agent) == (OWNER, "127.0.0.1", "gcloud/528")


# --- which API a request belongs to -----------------------------------------------------------


def test_api_by_host_name(server: Server) -> None:
    """`cloudkms.<universe>` serves the API without a path prefix, whatever the port in the header."""
    for host in ("cloudkms.googleapis.com", "CloudKMS.googleapis.com:8080"):
        answer = requests.get(
            f"{server.url}/v1/{LOCATION}/keyRings", headers={**AUTH, "host": host}, timeout=10
        )
        assert answer.status_code == 200


def test_api_at_the_root(server: Server) -> None:
    """An API that lives at the root of the port keeps its whole path."""
    answer = requests.get(f"{server.url}/storage/v1/b/bucket", headers=AUTH, timeout=10)
    assert answer.json() == {"name": "bucket"}


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080", "10.1.2.3:80", "x.localhost"])
def test_own_host_names_are_answered(server: Server, host: str) -> None:
    """Loopback names and plain addresses are this server's own."""
    answer = send(server, "GET", f"{LOCATION}/keyRings", headers={"host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example"])
def test_foreign_host_names_are_refused(server: Server, host: str) -> None:
    """A web page that rebinds its name to loopback is refused, so it cannot speak as whoever it names."""
    answer = send(server, "GET", f"{LOCATION}/keyRings", headers={"host": host})
    assert (answer.status_code, error_of(answer)["status"]) == (403, "PERMISSION_DENIED")
    assert not server.keys.seen


# --- health, logs -----------------------------------------------------------------------------


def test_health_paths(server: Server) -> None:
    """`/healthz` says the process answers, `/readyz` whether its parts do; neither asks who you are."""
    assert requests.get(f"{server.url}/healthz", timeout=10).json() == {"status": "ok"}
    assert requests.get(f"{server.url}/readyz", timeout=10).json() == {
        "status": "ok",
        "checks": {"store": "ok"},
    }
    server.ready = False
    answer = requests.get(f"{server.url}/readyz", timeout=10)
    assert (answer.status_code, answer.json()["checks"]) == (503, {"store": "failed"})


async def test_readiness_survives_its_checks(caplog: pytest.LogCaptureFixture) -> None:
    """A check that raises or hangs counts as failed and tells nothing; a stopping server is not ready."""
    release = threading.Event()

    def broken() -> bool:
        raise RuntimeError("password-canary")

    health = Health({"a": broken, "b": lambda: release.wait(5)}, timeout=0.2)
    try:
        status, report = await health.ready()
    finally:
        release.set()
    assert (status, report["checks"]) == (503, {"a": "failed", "b": "failed"})
    assert "password-canary" not in str(report) + caplog.text
    health.stopping()
    assert (await health.ready())[0] == 503


def test_nothing_of_a_call_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Tokens, bodies, query strings and the texts of unexpected exceptions are in no log and no answer."""
    caplog.set_level(logging.DEBUG)
    canaries = ("plaintext-canary", "query-canary", "body-canary", "token-canary")
    answers = [
        send(server, "GET", f"{LOCATION}/keyRings/unexpected"),
        send(server, "GET", f"{LOCATION}/keyRings?pageToken=query-canary"),
        send(server, "POST", f"{KEY}:encrypt", json={"plaintext": "body-canary*"}),
        requests.get(
            f"{server.url}/cloudkms/v1/{RING}", headers={"authorization": "Bearer token-canary"}, timeout=10
        ),
    ]
    assert [answer.status_code for answer in answers] == [500, 200, 400, 401]
    assert error_of(answers[0])["message"] == "Internal error encountered."
    own = [r.getMessage() for r in caplog.records if not r.name.startswith("urllib3")]
    text = "\n".join(own) + "".join(answer.text for answer in answers)
    assert not [canary for canary in canaries if canary in text]


async def test_lifespan_and_websockets() -> None:
    """The application takes part in the ASGI lifespan, and closes websockets."""
    server = Server()
    app: RestApp = server.app()
    sent: list[Any] = []
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    for kind in ("lifespan.startup", "lifespan.shutdown"):
        inbox.put_nowait({"type": kind})

    async def collect(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, inbox.get, collect)
    inbox.put_nowait({"type": "websocket.connect"})
    await app({"type": "websocket"}, inbox.get, collect)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]


# --- the official client ----------------------------------------------------------------------


def test_official_python_client_over_rest(server: Server) -> None:
    """google-cloud-kms over REST creates, pages, encrypts, updates, and sees typed errors."""
    client = kms_v1.KeyManagementServiceClient(
        credentials=Credentials(OWNER),
        transport="rest",
        client_options={"api_endpoint": f"{server.url}/cloudkms"},
    )
    assert client.create_key_ring(parent=LOCATION, key_ring_id="r1", key_ring={}).name == RING
    assert [ring.name for ring in client.list_key_rings(parent=LOCATION)] == [RING]
    key = client.create_crypto_key(
        parent=RING,
        crypto_key_id="k1",
        crypto_key={"purpose": 1, "labels": {"a": "b"}, "rotation_period": {"seconds": 86400}},
    )
    assert (key.name, key.purpose.name, key.rotation_period.days) == (KEY, "ENCRYPT_DECRYPT", 1)
    updated = client.update_crypto_key(crypto_key=key, update_mask={"paths": ["labels", "rotation_period"]})
    assert updated.name == KEY
    assert list(server.keys.seen[-1].update_mask.paths) == ["labels", "rotation_period"]
    answer = client.encrypt(request={"name": KEY, "plaintext": RAW, "plaintext_crc32c": 7})
    assert (answer.ciphertext, answer.verified_plaintext_crc32c) == (RAW[::-1], True)
    assert client.get_iam_policy(request={"resource": RING}).etag == b"\xff\xfe\xfd"
    with pytest.raises(exceptions.BadRequest) as refused:
        client.encrypt(name=f"{RING}/cryptoKeys/off", plaintext=b"x")
    assert refused.value.details[0]["violations"][0]["type"] == "KEY_DISABLED"
    with pytest.raises(exceptions.Conflict):
        client.create_key_ring(parent=LOCATION, key_ring_id="r1", key_ring={})


def test_json_of_answers_is_plain(server: Server) -> None:
    """An answer is one JSON object and a list of nothing is `{}`."""
    assert json.loads(send(server, "GET", f"{LOCATION}/keyRings").content) == {}
