"""The worker processes of a server, as the main process sees them: started, given the root key, replaced.

SECURITY: a worker gets the settings (a store's URL may hold a password) and the root key only over a socket
without a name that it inherits, never by an argument, the environment or a file; and the root key only while
it is open here. When `closed` returns no worker has it any more: one that does not confirm in time is killed.
Workers end with this process, however that ends.

What a worker does is `worker`'s, what it leaves to this process `forwarding`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from keystead.api.errors import Unavailable
from keystead.cmek.channel import MAX_ANSWER, Channel, ChannelClosedError, Kind, ProtocolError
from keystead.crypto.secret import BytesLike
from keystead.server.forwarding import Answers
from keystead.server.listeners import Ports
from keystead.server.settings import Settings
from keystead.server.wiring import Platform

log = logging.getLogger(__name__)

WIPE_S: Final = 0.5
"""How long a worker may take to wipe the root key before it is killed."""
START_S: Final = 120.0
_STEADY_S: Final = 30.0  # a worker that lived so long did not end because of how it was started
_FIRST_DELAY_S: Final = 0.1
_LONGEST_DELAY_S: Final = 5.0
_BEYOND_DRAIN_S: Final = 5.0
_END_S: Final = 5.0


class Workers:
    """All workers of a server: `settings.workers` less the main process itself, so none where that is 1."""

    def __init__(self, settings: Settings, platform: Platform) -> None:
        self._settings = settings
        self._store = platform.store
        self._root_key = platform.root_key
        self._served = (platform.registry, platform.dispatcher, platform.health)
        self._ending = threading.Event()
        self._news = threading.Condition()
        self._turn = threading.Lock()  # of telling workers about the root key
        self._live: tuple[_Process, ...] = ()
        self._supervisors: list[_Supervisor] = []
        platform.sealing.subscribe(opened=self.opened, closed=self.closed)

    async def start(self, ports: Ports) -> bool:
        """Start them on these ports; whether all listen, which they do not where `end` was called first.

        Raises Unavailable where one cannot start.
        """
        settings = dataclasses.replace(self._settings, port=ports.rest, grpc_port=ports.grpc)
        loop = asyncio.get_running_loop()
        for number in range(1, settings.workers):
            supervisor = _Supervisor(
                number, self, _Seed(pickle.dumps(settings), self._store.share_epoch(), loop)
            )
            self._supervisors.append(supervisor)
            supervisor.start()
        return await asyncio.to_thread(self._all_listen)

    def opened(self) -> None:
        """The root key was opened: give it to every worker. Until one has it, it leaves calls to us."""
        with self._turn:
            for process in self._live:
                self._give_key(process)

    def closed(self) -> None:
        """The root key was closed: returns once no process of this server has it, or a key that it opened."""
        with self._turn:
            for process in self._live:
                process.tell(Kind.WIPE)
            deadline = time.monotonic() + WIPE_S
            for process in self._live:
                if not process.wait_for(Kind.WIPE, deadline):
                    log.error("worker pid %d did not wipe the root key in time and is killed", process.pid)
                    process.kill()
        # What a call that was running meanwhile still opened is of an epoch before this one.
        self._store.move_epoch()

    def end(self) -> None:
        """Tell all to end; running calls are answered first. Does not wait."""
        self._ending.set()
        for process in self._live:
            process.signal(signal.SIGTERM)
        with self._news:
            self._news.notify_all()

    async def stop(self) -> None:
        """End all. The event loop must go on: what they leave to this process is answered until then."""
        self.end()
        await asyncio.to_thread(self._join)

    # --- what a supervisor needs -------------------------------------------------------------------

    def answers(self) -> Answers:
        """This process's end of a worker's calls."""
        return Answers(*self._served)

    def add(self, process: _Process) -> None:
        """A worker was started."""
        with self._turn:
            self._live = (*self._live, process)
            self._give_key(process)
        if self._ending.is_set():
            process.signal(signal.SIGTERM)

    def remove(self, process: _Process) -> None:
        """A worker has ended."""
        with self._turn:
            self._live = tuple(each for each in self._live if each is not process)

    def notify(self) -> None:
        """A worker listens, or one could not start."""
        with self._news:
            self._news.notify_all()

    def pause(self, seconds: float) -> bool:
        """Wait before another attempt; whether there is to be one."""
        return not self._ending.wait(seconds)

    @property
    def ending(self) -> bool:
        """Whether workers end because they were told to."""
        return self._ending.is_set()

    def _give_key(self, process: _Process) -> None:
        with contextlib.suppress(Unavailable):  # it is sealed
            self._root_key.use(lambda key: process.tell(Kind.KEY, key))

    def _all_listen(self) -> bool:
        def settled() -> bool:
            return self.ending or any(each.failed for each in self._supervisors) or self._listening()

        with self._news:
            in_time = self._news.wait_for(settled, START_S)
        if self.ending:
            return False
        if not in_time or not self._listening():
            raise Unavailable("A worker process could not be started; the log says why.")
        return True

    def _listening(self) -> bool:
        return all(each.listens for each in self._supervisors)

    def _join(self) -> None:
        deadline = time.monotonic() + self._settings.drain + _BEYOND_DRAIN_S
        for supervisor in self._supervisors:
            supervisor.join(max(deadline - time.monotonic(), 0))
        for process in self._live:
            log.error("worker pid %d did not end in time and is killed", process.pid)
            process.kill()
        for supervisor in self._supervisors:
            supervisor.join()


@dataclasses.dataclass(frozen=True)
class _Seed:
    """What every worker is started from."""

    job: bytes
    epoch: int
    loop: asyncio.AbstractEventLoop


class _Supervisor(threading.Thread):
    """Keeps one worker running. The kernel ends a worker with the thread that started it (prctl(2),
    PR_SET_PDEATHSIG), so this one lives as long."""

    def __init__(self, number: int, workers: Workers, seed: _Seed) -> None:
        super().__init__(name=f"worker-{number}", daemon=True)
        self._number = number
        self._workers = workers
        self._seed = seed
        self.listens = False
        self.failed = False

    def run(self) -> None:
        delay = 0.0
        while self._workers.pause(delay):
            began = time.monotonic()
            how = self._one_life()
            if self._workers.ending:
                return
            if not self.listens:
                self.failed = True
                self._workers.notify()
            steady = time.monotonic() - began > _STEADY_S
            delay = _FIRST_DELAY_S if steady or not delay else min(2 * delay, _LONGEST_DELAY_S)
            log.error("worker %d %s; another is started in %.1f s", self._number, how, delay)

    def _one_life(self) -> str:
        """From start to end; how it ended."""
        try:
            with _Process(self._seed, self._workers.answers()) as process:
                self._workers.add(process)
                try:
                    process.attend(self._heard)
                finally:
                    self._workers.remove(process)
                return process.ended()
        except Exception as error:  # a supervisor must outlive one bad start
            return f"could not be started ({type(error).__name__})"

    def _heard(self, done: Kind) -> None:
        if done is Kind.JOB:
            self.listens = True
            self._workers.notify()


class _Process:
    """One worker process, dead when the block ends."""

    def __init__(self, seed: _Seed, answers: Answers) -> None:
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        calls, their_calls = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = subprocess.Popen(
                _command(their_calls.fileno(), seed.epoch),
                stdin=control.fileno(),
                stdout=subprocess.DEVNULL,
                pass_fds=(their_calls.fileno(), seed.epoch),
                start_new_session=True,  # what a terminal sends to the group is the main process's to answer
            )
        except BaseException:
            self._control.close()
            calls.close()
            raise
        finally:
            control.close()
            their_calls.close()
        self.pid = self._process.pid
        self._channel = Channel(self._control)
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._told = dict.fromkeys(Kind, 0)
        self._done = dict.fromkeys(Kind, 0)
        self._gone = False
        connecting = seed.loop.create_unix_connection(lambda: answers, sock=calls)
        asyncio.run_coroutine_threadsafe(connecting, seed.loop)
        self.tell(Kind.JOB, seed.job)

    def tell(self, kind: Kind, payload: BytesLike = b"") -> None:
        """Send a frame; a worker that is gone hears nothing."""
        with self._sending, contextlib.suppress(ChannelClosedError):
            self._told[kind] += 1
            self._channel.send(kind, payload)

    def wait_for(self, kind: Kind, deadline: float) -> bool:
        """Whether it has done all that it was told of a kind, or is gone, before a time of the monotonic
        clock."""

        def settled() -> bool:
            return self._gone or self._done[kind] >= self._told[kind]

        with self._changed:
            return self._changed.wait_for(settled, deadline - time.monotonic())

    def attend(self, heard: Callable[[Kind], None]) -> None:
        """Hear what it has done until it is gone."""
        try:
            while True:
                frame = self._channel.receive(MAX_ANSWER)
                if frame.kind is not Kind.DONE or len(frame.payload) != 1:
                    raise ProtocolError
                done = Kind(frame.payload[0])
                with self._changed:
                    self._done[done] += 1
                    self._changed.notify_all()
                heard(done)
        except (ChannelClosedError, ProtocolError, ValueError):
            with self._changed:
                self._gone = True
                self._changed.notify_all()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def ended(self) -> str:
        """How it ended, once it closed its socket."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return f"(pid {self.pid}) closed its socket"
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"(pid {self.pid}) ended: {how}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._control.close()


def _command(calls: int, epoch: int) -> list[str]:
    """How a worker is started: like this process, except that the directory it is in holds no programs."""
    main = "keystead.server.worker_main"
    return [sys.executable, "-P", "-m", main, str(os.getpid()), str(calls), str(epoch)]
