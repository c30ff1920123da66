"""Calls that a worker process leaves to the main process, and how they get there.

SECURITY: a call is decided, done and audited by exactly one process. A worker hands a call over whole, before
it did anything of it: request, principal, address, user agent, deadline. The socket is a pair without a name
that the worker inherited; the main process believes what it says of a caller, because the worker's listener
proved it as the main process's own would. What waits in either direction is bounded.

    frame    1 byte kind | 8 bytes number | 4 bytes length, big endian | payload

    worker -> main                                     main -> worker
    CALL     4 bytes length | JSON | request message   ANSWER   response message
    CANCEL   the caller is gone, or its time is up     FAILED   google.rpc.Status
    HEALTH   `live` or `ready`                         REPORT   JSON: HTTP status and body

The number is the worker's own, and comes back with the answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import itertools
import logging
import struct
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final, cast

import orjson
from google.rpc import status_pb2

from keystead.api.call import Call, NeedsMain, WouldBlock
from keystead.api.dispatch import Dispatcher, Door
from keystead.api.errors import ApiError, Internal, Unavailable, Unimplemented
from keystead.api.method import Method
from keystead.api.registry import Registry
from keystead.api.status import as_api_error, from_status, to_status
from keystead.server.health import Report, Reports

log = logging.getLogger(__name__)

IN_FLIGHT: Final = 256
"""Calls of one worker that the main process works on at a time."""
WAITING: Final = 4096
"""Calls of one worker that may be there or wait for their turn; those beyond are refused."""
MAX_FRAME: Final = 128 << 20
HEALTH_S: Final = 3.0
_HEADER: Final = struct.Struct(">BQI")
_LENGTH: Final = struct.Struct(">I")


class Kind(enum.IntEnum):
    """What a frame is."""

    CALL = 1
    CANCEL = 2
    HEALTH = 3
    ANSWER = 4
    FAILED = 5
    REPORT = 6


class FrameError(Exception):
    """The other side sent what it may not."""


class Frames(asyncio.Protocol):
    """One end of the socket."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a socket's reads and writes

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        try:
            while len(received) - at >= _HEADER.size:
                kind, number, length = _HEADER.unpack_from(received, at)
                if length > MAX_FRAME:
                    raise FrameError
                end = at + _HEADER.size + length
                if len(received) < end:
                    break
                payload = bytes(memoryview(received)[at + _HEADER.size : end])
                at = end
                self.handle(Kind(kind), number, payload)
        except (FrameError, ValueError, KeyError, struct.error):
            log.error("a frame between worker and main process was malformed")  # noqa: TRY400 (may quote data)
            self.close()
        del received[:at]

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._transport = None

    def handle(self, kind: Kind, number: int, payload: bytes) -> None:
        """Take one frame."""
        raise NotImplementedError

    def send(self, kind: Kind, number: int, *parts: bytes) -> None:
        """Send a frame. Nothing is sent once the other side is gone."""
        if self._transport is not None:
            header = _HEADER.pack(kind, number, sum(map(len, parts)))
            self._transport.writelines((header, *parts))

    def close(self) -> None:
        """Let go of the socket."""
        if self._transport is not None:
            self._transport.abort()


class MainProcess(Frames):
    """The main process, as a worker sees it. Used on the worker's event loop only.

    lost: called when its socket is closed.
    """

    def __init__(self, lost: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._lost = lost
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[tuple[Kind, bytes]]] = {}
        self._turns = asyncio.Semaphore(IN_FLIGHT)
        self._waiting = 0

    async def call(self, method: Method, request: Any, call: Call) -> Any:
        """Have the main process answer a call. Raises ApiError.

        Cancelling this cancels the call there, as far as it can be.
        """
        if self._waiting >= WAITING:
            raise Unavailable("The server has too many calls waiting. Try again.")
        self._waiting += 1
        try:
            async with self._turns:
                kind, payload = await self._ask(Kind.CALL, *_packed(method, request, call))
        finally:
            self._waiting -= 1
        if kind is Kind.FAILED:
            raise from_status(status_pb2.Status.FromString(payload))
        return method.response_type.FromString(payload)

    async def health(self, path: bytes) -> Report:
        """What the main process answers to a health path, `live` or `ready`. Raises ApiError."""
        _, payload = await self._ask(Kind.HEALTH, path)
        status, report = orjson.loads(payload)
        return status, report

    def handle(self, kind: Kind, number: int, payload: bytes) -> None:
        waiting = self._pending.get(number)
        if waiting is not None and not waiting.done():  # else it was cancelled
            waiting.set_result((kind, payload))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(_gone())
        self._lost()

    async def _ask(self, kind: Kind, *parts: bytes) -> tuple[Kind, bytes]:
        if self._transport is None:
            raise _gone()
        number = next(self._numbers)
        answer: asyncio.Future[tuple[Kind, bytes]] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        self.send(kind, number, *parts)
        try:
            return await answer
        except asyncio.CancelledError:
            self.send(Kind.CANCEL, number)
            raise
        finally:
            del self._pending[number]


class WorkerDoor:
    """`api.dispatch.Door` of a worker: hot calls from this process's memory, everything else from the main
    process."""

    def __init__(self, dispatcher: Dispatcher, main: MainProcess, executor: Executor) -> None:
        self.inline = dispatcher.inline
        self._unwritten = dispatcher.unwritten
        self._main = main
        self._executor = executor

    async def dispatch(self, method: Method, request: Any, call: Call) -> Any:
        if method.spec.hot:
            try:
                return self.inline(method, request, call)
            except NeedsMain:
                pass
            except WouldBlock:
                loop = asyncio.get_running_loop()
                try:
                    return await loop.run_in_executor(self._executor, self._unwritten, method, request, call)
                except WouldBlock:
                    pass
        return await self._main.call(method, request, call)


class WorkerHealth:
    """`health.Reports` of a worker: what the main process says of the whole server."""

    def __init__(self, main: MainProcess, timeout: float = HEALTH_S) -> None:
        self._main = main
        self._timeout = timeout

    async def live(self) -> Report:
        return await self._report(b"live")

    async def ready(self) -> Report:
        return await self._report(b"ready")

    async def _report(self, path: bytes) -> Report:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._main.health(path)
        except (TimeoutError, ApiError):
            return 503, {"status": "unavailable"}


class Answers(Frames):
    """The main process's end: answers one worker. Used on the main process's event loop only."""

    def __init__(self, registry: Registry, door: Door, health: Reports) -> None:
        super().__init__()
        self._methods = _by_service(registry)
        self._door = door
        self._health = health
        self._running: dict[int, asyncio.Task[None]] = {}

    def handle(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.CANCEL:
            running = self._running.get(number)
            if running is not None:
                running.cancel()
        elif kind in {Kind.CALL, Kind.HEALTH}:
            if number in self._running:
                raise FrameError
            work = self._call if kind is Kind.CALL else self._report
            task = asyncio.create_task(work(number, payload))
            self._running[number] = task
            task.add_done_callback(lambda _: self._running.pop(number, None))
        else:
            raise FrameError

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for running in self._running.values():
            running.cancel()

    async def _call(self, number: int, payload: bytes) -> None:
        try:
            method, request, call = self._unpacked(payload)
            response = await self._door.dispatch(method, request, call)
            answer = response.SerializeToString()
            if len(answer) > MAX_FRAME:
                raise Internal("The answer is too long.")
        except Exception as error:
            failure = to_status(as_api_error(error))
            self.send(Kind.FAILED, number, failure.SerializeToString())
        else:
            self.send(Kind.ANSWER, number, answer)

    async def _report(self, number: int, payload: bytes) -> None:
        report = await (self._health.live() if payload == b"live" else self._health.ready())
        self.send(Kind.REPORT, number, orjson.dumps(report))

    def _unpacked(self, payload: bytes) -> tuple[Method, Any, Call]:
        (length,) = _LENGTH.unpack_from(payload)
        start = _LENGTH.size + length
        about = orjson.loads(payload[_LENGTH.size : start])
        method = self._methods.get((about["rpc"], about["service"]))
        if method is None:
            raise Unimplemented(f"The method {about['rpc']} is not implemented.")
        call = Call(about["principal"], about["ip"], about["agent"])
        if about["deadline"] is not None:
            call.deadline = dt.datetime.fromtimestamp(about["deadline"], dt.UTC)
        return method, method.request_type.FromString(payload[start:]), call


def _packed(method: Method, request: Any, call: Call) -> tuple[bytes, ...]:
    about = orjson.dumps(
        {
            "rpc": method.spec.rpc,
            "service": method.service.name,
            "principal": call.principal,
            "ip": call.caller_ip,
            "agent": call.user_agent,
            "deadline": call.deadline.timestamp() if call.deadline else None,
        }
    )
    return _LENGTH.pack(len(about)), about, request.SerializeToString()


def _by_service(registry: Registry) -> dict[tuple[str, str], Method]:
    """Every method as each of its services asks for it: which API of a mixin was asked matters."""
    return {
        (rpc, service.name): dataclasses.replace(method, service=service)
        for rpc, method in registry.methods.items()
        for service in method.services
    }


def _gone() -> Unavailable:
    return Unavailable("The server is stopping. Try again.")
