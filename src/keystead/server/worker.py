"""Inside a worker process: it answers hot calls from its memory, and leaves all others to the main process.

SECURITY: the root key is here only while the main process says so, and is wiped before WIPE is confirmed. The
store is only read. A key that was opened in an epoch of the store is not used in the next, and leaves memory
`STALE_S` after that began at the latest. When the main process is gone, so is this one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import socket
import threading
from typing import Any, Final, NoReturn

import uvloop

from keystead.api.call import NeedsMain
from keystead.api.clock import SystemClock
from keystead.api.errors import Unavailable
from keystead.cmek.channel import MAX_JOB, Channel, ChannelClosedError, Frame, Kind, ProtocolError
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import Algorithm
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.keycache import KeyCache
from keystead.kms.rootkey import RootKey
from keystead.server.app import set_up_logging
from keystead.server.forwarding import MainProcess, WorkerDoor, WorkerHealth
from keystead.server.listeners import Listeners, Served
from keystead.server.loops import Loop
from keystead.server.settings import Settings
from keystead.server.wiring import Hot, build_worker
from keystead.store.engine import Follower, open_follower
from keystead.store.epoch import EpochReader

log = logging.getLogger(__name__)

STALE_S: Final = 0.2


def run(calls: int, epoch: int) -> None:
    """Work until SIGTERM or the end of the main process. calls, epoch: the inherited descriptors."""
    channel = Channel(socket.socket(fileno=0))
    settings: Settings = pickle.loads(channel.receive(MAX_JOB).payload)  # noqa: S301  (from who started us)
    set_up_logging()
    root_key = LentRootKey()
    control = _Control(channel, root_key)
    control.start()
    store = open_follower(settings.database_url, EpochReader(epoch))
    os.close(epoch)
    tokens = [TokenOfMain()] if settings.hsm_module is not None else []
    hot = build_worker(settings, SystemClock(), store, [SoftwareBackend(root_key), *tokens])
    control.cache = hot.cache
    stale = Loop("stale-keys", StaleKeys(store, hot.cache).drop, STALE_S)
    stale.start()
    try:
        uvloop.run(_serve(settings, hot, calls, control))
    finally:
        root_key.close()
        hot.cache.clear()
        stale.stop()
        for executor in hot.executors:
            executor.shutdown(wait=False, cancel_futures=True)
        store.close()


async def _serve(settings: Settings, hot: Hot, calls: int, control: _Control) -> None:
    main = MainProcess(lost=lambda: signal.raise_signal(signal.SIGTERM))
    await asyncio.get_running_loop().create_unix_connection(lambda: main, sock=socket.socket(fileno=calls))
    door = WorkerDoor(hot.dispatcher, main, hot.executors[0])
    served = Served(hot.registry, door, hot.authenticator, WorkerHealth(main), SystemClock())
    listeners = Listeners(settings, served, joining=True)
    await listeners.start()
    control.done(Kind.JOB)
    try:
        await listeners.ended()
    finally:
        await listeners.stop()


class LentRootKey(RootKey):
    """The root key while the main process lends it. Without it a call is for the main process, which knows
    why."""

    def unwrap(self, version_name: str, wrapped: bytes) -> SecretBytes:
        try:
            return super().unwrap(version_name, wrapped)
        except Unavailable:
            raise NeedsMain from None


class TokenOfMain:
    """`kms.backends.Backend` of HSM keys in a worker: only the main process has a session with the token."""

    level = "HSM"
    blocking = True
    max_bytes = 8192
    together = True
    algorithms: frozenset[str] = frozenset()
    import_methods: frozenset[str] = frozenset()

    def load(self, version: str, algorithm: Algorithm, stored: bytes) -> Any:
        del version, algorithm, stored
        return _KeyOfMain()

    def _only_main(self, *_: object, **__: object) -> NoReturn:
        raise NeedsMain

    generate = remove = generate_import_key = import_key = _only_main


class _KeyOfMain:
    """An HSM key: whatever it is asked to do, the main process must."""

    def __getattr__(self, name: str) -> NoReturn:
        raise NeedsMain


class StaleKeys:
    """Lets go of opened keys of epochs that are over."""

    def __init__(self, store: Follower, cache: KeyCache) -> None:
        self._store = store
        self._cache = cache
        self._seen = store.epoch

    def drop(self) -> None:
        epoch = self._store.epoch
        if epoch != self._seen:
            self._seen = epoch
            self._cache.clear()


class _Control(threading.Thread):
    """Hears the main process, and ends this one when it is gone."""

    def __init__(self, channel: Channel, root_key: RootKey) -> None:
        super().__init__(name="control", daemon=True)
        self._channel = channel
        self._root_key = root_key
        self._sending = threading.Lock()
        self.cache: KeyCache | None = None

    def run(self) -> None:
        try:
            while True:
                self._take(self._channel.receive(MAX_JOB))
        except (ChannelClosedError, ProtocolError):
            self._root_key.close()
            os._exit(1)

    def done(self, kind: Kind) -> None:
        """Say that something was done."""
        with self._sending:
            self._channel.send(Kind.DONE, bytes((kind,)))

    def _take(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.KEY:
                self._root_key.put(SecretBytes.adopt(frame.payload))
            case Kind.WIPE:
                self._root_key.close()
                if self.cache is not None:
                    self.cache.clear()
            case _:
                raise ProtocolError
        self.done(frame.kind)
