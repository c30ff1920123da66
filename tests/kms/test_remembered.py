"""A hot call that passed is remembered for the store's epoch, and never longer than it would pass again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.iam.v1 import policy_pb2

from keystead.api.errors import InvalidArgument, PermissionDenied
from keystead.iam.authorizer import Authorizer
from keystead.iam.policies import write_policy
from keystead.kms.messages import DecryptRequest, EncryptRequest
from tests.platform import CRYPTER, LOCATION, Platform

RING = f"{LOCATION}/keyRings/ring"
KEY = f"{RING}/cryptoKeys/key"
USER = "user:service@example.com"
OTHER = "user:other@example.com"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform with one key."""
    made = Platform(tmp_path)
    made.key()
    yield made
    made.close()


@pytest.fixture
def decisions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The principals that were decided on, in order."""
    decided: list[str] = []
    allowed = Authorizer.allowed

    def counted(self: Authorizer, principal: str, *rest: Any, **more: Any) -> bool:
        decided.append(principal)
        return allowed(self, principal, *rest, **more)

    monkeypatch.setattr(Authorizer, "allowed", counted)
    return decided


def encrypt(platform: Platform, principal: str = USER) -> Any:
    return platform.dispatch("Encrypt", EncryptRequest(name=KEY, plaintext=b"plain"), principal)


def warm(platform: Platform, times: int = 4) -> None:
    for _ in range(times):
        encrypt(platform)


def test_a_call_that_passed_is_not_decided_again(platform: Platform, decisions: list[str]) -> None:
    """While nothing changes, the same call costs no further decision."""
    platform.grant(KEY, USER, CRYPTER)
    warm(platform)
    decisions.clear()
    warm(platform)
    assert decisions == []


@pytest.mark.parametrize("resource", [KEY, RING, "projects/p1"])
def test_a_revoked_grant_is_seen_by_the_next_call(platform: Platform, resource: str) -> None:
    """A remembered call is refused as soon as the grant it rested on is gone, at whatever level it was."""
    platform.grant(resource, USER, CRYPTER)
    warm(platform)
    platform.revoke(resource, USER, CRYPTER)
    with pytest.raises(PermissionDenied):
        encrypt(platform)


def test_another_principal_is_decided_on_its_own(platform: Platform) -> None:
    """What was remembered of one caller opens nothing to another."""
    platform.grant(KEY, USER, CRYPTER)
    warm(platform)
    with pytest.raises(PermissionDenied):
        encrypt(platform, OTHER)


def test_another_permission_is_decided_on_its_own(platform: Platform) -> None:
    """What was remembered of Encrypt does not allow Decrypt."""
    platform.grant(KEY, USER, "roles/cloudkms.cryptoKeyEncrypter")
    ciphertext = encrypt(platform).ciphertext
    warm(platform)
    with pytest.raises(PermissionDenied):
        platform.dispatch("Decrypt", DecryptRequest(name=KEY, ciphertext=ciphertext), USER)


def test_a_grant_with_a_condition_is_decided_every_time(platform: Platform) -> None:
    """A condition depends on the time, which moves without any commit: it ends the access when it ends."""
    end = platform.clock.now() + dt.timedelta(minutes=5)
    policy = policy_pb2.Policy(version=3)
    binding = policy.bindings.add(role=CRYPTER, members=[USER])
    binding.condition.expression = f"request.time < timestamp('{end:%Y-%m-%dT%H:%M:%SZ}')"
    binding.condition.title = "for five minutes"
    with platform.store.write() as tx:
        write_policy(tx, KEY, policy, (), platform.policy_events)
    warm(platform)
    platform.clock.advance(dt.timedelta(minutes=6))
    with pytest.raises(PermissionDenied):
        encrypt(platform)


def test_recording_that_begins_is_seen_by_the_next_call(platform: Platform) -> None:
    """A remembered call is recorded from the moment an audit config asks for it."""
    platform.grant(KEY, USER, CRYPTER)
    warm(platform)
    platform.record_data_access()
    before = len(platform.audit_bodies())
    warm(platform, 3)
    assert len(platform.audit_bodies()) == before + 3


def test_the_request_of_a_remembered_call_is_checked(platform: Platform) -> None:
    """Fields are checked on every call, remembered or not."""
    platform.grant(KEY, USER, CRYPTER)
    ciphertext = encrypt(platform).ciphertext
    for _ in range(3):
        platform.dispatch("Decrypt", DecryptRequest(name=KEY, ciphertext=ciphertext), USER)
    with pytest.raises(InvalidArgument, match="ciphertext is required"):
        platform.dispatch("Decrypt", DecryptRequest(name=KEY), USER)
