"""JSON to messages and back: the front end's leniencies, its words, and nothing but its errors."""

from __future__ import annotations

import base64
import json
import math
import string
from typing import Any

import pytest
from google.cloud.audit.audit_log_pb2 import AuditLog
from google.cloud.kms_v1.types import resources, service
from google.iam.v1 import iam_policy_pb2
from google.longrunning.operations_pb2 import Operation
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as Any_
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int64Value
from google.rpc.status_pb2 import Status
from google.type.color_pb2 import Color
from google.type.money_pb2 import Money
from hypothesis import example, given
from hypothesis import strategies as st

from keystead.api import jsonpb
from keystead.api.errors import ApiError, InvalidArgument

CryptoKey = resources.CryptoKey.pb()
CryptoKeyVersion = resources.CryptoKeyVersion.pb()
ListCryptoKeyVersionsResponse = service.ListCryptoKeyVersionsResponse.pb()
EncryptRequest = service.EncryptRequest.pb()
EncryptResponse = service.EncryptResponse.pb()
UpdateCryptoKeyRequest = service.UpdateCryptoKeyRequest.pb()
SetIamPolicyRequest = iam_policy_pb2.SetIamPolicyRequest

odd = st.sampled_from(["", "--5", "²", "NaN"])


def _struct(value: dict[str, Any]) -> Struct:
    result = Struct()
    result.update(value)
    return result


def _packed(message: Any) -> Any_:
    result = Any_()
    result.Pack(message)
    return result


def _readable(number: float) -> bool:
    """json_format writes the largest floats with so few digits that it cannot read them back."""
    return math.isinf(number) or abs(number) < 3.4e38


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | odd
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(
    [
        "name", "plaintext", "plaintextCrc32c", "plaintext_crc32c", "purpose", "labels", "rotationPeriod",
        "nextRotationTime", "versionTemplate", "algorithm", "updateMask", "update_mask", "cryptoKey", "paths",
        "policy", "bindings", "members", "condition", "etag", "auditConfigs", "createTime", "primary",
        "attestation", "certChains", "importOnly", "destroyScheduledDuration", "@type",
        "externalProtectionLevelOptions",
    ]
)  # fmt: skip
shaped = st.recursive(
    scalars | values,
    lambda inner: st.dictionaries(names, inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=15,
)


@given(st.sampled_from([CryptoKey, EncryptRequest, UpdateCryptoKeyRequest, SetIamPolicyRequest]), shaped)
@example(CryptoKey, {"purpose": "--5"})
@example(CryptoKey, {"purpose": "²"})
@example(CryptoKey, {"purpose": "9" * 5000})
@example(CryptoKey, {"purpose": 1 << 40})
@example(CryptoKey, {"labels": {"a": 1}})
@example(UpdateCryptoKeyRequest, {"updateMask": {"paths": 5}})
@example(UpdateCryptoKeyRequest, {"updateMask": {"paths": [5]}})
@example(UpdateCryptoKeyRequest, {"updateMask": ["a"]})
@example(SetIamPolicyRequest, {"policy": {"bindings": {"0": {}}}})
def test_any_json_value_is_parsed_or_refused(kind: Any, value: Any) -> None:
    """Whatever JSON value comes in, parsing ends in a message or in INVALID_ARGUMENT."""
    try:
        jsonpb.parse_into(kind(), value)
    except InvalidArgument as error:
        assert len(error.message) < 2000


@given(st.binary(max_size=60) | values.map(lambda v: str(v).encode(errors="replace")))
@example(b"[" * 5000)
@example(b'"\\ud800"')
@example(b"1e999")
def test_any_bytes_are_loaded_or_refused(body: bytes) -> None:
    """Whatever bytes come in as a body, they are a JSON value or INVALID_ARGUMENT."""
    try:
        jsonpb.loads(body)
    except ApiError as error:
        assert isinstance(error, InvalidArgument)


crcs = st.none() | st.integers(0, 2**32 - 1)
words = st.text(string.ascii_lowercase + string.digits + "-_", max_size=20)


@given(name=st.text(max_size=50), plaintext=st.binary(max_size=200), aad=st.binary(max_size=50), crc=crcs)
def test_round_trip_of_encrypt_requests(name: str, plaintext: bytes, aad: bytes, crc: int | None) -> None:
    """A request survives being written as JSON and read back, presence of a zero checksum included."""
    message = EncryptRequest(name=name, plaintext=plaintext, additional_authenticated_data=aad)
    if crc is not None:
        message.plaintext_crc32c.value = crc
    again = EncryptRequest()
    jsonpb.parse_into(again, jsonpb.loads(jsonpb.dumps(message)))
    assert again == message
    assert again.HasField("plaintext_crc32c") is (crc is not None)


@given(
    labels=st.dictionaries(words, words, max_size=5),
    purpose=st.sampled_from([0, 1, 5, 6, 7, 9]),
    algorithm=st.integers(0, 60),
    period=st.none() | st.tuples(st.integers(0, 10**9), st.integers(0, 999_999_999)),
    rotates=st.none() | st.integers(0, 4 * 10**9),
    reasons=st.none() | st.lists(st.integers(0, 11), max_size=4),
    enum_numbers=st.booleans(),
)
def test_round_trip_of_crypto_keys(
    labels: dict[str, str],
    purpose: int,
    algorithm: int,
    period: tuple[int, int] | None,
    rotates: int | None,
    reasons: list[int] | None,
    enum_numbers: bool,
) -> None:
    """A key survives being written as JSON and read back, with enums as names or numbers."""
    message = CryptoKey(labels=labels, purpose=purpose)
    message.version_template.algorithm = algorithm
    if period is not None:
        message.rotation_period.seconds, message.rotation_period.nanos = period
    if rotates is not None:
        message.next_rotation_time.seconds = rotates
    if reasons is not None:
        message.key_access_justifications_policy.SetInParent()
        message.key_access_justifications_policy.allowed_access_reasons.extend(reasons)
    again = CryptoKey()
    jsonpb.parse_into(again, jsonpb.loads(jsonpb.dumps(message, enum_numbers=enum_numbers)))
    assert again == message


texts = st.text(max_size=10)
timestamps = st.builds(Timestamp, seconds=st.integers(0, 10**10), nanos=st.integers(0, 999_999_999))
durations = st.builds(Duration, seconds=st.integers(0, 10**10), nanos=st.integers(0, 999_999_999))
versions = st.builds(
    CryptoKeyVersion,
    name=texts,
    state=st.integers(0, 20),
    algorithm=st.integers(0, 80),
    create_time=st.none() | timestamps,
    reimport_eligible=st.booleans(),
)
messages = st.one_of(
    st.builds(
        CryptoKey,
        name=texts,
        primary=st.none() | versions,
        purpose=st.integers(0, 12),
        labels=st.dictionaries(texts, texts, max_size=3),
        next_rotation_time=st.none() | timestamps,
        rotation_period=st.none() | durations,
    ),
    st.builds(
        ListCryptoKeyVersionsResponse,
        crypto_key_versions=st.lists(versions, max_size=3),
        next_page_token=texts,
        total_size=st.integers(-(2**31), 2**31 - 1),
    ),
    st.builds(
        EncryptResponse,
        name=texts,
        ciphertext=st.binary(max_size=40),
        ciphertext_crc32c=st.none() | st.builds(Int64Value, value=st.integers(-(2**63), 2**63 - 1)),
        verified_plaintext_crc32c=st.booleans(),
    ),
    st.builds(
        AuditLog,
        service_name=texts,
        num_response_items=st.integers(-(2**63), 2**63 - 1),
        status=st.none() | st.builds(Status, code=st.integers(0, 16), message=texts),
        request=st.none()
        | st.dictionaries(texts, texts | st.none() | st.floats(0, 1), max_size=3).map(_struct),
    ),
    st.builds(
        Operation,
        name=texts,
        done=st.booleans(),
        response=st.none() | versions.map(_packed),
    ),
    st.builds(Money, units=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-5, 5)),
    st.builds(Color, red=st.floats(width=32, allow_nan=False).filter(_readable), alpha=st.none()),
    st.builds(FieldMask, paths=st.lists(st.sampled_from(["labels", "rotation_period"]), max_size=3)),
    st.builds(Empty),
)


@given(messages, st.booleans())
def test_answers_are_what_json_format_writes(message: Any, enum_numbers: bool) -> None:
    """The mapping done here and the one of protobuf's own library give the same JSON for any message."""
    expected = json_format.MessageToDict(message, use_integers_for_enums=enum_numbers)
    assert json.loads(jsonpb.dumps(message, enum_numbers=enum_numbers)) == expected


@given(messages)
def test_requests_mean_what_json_format_reads(message: Any) -> None:
    """Whatever protobuf's own library writes is read back here as the same message."""
    again = type(message)()
    value = json_format.MessageToDict(message)
    if isinstance(value, dict):
        jsonpb.parse_into(again, value)
        assert again == message


@given(st.sampled_from([CryptoKey, EncryptRequest, SetIamPolicyRequest, EncryptResponse]), shaped)
def test_what_is_accepted_means_what_json_format_says(kind: Any, value: Any) -> None:
    """Where both accept a JSON object as it stands they make the same message of it."""
    try:
        expected = json_format.ParseDict(value, kind())
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError):
        return
    ours = kind()
    try:
        jsonpb.parse_into(ours, value)
    except InvalidArgument:
        return  # stricter: base64 with foreign characters, fractional enums
    assert ours == expected


@given(st.binary(max_size=100), st.booleans(), st.booleans())
def test_both_alphabets_mean_the_same_bytes(data: bytes, url_safe: bool, padded: bool) -> None:
    """Standard and URL-safe base64, padded or not, decode to the same bytes."""
    text = (base64.urlsafe_b64encode(data) if url_safe else base64.b64encode(data)).decode()
    assert jsonpb.decode_bytes(text if padded else text.rstrip("="), "f") == data


@pytest.mark.parametrize(
    "text", ["A", "AA=A", "AAA*", "A A=", "AA==AA==", "AA\n==", "Ā", "====", 5, None, ["AA=="]]
)
def test_base64_is_strict(text: Any) -> None:
    """Foreign characters, blanks, and padding in the wrong place are refused, not skipped."""
    with pytest.raises(InvalidArgument) as refused:
        jsonpb.decode_bytes(text, "plaintext")
    assert refused.value.details[0].field_violations[0].field == "plaintext"


@pytest.mark.parametrize("purpose", ["ENCRYPT_DECRYPT", 1, "1"])
def test_enums(purpose: Any) -> None:
    """An enum may be its name, its number or its number as a string."""
    key = CryptoKey()
    jsonpb.parse_into(key, {"purpose": purpose})
    assert key.purpose == 1


@pytest.mark.parametrize("purpose", ["encrypt_decrypt", "NOPE", 1.5, {}, [1], "1.0", "", True, "1" * 20])
def test_enums_that_are_none(purpose: Any) -> None:
    """What names no value of an enum is refused."""
    with pytest.raises(InvalidArgument):
        jsonpb.parse_into(CryptoKey(), {"purpose": purpose})


@pytest.mark.parametrize(
    "mask",
    [
        "labels,versionTemplate.algorithm",
        "labels,version_template.algorithm",
        " labels , versionTemplate.algorithm,",
        {"paths": ["labels", "version_template.algorithm"]},
    ],
)
def test_masks(mask: Any) -> None:
    """A field mask in either spelling becomes proto paths."""
    request = UpdateCryptoKeyRequest()
    jsonpb.parse_into(request, {"updateMask": mask})
    assert list(request.update_mask.paths) == ["labels", "version_template.algorithm"]


@pytest.mark.parametrize("value", ["", None])
def test_values_that_say_nothing(value: Any) -> None:
    """The empty JSON string of the Node client and null mean an empty message."""
    request = EncryptRequest()
    jsonpb.parse_into(request, value)
    assert request == EncryptRequest()


@pytest.mark.parametrize("crc", ["0", 0])
def test_wrapped_zero_is_present(crc: Any) -> None:
    """A checksum of zero, as string or number, is present; null is absent."""
    request = EncryptRequest()
    jsonpb.parse_into(request, {"plaintextCrc32c": crc, "additionalAuthenticatedDataCrc32c": None})
    assert request.HasField("plaintext_crc32c")
    assert not request.HasField("additional_authenticated_data_crc32c")


def test_unknown_names_in_the_front_ends_words() -> None:
    """An unknown name is refused in Google's words, with the place where it stood."""
    with pytest.raises(InvalidArgument) as refused:
        jsonpb.parse_into(CryptoKey(), {"versionTemplate": {"algo": 1}})
    text = "Invalid JSON payload received. Unknown name \"algo\" at 'version_template': Cannot find field."
    assert refused.value.message == text
    assert refused.value.details[0].field_violations[0].field == "version_template"


def test_the_same_field_twice() -> None:
    """A field in both spellings at once is refused instead of one of them winning."""
    with pytest.raises(InvalidArgument, match="Duplicate name"):
        jsonpb.parse_into(EncryptRequest(), {"plaintextCrc32c": 1, "plaintext_crc32c": 2})


def test_dumps() -> None:
    """Answers are camelCase, leave defaults out, and write 64-bit numbers as strings."""
    response = EncryptResponse(name="n", ciphertext=b"\xfb\xff", protection_level=1)
    response.ciphertext_crc32c.value = 0
    expected = (
        b'"ciphertext":"+/8="',
        b'"ciphertextCrc32c":"0"',
        b'"protectionLevel":"SOFTWARE"',
        b'"name":"n"',
    )
    text = jsonpb.dumps(response)
    assert all(part in text for part in expected)
    assert b"verified" not in text
    assert b'"protectionLevel":1' in jsonpb.dumps(response, enum_numbers=True)
    assert jsonpb.dumps(EncryptResponse()) == b"{}"
