"""What happens to keys by itself: rotation at its time, and destruction that leaves nothing behind."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from keystead.api.clock import moment
from keystead.api.errors import FailedPrecondition, Unavailable
from keystead.kms import lifecycle
from keystead.kms.events import Change
from keystead.kms.messages import (
    CreateCryptoKeyVersionRequest,
    GetCryptoKeyRequest,
    GetCryptoKeyVersionRequest,
)
from keystead.kms.service import KEYS
from keystead.kms.versions import micros
from tests.platform import LOCATION, Platform, running

RING = f"{LOCATION}/keyRings/ring"
KEY = f"{RING}/cryptoKeys/key"
FIRST = f"{KEY}/cryptoKeyVersions/1"
DAY = 86_400


def run(platform: Platform, **ahead: float) -> int:
    """Let time pass, then do what is due."""
    platform.clock.advance(dt.timedelta(**ahead))
    return platform.schedule.run_due(platform.clock.now())


def get(platform: Platform) -> Any:
    return platform.call("GetCryptoKey", GetCryptoKeyRequest(name=KEY))


def version(platform: Platform, name: str = FIRST) -> Any:
    return platform.call("GetCryptoKeyVersion", GetCryptoKeyVersionRequest(name=name))


def wrapped_material(platform: Platform, name: str = FIRST) -> bytes | None:
    with platform.store.read() as tx:
        return tx.material.get(name)


# --- rotation ----------------------------------------------------------------------------------------


def test_a_key_rotates_at_its_time_and_not_before(platform: Platform) -> None:
    """A new version becomes primary, the next time moves by the period, the old version stays ENABLED."""
    platform.key(rotation_period={"seconds": 7 * DAY})
    due = moment(get(platform).next_rotation_time)
    old = platform.encrypt(KEY, b"old")
    assert run(platform, days=7, microseconds=-1) == 0
    assert run(platform, microseconds=1) == 1
    key = get(platform)
    assert key.primary.name == f"{KEY}/cryptoKeyVersions/2"
    assert moment(key.next_rotation_time) == due + dt.timedelta(days=7)
    assert version(platform).state == lifecycle.ENABLED
    assert platform.decrypt(KEY, old) == b"old"
    assert run(platform) == 0


def test_missed_periods_are_one_rotation(platform: Platform) -> None:
    """A server that was down for five periods rotates once, and keeps the beat."""
    platform.key(rotation_period={"seconds": 7 * DAY})
    due = moment(get(platform).next_rotation_time)
    assert run(platform, days=7 * 5 + 3) == 1
    assert get(platform).primary.name.endswith("/2")
    assert moment(get(platform).next_rotation_time) == due + dt.timedelta(days=7 * 5)


def test_a_rotation_without_a_period_happens_once(platform: Platform) -> None:
    """A next time alone rotates at that time and never again."""
    platform.key(next_rotation_time=platform.clock.now() + dt.timedelta(days=2))
    assert run(platform, days=2) == 1
    assert not get(platform).HasField("next_rotation_time")
    assert run(platform, days=4000) == 0


def test_rotating_by_hand_does_not_move_the_schedule(platform: Platform) -> None:
    """Creating a version leaves next_rotation_time where it was."""
    platform.key(rotation_period={"seconds": 7 * DAY})
    before = get(platform).next_rotation_time
    platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
    assert get(platform).next_rotation_time == before
    assert run(platform, days=7) == 1
    assert get(platform).primary.name.endswith("/3")


def test_a_rotation_is_told_after_it_is_committed(platform: Platform) -> None:
    """Listeners hear of a new primary, and see it when they do."""
    platform.key(rotation_period={"seconds": 7 * DAY})
    heard: list[tuple[str, Change, str]] = []
    platform.key_events.subscribe(lambda key, change: heard.append((key, change, get(platform).primary.name)))
    run(platform, days=7)
    assert heard == [(KEY, Change.PRIMARY, f"{KEY}/cryptoKeyVersions/2")]


def test_a_crash_before_the_commit_loses_nothing(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation that was interrupted leaves no half of it, and is done by the next run."""
    platform.key(rotation_period={"seconds": 7 * DAY})
    platform.clock.advance(dt.timedelta(days=7))

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("keystead.kms.schedule.KEYS.update", crash)
        with pytest.raises(KeyboardInterrupt):
            run(platform)
    assert get(platform).primary.name == FIRST
    with platform.store.read() as tx:
        assert tx.material.list(KEY) == [FIRST]
    assert run(platform) == 1
    assert get(platform).primary.name.endswith("/2")


def test_more_than_a_batch_is_done_in_one_run(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is due is done, however much it is."""
    monkeypatch.setattr("keystead.kms.schedule._BATCH", 3)
    names = [platform.key(f"k{number}", rotation_period={"seconds": DAY}) for number in range(8)]
    for name in names[:5]:
        platform.destroy(f"{name}/cryptoKeyVersions/1")
    assert run(platform, days=30) == 8 + 5


def test_a_key_that_cannot_rotate_does_not_hold_up_the_others(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no version of a key can be made, that is logged, and the other keys go on."""
    monkeypatch.setattr("keystead.kms.schedule._BATCH", 2)
    platform.key()
    for number in range(5):
        name = platform.key(f"a{number}", rotation_period={"seconds": DAY})
        with platform.store.write() as tx:  # as a server that offers HSM keys would have left it
            stored = KEYS.require(tx, name)
            stored.message.version_template.protection_level = 2
            KEYS.update(tx, stored, due=stored.row.due)
    good = platform.key("z", rotation_period={"seconds": DAY})
    platform.destroy(f"{good}/cryptoKeyVersions/1")
    with caplog.at_level(logging.ERROR):
        assert run(platform, days=30) == 2
    assert "cryptoKeys/a0 failed" in caplog.text
    assert wrapped_material(platform, f"{good}/cryptoKeyVersions/1") is None


@pytest.mark.parametrize("microseconds", [1, 3, 7, 999_999])
def test_due_times_are_exact(microseconds: int) -> None:
    """A moment is its own number of microseconds: no rounding makes a due time early or late."""
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for days in range(0, 40_000, 997):
        when = start + dt.timedelta(days=days, microseconds=microseconds)
        assert micros(when) % 1_000_000 == microseconds
        assert dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=micros(when)) == when


# --- destruction -------------------------------------------------------------------------------------


def test_a_version_is_destroyed_at_its_time(platform: Platform) -> None:
    """Until `destroy_time` it can be restored; at it the state is DESTROYED and the material row is gone."""
    platform.key()
    platform.destroy(FIRST)
    assert run(platform, days=30, microseconds=-1) == 0
    assert wrapped_material(platform) is not None
    assert run(platform, microseconds=1) == 1
    gone = version(platform)
    assert gone.state == lifecycle.DESTROYED
    assert moment(gone.destroy_event_time) == platform.clock.now()
    assert wrapped_material(platform) is None
    with pytest.raises(FailedPrecondition):
        platform.set_state(FIRST, "ENABLED")


def store_bytes(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.glob("store.db*")))


def test_no_byte_of_destroyed_material_stays_in_the_stores_files(platform: Platform) -> None:
    """The wrapped material is in the files before, and nowhere in database or log after."""
    platform.key()
    wrapped = wrapped_material(platform)
    assert wrapped is not None
    assert wrapped in store_bytes(platform.directory)
    platform.destroy(FIRST)
    run(platform, days=30)
    found = store_bytes(platform.directory)
    assert wrapped not in found
    for start in range(0, len(wrapped) - 16, 8):
        assert wrapped[start : start + 16] not in found


def test_a_scrub_that_could_not_be_done_is_done_by_the_next_run(
    platform: Platform, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader that holds the log back delays the scrub and not the destruction."""
    platform.key()
    wrapped = wrapped_material(platform)
    platform.destroy(FIRST)
    platform.clock.advance(dt.timedelta(days=30))
    assert wrapped is not None
    scrub = platform.store.scrub
    calls: list[None] = []

    def busy_once() -> None:
        calls.append(None)
        if len(calls) == 1:
            raise Unavailable("The store is busy; retry the call.")
        scrub()

    platform.store.scrub = busy_once  # type: ignore[method-assign]  # a reader that comes and goes
    with caplog.at_level(logging.WARNING):
        assert run(platform) == 1
    assert "still in the store's log" in caplog.text
    assert version(platform).state == lifecycle.DESTROYED
    assert run(platform) == 0
    assert len(calls) == 2
    assert wrapped not in store_bytes(platform.directory)
    run(platform)
    assert len(calls) == 2


def test_a_crash_between_destruction_and_scrub_is_made_up_for(platform: Platform, tmp_path: Path) -> None:
    """The first run after a start scrubs, whether or not it destroys anything."""
    platform.key()
    wrapped = wrapped_material(platform)
    assert wrapped is not None
    with platform.store.write() as tx:
        tx.material.delete(FIRST)
    # What a crash leaves: the files as they are, the log not yet in the database.
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("store.db", "store.db-wal"):
        shutil.copy(platform.directory / name, crashed / name)
    shutil.copytree(platform.directory / "seal", crashed / "seal")
    assert wrapped in store_bytes(crashed)
    with running(crashed, platform.clock) as restarted:
        restarted.schedule.run_due(restarted.clock.now())
        assert wrapped not in store_bytes(crashed)


def test_destroying_one_version_leaves_the_others(platform: Platform) -> None:
    """What other versions encrypted opens as before."""
    platform.key()
    platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
    kept = platform.encrypt(f"{KEY}/cryptoKeyVersions/2", b"kept")
    platform.destroy(FIRST)
    run(platform, days=30)
    assert platform.decrypt(KEY, kept) == b"kept"
