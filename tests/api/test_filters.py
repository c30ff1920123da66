"""List filters: the documented grammar, on messages and on the JSON of log entries."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud import kms_v1
from google.logging.type import log_severity_pb2
from google.longrunning import operations_pb2
from google.protobuf import struct_pb2, wrappers_pb2

from keystead.api.errors import InvalidArgument
from keystead.api.filters import parse

CryptoKey = kms_v1.CryptoKey.pb()
CryptoKeyVersion = kms_v1.CryptoKeyVersion.pb()
ImportJob = kms_v1.ImportJob.pb()
KeyRing = kms_v1.KeyRing.pb()
EkmConnection = kms_v1.EkmConnection.pb()

SEVERITY = {"severity": log_severity_pb2.DESCRIPTOR.enum_types_by_name["LogSeverity"]}


def crypto_key() -> Any:
    key = CryptoKey(
        name="projects/p/locations/us-east1/keyRings/r/cryptoKeys/Pay-Roll",
        purpose="ENCRYPT_DECRYPT",
        labels={"env": "prod", "cost_center": "7", "k8s.io/app": "db"},
        version_template={"algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION", "protection_level": "HSM"},
        primary={"name": "v1", "state": "ENABLED"},
    )
    key.create_time.FromJsonString("2026-03-01T12:00:00.25Z")
    key.rotation_period.FromJsonString("7776000s")
    return key


ENTRY: dict[str, Any] = {
    "logName": "projects/p1/logs/cloudaudit.googleapis.com%2Factivity",
    "timestamp": "2026-11-21T05:52:26Z",
    "severity": "ERROR",
    "resource": {"type": "cloudkms_cryptokey", "labels": {"key_ring_id": "kr1"}},
    "labels": {"compute.googleapis.com/resource_name": "vm", "tier": "gold"},
    "protoPayload": {
        "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
        "serviceName": "cloudkms.googleapis.com",
        "methodName": "Decrypt",
        "authenticationInfo": {"principalEmail": "alice@example.com"},
        "authorizationInfo": [
            {"permission": "cloudkms.keys.get", "granted": True},
            {"permission": "cloudkms.keys.use", "granted": False},
        ],
        "status": {"code": 7},
        "latency": "1.5s",
        "responseSize": "120",
        "note": None,
    },
}


# --- messages ----------------------------------------------------------------------------------------

MATCHING = [
    "",
    "   ",
    'purpose="ENCRYPT_DECRYPT"',
    "purpose=ENCRYPT_DECRYPT",
    "purpose = 1",
    "purpose:encrypt",
    "purpose!=MAC",
    "-purpose=MAC",
    "NOT purpose = MAC",
    "NOT NOT purpose=ENCRYPT_DECRYPT",
    "- -purpose=ENCRYPT_DECRYPT",
    "purpose=(MAC OR ENCRYPT_DECRYPT)",
    "name:(us-east1 AND pay-roll)",
    'name:("us-east1" -"us-west1")',
    "name:PAY-ROLL",
    "name:'Pay-Roll'",
    r'name =~ "/cryptoKeys/Pay-\w+$"',
    r'name =~ "\\w"',
    r'name !~ "^Pay"',
    "primary.state=ENABLED",
    "primary.state != DESTROYED AND primary.state != DESTROY_SCHEDULED",
    "primary.state=ENABLED purpose=ENCRYPT_DECRYPT",
    "versionTemplate.protectionLevel=HSM",
    "version_template.protection_level >= 2",
    "labels.env=prod",
    "labels.cost_center=7",
    "labels.k8s.io/app=db",
    'labels."k8s.io/app"=db',
    "labels.env:PRO",
    "labels.env:*",
    "labels:env",
    "labels:*",
    "labels.team!=x",
    "-labels.team:*",
    "-labels:team",
    "create_time > 2026-03-01T12:00:00Z",
    'createTime="2026-03-01T13:00:00.250+01:00"',
    "createTime>=2026-03-01",
    "createTime < '2026-04-01T00:00:00Z'",
    "createTime=>2026-03-01T12:00:00.250000000Z",
    'rotationPeriod="7776000.0s"',
    "rotation_period>86400s",
    "rotation_period:*",
    "nextRotationTime!=2026-03-01",
    "-next_rotation_time:*",
    "-next_rotation_time<2030-01-01",
    "importOnly=false",
    "import_only!=TRUE",
    "-import_only:*",
    "primary:*",
    "-primary.import_job:*",
    "payroll OR pay-roll",
    "enabled -disabled",
    "labels.env=prod -- and this is said in passing\n AND purpose=1",
    "purpose=MAC OR purpose=ENCRYPT_DECRYPT labels.env=prod OR labels.env=test",
    'name: "PAY" AND name: "roll"',
    'name: "pay" name: "ROLL"',
    'name != "quickstart"',
    '-name="quickstart"',
    'NOT name = "quickstart"',
    "NOT(purpose=MAC)",
    '-(name:"pay" name:"rolls")',
    "(labels.env=prod)(purpose=1)",
    'labels.env="prod" AND(purpose=1)',
    "labels.'env'=prod",
    'name\n:\t"pay"',
    "primary.state=(ENABLED OR DISABLED)",
    "purpose=ENCRYPT_DECRYPT AND primary.state=DISABLED OR primary.state=ENABLED",
    "-purpose=MAC OR primary.state=DISABLED",
    "createTime>=2026-03-01T02:00:00.25-10:00",
    "createTime:2026-03-01T12:00:00.250Z",
    'createTime<"2026-03-01T12:00:00.250000001Z"',
    "destroyScheduledDuration!=86400s",
    "version_template.algorithm:symmetric",
]


@pytest.mark.parametrize("text", MATCHING)
def test_the_documented_expressions_match(text: str) -> None:
    """Each operator, spelling and kind of field of the documentation finds the key it describes."""
    assert parse(text).matches(crypto_key())


@pytest.mark.parametrize(
    "text",
    [
        "purpose=MAC",
        "name=pay-roll",
        "labels.env=Prod",
        "labels.cost-center=7",
        "labels.costCenter=7",
        "labels:ENV",
        "labels.team=x",
        "primary.import_job:*",
        "createTime>2026-03-02",
        "nextRotationTime>2000-01-01",
        "nextRotationTime<2030-01-01",
        "import_only:*",
        "payroll",
        "purpose=ENCRYPT_DECRYPT primary.state=DISABLED",
        "-(purpose=MAC OR labels.env=prod)",
        "purpose=MAC AND purpose=MAC OR purpose=ENCRYPT_DECRYPT",
        "primary.state=DISABLED OR primary.state=ENABLED AND purpose=MAC",
        "name:Pay*",
        "name=*",
        'labels.env=""',
        'labels.team=""',
        "createTime>2026-03-01T12:00:00.25Z",
        "nextRotationTime=1970-01-01T00:00:00Z",
    ],
)
def test_what_a_key_is_not_does_not_match(text: str) -> None:
    """Comparison is by value and case, absent fields equal nothing, and NOT covers its group."""
    assert not parse(text).matches(crypto_key())


def test_or_binds_tighter_than_and() -> None:
    """`a OR b c` is `(a OR b) AND c`, as documented, not `a OR (b AND c)`."""
    text = "purpose=ENCRYPT_DECRYPT OR purpose=MAC labels.env=test"
    assert not parse(text).matches(crypto_key())
    assert parse("purpose=ENCRYPT_DECRYPT OR (purpose=MAC labels.env=test)").matches(crypto_key())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nope=1", "CryptoKey has no field 'nope'"),
        ("primary.nope=1", "CryptoKeyVersion has no field 'nope'"),
        ("purpose=1 OR nope=1", "nope"),
        ("primary=1", "'primary' is a message"),
        ("labels=1", "'labels' is a map"),
        ("name.x=1", "'name' has no fields"),
        ("purpose=ENCRYPT", "'ENCRYPT' is not a value of CryptoKeyPurpose"),
        ("purpose=mac", "'mac' is not a value"),
        ("createTime>yesterday", "'yesterday' is not a value of field 'create_time'"),
        ("createTime>2026-02-30", "2026-02-30"),
        ("createTime>2026-03-01T25:00:00Z", "T25"),
        ("createTime>2026-03-01T12:00:00+01:60", "+01:60"),
        ("createTime>2026", "'2026' is not a value"),
        ("createTime=~2026", "=~"),
        ("primary.state=enabled", "'enabled' is not a value of CryptoKeyVersionState"),
        ("versionTemplate.algorithm!=AES", "'AES' is not a value of CryptoKeyVersionAlgorithm"),
        ("rotation_period=1h", "'1h' is not a value of field 'rotation_period'"),
        ("importOnly=maybe", "'maybe' is not a value of field 'import_only'"),
    ],
)
def test_a_filter_that_cannot_be_meant_says_which_field(text: str, named: str) -> None:
    """On messages an unknown field, or a value its type cannot have, is named; even with no rows."""
    with pytest.raises(InvalidArgument, match="The filter is invalid") as refused:
        parse(text).check(CryptoKey.DESCRIPTOR)
    assert named in refused.value.message
    with pytest.raises(InvalidArgument):
        parse(text).matches(crypto_key())


def test_every_kind_that_can_be_listed_can_be_filtered() -> None:
    """Key rings, versions and import jobs too, by any field; names of enums need no quotes."""
    version = CryptoKeyVersion(
        name="k/cryptoKeyVersions/2", state="DISABLED", import_failure_reason="Bad key"
    )
    assert parse("state != DESTROYED AND state != DESTROY_SCHEDULED").matches(version)
    assert parse("-state=(ENABLED OR DESTROYED) import_failure_reason:bad").matches(version)
    assert not parse("state = ENABLED").matches(version)
    assert not parse("destroy_time>1970-01-01").matches(version)
    job = ImportJob(import_method="RSA_OAEP_3072_SHA256_AES_256", state="ACTIVE", protection_level="HSM")
    assert parse("importMethod:sha256 state=ACTIVE protectionLevel>SOFTWARE").matches(job)
    assert not parse("state=EXPIRED").matches(job)
    ring = KeyRing(name="projects/p/locations/l/keyRings/Ring")
    assert parse('name:"keyrings/ring" -createTime:*').matches(ring)
    for text in ("state=ENABLED", "labels.a=b"):
        with pytest.raises(InvalidArgument, match="KeyRing has no field"):
            parse(text).check(KeyRing.DESCRIPTOR)


def test_any_element_of_a_repeated_field_may_match() -> None:
    """A repeated field matches by one of its elements, and `!=` is the opposite of `=`."""
    connection = EkmConnection(
        service_resolvers=[{"hostname": "a.example"}, {"hostname": "b.example", "endpoint_filter": "x"}]
    )
    assert parse("serviceResolvers.hostname=b.example").matches(connection)
    assert not parse("serviceResolvers.hostname!=b.example").matches(connection)
    assert parse("service_resolvers:* -service_resolvers.hostname=c.example").matches(connection)
    assert not parse("service_resolvers:*").matches(EkmConnection())


def test_structs_and_anys_are_documents_from_there_on() -> None:
    """Operation metadata is found by its JSON names; of a type nobody knows it is absent."""
    operation = operations_pb2.Operation(name="operations/1", done=True)
    operation.metadata.Pack(struct_pb2.Struct(fields={"verb": struct_pb2.Value(string_value="create")}))
    assert parse("done=true metadata.value.verb=create").matches(operation)
    assert not parse("metadata.value.noun=create").matches(operation)
    operation.metadata.type_url = "type.googleapis.com/nobody.knows.This"
    assert not parse("metadata.value.verb=create").matches(operation)
    assert not parse("create").matches(operation)
    struct = struct_pb2.Value(struct_value={"a": {"b": 3.0}})
    assert parse("struct_value.a.b>2").matches(struct)
    assert parse("number_value=2.5").matches(struct_pb2.Value(number_value=2.5))


def test_wrapped_values_compare_like_bare_ones() -> None:
    """Int64Value and its like are the value they hold, and absent where unset."""
    # EncryptRequest.plaintext_crc32c is an Int64Value; a request is as good a message as any.
    request = kms_v1.EncryptRequest.pb()(name="k", plaintext=b"\xfb\xff")
    assert not parse("plaintextCrc32c>=0").matches(request)
    request.plaintext_crc32c.CopyFrom(wrappers_pb2.Int64Value(value=12))
    assert parse("plaintext_crc32c=12 plaintextCrc32c>11").matches(request)
    assert parse("plaintext='+/8=' plaintext=-_8").matches(request)
    with pytest.raises(InvalidArgument, match="base64"):
        parse("plaintext='?'").matches(request)


# --- documents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'timestamp>="2026-11-21T05:52:25.698311Z" AND resource.type=cloudkms_cryptokey '
        "AND protoPayload.serviceName=cloudkms.googleapis.com",
        'protoPayload.serviceName="cloudkms.googleapis.com"',
        "resource.type=CloudKMS_CryptoKey",
        "resource.labels.key_ring_id=kr1",
        "proto_payload.method_name=decrypt",
        "protoPayload.methodName=(Encrypt OR Decrypt)",
        "protoPayload.authenticationInfo.principalEmail=alice@example.com",
        'protoPayload."@type":AuditLog',
        "labels.compute.googleapis.com/resource_name=vm",
        'labels."compute.googleapis.com/resource_name"=vm',
        "labels:tier",
        "severity>=ERROR",
        "severity=error",
        "severity<CRITICAL",
        "severity=500",
        "severity:err",
        "-severity=(INFO OR WARNING)",
        "protoPayload.authorizationInfo.permission=cloudkms.keys.use",
        "protoPayload.authorizationInfo.granted=false",
        "protoPayload.status.code=7",
        "protoPayload.status.code>6.5",
        "protoPayload.status:*",
        "protoPayload.latency<=1.50s",
        "protoPayload.responseSize>99",
        "protoPayload.responseSize=120",
        "protoPayload.note=null",
        "-protoPayload.note:*",
        "-protoPayload.absent:*",
        "protoPayload.absent!=x",
        r'logName =~ "^projects/[a-z0-9]+/logs/cloudaudit\.googleapis\.com"',
        'log_id("cloudaudit.googleapis.com/activity")',
        '-log_id("other") AND (log_id("cloudaudit.googleapis.com/activity") OR x=y)',
        "protoPayload:alice@EXAMPLE",
        "alice@example.com",
        '"Alice@Example" -bob',
        "(((resource.type=cloudkms_cryptokey)))",
        'timestamp>"2026-11-21T06:52:25+01:00" timestamp<"2026-11-22"',
    ],
)
def test_log_entries_are_found_as_cloud_logging_finds_them(text: str) -> None:
    """What gcloud, the console and the documentation write selects the entry it describes."""
    assert log_filter(text).matches(ENTRY)


@pytest.mark.parametrize(
    "text",
    [
        "nope=1",
        "nope:*",
        "severity>ERROR",
        "protoPayload.note:*",
        "resource.type.deeper=x",
        "resource=x",
        "protoPayload.methodName=~decrypt",
        "protoPayload.status.code=~7",
        "protoPayload.status.code=seven",
        'log_id("other")',
        "bob@example.com",
        "timestamp>2027-01-01T00:00:00Z",
    ],
)
def test_a_field_that_an_entry_lacks_is_no_error(text: str) -> None:
    """Documents have no type: what is not there, or is something else, is simply no match."""
    assert not log_filter(text).matches(ENTRY)


def log_filter(text: str) -> Any:
    def log_id(entry: Any, arguments: tuple[str, ...]) -> bool:
        return str(entry["logName"]).endswith(arguments[0].replace("/", "%2F"))

    return parse(text, enums=SEVERITY, functions={"log_id": log_id})


def test_documents_of_unknown_severity_names_are_refused_at_once() -> None:
    """A misspelt level is INVALID_ARGUMENT when the filter is read, not an empty list."""
    with pytest.raises(InvalidArgument, match="LOUD"):
        log_filter("severity>=LOUD")
