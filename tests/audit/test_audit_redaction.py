"""What may stand in an audit record: no customer data, no secret, and a record whatever was sent."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from google.api import backend_pb2
from google.cloud.kms_v1 import types
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
    struct_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc.context import attribute_context_pb2
from hypothesis import given
from hypothesis import strategies as st

from keystead.audit import redaction

CANARY = b"canary-7f3a91d2c4"
KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k"


def document(message: Any, *redact: str) -> dict[str, Any]:
    """What is recorded of a message, as JSON."""
    recorded = json_format.MessageToDict(redaction.payload(message, redact))
    assert isinstance(recorded, dict)
    return recorded


def leaks(struct: struct_pb2.Struct) -> bool:
    """Whether the canary is in there, plain or in base64 at any of its three offsets."""
    raw = struct.SerializeToString()
    spelled = [base64.b64encode(b"\0" * pad + CANARY)[4:-4] for pad in range(3)]
    return CANARY in raw or any(text in raw for text in spelled)


def packed(message: Any) -> any_pb2.Any:
    holder = any_pb2.Any()
    holder.Pack(message)
    return holder


def fill(message: Any, descriptor: Descriptor, depth: int = 0) -> int:
    """Put the canary into every bytes field, also below; how many there are. Etags are not data."""
    filled = 0
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_BYTES and field.name != "etag":
            if field.is_repeated:
                getattr(message, field.name).append(CANARY)
            else:
                setattr(message, field.name, CANARY)
            filled += 1
        elif field.message_type is not None and depth < 4 and not field.message_type.GetOptions().map_entry:
            held = getattr(message, field.name)
            inner = held.add() if field.is_repeated else held
            filled += fill(inner, field.message_type, depth + 1)
    return filled


KMS_MESSAGES = [
    kind.pb()
    for kind in (getattr(types, name) for name in types.__all__)
    if hasattr(kind, "pb") and fill(kind.pb()(), kind.pb().DESCRIPTOR)
]


@pytest.mark.parametrize("kind", KMS_MESSAGES, ids=lambda kind: kind.DESCRIPTOR.name)
def test_no_bytes_of_any_kms_message_are_recorded(kind: Any) -> None:
    """No bytes field of a message of Cloud KMS, declared as redacted or not, gets into a record."""
    message = kind()
    fill(message, kind.DESCRIPTOR)
    assert CANARY in message.SerializeToString()
    assert not leaks(redaction.payload(message))


def test_the_kms_api_has_bytes_to_be_tested_with() -> None:
    """The test above covers the requests and answers that carry data."""
    names = {kind.DESCRIPTOR.name for kind in KMS_MESSAGES}
    assert {"EncryptRequest", "DecryptResponse", "ImportCryptoKeyVersionRequest", "MacSignRequest"} <= names


def test_what_is_no_data_is_recorded() -> None:
    """The type, the name and the plain fields of a request stand in the record."""
    request = types.EncryptRequest.pb()(name=KEY, plaintext=CANARY)
    request.plaintext_crc32c.value = 7
    assert document(request) == {
        "@type": "type.googleapis.com/google.cloud.kms.v1.EncryptRequest",
        "name": KEY,
        "plaintextCrc32c": "7",
    }


def blobs() -> Any:
    """A message with a map<string, bytes>, and with text that is a secret: `id` and `access_token`."""
    file = descriptor_pb2.FileDescriptorProto(name="keystead_test_bytes_map.proto", package="keystead.test")
    kind = file.message_type.add(name="Blobs")
    kind.field.add(
        name="blobs",
        number=1,
        label=FieldDescriptor.LABEL_REPEATED,
        type=FieldDescriptor.TYPE_MESSAGE,
        type_name=".keystead.test.Blobs.BlobsEntry",
    )
    entry = kind.nested_type.add(name="BlobsEntry")
    entry.options.map_entry = True
    optional = FieldDescriptor.LABEL_OPTIONAL
    entry.field.add(name="key", number=1, label=optional, type=FieldDescriptor.TYPE_STRING)
    entry.field.add(name="value", number=2, label=optional, type=FieldDescriptor.TYPE_BYTES)
    for number, name in enumerate(("id", "access_token"), 2):
        kind.field.add(name=name, number=number, label=optional, type=FieldDescriptor.TYPE_STRING)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("keystead.test.Blobs"))()


def test_bytes_in_maps_are_left_out() -> None:
    """Bytes that are the values of a map are data too, whatever their keys are called."""
    message = blobs()
    message.blobs["harmless"] = CANARY
    assert CANARY in message.SerializeToString()
    struct = redaction.payload(message)
    assert not leaks(struct)
    assert list(struct.fields) == ["@type"]


def test_etags_are_kept() -> None:
    """A policy change is recorded with its etag: bytes, but not data."""
    request = iam_policy_pb2.SetIamPolicyRequest(resource=KEY, policy=policy_pb2.Policy(etag=b"\x00 \x01"))
    request.policy.bindings.add(role="roles/viewer", members=["user:a@example.com"])
    recorded = document(request)
    assert recorded["policy"]["etag"] == "ACAB"
    assert recorded["policy"]["bindings"][0]["members"] == ["user:a@example.com"]


def test_the_message_itself_is_left_alone() -> None:
    """Recording a request does not change it."""
    request = types.EncryptRequest.pb()(name=KEY, plaintext=CANARY)
    redaction.payload(request, ("name",))
    assert (request.name, request.plaintext) == (KEY, CANARY)


SECRET = CANARY.decode()


def test_declared_paths_are_left_out() -> None:
    """A redacted path leads through messages and repeated fields, and takes only what it names."""
    policy = policy_pb2.Policy(version=1)
    for number in range(2):
        binding = policy.bindings.add(role="roles/viewer")
        binding.condition.title, binding.condition.description = f"t{number}", SECRET
    request = iam_policy_pb2.SetIamPolicyRequest(resource=KEY, policy=policy)
    recorded = document(request, "policy.bindings.condition.description")
    assert SECRET not in str(recorded)
    assert [each["condition"]["title"] for each in recorded["policy"]["bindings"]] == ["t0", "t1"]


@pytest.mark.parametrize(
    "path",
    [
        "overrides_by_request_protocol.address",
        "overrides_by_request_protocol.*.address",
        "overrides_by_request_protocol.h2.address",
    ],
)
def test_declared_paths_go_through_maps(path: str) -> None:
    """A redacted path goes through the values of a map, with or without a segment for the key."""
    rule = backend_pb2.BackendRule(selector="s")
    rule.overrides_by_request_protocol["h2"].address = SECRET
    rule.overrides_by_request_protocol["h2"].protocol = "h2"
    recorded = document(rule, path)
    assert recorded["overridesByRequestProtocol"] == {"h2": {"protocol": "h2"}}


def test_declared_paths_go_through_anys_and_structs() -> None:
    """A redacted path names what JSON shows: packed messages and free-form parameters included."""
    parameters = struct_pb2.Struct()
    parameters.update({"job": {"query": SECRET, "name": "n"}, "list": [{"query": SECRET}]})
    assert document(parameters, "job.query", "list.query") == {
        "@type": "type.googleapis.com/google.protobuf.Struct",
        "job": {"name": "n"},
        "list": [{}],
    }
    operation = operations_pb2.Operation(name="o", response=packed(types.KeyRing.pb()(name=SECRET)))
    assert not leaks(redaction.payload(operation, ("response.name",)))
    assert document(operation)["response"]["name"] == SECRET


@pytest.mark.parametrize(
    "name", ["password", "accessToken", "access_token", "private-key-data", "Plaintext", "ciphertext"]
)
def test_secrets_are_known_by_name(name: str) -> None:
    """A key named like a secret is left out wherever it stands, however it is spelled."""
    parameters = struct_pb2.Struct()
    parameters.update({"user": [{name: SECRET, "id": 1}]})
    assert document(parameters)["user"] == [{"id": 1}]
    request = attribute_context_pb2.AttributeContext.Request(headers={name: SECRET, "host": "h"})
    assert document(request)["headers"] == {"host": "h"}


def test_text_fields_named_like_secrets_are_left_out() -> None:
    """A token is text, not bytes, and left out of a record for its name, declared as redacted or not."""
    message = blobs()
    message.id, message.access_token = "me", SECRET
    assert document(message) == {"@type": "type.googleapis.com/keystead.test.Blobs", "id": "me"}


def test_packed_and_wrapped_bytes_are_left_out() -> None:
    """Bytes in an Any, in an Any within an Any, or in a BytesValue are bytes all the same."""
    request = types.EncryptRequest.pb()(name=KEY, plaintext=CANARY)
    for inner in (request, packed(request), wrappers_pb2.BytesValue(value=CANARY)):
        struct = redaction.payload(operations_pb2.Operation(name="o", response=packed(inner)))
        assert not leaks(struct)
        assert struct["name"] == "o"


def test_an_unknown_any_is_left_out() -> None:
    """What is packed under a type this program does not know cannot be judged, so it is left out."""
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.knows.This", value=CANARY)
    struct = redaction.payload(operations_pb2.Operation(name="o", done=True, metadata=unknown))
    assert not leaks(struct)
    assert (struct["name"], struct["done"]) == ("o", True)  # what stands beside it is kept
    assert not redaction.known(unknown)


def test_a_huge_message_is_recorded_by_name() -> None:
    """A message over the bound is its type and name, so that no caller can swell the log."""
    key = types.CryptoKey.pb()(name=KEY, labels={f"l{i}": "v" * 60 for i in range(400)})
    kind = "type.googleapis.com/google.cloud.kms.v1.CryptoKey"
    assert document(key) == {"@type": kind, "name": KEY}
    key.labels.clear()
    key.labels["a"] = "b"
    assert document(key)["labels"] == {"a": "b"}


def nested(depth: int, *, through_any: bool) -> Any:
    inner: Any = struct_pb2.Struct()
    for _ in range(depth):
        if through_any:
            inner = packed(inner)
        else:
            outer = struct_pb2.Struct()
            outer.fields["a"].struct_value.CopyFrom(inner)
            inner = outer
    return inner if through_any else packed(inner)


@pytest.mark.parametrize("through_any", [True, False])
@pytest.mark.parametrize("depth", [10, 25, 32, 400, 3000])
def test_deep_messages_are_bounded_and_readable(depth: int, *, through_any: bool) -> None:
    """However deep a message is nested, its record can be made, and read back."""
    if not through_any and depth > 32:
        depth = 32  # more cannot be parsed, so no caller can send it
    operation = operations_pb2.Operation(name="o", metadata=nested(depth, through_any=through_any))
    struct = redaction.payload(operation)
    assert json_format.MessageToDict(struct_pb2.Struct.FromString(struct.SerializeToString()))["name"] == "o"


def test_messages_without_json_are_recorded_by_name() -> None:
    """A time out of range, a NaN or an odd field mask cannot keep a call from being recorded."""
    key = types.CryptoKey.pb()(name=KEY)
    key.create_time.seconds = 10**18
    assert document(key)["name"] == KEY
    update = types.UpdateCryptoKeyRequest.pb()()
    update.update_mask.paths.append("Not_A_3path")
    assert document(update) == {"@type": "type.googleapis.com/google.cloud.kms.v1.UpdateCryptoKeyRequest"}
    value = struct_pb2.Struct()
    value.fields["n"].number_value = float("nan")
    assert document(value) == {"@type": "type.googleapis.com/google.protobuf.Struct"}


# Free keys are spelled with letters that no secret's name is made of.
KEYS = st.sampled_from(["password", "accessToken", "DEK"]) | st.text("xyz .0é", max_size=5)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aé\0"{', max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=20,
)


def without_secrets(value: Any) -> Any:
    """The same JSON value without the entries that KEYS names like secrets."""
    if isinstance(value, dict):
        secret = {"password", "accessToken", "DEK"}
        return {key: without_secrets(item) for key, item in value.items() if key not in secret}
    return [without_secrets(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(KEYS, JSON, max_size=4))
def test_facts_are_kept_but_for_secrets(values: dict[str, Any]) -> None:
    """What a function notes on its call is recorded as it is, but for what is named like a secret."""
    expected = struct_pb2.Struct()
    expected.update(without_secrets(values))
    recorded = json_format.MessageToDict(redaction.facts(values))
    assert recorded == json_format.MessageToDict(expected)


def test_facts_are_no_bytes() -> None:
    """Bytes among the facts are a mistake of the program, and refused."""
    with pytest.raises(ValueError, match="type"):
        redaction.facts({"key": CANARY})


def test_huge_facts_are_bounded() -> None:
    """Facts over the bound say no more than that they were."""
    assert json_format.MessageToDict(redaction.facts({"a": "x" * 20_000})) == {"truncated": True}
