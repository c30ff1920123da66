"""The Logging API: entries as `gcloud logging read` asks for them, for those who may see them, in pages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from audit_world import AUDITOR, KEY, KMS, LOGS, MALLORY, EncryptRequest, World
from google.cloud.logging_v2 import entries as official
from hypothesis import given
from hypothesis import strategies as st

from keystead.api import jsonpb
from keystead.api.errors import InvalidArgument, PermissionDenied
from keystead.api.method import LogKind
from keystead.api.transcoding import Router, bind
from keystead.audit import logging_api, messages
from keystead.audit.log_filters import bounds_of, parse_filter
from keystead.store import Store

ACTIVITY = "projects/p1/logs/cloudaudit.googleapis.com%2Factivity"
DATA_ACCESS = "projects/p1/logs/cloudaudit.googleapis.com%2Fdata_access"
# As gcloud sends it for `resource.type=... AND protoPayload.serviceName=... --freshness=1d`.
GCLOUD = (
    'timestamp>="2026-02-28T05:52:25.698311Z" AND resource.type=cloudkms_cryptokey '
    "AND protoPayload.serviceName=cloudkms.googleapis.com"
)
PUBLIC = "user:viewer@example.com"


@pytest.fixture
def world(sqlite_store: Store) -> World:
    """Four entries, a second apart from 12:00:00: two rings made, one Encrypt, one denied."""
    made = World(sqlite_store)
    made.configs.kinds = {LogKind.DATA_READ}
    made.create("r1")
    made.encrypt()
    made.create("r2")
    with pytest.raises(PermissionDenied):
        made.encrypt(principal=MALLORY)
    made.configs.kinds = set()
    made.grants.give(PUBLIC, "projects/p1", "logging.logEntries.list", "logging.logs.list")
    return made


def numbers(response: Any) -> list[int]:
    """Which of the world's entries were answered."""
    return [int(entry.insert_id, 16) for entry in response.entries]


def over_rest(world: World, path: str, body: dict[str, Any] | None = None, query: bytes = b"") -> Any:
    """A call as the front end carries it: HTTP binding, JSON in, JSON out."""
    match = Router(world.registry).find("logging", "POST" if body is not None else "GET", path)
    assert match is not None
    assert match.route.method is not None
    request, _ = bind(match, query, json.dumps(body).encode() if body is not None else b"")
    answer = world.run(match.route.method.spec.rpc, request, AUDITOR)
    return json.loads(jsonpb.dumps(answer))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [1, 2, 3, 4]),
        (GCLOUD, [2, 4]),
        ('timestamp>="2026-03-01T12:00:02Z"', [3, 4]),
        ('timestamp>"2026-03-01T12:00:02Z"', [4]),
        ('timestamp<="2026-03-01T12:00:01Z"', [1, 2]),
        ('timestamp<"2026-03-01T13:00:01+01:00"', [1]),
        ('timestamp="2026-03-01T12:00:01Z"', [2]),
        ('timestamp>="2026-03-01T12:00:03Z" timestamp<"2026-03-01T12:00:03Z"', []),
        ('timestamp>="2026-03-01T12:00:03Z" OR timestamp<"2026-03-01T12:00:01Z"', [1, 4]),
        ('resource.type="cloudkms_cryptokey"', [2, 4]),
        (f'logName="{ACTIVITY}"', [1, 3]),
        (f'log_name = "{DATA_ACCESS}"', [2, 4]),
        ("logName:activity", [1, 3]),
        ("NOT logName:activity", [2, 4]),
        (f'logName=("{ACTIVITY}" OR "projects/p2/logs/x")', [1, 3]),
        ('log_id("cloudaudit.googleapis.com/data_access")', [2, 4]),
        ('-log_id("cloudaudit.googleapis.com/data_access") severity>=NOTICE', [1, 3]),
        ("severity>=ERROR", [4]),
        ("severity=INFO", [2]),
        ("protoPayload.methodName=(Encrypt OR Decrypt)", [2, 4]),
        ("protoPayload.status.code=7", [4]),
        ('protoPayload.authenticationInfo.principalEmail="mallory@example.com"', [4]),
        ("NOT protoPayload.authorizationInfo.granted=true", [4]),
        (f'protoPayload.resourceName="{KEY}"', [2, 4]),
        ('protoPayload.request.keyRingId=~"^r[12]$"', [1, 3]),
        ('protoPayload."@type"="type.googleapis.com/google.cloud.audit.AuditLog"', [1, 2, 3, 4]),
        ("mallory", [4]),
        ('resource.labels.crypto_key_id="k"', [2, 4]),
    ],
)  # fmt: skip
def test_filters(world: World, text: str, expected: list[int]) -> None:
    """Filters as gcloud and people write them choose the entries that they describe."""
    assert numbers(world.read(filter=text)) == expected


def test_gcloud_reads(world: World) -> None:
    """The request of `gcloud logging read` is answered newest first, in JSON that clients can read."""
    body = {
        "filter": 'timestamp>="2026-02-28T05:52:27.738630Z" AND resource.type="cloudkms_cryptokey"',
        "orderBy": "timestamp desc",
        "pageSize": 1,
        "resourceNames": ["projects/p1"],
    }
    answer = over_rest(world, "/v2/entries:list", body, b"alt=json")
    (entry,) = answer["entries"]
    assert entry["protoPayload"]["@type"] == "type.googleapis.com/google.cloud.audit.AuditLog"
    assert entry["protoPayload"]["authenticationInfo"] == {"principalEmail": "mallory@example.com"}
    assert (entry["logName"], entry["severity"]) == (DATA_ACCESS, "ERROR")
    parsed = official.ProtobufEntry.from_api_repr(entry, _NoClient(), loggers={})
    assert parsed.payload["methodName"] == "Encrypt"
    assert parsed.timestamp.isoformat() == "2026-03-01T12:00:03+00:00"
    following = over_rest(world, "/v2/entries:list", {**body, "pageToken": answer["nextPageToken"]})
    assert [each["insertId"] for each in following["entries"]] == ["0000000000000002"]


class _NoClient:
    """All that an entry of the official library asks of a client when it is parsed."""

    project = "p1"

    def logger(self, *_: object, **__: object) -> None:
        return None


def test_gcloud_lists_logs(world: World) -> None:
    """`gcloud logging logs list` names the logs that hold entries, of projects named by number too."""
    assert over_rest(world, "/v2/projects/p1/logs") == {"logNames": [ACTIVITY, DATA_ACCESS]}
    assert over_rest(world, "/v2/projects/123/logs") == {"logNames": [ACTIVITY, DATA_ACCESS]}


def test_the_listed_logs_are_those_one_may_read(world: World) -> None:
    """Without the permission for private entries, the Data Access log is not even named."""
    answer = world.run(LOGS, messages.ListLogsRequest(parent="projects/p1"), PUBLIC)
    assert list(answer.log_names) == [ACTIVITY]


@pytest.mark.parametrize("text", ["", "severity>=INFO", f'logName="{DATA_ACCESS}"', "NOT severity=NOTICE"])
@pytest.mark.parametrize("order", ["", "timestamp desc"])
def test_private_entries_are_hidden(world: World, text: str, order: str) -> None:
    """No filter or order shows an entry of the Data Access log to who may not read private entries."""
    answer = world.read(PUBLIC, filter=text, order_by=order)
    assert all(entry.log_name == ACTIVITY for entry in answer.entries)
    assert answer.next_page_token == ""
    if not text:
        assert sorted(numbers(answer)) == [1, 3]


def test_a_grant_counts_only_where_it_was_given(world: World) -> None:
    """Private entries are shown of those parents alone on which they are granted."""
    world.grants.give(AUDITOR, "projects/p2", "logging.logEntries.list")
    for project in ("p1", "p2"):
        with pytest.raises(PermissionDenied):
            world.run(f"{KMS}/Encrypt", EncryptRequest(name=KEY.replace("p1", project)), MALLORY)
    answer = world.read(resource_names=["projects/p1", "projects/p2"])
    assert numbers(answer) == [1, 2, 3, 4, 5]


def test_every_named_resource_is_authorized(world: World) -> None:
    """One resource without a grant denies the whole call, whatever the others."""
    with pytest.raises(PermissionDenied) as denied:
        world.read(resource_names=["projects/p1", "projects/p2"])
    assert "'logging.logEntries.list' denied on resource 'projects/p2'" in denied.value.message
    with pytest.raises(PermissionDenied):
        world.read(MALLORY, filter="no (valid filter")


def test_other_projects_are_not_shown(world: World) -> None:
    """Entries of a project that was not named are not in the answer, though a filter asks for them."""
    world.grants.give(AUDITOR, "projects/p2", "logging.logEntries.list", "logging.privateLogEntries.list")
    answer = world.read(resource_names=["projects/p2"], filter=f'logName="{ACTIVITY}"')
    assert numbers(answer) == []


def test_a_project_number_names_the_project(world: World) -> None:
    """A resource named by project number is the project, and named twice it counts once."""
    assert numbers(world.read(resource_names=["projects/123", "projects/p1"])) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "fields",
    [
        {"resource_names": []},
        {"resource_names": ["projects"]},
        {"resource_names": ["projects/p1/locations/l/buckets/b/views/v"]},
        {"resource_names": ["projects/p1"] * 101},
        {"filter": 'severity="NO_SUCH"'},
        {"filter": "log_id()"},
        {"filter": "sample(insertId, 0.5)"},
        {"filter": "("},
        {"order_by": "severity"},
        {"order_by": "timestamp, insert_id"},
        {"page_size": -1},
        {"page_token": "nonsense"},
    ],
    ids=str,
)
def test_bad_requests(world: World, fields: dict[str, Any]) -> None:
    """What is not a request for entries is refused as an invalid argument."""
    with pytest.raises(InvalidArgument):
        world.read(**fields)


def test_a_token_belongs_to_its_list(world: World) -> None:
    """A page token goes on with the list it came from, and with no other."""
    token = world.read(page_size=1).next_page_token
    assert numbers(world.read(page_size=2, page_token=token)) == [2, 3]
    for other in ({"order_by": "timestamp desc"}, {"filter": "severity=INFO"}):
        with pytest.raises(InvalidArgument):
            world.read(page_token=token, **other)


@pytest.mark.parametrize("order", ["timestamp", "timestamp desc"])
@pytest.mark.parametrize("text", ["", "protoPayload.methodName=CreateKeyRing"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pages_make_the_whole(store: Store, order: str, text: str, size: int) -> None:
    """Pages of any size are together the whole list, in order, once each, also while it grows."""
    world = World(store)
    for number in range(7):
        world.create(f"r{number}")
    whole = [1, 2, 3, 4, 5, 6, 7] if order == "timestamp" else [7, 6, 5, 4, 3, 2, 1]
    found: list[int] = []
    token = ""
    while True:
        page = world.read(filter=text, order_by=order, page_size=size, page_token=token)
        assert len(page.entries) <= size
        found += numbers(page)
        token = page.next_page_token
        if not token:
            break
        if order != "timestamp" and size == 3:
            world.create(f"new{len(found)}")
    assert found == whole


def test_a_page_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page ends at its bound of bytes, and a search at its bound of rows, each with a token to go on."""
    monkeypatch.setattr(logging_api, "_MAX_PAGE_BYTES", 10)
    page = world.read()
    assert numbers(page) == [1]
    assert numbers(world.read(page_token=page.next_page_token)) == [2]
    monkeypatch.setattr(logging_api, "_BATCH", 2)
    monkeypatch.setattr(logging_api, "_MAX_SCAN", 2)
    page = world.read(filter="severity=ERROR")
    assert numbers(page) == []
    assert numbers(world.read(filter="severity=ERROR", page_token=page.next_page_token)) == [4]


def test_reading_is_recorded_without_what_was_read(world: World) -> None:
    """A recorded read of the log says who read with which filter, and not the entries again."""
    world.configs.kinds = {LogKind.DATA_READ}
    world.read(filter="severity=INFO")
    *_, (entry, log) = world.entries()
    assert log.method_name == "google.logging.v2.LoggingServiceV2.ListLogEntries"
    assert log.resource_name == "projects/p1"
    assert log.request["filter"] == "severity=INFO"
    assert list(log.response.fields) == ["@type"]
    assert entry.log_name == DATA_ACCESS


def test_bounds_reach_the_store(world: World) -> None:
    """Times and log names of a filter bound the rows that are read at all."""
    bounds = bounds_of(
        f'timestamp>="1970-01-01T00:00:01Z" timestamp<"1970-01-01T00:00:02Z" logName="{ACTIVITY}"',
        [ACTIVITY, DATA_ACCESS],
    )
    assert bounds.log_names == (ACTIVITY,)
    assert (bounds.since_us, bounds.until_us) == (1_000_000, 2_000_001)
    assert bounds_of("logName=x", [ACTIVITY]).empty


TERMS = st.sampled_from(
    [
        'timestamp>="2026-03-01T12:00:01Z"',
        'timestamp<"2026-03-01T12:00:02.0000005Z"',
        'timestamp="2026-03-01T12:00:02Z"',
        'timestamp!="2026-03-01T12:00:02Z"',
        f'logName="{ACTIVITY.upper()}"',
        "logName:data_access",
        'logName=~"activity$"',
        'log_id("cloudaudit.googleapis.com/activity")',
        "severity>=NOTICE",
        "logName:*",
        "nothing",
    ]
)
FILTERS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        inner.map(lambda text: f"NOT ({text})"),
        st.tuples(inner, inner).map(lambda two: f"(({two[0]}) OR ({two[1]}))"),
        st.tuples(inner, inner).map(lambda two: f"(({two[0]}) AND ({two[1]}))"),
    ),
    max_leaves=6,
)


@given(
    FILTERS,
    st.sampled_from([ACTIVITY, DATA_ACCESS]),
    st.integers(0, 4_000_000),
    st.sampled_from(["INFO", "NOTICE", "ERROR"]),
)
def test_bounds_never_lose_a_match(text: str, name: str, micros: int, severity: str) -> None:
    """An entry that a filter matches is always within the bounds that are taken from the filter."""
    start = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z
    entry = messages.LogEntry(log_name=name)
    entry.timestamp.FromMicroseconds(start + micros)
    document = {"logName": name, "timestamp": entry.timestamp.ToJsonString(), "severity": severity}
    bounds = bounds_of(text, [ACTIVITY, DATA_ACCESS])
    if parse_filter(text).matches(document):
        assert name in bounds.log_names
        assert bounds.since_us is None or bounds.since_us <= start + micros
        assert bounds.until_us is None or start + micros < bounds.until_us
