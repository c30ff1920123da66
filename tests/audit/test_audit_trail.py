"""The trail: which calls are recorded, what a record says, and that it stands or falls with its mutation."""

from __future__ import annotations

import base64

import pytest
from audit_world import ALICE, KEY, KMS, LOCATION, MALLORY, World
from google.cloud.audit import audit_log_pb2
from google.cloud.kms_v1 import types
from google.iam.v1 import iam_policy_pb2
from google.logging.type import log_severity_pb2
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2

from keystead.api.call import Call
from keystead.api.dispatch import AuditEvent
from keystead.api.errors import AlreadyExists, FailedPrecondition, PermissionDenied
from keystead.api.method import LogKind, Service, method, methods_of
from keystead.audit.entries import NOWHERE, entry_of, parent_of
from keystead.audit.verification import verify_store
from keystead.store import Store

RING = f"{LOCATION}/keyRings/r1"


@pytest.fixture
def world(sqlite_store: Store) -> World:
    return World(sqlite_store)


def test_a_write_is_recorded(store: Store) -> None:
    """A successful administrative write leaves one entry in the Admin Activity log, on both engines."""
    world = World(store)
    world.create("r1", caller_ip="192.0.2.1", user_agent="gcloud/1")
    ((entry, log),) = world.entries()
    assert entry.log_name == "projects/p1/logs/cloudaudit.googleapis.com%2Factivity"
    assert entry.severity == log_severity_pb2.LogSeverity.Value("NOTICE")
    assert entry.timestamp.ToJsonString() == "2026-03-01T12:00:00Z"
    assert json_format.MessageToDict(log) == {
        "serviceName": "cloudkms.googleapis.com",
        "methodName": "CreateKeyRing",
        "resourceName": RING,
        "resourceLocation": {"currentLocations": ["us-central1"]},
        "authenticationInfo": {"principalEmail": "alice@example.com"},
        "authorizationInfo": [
            {
                "resource": LOCATION,
                "permission": "cloudkms.keyRings.create",
                "granted": True,
                "resourceAttributes": {"service": "cloudkms.googleapis.com", "name": LOCATION},
                "permissionType": "ADMIN_WRITE",
            }
        ],
        "requestMetadata": {
            "callerIp": "192.0.2.1",
            "callerSuppliedUserAgent": "gcloud/1",
            "requestAttributes": {"time": "2026-03-01T12:00:00Z"},
            "destinationAttributes": {},
        },
        "request": {
            "@type": "type.googleapis.com/google.cloud.kms.v1.CreateKeyRingRequest",
            "parent": LOCATION,
            "keyRingId": "r1",
        },
        "response": {"@type": "type.googleapis.com/google.cloud.kms.v1.KeyRing", "name": RING},
        "metadata": {"note": "made"},
    }


def test_a_denial_is_recorded_and_changes_nothing_else(world: World) -> None:
    """A denied call leaves a record with code 7 and granted=false, and the store else as it was."""
    with pytest.raises(PermissionDenied):
        world.create("r1", MALLORY)
    ((entry, log),) = world.entries()
    assert log.status.code == 7
    assert log.status.message == (
        f"Permission 'cloudkms.keyRings.create' denied on resource '{LOCATION}' (or it may not exist)."
    )
    assert [info.granted for info in log.authorization_info] == [False]
    assert log.authentication_info.principal_email == "mallory@example.com"
    assert entry.severity == log_severity_pb2.LogSeverity.Value("ERROR")
    assert not log.HasField("response")
    with world.store.read() as tx:
        assert tx.resources.list("KeyRing", LOCATION) == []


def test_a_denied_read_is_recorded_though_nobody_asked(world: World) -> None:
    """Denials of data access are recorded even where its successes are not."""
    world.encrypt()
    assert world.entries() == []
    with pytest.raises(PermissionDenied):
        world.encrypt(principal=MALLORY)
    ((entry, log),) = world.entries()
    assert entry.log_name.endswith("%2Fdata_access")
    assert (log.status.code, log.authorization_info[0].permission) == (
        7,
        "cloudkms.cryptoKeyVersions.useToEncrypt",
    )


def test_data_access_is_recorded_only_when_asked_for(world: World) -> None:
    """A read is recorded where an audit config asks for its kind, and not where for another."""
    world.configs.kinds = {LogKind.ADMIN_READ}
    world.encrypt()
    assert world.entries() == []
    world.configs.kinds = {LogKind.DATA_READ}
    world.encrypt()
    ((entry, log),) = world.entries()
    assert log.resource_name == KEY
    assert entry.severity == log_severity_pb2.LogSeverity.Value("INFO")
    assert world.configs.asked[-1] == ("cloudkms.googleapis.com", LogKind.DATA_READ, KEY, ALICE, False)


def test_what_is_never_logged_is_not_asked_for(world: World) -> None:
    """A method without an audit class is not recorded, whatever the audit configs say."""
    world.configs.kinds = set(LogKind)
    world.run(f"{KMS}/GenerateRandomBytes", types.GenerateRandomBytesRequest.pb()(location=LOCATION))
    assert (world.entries(), world.configs.asked) == ([], [])


def test_administrative_writes_cannot_be_switched_off(world: World) -> None:
    """No audit config is even asked about an administrative write."""
    create = world.method(f"{KMS}/CreateKeyRing")
    assert world.trail.wanted(create, Call(ALICE), inline=True)
    assert world.configs.asked == []


def test_key_inventory_follows_the_config_of_cloud_kms(world: World) -> None:
    """The audit config of Cloud KMS decides over the methods of key inventory."""

    class Inventory:
        service = Service("kmsinventory.googleapis.com", "KMS Inventory API")

        @method("google.x.I/GetIt", permission=None, on="resource", log=LogKind.ADMIN_READ)
        def get(
            self, call: Call, request: iam_policy_pb2.GetIamPolicyRequest
        ) -> iam_policy_pb2.GetIamPolicyRequest:
            return request

    world.trail.wanted(methods_of(Inventory())[0], Call(ALICE, resource="projects/p1"), inline=True)
    assert world.configs.asked == [
        ("cloudkms.googleapis.com", LogKind.ADMIN_READ, "projects/p1", ALICE, True)
    ]


def test_a_rolled_back_mutation_leaves_no_success(store: Store) -> None:
    """What a failed call wrote is undone, and the one record there is tells of the failure."""
    world = World(store)
    with pytest.raises(FailedPrecondition):
        world.create("broken")
    ((_, log),) = world.entries()
    assert (log.status.code, log.status.message) == (9, "The ring is broken.")
    assert log.authorization_info[0].granted
    with world.store.read() as tx:
        assert tx.resources.get(f"{LOCATION}/keyRings/broken") is None


def test_a_record_goes_with_its_transaction(store: Store) -> None:
    """A record appended in a transaction that is rolled back is gone, and leaves no gap."""
    world = World(store)
    create = world.method(f"{KMS}/CreateKeyRing")
    call = Call(ALICE, resource=LOCATION, now=world.clock.now())
    event = AuditEvent(create, call, create.request_type(), None, None, granted=True, permission="p")
    with pytest.raises(ZeroDivisionError), world.store.write() as tx:
        world.trail.record(tx, event)
        raise ZeroDivisionError
    assert world.rows() == []
    world.create("r1")
    assert [row.seq for row in world.rows()] == [1]
    verify_store(store)


def test_a_failing_record_fails_the_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutation whose record cannot be written does not happen."""

    def refuse(*_: object) -> None:
        raise FailedPrecondition("no record can be written")

    monkeypatch.setattr(world.trail, "record", refuse)
    with pytest.raises(FailedPrecondition):
        world.create("r1")
    with world.store.read() as tx:
        assert tx.resources.list("KeyRing", LOCATION) == []


def test_failures_are_recorded_in_order(world: World) -> None:
    """Successes and failures stand in the log in the order they were committed, chained."""
    world.create("r1")
    with pytest.raises(AlreadyExists):
        world.create("r1")
    world.create("r2")
    assert [log.status.code for _, log in world.entries()] == [0, 6, 0]
    rows = world.rows()
    assert [row.previous for row in rows[1:]] == [row.digest for row in rows[:-1]]
    assert [row.insert_id for row in rows] == sorted({row.insert_id for row in rows})
    assert verify_store(world.store).head_seq == 3


def test_no_data_gets_into_a_row(world: World) -> None:
    """Neither plaintext nor ciphertext of a recorded Encrypt is anywhere in the row."""
    canary = b"canary-5d0b1f6e88"
    world.configs.kinds = {LogKind.DATA_READ}
    world.encrypt(canary)
    with pytest.raises(PermissionDenied):
        world.encrypt(canary, MALLORY)
    for row in world.rows():
        for text in (canary, canary[::-1]):
            assert text not in row.body
            assert base64.b64encode(text)[:16] not in row.body


def test_an_operation_is_named_in_the_entry(world: World) -> None:
    """The entry of a call that started a long-running operation names it as its first."""
    request = types.CreateKeyHandleRequest.pb()(parent=LOCATION)
    world.run("google.cloud.kms.v1.Autokey/CreateKeyHandle", request)
    ((entry, log),) = world.entries()
    assert (entry.operation.id, entry.operation.first, entry.operation.last) == (
        f"{LOCATION}/operations/o1",
        True,
        False,
    )
    assert log.resource_name == LOCATION


@pytest.mark.parametrize(
    ("resource", "kind", "labels"),
    [
        (LOCATION, "audited_resource", {"service": "cloudkms.googleapis.com", "method": "Encrypt"}),
        (f"{LOCATION}/keyRings/r", "cloudkms_keyring", {"key_ring_id": "r"}),
        (KEY, "cloudkms_cryptokey", {"key_ring_id": "r", "crypto_key_id": "k"}),
        (
            f"{KEY}/cryptoKeyVersions/3",
            "cloudkms_cryptokeyversion",
            {"key_ring_id": "r", "crypto_key_id": "k", "crypto_key_version_id": "3"},
        ),
    ],
)
def test_the_monitored_resource(world: World, resource: str, kind: str, labels: dict[str, str]) -> None:
    """Entries about rings, keys and versions carry the resource types that filters ask for."""
    entry = entry_of(_event(world, resource), insert_id="i", recorded=world.clock.now())
    expected = {"project_id": "p1", **labels}
    if kind != "audited_resource":
        expected["location"] = "us-central1"
    assert (entry.resource.type, dict(entry.resource.labels)) == (kind, expected)


@pytest.mark.parametrize(
    ("resource", "parent"),
    [
        (KEY, "projects/p1"),
        ("organizations/999", "organizations/999"),
        ("organizations/999/policies/x", "organizations/999"),
        ("projects/-/serviceAccounts/sa@p7.iam.gserviceaccount.com", "projects/p7"),
        ("projects/-/serviceAccounts/sa@p7.iam.gserviceaccount.com/keys/k", "projects/p7"),
        ("", NOWHERE),
        ("projects/", NOWHERE),
        ("projects/a\x00b/x", NOWHERE),
        ("things/p1", NOWHERE),
    ],
)
def test_the_parent_of_an_entry(resource: str, parent: str) -> None:
    """An entry stands in the log of the project or organization of its resource, or of none."""
    assert parent_of(resource) == parent


@pytest.mark.parametrize(
    ("principal", "email", "subject"),
    [
        ("user:a@example.com", "a@example.com", ""),
        (
            "serviceAccount:sa@p.iam.gserviceaccount.com",
            "sa@p.iam.gserviceaccount.com",
            "serviceAccount:sa@p.iam.gserviceaccount.com",
        ),
        ("principal://iam.example/subject/s", "", "principal://iam.example/subject/s"),
    ],
)
def test_who_called(world: World, principal: str, email: str, subject: str) -> None:
    """People are named by address, service accounts by address and subject, others by subject."""
    event = _event(world, KEY, principal)
    info = _log(world, event).authentication_info
    assert (info.principal_email, info.principal_subject) == (email, subject)


def test_odd_headers_are_recorded(world: World) -> None:
    """A user agent of any bytes or length cannot keep a call from being recorded."""
    world.create("r1", user_agent="\udcff" * 10_000)
    ((_, log),) = world.entries()
    assert 0 < len(log.request_metadata.caller_supplied_user_agent) <= 4096


def test_only_readable_error_details_are_recorded(world: World) -> None:
    """Details of an error are recorded unless their type is unknown, which no reader could show."""
    known = error_details_pb2.ErrorInfo(reason="R", domain="d")
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.knows.This", value=b"x")
    event = _event(world, KEY, error=FailedPrecondition("no", known, unknown))
    log = _log(world, event)
    assert [detail.TypeName() for detail in log.status.details] == ["google.rpc.ErrorInfo"]
    assert json_format.MessageToDict(log)["status"]["details"][0]["reason"] == "R"


def _event(
    world: World, resource: str, principal: str = ALICE, error: FailedPrecondition | None = None
) -> AuditEvent:
    encrypt = world.method(f"{KMS}/Encrypt")
    call = Call(principal, resource=resource, now=world.clock.now())
    request = encrypt.request_type(name=resource)
    response = None if error else encrypt.response_type()
    return AuditEvent(encrypt, call, request, response, error, granted=True, permission="p")


def _log(world: World, event: AuditEvent) -> audit_log_pb2.AuditLog:
    entry = entry_of(event, insert_id="i", recorded=world.clock.now())
    log = audit_log_pb2.AuditLog()
    assert entry.proto_payload.Unpack(log)
    return log
