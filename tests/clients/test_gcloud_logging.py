"""The audit trail with the real gcloud."""

from __future__ import annotations

import json

import pytest

from tests.clients.gcloud import Gcloud

pytestmark = pytest.mark.gcloud

WHERE = ("--location=us-central1", "--keyring=kr1")
KEY = "projects/p1/locations/us-central1/keyRings/kr1/cryptoKeys/k1"
ACTIVITY = "projects/p1/logs/cloudaudit.googleapis.com%2Factivity"
DATA_ACCESS = "projects/p1/logs/cloudaudit.googleapis.com%2Fdata_access"
OF_KEYS = 'resource.type="cloudkms_cryptokey"'


@pytest.fixture(scope="module", autouse=True)
def history(gcloud: Gcloud) -> None:
    """A key made, a stranger's denied attempt on it, and its first version disabled."""
    gcloud.ok("kms", "keyrings", "create", "kr1", "--location=us-central1")
    gcloud.ok("kms", "keys", "create", "k1", *WHERE, "--purpose=encryption")
    gcloud.refused("kms", "keys", "versions", "list", "--key=k1", *WHERE, token="user:bob@example.com")
    gcloud.ok("kms", "keys", "versions", "disable", "1", "--key=k1", *WHERE)


def entries(gcloud: Gcloud, text: str, *options: str) -> list[dict[str, object]]:
    """What `logging read` finds, newest first."""
    found: list[dict[str, object]] = json.loads(
        gcloud.ok("logging", "read", text, "--format=json", *options).out
    )
    return found


def test_logs_list_names_the_logs_that_hold_entries(gcloud: Gcloud) -> None:
    """Admin Activity holds what was changed, Data Access the read that was denied."""
    assert gcloud.ok("logging", "logs", "list").out.splitlines() == ["NAME", ACTIVITY, DATA_ACCESS]


def test_read_prints_entries_of_keys_as_yaml(gcloud: Gcloud) -> None:
    """The newest entry about the key says who did what, from which gcloud command."""
    created = "protoPayload.serviceName=cloudkms.googleapis.com AND protoPayload.methodName=CreateCryptoKey"
    text = f"{OF_KEYS} AND {created}"
    lines = gcloud.ok("logging", "read", text, "--limit=5", "--freshness=1d").out.splitlines()

    assert lines[0] == "---"
    for line in (
        f"logName: {ACTIVITY}",
        "  '@type': type.googleapis.com/google.cloud.audit.AuditLog",
        "    principalEmail: owner@example.com",
        "  - granted: true",
        "    permission: cloudkms.cryptoKeys.create",
        "  methodName: CreateCryptoKey",
        "  serviceName: cloudkms.googleapis.com",
    ):
        assert line in lines, line
    assert any("command/gcloud.kms.keys.create" in line for line in lines)


def test_read_as_json_pages_newest_first(gcloud: Gcloud) -> None:
    """`--limit` takes the newest entries, and `--order=asc` turns the list around."""
    newest = entries(gcloud, OF_KEYS, "--limit=1")
    everything = entries(gcloud, OF_KEYS)
    oldest_first = entries(gcloud, OF_KEYS, "--order=asc")

    assert len(newest) == 1
    assert newest[0] == everything[0]
    times = [str(entry["timestamp"]) for entry in everything]
    assert times == sorted(times, reverse=True)
    assert oldest_first == everything[::-1]


def test_a_denied_call_is_on_record(gcloud: Gcloud) -> None:
    """The stranger's attempt was recorded with his name, the permission, and that it was not granted."""
    found = entries(gcloud, 'protoPayload.authenticationInfo.principalEmail="bob@example.com"')

    assert [entry["logName"] for entry in found] == [DATA_ACCESS]
    payload = found[0]["protoPayload"]
    assert isinstance(payload, dict)
    assert payload["methodName"] == "ListCryptoKeyVersions"
    assert payload["status"]["code"] == 7
    (info,) = payload["authorizationInfo"]
    assert info["permission"] == "cloudkms.cryptoKeyVersions.list"
    assert not info.get("granted", False)


def test_a_filter_that_matches_nothing_prints_an_empty_list(gcloud: Gcloud) -> None:
    """No entry is an empty answer and no error; a filter that cannot be read is INVALID_ARGUMENT."""
    assert entries(gcloud, 'resource.type="nothing"') == []
    assert "INVALID_ARGUMENT" in gcloud.refused("logging", "read", "resource.type=(")


def test_a_stranger_may_not_read_the_log(gcloud: Gcloud) -> None:
    """Reading a project's log takes logging.logEntries.list on it."""
    text = gcloud.refused("logging", "read", OF_KEYS, token="user:bob@example.com")

    assert "Permission 'logging.logEntries.list' denied on resource 'projects/p1'" in text
