"""HTTP requests to RPCs: which path is whose, and what a request message is made of."""

from __future__ import annotations

import string
from typing import Any

import pytest
from google.cloud.kms_v1.types import resources, service
from google.iam.v1 import iam_policy_pb2, policy_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from keystead.api.call import Call
from keystead.api.errors import ApiError, InvalidArgument, Unimplemented
from keystead.api.method import LogKind, Service, method
from keystead.api.registry import Registry
from keystead.api.transcoding import Match, Router, bind

KMS = Service("cloudkms.googleapis.com", "Cloud KMS")
OTHER = Service("other.googleapis.com", "Other")
API = "google.cloud.kms.v1.KeyManagementService"
CryptoKey = resources.CryptoKey.pb()
CreateCryptoKeyRequest = service.CreateCryptoKeyRequest.pb()
GetCryptoKeyRequest = service.GetCryptoKeyRequest.pb()
UpdateCryptoKeyRequest = service.UpdateCryptoKeyRequest.pb()
EncryptRequest = service.EncryptRequest.pb()
EncryptResponse = service.EncryptResponse.pb()
GetIamPolicyRequest = iam_policy_pb2.GetIamPolicyRequest
Policy = policy_pb2.Policy
RING = "projects/p/locations/l/keyRings/r"
KEY = f"{RING}/cryptoKeys/k"
_R = "projects/*/locations/*/keyRings/*"


class Keys:
    service = KMS

    @method(
        f"{API}/GetCryptoKey",
        http=f"GET /v1/{{name={_R}/cryptoKeys/*}}",
        permission=None,
        on="name",
        log=LogKind.NONE,
    )
    def get(self, call: Call, request: GetCryptoKeyRequest) -> CryptoKey:
        return CryptoKey(name=request.name)

    @method(
        f"{API}/CreateCryptoKey",
        http=f"POST /v1/{{parent={_R}}}/cryptoKeys",
        body="crypto_key",
        permission=None,
        on="parent",
        log=LogKind.NONE,
    )
    def create(self, call: Call, request: CreateCryptoKeyRequest) -> CryptoKey:
        return request.crypto_key

    @method(
        f"{API}/UpdateCryptoKey",
        http=f"PATCH /v1/{{crypto_key.name={_R}/cryptoKeys/*}}",
        body="crypto_key",
        permission=None,
        on="crypto_key.name",
        log=LogKind.NONE,
    )
    def update(self, call: Call, request: UpdateCryptoKeyRequest) -> CryptoKey:
        return request.crypto_key

    @method(
        f"{API}/Encrypt",
        http=f"POST /v1/{{name={_R}/cryptoKeys/**}}:encrypt",
        body="*",
        permission=None,
        on="name",
        log=LogKind.NONE,
    )
    def encrypt(self, call: Call, request: EncryptRequest) -> EncryptResponse:
        return EncryptResponse(name=request.name)


class Policies:
    services = (KMS, OTHER)

    @method(
        "google.iam.v1.IAMPolicy/GetIamPolicy",
        http=(
            f"GET /v1/{{resource={_R}}}:getIamPolicy",
            f"GET /v1/{{resource={_R}/cryptoKeys/*}}:getIamPolicy",
        ),
        permission=None,
        on="resource",
        log=LogKind.NONE,
    )
    def get(self, call: Call, request: GetIamPolicyRequest) -> Policy:
        return Policy()


def make_router() -> Router:
    registry = Registry()
    registry.add([Keys(), Policies()])
    registry.know(KMS, {f"{API}/Decrypt": [(f"POST /v1/{{name={_R}/cryptoKeys/*}}:decrypt", "*")]})
    return Router(registry)


ROUTER = make_router()


def found(verb: str, path: str, prefix: str = "cloudkms") -> Match:
    match = ROUTER.find(prefix, verb, path)
    assert match is not None
    return match


def bound(verb: str, path: str, query: bytes = b"", body: bytes = b"") -> Any:
    return bind(found(verb, path), query, body)[0]


@pytest.mark.parametrize(
    ("verb", "path", "rpc"),
    [
        ("GET", f"/v1/{KEY}", "GetCryptoKey"),
        ("POST", f"/v1/{RING}/cryptoKeys", "CreateCryptoKey"),
        ("PATCH", f"/v1/{KEY}", "UpdateCryptoKey"),
        ("POST", f"/v1/{KEY}:encrypt", "Encrypt"),
        ("POST", f"/v1/{KEY}/cryptoKeyVersions/1:encrypt", "Encrypt"),
        ("GET", f"/v1/{KEY}:getIamPolicy", "GetIamPolicy"),
        ("GET", f"/v1/{RING}:getIamPolicy", "GetIamPolicy"),
        ("POST", f"/v1/{KEY}:decrypt", "Decrypt"),
    ],
)
def test_paths_find_their_rpc(verb: str, path: str, rpc: str) -> None:
    """Verb, template and custom verb decide, and the most specific wins: a custom verb before none."""
    assert found(verb, path).route.rpc.endswith("/" + rpc)


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", f"/v1/{KEY}"),
        ("DELETE", f"/v1/{KEY}"),
        ("GET", f"/v1/{KEY}/"),
        ("GET", f"/v2/{KEY}"),
        ("GET", f"/v1/{KEY}/x"),
        ("GET", f"//v1/{KEY}"),
        ("GET", ""),
        ("POST", f"/v1/{KEY}:encryptx"),
        ("POST", f"/v1/{KEY}:"),
    ],
)
def test_paths_that_find_none(verb: str, path: str) -> None:
    """Another verb, version, depth or custom verb is no match."""
    assert ROUTER.find("cloudkms", verb, path) is None


def test_mixins_are_found_under_each_service() -> None:
    """A mixin's paths exist under every service it belongs to, others only under their own."""
    assert found("GET", f"/v1/{RING}:getIamPolicy", "other").route.rpc.endswith("GetIamPolicy")
    assert ROUTER.find("other", "GET", f"/v1/{KEY}") is None


def test_path_variables_are_decoded_once() -> None:
    """Percent escapes in a path are decoded after matching, once."""
    path = "/v1/projects/example.com%3Ap/locations/l/keyRings/r%2525/cryptoKeys/k"
    assert bound("GET", path).name == "projects/example.com:p/locations/l/keyRings/r%25/cryptoKeys/k"


def test_known_rpc_without_function() -> None:
    """A known RPC without a function is found, and refused as UNIMPLEMENTED whatever it was sent."""
    with pytest.raises(Unimplemented, match="Decrypt is not implemented"):
        bind(found("POST", f"/v1/{KEY}:decrypt"), b"", b"{nonsense")


def test_body_query_and_path_fill_one_message() -> None:
    """The body fills its field, the query the others, and the path wins over both."""
    request = bound(
        "POST",
        f"/v1/{RING}/cryptoKeys",
        b"cryptoKeyId=k&skip_initial_version_creation=True&parent=projects/evil&alt=json",
        b'{"purpose":"MAC","labels":{"a":"b"}}',
    )
    assert (request.parent, request.crypto_key_id) == (RING, "k")
    assert request.skip_initial_version_creation
    assert (request.crypto_key.purpose, dict(request.crypto_key.labels)) == (9, {"a": "b"})


def test_path_wins_over_body() -> None:
    """Who may do what is decided by the path, so a body cannot rename what it is about."""
    request = bound("PATCH", f"/v1/{KEY}", b"updateMask=labels", b'{"name":"projects/evil"}')
    assert request.crypto_key.name == KEY
    request = bound("POST", f"/v1/{KEY}:encrypt", b"name=projects/evil", b'{"name":"projects/worse"}')
    assert request.name == KEY


@pytest.mark.parametrize("body", [b"", b"{}", b'""', b"null", b" \n"])
def test_empty_bodies(body: bytes) -> None:
    """A body that says nothing is an empty but present message, and none where none is expected."""
    assert bound("POST", f"/v1/{RING}/cryptoKeys", b"", body).HasField("crypto_key")
    assert bound("GET", f"/v1/{KEY}", b"", body).name == KEY


def test_body_where_none_belongs() -> None:
    """A GET with something in its body is refused."""
    with pytest.raises(InvalidArgument, match="has no body"):
        bound("GET", f"/v1/{KEY}", b"", b'{"name":"x"}')


@pytest.mark.parametrize(
    "query",
    [
        b"frob=1", b"cryptoKey=1", b"cryptoKey.frob=1", b"cryptoKey.labels.a=b", b"cryptoKeyId.x=1",
        b"skipInitialVersionCreation=maybe", b"cryptoKey.primary.frob.x=1", b"cryptoKey.labels=x", b"=1",
        b"\xff=1", b"&".join(b"cryptoKeyId=%d" % i for i in range(600)),
    ],
)  # fmt: skip
def test_query_names_that_bind_nothing(query: bytes) -> None:
    """A query name that is no field, or a value of the wrong type, is INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument):
        bound("POST", f"/v1/{RING}/cryptoKeys", query)


def test_nested_query_names() -> None:
    """Dotted names reach nested fields; numbers, masks and times are taken as text."""
    request = bound("GET", f"/v1/{RING}:getIamPolicy", b"options.requestedPolicyVersion=3")
    assert request.options.requested_policy_version == 3
    query = b"updateMask=labels%2CrotationPeriod&crypto_key.nextRotationTime=2030-01-01T00:00:00.5Z"
    request = bound("PATCH", f"/v1/{KEY}", query)
    assert list(request.update_mask.paths) == ["labels", "rotation_period"]
    assert request.crypto_key.next_rotation_time.nanos == 500_000_000


@pytest.mark.parametrize(
    "query", [b"updateMask=a&updateMask.paths=b", b"updateMask.paths=b&updateMask.paths=c"]
)
def test_mask_given_by_parts(query: bytes) -> None:
    """A mask given whole and in parts at once is refused; given in parts it is put together."""
    try:
        request = bound("PATCH", f"/v1/{KEY}", query)
    except InvalidArgument:
        assert b"updateMask=a" in query
    else:
        assert list(request.update_mask.paths) == ["b", "c"]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        (b"", False),
        (b"alt=json", False),
        (b"$alt=json;enum-encoding=int", True),
        (b"%24alt=json%3Benum-encoding%3Dint", True),
        (b"versionView=1&$alt=json%3Benum-encoding=int", True),
    ],
)
def test_enum_encoding(query: bytes, numbers: bool) -> None:
    """`$alt=json;enum-encoding=int` asks for enums as numbers, in every encoding that clients use."""
    query = query.replace(b"versionView=1&", b"")
    assert bind(found("GET", f"/v1/{KEY}"), query, b"")[1] is numbers


paths = st.text(string.ascii_letters + "/:%.*{}= \n\x00é", max_size=60) | st.sampled_from(
    [f"/v1/{KEY}", f"/v1/{RING}/cryptoKeys", f"/v1/{KEY}:encrypt", f"/v1/{RING}:getIamPolicy"]
)
query_names = st.sampled_from(
    ["updateMask", "updateMask.paths", "cryptoKeyId", "cryptoKey.purpose", "options", "plaintext", "x", "",
     "cryptoKey.rotationPeriod", "cryptoKey.primary.state", "plaintextCrc32c", "plaintextCrc32c.value"]
)  # fmt: skip
queries = st.lists(st.tuples(query_names, st.text(max_size=8)), max_size=4).map(
    lambda pairs: "&".join(f"{k}={v}" for k, v in pairs).encode(errors="replace")
)
bodies = st.binary(max_size=30) | st.sampled_from([b"{}", b"[]", b'{"purpose":"--5"}', b'{"plaintext":"AA"}'])


@given(st.sampled_from(["GET", "POST", "PATCH"]), paths, queries | st.binary(max_size=30), bodies)
@example("PATCH", f"/v1/{KEY}", b"updateMask=a&updateMask.paths=b", b"")
@example("GET", f"/v1/{RING}:getIamPolicy", b"options=1&options.requestedPolicyVersion=3", b"")
@example("POST", f"/v1/{KEY}:encrypt", b"plaintextCrc32c=1&plaintextCrc32c.value=2", b"")
@example("POST", "/v1/projects/%ff/locations/l/keyRings/r/cryptoKeys/k:encrypt", b"", b"")
def test_any_request_is_bound_or_refused(verb: str, path: str, query: bytes, body: bytes) -> None:
    """Whatever verb, path, query and body come in, the end is a message or one of our errors."""
    match = ROUTER.find("cloudkms", verb, path)
    if match is None:
        return
    try:
        bind(match, query, body)
    except ApiError as error:
        assert error.http in {400, 501}


@given(st.lists(st.text("abcxyz019-_", min_size=1, max_size=12), min_size=4, max_size=4))
def test_names_in_paths_arrive_unchanged(parts: list[str]) -> None:
    """Every name that has the shape of a path variable arrives in the message as it was sent."""
    project, location, ring, key = parts
    name = f"projects/{project}/locations/{location}/keyRings/{ring}/cryptoKeys/{key}"
    assert bound("GET", f"/v1/{name}").name == name
    assert bound("POST", f"/v1/{name}:encrypt").name == name
