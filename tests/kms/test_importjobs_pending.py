"""Import jobs whose key is made later, after a crash or when a token is back; and those in a token."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keystead.api.clock import moment
from keystead.api.errors import (
    FailedPrecondition,
    Unavailable,
)
from keystead.kms import lifecycle
from keystead.kms.backends import GenerationFailedError, Made
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.importjobs import JobGeneration
from keystead.kms.messages import (
    KeyOperationAttestation,
)
from keystead.kms.pending import PendingKeys
from keystead.kms.service import JOBS
from tests.hsm import make_token
from tests.kms.importroom import Dropping, ImportRoom, job_state, pass_time
from tests.platform import Platform, running

DAYS_3 = dt.timedelta(days=3)


# --- crashes and absent tokens -----------------------------------------------------------------------


def test_a_job_left_pending_by_a_crash_is_finished(tmp_path: Path) -> None:
    """The schedule of the next server makes the key; the 3 days count from the beginning."""
    first = Platform(tmp_path, key_executor=Dropping())
    name = ImportRoom(first).create_job().name
    assert job_state(ImportRoom(first).get_job(name)) == "PENDING_GENERATION"
    key = ImportRoom(first).key()
    with pytest.raises(FailedPrecondition, match="PENDING_GENERATION"):
        ImportRoom(first).send(key, b"x" * 40, import_job=name)
    first.close()
    with running(tmp_path, first.clock) as second:
        room = ImportRoom(second)
        assert pass_time(room, dt.timedelta(hours=1)) == 0
        job = room.get_job(name)
        assert job_state(job) == "ACTIVE"
        assert moment(job.generate_time) - moment(job.create_time) == dt.timedelta(hours=1)
        assert moment(job.expire_time) - moment(job.create_time) == DAYS_3
        assert pass_time(room, DAYS_3) == 1


def test_a_job_that_was_never_finished_expires(tmp_path: Path) -> None:
    """Also a job whose key was never made is over after 3 days, and no key is made then."""
    first = Platform(tmp_path, key_executor=Dropping())
    name = ImportRoom(first).create_job().name
    first.close()
    with running(tmp_path, first.clock) as second:
        room = ImportRoom(second)
        assert pass_time(room, DAYS_3) == 1
        assert job_state(room.get_job(name)) == "EXPIRED"
        assert room.material(name) is None


class Later(Executor):
    """Keeps all work until it is told to do it."""

    def __init__(self) -> None:
        self.work: list[Any] = []

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.work.append(lambda: function(*args, **kwargs))
        return Future()


def test_what_waits_for_a_thread_is_not_queued_again(tmp_path: Path) -> None:
    """However often the schedule comes by; once it was done, nothing is queued at all."""
    later = Later()
    platform = Platform(tmp_path, key_executor=later)
    room = ImportRoom(platform)
    name = room.create_job().name
    for _ in range(3):
        pass_time(room, dt.timedelta(seconds=1))
    assert len(later.work) == 1
    later.work.pop()()
    assert job_state(room.get_job(name)) == "ACTIVE"
    pass_time(room, dt.timedelta(seconds=1))
    assert later.work == []
    platform.close()


def test_a_stopping_server_leaves_the_work_to_the_next(tmp_path: Path) -> None:
    """A job made while the threads are already gone is answered, and finished after the restart."""
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    first = Platform(tmp_path, key_executor=threads)
    name = ImportRoom(first).create_job().name
    first.close()
    with running(tmp_path, first.clock) as second:
        room = ImportRoom(second)
        pass_time(room, dt.timedelta(seconds=1))
        assert job_state(room.get_job(name)) == "ACTIVE"


class Failing(SoftwareBackend):
    """A back end that cannot make import keys for as long as `error` is set."""

    error: Exception | None = None

    def generate_import_key(self, job: str, method: str) -> Made:
        if self.error is not None:
            raise self.error
        return super().generate_import_key(job, method)


def test_a_key_that_cannot_be_made_now_is_made_later(
    room: ImportRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the token away a job stays PENDING_GENERATION, and becomes ACTIVE once the token is back."""
    with monkeypatch.context() as patch:
        patch.setattr(SoftwareBackend, "generate_import_key", Failing.generate_import_key)
        patch.setattr(SoftwareBackend, "error", Unavailable("The token is away."), raising=False)
        name = room.create_job().name
        pass_time(room, dt.timedelta(seconds=1))
        assert job_state(room.get_job(name)) == "PENDING_GENERATION"
    pass_time(room, dt.timedelta(seconds=1))
    assert job_state(room.get_job(name)) == "ACTIVE"


def test_a_key_that_can_never_be_made_is_not_tried_for_ever(
    room: ImportRoom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is logged once, and the job waits for its end: it has no state for failure."""
    monkeypatch.setattr(SoftwareBackend, "generate_import_key", Failing.generate_import_key)
    monkeypatch.setattr(SoftwareBackend, "error", GenerationFailedError("No such luck."), raising=False)
    name = room.create_job().name
    pass_time(room, dt.timedelta(seconds=1))
    assert caplog.text.count("No such luck.") == 1
    assert job_state(room.get_job(name)) == "PENDING_GENERATION"
    assert pass_time(room, DAYS_3) == 1
    assert job_state(room.get_job(name)) == "EXPIRED"


def test_a_job_carries_the_attestation_that_is_made_of_it(tmp_path: Path) -> None:
    """What `attest` gives is kept with the job; while it cannot be had, the job stays pending."""
    platform = Platform(tmp_path, key_executor=Dropping())
    name = ImportRoom(platform).create_job().name
    said: list[Any] = [Unavailable("The token is away."), KeyOperationAttestation(content=b"it is so")]

    def attest(message: Any, made: Made) -> Any:
        assert (message.name, bool(made.public)) == (name, True)
        answer = said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pending = PendingKeys(platform.store, platform.clock, platform.keys.material, attest=attest)
    pending.register(JOBS, lifecycle.JOB_PENDING, JobGeneration(platform.keys.material))
    room = ImportRoom(platform)
    pending.finish(name)
    assert job_state(room.get_job(name)) == "PENDING_GENERATION"
    pending.finish(name)
    assert room.get_job(name).attestation.content == b"it is so"
    platform.close()


# --- in a token --------------------------------------------------------------------------------------


def test_the_key_of_a_token_s_job_lies_in_the_token_until_it_expires(softhsm: Path, tmp_path: Path) -> None:
    """The store holds no key of it; when the job expires, its object leaves the token."""
    token = make_token(softhsm, tmp_path / "pin")
    backend = HsmBackend(token.config())
    platform = Platform(tmp_path, backends=[backend])
    room = ImportRoom(platform, "HSM", "RSA_OAEP_3072_SHA1_AES_256")
    name = room.job()
    stored = room.material(name)
    assert stored is not None
    assert len(stored) < 200
    assert room.imported(room.key(), bytes(32)).state == lifecycle.ENABLED
    wrapped, opened = room.wrap(bytes(32)), room.key()
    token.take_away()
    assert pass_time(room, DAYS_3) == 0
    assert room.material(name) == stored
    token.put_back()
    backend.reset()
    with pytest.raises(FailedPrecondition, match="EXPIRED"):
        room.send(opened, wrapped)
    assert pass_time(room, dt.timedelta(hours=1)) == 1
    assert room.material(name) is None
    backend.remove(name, stored)
    platform.close()
    backend.close()
