"""The guard: at once where it is told, in time where it is not, once per change to the service's rules."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable

import pytest

from keystead.api.errors import Unavailable
from keystead.cmek.answers import Answer, KeyUnavailableError
from keystead.cmek.guard import KeyGuard
from keystead.kms.messages import UpdateCryptoKeyRequest
from tests.cmek.scene import FIRST, KEY, NEVER, OTHER, RESOURCE, Scene
from tests.platform import CRYPTER

RING = KEY.rsplit("/", 2)[0]


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class Recorder:
    """A rule that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Answer]] = []
        self.fail_next = False

    def __call__(self, resource: str, answer: Answer) -> None:
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("not now")
        self.told.append((resource, answer))


@pytest.mark.parametrize("change", ["disable", "destroy", "revoke"])
def test_when_the_call_returns_no_lease_is_used_again(scene: Scene, change: str) -> None:
    """Without the guard's thread running: telling alone puts every lease in doubt, in the caller's thread."""
    guard = KeyGuard([scene.keychain])
    scene.platform.key_events.subscribe(guard.key_changed)
    scene.platform.policy_events.subscribe(guard.policy_changed)
    lease = scene.keychain.lease(RESOURCE)
    kek = lease.key()
    if change == "disable":
        scene.platform.set_state(FIRST, "DISABLED")
    elif change == "destroy":
        scene.platform.destroy(FIRST)
    else:
        scene.platform.revoke(KEY, scene.agent, CRYPTER)
    with pytest.raises(KeyUnavailableError) as refused:
        lease.key()
    assert refused.value.answer is (Answer.DENIED if change == "revoke" else Answer.DISABLED)
    assert kek.wiped


@pytest.mark.parametrize("level", ["key", "ring", "project", "organization"])
def test_a_grant_taken_away_anywhere_above_ends_the_lease(scene: Scene, level: str) -> None:
    """The policies of key, ring, project and organization count alike; given back, all is readable again."""
    resource = {
        "key": KEY, "ring": RING, "project": "projects/p1", "organization": scene.platform.organization
    }[level]  # fmt: skip
    scene.platform.grant(resource, scene.agent, CRYPTER)
    if level != "key":
        scene.platform.revoke(KEY, scene.agent, CRYPTER)
    rule = Recorder()
    with scene.guarded(rule) as guard:
        lease = scene.keychain.lease(RESOURCE)
        scene.platform.revoke(resource, scene.agent, CRYPTER)
        with pytest.raises(KeyUnavailableError):
            lease.key()
        assert guard.settle(10)
        assert guard.answer(RESOURCE) is Answer.DENIED
        scene.platform.grant(resource, scene.agent, CRYPTER)
        assert guard.settle(10)
        assert guard.answer(RESOURCE) is Answer.ENABLED
        assert not scene.keychain.lease(RESOURCE).key().wiped
    assert rule.told == [(RESOURCE, Answer.DENIED), (RESOURCE, Answer.ENABLED)]


def test_an_unused_lease_is_wiped_too(scene: Scene) -> None:
    """Nobody reads: the guard itself asks the key and wipes the KEK."""
    with scene.guarded() as guard:
        kek = scene.keychain.lease(RESOURCE).key()
        scene.platform.set_state(FIRST, "DISABLED")
        assert guard.settle(10)
        assert kek.wiped


def test_rules_are_told_of_every_change_once(scene: Scene) -> None:
    """Not of what stays as it is, however often it is looked at."""
    rule = Recorder()
    with scene.guarded(rule) as guard:
        for state in ("DISABLED", "DISABLED", "ENABLED", "DISABLED"):
            scene.platform.set_state(FIRST, state)
            assert guard.settle(10)
            guard.poll()
            assert guard.settle(10)
    assert [answer for _, answer in rule.told] == [Answer.DISABLED, Answer.ENABLED, Answer.DISABLED]


def test_a_rule_that_failed_is_told_again(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """A service that could not act on a change gets it again with the next check."""
    rule = Recorder()
    rule.fail_next = True
    with scene.guarded(rule) as guard, caplog.at_level(logging.ERROR):
        scene.platform.set_state(FIRST, "DISABLED")
        assert guard.settle(10)
        assert guard.answer(RESOURCE) is Answer.DISABLED
        assert rule.told == []
        guard.poll()
        assert guard.settle(10)
    assert rule.told == [(RESOURCE, Answer.DISABLED)]
    assert "RuntimeError" in caplog.text


def test_one_resource_that_fails_does_not_stop_the_guard(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A busy store for one of them is logged; the others are checked."""
    scene.protect(OTHER)
    check = scene.keychain.check

    def sometimes(resource: str) -> Answer:
        if resource == RESOURCE:
            raise Unavailable("The store is busy; retry the call.")
        return check(resource)

    monkeypatch.setattr(scene.keychain, "check", sometimes)
    with scene.guarded() as guard, caplog.at_level(logging.WARNING):
        guard.poll()
        assert guard.settle(10)
        assert guard.answer(OTHER) is Answer.ENABLED
        assert guard.answer(RESOURCE) is None
    assert "The store is busy" in caplog.text


def test_a_rotation_rewraps_by_itself(scene: Scene) -> None:
    """Told of a new primary the guard re-wraps; the old version can then be disabled without effect."""
    with scene.guarded() as guard:
        lease = scene.keychain.lease(RESOURCE)
        second = scene.rotate()
        assert guard.settle(10)
        with scene.platform.store.read() as tx:
            row = tx.keychains.get(RESOURCE)
        assert row is not None
        assert row.key_version == second
        scene.platform.set_state(FIRST, "DISABLED")
        assert guard.settle(10)
        assert guard.answer(RESOURCE) is Answer.ENABLED
        assert not lease.key().wiped


def test_a_scheduled_rotation_rewraps_and_then_the_old_version_may_be_destroyed(scene: Scene) -> None:
    """From the schedule of the key alone, until not even the old material is there any more."""
    request = UpdateCryptoKeyRequest(
        crypto_key={"name": KEY, "rotation_period": {"seconds": 86_400}},
        update_mask={"paths": ["rotation_period"]},
    )
    scene.platform.call("UpdateCryptoKey", request)
    kek = bytes(scene.keychain.lease(RESOURCE).key().expose())
    with scene.guarded() as guard:
        scene.platform.clock.advance(dt.timedelta(days=1))
        scene.platform.schedule.run_due(scene.platform.clock.now())
        assert guard.settle(10)
        scene.platform.destroy(FIRST)
        scene.platform.clock.advance(dt.timedelta(days=30))
        scene.platform.schedule.run_due(scene.platform.clock.now())
        assert guard.settle(10)
        assert guard.answer(RESOURCE) is Answer.ENABLED
    assert scene.new_keychain(NEVER).lease(RESOURCE).key().use(bytes) == kek


def test_a_poll_notices_what_nobody_told(scene: Scene) -> None:
    """A guard that gets no events finds a disabled key, and an enabled one, by asking."""
    rule = Recorder()
    guard = KeyGuard([scene.keychain], [rule])
    guard.start()
    try:
        kek = scene.keychain.lease(RESOURCE).key()
        for state, answer in (("DISABLED", Answer.DISABLED), ("ENABLED", Answer.ENABLED)):
            scene.platform.set_state(FIRST, state)
            guard.poll()
            assert guard.settle(10)
            assert guard.answer(RESOURCE) is answer
        assert kek.wiped
    finally:
        guard.stop()
    assert len(rule.told) == 2


def test_other_keys_are_left_alone(scene: Scene) -> None:
    """A change of one key asks nothing of the resources of another."""
    other = scene.platform.key("other")
    scene.platform.grant(other, scene.agent, CRYPTER)
    scene.protect(OTHER, other)
    lease = scene.keychain.lease(OTHER)
    with scene.guarded() as guard:
        asked = scene.client.decrypts
        scene.platform.set_state(FIRST, "DISABLED")
        assert guard.settle(10)
        assert scene.client.decrypts == asked + 1
        assert guard.answer(OTHER) is None
        assert not lease.key().wiped


def test_stopping_ends_the_thread(scene: Scene) -> None:
    """A stopped guard works nothing off; started again it takes up what came meanwhile."""
    rule = Recorder()
    with scene.guarded(rule) as guard:
        guard.stop()
        scene.platform.set_state(FIRST, "DISABLED")
        assert not guard.settle(0.05)
        guard.start()
        wait_for(lambda: rule.told == [(RESOURCE, Answer.DISABLED)])
