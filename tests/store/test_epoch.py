"""The epoch in shared memory, and the promise that caches in other processes rest on: what was acknowledged
is what they answer from then on."""

from __future__ import annotations

import dataclasses
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.call import NeedsMain
from keystead.store import Store, open_store
from keystead.store.engine import open_follower
from keystead.store.epoch import EpochReader, EpochWriter
from tests.stores import a_resource

NAMES = ("t/a", "t/b")
FOLLOWERS = 2
WATCH_S = 2.0


class Process:
    """A process of `follower_process`."""

    def __init__(self, store: Store, url: str, acknowledged: EpochWriter) -> None:
        descriptors = (store.share_epoch(), acknowledged.descriptor)
        command = [sys.executable, "-m", "tests.store.follower_process", url, *map(str, descriptors)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, pass_fds=descriptors
        )

    def ask(self, *task: object) -> str:
        """Have it do a task; the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, task)) + "\n")
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def followed(url: str) -> Iterator[tuple[Store, list[Process], EpochWriter]]:
    """A store with processes that follow it."""
    store, acknowledged = open_store(url), EpochWriter(0)
    processes = [Process(store, url, acknowledged) for _ in range(FOLLOWERS)]
    try:
        yield store, processes, acknowledged
    finally:
        for process in processes:
            process.end()
        acknowledged.close()
        store.close()


def put(store: Store, name: str, body: str) -> None:
    with store.write() as tx:
        row = tx.resources.get(name)
        if row is None:
            tx.resources.insert(a_resource(name, body=body.encode()))
        else:
            tx.resources.update(dataclasses.replace(row, body=body.encode()))


@pytest.fixture
def writer() -> Iterator[EpochWriter]:
    opened = EpochWriter(7)
    yield opened
    opened.close()


def test_a_reader_sees_every_number_that_is_published(writer: EpochWriter) -> None:
    """From the first on, whole numbers of 64 bits, also through a descriptor that is closed meanwhile."""
    descriptor = os.dup(writer.descriptor)
    reader = EpochReader(descriptor)
    os.close(descriptor)
    assert reader.cell[0] == 7
    for number in (8, 1 << 32, (1 << 64) - 1):
        writer.publish(number)
        assert reader.cell[0] == number


def test_only_the_writer_can_write(writer: EpochWriter) -> None:
    """A follower's view is read-only, and the kernel refuses it a mapping, or a write, that is not."""
    with pytest.raises(TypeError, match="read-only"):
        EpochReader(writer.descriptor).cell[0] = 1
    with pytest.raises(PermissionError):
        mmap.mmap(writer.descriptor, 8)
    with pytest.raises(PermissionError):
        os.pwrite(writer.descriptor, b"\1" * 8, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(writer.descriptor, 0)


def test_a_follower_reads_and_never_writes(store: Store, store_url: str) -> None:
    """It sees what is committed and the epoch of it; a writing transaction is the main process's to open."""
    put(store, "t/a", "1")
    reader = EpochReader(store.share_epoch())
    follower = open_follower(store_url, reader)
    try:
        assert follower.epoch == store.epoch == 1
        put(store, "t/a", "2")
        assert follower.epoch == store.epoch == 2
        with follower.read() as tx:
            assert tx.resources.get("t/a").body == b"2"
        with pytest.raises(NeedsMain):
            follower.write()
    finally:
        follower.close()


def test_the_epoch_moves_without_a_commit(sqlite_store: Store) -> None:
    """`move_epoch` empties every cache though nothing was written, and counts every call of many."""
    reader = EpochReader(sqlite_store.share_epoch())
    threads = [threading.Thread(target=sqlite_store.move_epoch) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reader.cell[0] == sqlite_store.epoch == 20
    assert sqlite_store.share_epoch() == sqlite_store.share_epoch()


ACTS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(NAMES), st.text("abc", min_size=1, max_size=3)),
    st.tuples(st.just("delete"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("roll back"), st.sampled_from(NAMES), st.text("xyz", min_size=1, max_size=3)),
    st.tuples(st.just("read"), st.sampled_from(NAMES), st.integers(0, FOLLOWERS - 1)),
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, list[Process]]]:
    with followed(f"sqlite:///{tmp_path_factory.mktemp('epoch') / 'store.db'}") as (store, processes, _):
        yield store, processes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(ACTS, max_size=25))
def test_other_processes_answer_what_was_last_committed(
    running: tuple[Store, list[Process]], acts: list[tuple[str, str, object]]
) -> None:
    """Whatever is written, deleted or rolled back: the next answer of any process is the store as it is."""
    store, processes = running
    model: dict[str, str] = {}
    for name in NAMES:
        with store.write() as tx:
            tx.resources.delete(name)
    for act, name, argument in acts:
        if act == "put":
            put(store, name, str(argument))
            model[name] = str(argument)
        elif act == "delete":
            with store.write() as tx:
                tx.resources.delete(name)
            model.pop(name, None)
        elif act == "roll back":
            with pytest.raises(KeyError), store.write() as tx:
                tx.resources.delete(name)
                raise KeyError
        else:
            assert isinstance(argument, int)
            assert processes[argument].ask("read", name) == model.get(name, "")


def test_nothing_older_than_what_was_acknowledged_is_ever_answered(store_url: str) -> None:
    """Processes whose threads read as fast as they can while another commits one number after the other never
    answer one that is below what was acknowledged before they asked; and they do answer from memory."""
    with followed(store_url) as (store, processes, acknowledged):
        put(store, "t/a", "1")
        assert [process.ask("read", "t/a") for process in processes] == ["1", "1"]
        answers: list[str] = []
        watching = [
            threading.Thread(target=lambda each=process: answers.append(each.ask("watch", "t/a", WATCH_S)))
            for process in processes
        ]
        for thread in watching:
            thread.start()
        number = 1
        while any(thread.is_alive() for thread in watching):
            number += 1
            put(store, "t/a", str(number))
            acknowledged.publish(number)
        for thread in watching:
            thread.join()
    assert number > 20
    for answer in answers:
        hits, stale = map(int, answer.split())
        assert stale == 0
        assert hits > 0
    assert len(answers) == FOLLOWERS
