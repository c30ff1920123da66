"""The main process and its workers: who gets the root key, who is replaced, who is killed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keystead.api.errors import Unavailable
from keystead.crypto.secret import SecretBytes
from keystead.kms.rootkey import RootKey
from keystead.server import workers as workers_module
from keystead.server.listeners import Ports
from keystead.server.settings import Settings
from keystead.server.workers import Workers
from keystead.store import Store
from tests.server.processes import alive, eventually
from tests.server.standin import Server

KEY = bytes(range(32))
TOLD = f"KEY {hashlib.sha256(KEY).hexdigest()}"
JOB = "JOB 4711"
PORTS = Ports(rest=4711, grpc=4712)


class Scene:
    """Workers that are stand-ins of one mode, over a real store and root key."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.mode = "good"
        self.file = directory / "heard"
        self.file.touch()
        self.store = store
        self.root_key = RootKey()
        self.settings = Settings(data_dir=directory / "data", dev=True, workers=3, drain=0.2)
        self.subscribed: dict[str, Any] = {}
        served = Server()
        self.platform: Any = SimpleNamespace(
            store=store,
            root_key=self.root_key,
            sealing=SimpleNamespace(subscribe=self.subscribed.update),
            registry=served.registry,
            dispatcher=served.dispatcher,
            health=served.health,
        )
        self.workers = Workers(self.settings, self.platform)

    def command(self, calls: int, epoch: int) -> list[str]:
        """How a stand-in is started."""
        del calls, epoch
        return [sys.executable, "-m", "tests.server.worker_standin", self.mode, str(self.file)]

    @property
    def heard(self) -> list[str]:
        """What all stand-ins heard so far."""
        return self.file.read_text().splitlines()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.workers._live]

    async def heard_of(self, line: str, times: int) -> None:
        """Wait until a line was heard so often."""
        await asyncio.to_thread(eventually, lambda: self.heard.count(line) == times, f"{times} times {line}")


@pytest.fixture
def scene(sqlite_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Two workers to be."""
    made = Scene(sqlite_store, tmp_path)
    monkeypatch.setattr(workers_module, "_command", made.command)
    monkeypatch.setattr(workers_module, "_BEYOND_DRAIN_S", 0.2)
    yield made
    assert not any(alive(pid) for pid in made.pids)


async def test_workers_are_told_the_ports_and_the_root_key(scene: Scene) -> None:
    """Each is sent the settings with the ports that are listened on, and the root key while it is open."""
    scene.root_key.put(SecretBytes(KEY))
    assert await scene.workers.start(PORTS)
    await scene.heard_of(TOLD, 2)
    assert sorted(scene.heard) == [JOB, JOB, TOLD, TOLD]
    await scene.workers.stop()


async def test_one_process_starts_none(scene: Scene) -> None:
    """`--workers 1` is the main process alone; closing the seal then still makes caches read again."""
    workers = Workers(Settings(data_dir=scene.settings.data_dir, dev=True), scene.platform)
    assert await workers.start(PORTS)
    assert scene.heard == []
    before = scene.store.epoch
    workers.closed()
    assert scene.store.epoch > before
    await workers.stop()


async def test_a_sealed_server_gives_its_workers_no_key_until_it_is_opened(scene: Scene) -> None:
    """Then all of them get it, and lose it when it is closed again, before `closed` returns."""
    assert await scene.workers.start(PORTS)
    assert scene.heard == [JOB, JOB]
    scene.root_key.put(SecretBytes(KEY))
    scene.subscribed["opened"]()
    await scene.heard_of(TOLD, 2)
    epoch, pids = scene.store.epoch, scene.pids
    scene.root_key.close()
    scene.subscribed["closed"]()
    assert scene.heard.count("WIPE") == 2
    assert scene.store.epoch > epoch
    assert scene.pids == pids
    await scene.workers.stop()


async def test_a_worker_that_keeps_the_key_is_killed(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """When `closed` returns, nobody who did not confirm lives; who takes its place gets no key."""
    scene.mode = "deaf"
    scene.root_key.put(SecretBytes(KEY))
    assert await scene.workers.start(PORTS)
    await scene.heard_of(TOLD, 2)
    deaf = scene.pids
    scene.mode = "good"
    scene.root_key.close()
    scene.workers.closed()
    await asyncio.to_thread(eventually, lambda: not any(alive(pid) for pid in deaf), "the deaf are gone", 1.0)
    assert caplog.text.count("did not wipe the root key in time") == 2
    await scene.heard_of(JOB, 4)
    assert scene.heard.count(TOLD) == 2
    await scene.workers.stop()


async def test_a_worker_that_cannot_start_stops_the_start(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The server does not run with fewer than it was told to; the log says how the worker ended."""
    scene.mode = "broken"
    with pytest.raises(Unavailable, match="A worker process could not be started"):
        await scene.workers.start(PORTS)
    await scene.workers.stop()
    assert "ended: exit code 3" in caplog.text


async def test_a_worker_that_ends_is_replaced_more_and_more_slowly(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Once all listened, one that ends again and again is started again and again, with longer pauses."""
    caplog.set_level(logging.ERROR)
    scene.mode = "short"
    assert await scene.workers.start(PORTS)
    await asyncio.to_thread(
        eventually, lambda: caplog.text.count("started in 0.4 s") >= 2, "three ends of each"
    )
    assert caplog.text.index("in 0.1 s") < caplog.text.index("in 0.2 s") < caplog.text.index("in 0.4 s")
    scene.mode = "good"
    await asyncio.to_thread(eventually, lambda: len(scene.pids) == 2, "both live")
    await scene.workers.stop()


async def test_a_killed_worker_is_replaced(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """By one that is told the same, and the log says what happened."""
    scene.root_key.put(SecretBytes(KEY))
    assert await scene.workers.start(PORTS)
    await scene.heard_of(TOLD, 2)
    os.kill(scene.pids[0], signal.SIGKILL)
    await scene.heard_of(TOLD, 3)
    assert "ended: SIGKILL; another is started in 0.1 s" in caplog.text
    await scene.workers.stop()


async def test_an_end_while_they_start_is_an_end(scene: Scene) -> None:
    """Told to end before all listen, the start says so at once, and nothing is left."""
    scene.mode = "slow"
    starting = asyncio.create_task(scene.workers.start(PORTS))
    await scene.heard_of(JOB, 2)
    scene.workers.end()
    assert not await starting
    await scene.workers.stop()


async def test_who_does_not_end_in_time_is_killed(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """A stop takes the drain and a little, whatever a worker does."""
    scene.mode = "deaf"
    assert await scene.workers.start(PORTS)
    pids = scene.pids
    await scene.workers.stop()
    assert not any(alive(pid) for pid in pids)
    assert caplog.text.count("did not end in time and is killed") == 2
