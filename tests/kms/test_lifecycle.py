"""The state machine of key versions, alone: every state against every event."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.api.clock import moment
from keystead.api.errors import FailedPrecondition, InvalidArgument
from keystead.kms import lifecycle
from keystead.kms.messages import CryptoKey, CryptoKeyVersion

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
STATES = [name for name in lifecycle.State.keys() if not name.endswith("UNSPECIFIED")]  # noqa: SIM118 (an enum)
EVENTS = ("enable", "disable", "destroy", "restore", "time")
NAME = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"

# Cloud KMS, "Key version states": what is not here is refused (or, of time, changes nothing).
TRANSITIONS = {
    ("ENABLED", "enable"): "ENABLED",
    ("ENABLED", "disable"): "DISABLED",
    ("ENABLED", "destroy"): "DESTROY_SCHEDULED",
    ("DISABLED", "enable"): "ENABLED",
    ("DISABLED", "disable"): "DISABLED",
    ("DISABLED", "destroy"): "DESTROY_SCHEDULED",
    ("DESTROY_SCHEDULED", "restore"): "DISABLED",
    ("DESTROY_SCHEDULED", "time"): "DESTROYED",
    ("PENDING_GENERATION", "made"): "ENABLED",
    ("PENDING_GENERATION", "failed"): "GENERATION_FAILED",
    ("PENDING_IMPORT", "made"): "ENABLED",
    ("PENDING_IMPORT", "failed"): "IMPORT_FAILED",
}


def a_version(state: str) -> Any:
    version = CryptoKeyVersion(name=NAME, state=state)
    if state == "DESTROY_SCHEDULED":
        version.destroy_time.FromDatetime(NOW)
    return version


def a_key(**fields: Any) -> Any:
    return CryptoKey(name=NAME.rsplit("/", 2)[0], purpose="ENCRYPT_DECRYPT", **fields)


def apply(event: str, version: Any) -> None:
    if event == "enable":
        lifecycle.enable_or_disable(version, lifecycle.ENABLED)
    elif event == "disable":
        lifecycle.enable_or_disable(version, lifecycle.DISABLED)
    elif event == "destroy":
        lifecycle.schedule_destruction(version, a_key(destroy_scheduled_duration={"seconds": 86400}), NOW)
    elif event == "restore":
        lifecycle.restore(version, NOW - dt.timedelta(seconds=1))
    else:
        lifecycle.destroyed(version, NOW)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(STATES, EVENTS)))
def test_every_event_does_in_every_state_what_the_table_says(state: str, event: str) -> None:
    """A transition leads where the documentation says, and any other is refused and changes nothing."""
    version = a_version(state)
    before = version.SerializeToString(deterministic=True)
    target = TRANSITIONS.get((state, event))
    if target is not None:
        apply(event, version)
        assert lifecycle.State.Name(version.state) == target
        return
    if event == "time":
        apply(event, version)
    else:
        with pytest.raises(FailedPrecondition) as refused:
            apply(event, version)
        assert refused.value.message == (
            f"The request cannot be fulfilled. Resource {NAME} has value {state} in field "
            "crypto_key_version.state."
        )
    assert version.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("state", [*STATES, 999])
def test_only_enabled_and_disabled_can_be_asked_for(state: str | int) -> None:
    """A state other than ENABLED and DISABLED cannot be set, from whatever state."""
    number = lifecycle.State.Value(state) if isinstance(state, str) else state
    if number in {lifecycle.ENABLED, lifecycle.DISABLED}:
        return
    for current in STATES:
        version = a_version(current)
        with pytest.raises(InvalidArgument):
            lifecycle.enable_or_disable(version, number)
        assert lifecycle.State.Name(version.state) == current


@pytest.mark.parametrize("state", STATES)
def test_use_needs_enabled_and_the_refusal_names_the_state(state: str) -> None:
    """Only an ENABLED version may be used; the refusal carries the text and type that clients match on."""
    version = a_version(state)
    if state == "ENABLED":
        lifecycle.require_enabled(version)
        return
    with pytest.raises(FailedPrecondition) as refused:
        lifecycle.require_enabled(version)
    assert refused.value.message == f"{NAME} is not enabled, current state is: {state}."
    (failure,) = refused.value.details
    (violation,) = failure.violations  # type: ignore[attr-defined]  # a PreconditionFailure
    assert (violation.type, violation.subject, violation.description) == (f"KEY_{state}", NAME, "")


def test_destroy_time_follows_the_duration_and_restore_clears_it() -> None:
    """`destroy_time` is now plus the key's duration, and goes when the version is restored."""
    version = a_version("ENABLED")
    lifecycle.schedule_destruction(version, a_key(destroy_scheduled_duration={"seconds": 864000}), NOW)
    assert moment(version.destroy_time) == NOW + dt.timedelta(days=10)
    lifecycle.restore(version, NOW)
    assert not version.HasField("destroy_time")


def test_what_is_due_for_destruction_is_not_restored() -> None:
    """Once `destroy_time` is reached, the destruction may have begun: restoring is refused."""
    version = a_version("DESTROY_SCHEDULED")
    with pytest.raises(FailedPrecondition):
        lifecycle.restore(version, NOW)
    lifecycle.restore(version, NOW - dt.timedelta(microseconds=1))
    assert version.state == lifecycle.DISABLED


@pytest.mark.parametrize(("state", "event"), [pair for pair in TRANSITIONS if pair[1] in {"made", "failed"}])
def test_what_was_pending_ends_enabled_or_failed_with_a_reason(state: str, event: str) -> None:
    """A version becomes ENABLED with the time of its key, or failed with the reason and no such time."""
    version = a_version(state)
    reason = "" if event == "made" else "the token is full"
    lifecycle.finished(version, NOW, reason)
    assert lifecycle.State.Name(version.state) == TRANSITIONS[(state, event)]
    importing = state == "PENDING_IMPORT"
    assert (version.import_failure_reason if importing else version.generation_failure_reason) == reason
    times = (version.HasField("generate_time"), version.HasField("import_time"))
    assert times == (not reason and not importing, not reason and importing)
    assert version.reimport_eligible == (importing and bool(reason))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("imported", [False, True])
def test_only_what_holds_no_key_and_never_held_an_imported_one_is_deletable(
    state: str, imported: bool
) -> None:
    """DESTROYED, IMPORT_FAILED and GENERATION_FAILED can be deleted, unless the version was imported."""
    version = a_version(state)
    if imported:
        version.import_time.FromDatetime(NOW)
    if state in {"DESTROYED", "IMPORT_FAILED", "GENERATION_FAILED"} and not imported:
        lifecycle.check_deletable(version)
        return
    with pytest.raises(FailedPrecondition):
        lifecycle.check_deletable(version)


def test_destruction_waits_for_its_time_to_the_microsecond() -> None:
    """One microsecond before `destroy_time` nothing happens; at it the version is DESTROYED."""
    version = a_version("DESTROY_SCHEDULED")
    assert not lifecycle.destroyed(version, NOW - dt.timedelta(microseconds=1))
    assert version.state == lifecycle.DESTROY_SCHEDULED
    assert lifecycle.destroyed(version, NOW)
    assert moment(version.destroy_event_time) == NOW
    assert not lifecycle.destroyed(version, NOW)


@given(
    period_s=st.integers(86_400, 200 * 86_400),
    late=st.timedeltas(dt.timedelta(0), dt.timedelta(days=3000)),
)
def test_a_missed_rotation_moves_to_the_next_time_on_the_same_beat(period_s: int, late: dt.timedelta) -> None:
    """However late, the next time is after now, at most one period away, and on the original beat."""
    period = dt.timedelta(seconds=period_s)
    key = a_key(rotation_period={"seconds": period_s})
    key.next_rotation_time.FromDatetime(NOW)
    assert lifecycle.advance_rotation(key, NOW + late)
    following = moment(key.next_rotation_time)
    assert NOW + late < following <= NOW + late + period
    assert (following - NOW) % period == dt.timedelta(0)


def test_a_rotation_without_a_period_happens_once() -> None:
    """`next_rotation_time` alone rotates once and is then cleared."""
    key = a_key()
    key.next_rotation_time.FromDatetime(NOW)
    assert not lifecycle.advance_rotation(key, NOW - dt.timedelta(microseconds=1))
    assert lifecycle.advance_rotation(key, NOW)
    assert not key.HasField("next_rotation_time")
    assert not lifecycle.advance_rotation(key, NOW)


@pytest.mark.parametrize(
    ("seconds", "nanos", "valid"),
    [
        (86_400, 0, True),
        (86_399, 999_999_999, False),
        (876_000 * 3600, 0, True),
        (876_000 * 3600, 1, False),
        (0, 0, False),
        (-86_400, 0, False),
        (2**62, 0, False),
    ],
)
def test_the_rotation_period_has_bounds(seconds: int, nanos: int, *, valid: bool) -> None:
    """At least a day and at most 876,000 hours, whatever number a client sends."""
    key = a_key(rotation_period={"seconds": seconds, "nanos": nanos})
    if not valid:
        with pytest.raises(InvalidArgument):
            lifecycle.check_rotation(key, NOW)
        return
    lifecycle.check_rotation(key, NOW)
    assert moment(key.next_rotation_time) == NOW + dt.timedelta(seconds=seconds)


@pytest.mark.parametrize("seconds", [int(NOW.timestamp()) - 1, 2**60, -(2**60)])
def test_the_next_rotation_time_is_a_time_to_come(seconds: int) -> None:
    """A time that is past, or none at all, is refused."""
    with pytest.raises(InvalidArgument):
        lifecycle.check_rotation(a_key(next_rotation_time={"seconds": seconds}), NOW)


@pytest.mark.parametrize(
    ("seconds", "valid"),
    [
        (86_400, True),
        (86_399, False),
        (120 * 86_400, True),
        (120 * 86_400 + 1, False),
        (2**62, False),
        (0, False),
    ],
)
def test_the_destroy_duration_has_bounds(seconds: int, *, valid: bool) -> None:
    """At least 24 hours and at most 120 days."""
    key = a_key(destroy_scheduled_duration={"seconds": seconds})
    if valid:
        lifecycle.check_destroy_duration(key)
        return
    with pytest.raises(InvalidArgument):
        lifecycle.check_destroy_duration(key)


def test_the_destroy_duration_is_thirty_days_unless_given() -> None:
    """A key without a duration gets 2,592,000 seconds."""
    key = a_key()
    lifecycle.check_destroy_duration(key)
    assert key.destroy_scheduled_duration.seconds == 2_592_000


@pytest.mark.parametrize(
    "labels",
    [
        {"Upper": "x"},
        {"": "x"},
        {"1digit": "x"},
        {"k" * 64: "x"},
        {"key": "Upper"},
        {"key": "v" * 64},
        {"key": "a b"},
        {f"k{n}": "" for n in range(65)},
    ],
)
def test_labels_that_are_not_labels_are_refused(labels: dict[str, str]) -> None:
    """Label keys and values have Google Cloud's shape, and there are at most 64."""
    with pytest.raises(InvalidArgument):
        lifecycle.check_labels(labels)


def test_labels_at_their_limits_are_taken() -> None:
    """64 labels, keys and values of 63 characters, empty values."""
    lifecycle.check_labels({"k" * 63: "v" * 63, **{f"k{n}": "" for n in range(63)}})
