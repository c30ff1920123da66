"""What a worker leaves to the main process: it arrives whole, once, and the answer comes back as it was."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from keystead.api.call import Call, NeedsMain, WouldBlock
from keystead.api.dispatch import Dispatcher
from keystead.api.errors import BY_CODE, ApiError, DeadlineExceeded, PermissionDenied, Unavailable
from keystead.api.method import LogKind, Method, Service, method
from keystead.api.registry import Registry
from keystead.api.status import to_status
from keystead.server import forwarding
from keystead.server.forwarding import Answers, Frames, Kind, MainProcess, WorkerDoor, WorkerHealth
from keystead.server.health import Health
from tests.api.fakes import Grants, MemoryStore, Trail
from tests.server.standin import (
    API,
    KEY,
    LOCATION,
    OWNER,
    RING,
    CreateKeyRingRequest,
    EncryptRequest,
    GetKeyRingRequest,
    KeyRing,
    Keys,
    Server,
)

STRANGER = "user:stranger@example.com"
ENCRYPT, GET, CREATE = f"{API}/Encrypt", f"{API}/GetKeyRing", f"{API}/CreateKeyRing"
MIXIN = "keystead.test.Mixin/Get"
SERVICES = (Service("one.googleapis.com", "One"), Service("two.googleapis.com", "Two"))


class Mixin:
    """An RPC of two APIs, that answers which one was asked."""

    services = SERVICES

    @method(MIXIN, http="GET /v1/{name=things/*}", permission=None, on="name", log=LogKind.NONE)
    def get(self, call: Call, request: GetKeyRingRequest) -> KeyRing:
        return KeyRing(name=call.service)


class ReadOnly(MemoryStore):
    """A store that only the main process writes."""

    def write(self) -> NoReturn:
        raise NeedsMain


class Worker:
    """A worker: handlers, memory and a door of its own, over the rows of a main process."""

    def __init__(self, main: Server) -> None:
        self.main = main
        self.keys = Keys()
        self.registry = Registry()
        self.registry.add([self.keys, Mixin()])
        self.grants, self.trail = Grants(), Trail()
        self.grants.everything.add(OWNER)
        self.grants.projects.add("projects/p1")
        dispatcher = Dispatcher(self.registry, ReadOnly(), self.grants, self.trail, SystemClockOfTests())
        self.lost = 0
        self.link = MainProcess(self._lose)
        self.door = WorkerDoor(dispatcher, self.link, None)
        self.answers = Answers(main.registry, main.dispatcher, main.health)

    def _lose(self) -> None:
        self.lost += 1

    def method(self, rpc: str) -> Method:
        return self.registry.methods[rpc]

    async def call(self, rpc: str, request: Any, call: Call | None = None) -> Any:
        return await self.door.dispatch(self.method(rpc), request, call or Call(OWNER))


class SystemClockOfTests:
    """The time."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)


@asynccontextmanager
async def working() -> AsyncIterator[Worker]:
    """A worker and its main process, connected as in life."""
    main = Server()
    main.registry.add([Mixin()])
    worker = Worker(main)
    theirs, ours = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: worker.link, sock=theirs)
    await loop.create_unix_connection(lambda: worker.answers, sock=ours)
    try:
        yield worker
    finally:
        worker.link.close()
        worker.answers.close()
        await asyncio.sleep(0)


async def until(condition: Any) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# --- who answers -------------------------------------------------------------------------------


async def test_hot_calls_stay_here_and_others_go_there() -> None:
    """What is in memory is answered by the worker; what is not hot is answered by the main process."""
    async with working() as worker:
        answer = await worker.call(ENCRYPT, EncryptRequest(name=KEY, plaintext=b"abc"))
        assert answer.ciphertext == b"cba"
        assert len(worker.keys.seen) == 1
        created = await worker.call(CREATE, CreateKeyRingRequest(parent=LOCATION, key_ring_id="r1"))
        assert created == KeyRing(name=RING)
        assert RING in worker.main.store.rows
        assert len(worker.main.keys.seen) == len(worker.keys.seen) == 1


async def test_a_cold_hot_call_is_answered_here_by_a_thread() -> None:
    """What must be read first is read by the worker, off the event loop, and done there once."""
    async with working() as worker:
        worker.grants.cold = True
        with pytest.raises(WouldBlock):
            worker.door.inline(worker.method(ENCRYPT), EncryptRequest(name=KEY), Call(OWNER))
        await worker.call(ENCRYPT, EncryptRequest(name=KEY, plaintext=b"abc"))
        assert len(worker.keys.seen) == 1
        assert worker.main.keys.seen == []


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("reason", ["denied", "recorded", "new project"])
async def test_a_hot_call_that_needs_a_record_is_done_there_once(reason: str, cold: bool) -> None:
    """A denial, a wanted Data Access record, a project that comes into being: the worker does nothing of such
    a call, the main process does and records it, exactly once."""
    async with working() as worker:
        worker.grants.cold = cold
        principal = STRANGER if reason == "denied" else OWNER
        if reason == "recorded":
            worker.trail.methods.add("Encrypt")
            worker.main.trail.methods.add("Encrypt")
        elif reason == "new project":
            worker.grants.projects.clear()
        try:
            await worker.call(ENCRYPT, EncryptRequest(name=KEY, plaintext=b"abc"), Call(principal))
        except PermissionDenied:
            assert reason == "denied"
        assert worker.keys.seen == []
        assert len(worker.main.keys.seen) == (reason != "denied")
        assert len(worker.main.store.records) == (reason != "new project")
        assert ("projects/p1" in worker.main.store.rows) == (reason != "denied")


# --- what arrives ------------------------------------------------------------------------------


async def test_the_call_arrives_as_the_listener_took_it() -> None:
    """Principal, address, user agent and deadline are those of the caller."""
    deadline = dt.datetime(2090, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
    async with working() as worker:
        worker.main.store.rows[RING] = b""
        call = Call(OWNER, "2001:db8::1", "gcloud/1 \xfc", deadline)
        assert await worker.call(GET, GetKeyRingRequest(name=RING), call) == KeyRing(name=RING)
        (seen,) = worker.main.keys.calls
        assert (seen.principal, seen.caller_ip, seen.user_agent) == (OWNER, "2001:db8::1", "gcloud/1 \xfc")
        assert abs(seen.deadline - deadline) < dt.timedelta(microseconds=2)


async def test_a_mixin_knows_which_api_was_asked() -> None:
    """The service that the path named is the one that the main process answers for."""
    async with working() as worker:
        routes = worker.registry.methods[MIXIN]
        for service in SERVICES:
            asked = Method(
                routes.spec,
                routes.function,
                routes.request_type,
                routes.response_type,
                service,
                SERVICES,
                None,
            )
            answer = await worker.door.dispatch(asked, GetKeyRingRequest(name="things/1"), Call(OWNER))
            assert answer.name == service.name


async def test_nobody_is_nobody_there_too() -> None:
    """A call without credentials stays without."""
    async with working() as worker:
        with pytest.raises(ApiError) as caught:
            await worker.call(GET, GetKeyRingRequest(name=RING), Call(None))
        assert caught.value.status == "UNAUTHENTICATED"


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.status)
async def test_errors_come_back_as_they_were(kind: type[ApiError], monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, text and details of every kind of error."""
    error = kind("Wörds.", error_details_pb2.ErrorInfo(reason="R", domain="d", metadata={"a": "b"}))

    async def fail(*_: object) -> NoReturn:
        raise error

    async with working() as worker:
        monkeypatch.setattr(worker.main.dispatcher, "dispatch", fail)
        with pytest.raises(kind) as caught:
            await worker.call(GET, GetKeyRingRequest(name=RING))
        assert to_status(caught.value) == to_status(error)


async def test_an_unexpected_error_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception reaches neither the caller nor the log."""
    async with working() as worker:
        with pytest.raises(ApiError, match="Internal error encountered") as caught:
            await worker.call(GET, GetKeyRingRequest(name=f"{LOCATION}/keyRings/unexpected"))
        assert caught.value.status == "INTERNAL"
    assert "canary" not in caplog.text


async def test_large_messages_pass() -> None:
    """A request of a megabyte, and many at once that do not fit into the socket together."""
    async with working() as worker:
        worker.trail.methods.add("Encrypt")
        plaintext = bytes(range(256)) * 4096
        calls = (worker.call(ENCRYPT, EncryptRequest(name=KEY, plaintext=plaintext)) for _ in range(20))
        for answer in await asyncio.gather(*calls):
            assert answer.ciphertext == plaintext[::-1]


# --- limits and ends ---------------------------------------------------------------------------


async def test_a_cancelled_call_is_cancelled_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the caller leaves, or its deadline passes, the main process stops waiting for the answer; the next
    call is not disturbed."""
    cancelled: list[bool] = []

    async def forever(*_: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    async with working() as worker:
        dispatch = worker.main.dispatcher.dispatch
        monkeypatch.setattr(worker.main.dispatcher, "dispatch", forever)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await worker.call(GET, GetKeyRingRequest(name=RING))
        await until(lambda: cancelled)
        monkeypatch.setattr(worker.main.dispatcher, "dispatch", dispatch)
        worker.main.store.rows[RING] = b""
        assert await worker.call(GET, GetKeyRingRequest(name=RING)) == KeyRing(name=RING)


async def test_a_deadline_that_passed_is_refused_there() -> None:
    """The main process does not begin what nobody waits for any more."""
    async with working() as worker:
        past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
        with pytest.raises(DeadlineExceeded):
            await worker.call(GET, GetKeyRingRequest(name=RING), Call(OWNER, deadline=past))
        assert worker.main.keys.seen == []


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many calls are worked on at a time, so many wait, the next is told to come again; those that waited
    are answered in the end."""
    monkeypatch.setattr(forwarding, "IN_FLIGHT", 2)
    monkeypatch.setattr(forwarding, "WAITING", 5)
    gate, at_once = asyncio.Event(), 0

    async def slow(asked: Method, *_: object) -> Any:
        nonlocal at_once
        at_once += 1
        await gate.wait()
        return asked.response_type()

    async with working() as worker:
        monkeypatch.setattr(worker.main.dispatcher, "dispatch", slow)
        calls = [asyncio.create_task(worker.call(GET, GetKeyRingRequest(name=RING))) for _ in range(5)]
        await until(lambda: at_once == 2)
        with pytest.raises(Unavailable, match="too many calls waiting"):
            await worker.call(GET, GetKeyRingRequest(name=RING))
        assert at_once == 2
        gate.set()
        assert await asyncio.gather(*calls) == [KeyRing()] * 5


async def test_when_the_main_process_is_gone_calls_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was under way and what comes later is answered UNAVAILABLE, and the worker is told to end."""

    async def forever(*_: object) -> None:
        await asyncio.sleep(60)

    async with working() as worker:
        monkeypatch.setattr(worker.main.dispatcher, "dispatch", forever)
        under_way = asyncio.create_task(worker.call(GET, GetKeyRingRequest(name=RING)))
        await asyncio.sleep(0.05)
        worker.answers.close()
        with pytest.raises(Unavailable):
            await under_way
        with pytest.raises(Unavailable):
            await worker.call(GET, GetKeyRingRequest(name=RING))
        assert worker.lost == 1
        assert (await worker.call(ENCRYPT, EncryptRequest(name=KEY, plaintext=b"ab"))).ciphertext == b"ba"


async def test_when_a_worker_is_gone_its_calls_are_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for an answer that nobody hears."""
    cancelled: list[bool] = []

    async def forever(*_: object) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(True)

    async with working() as worker:
        monkeypatch.setattr(worker.main.dispatcher, "dispatch", forever)
        under_way = asyncio.create_task(worker.call(GET, GetKeyRingRequest(name=RING)))
        await asyncio.sleep(0.05)
        worker.link.close()
        await until(lambda: cancelled)
        with pytest.raises(Unavailable):
            await under_way


# --- health ------------------------------------------------------------------------------------


async def test_health_is_that_of_the_main_process() -> None:
    """Both paths answer what the main process would, and not ready where it is gone or does not answer."""
    async with working() as worker:
        health = WorkerHealth(worker.link, timeout=0.3)
        assert await health.live() == (200, {"status": "ok"})
        assert await health.ready() == (200, {"status": "ok", "checks": {"store": "ok"}})
        worker.main.ready = False
        assert await health.ready() == (503, {"status": "unavailable", "checks": {"store": "failed"}})
        worker.main.health.stopping()
        assert await health.ready() == (503, {"status": "stopping"})

        gate = asyncio.Event()

        class Stuck(Health):
            async def live(self) -> Any:
                await gate.wait()

        worker.answers._health = Stuck()
        assert await health.live() == (503, {"status": "unavailable"})
        worker.answers.close()
        await until(lambda: worker.lost)
        assert await health.ready() == (503, {"status": "unavailable"})


# --- frames ------------------------------------------------------------------------------------


class Collected(Frames):
    """What arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[Kind, int, bytes]] = []
        self.closed = False

    def handle(self, kind: Kind, number: int, payload: bytes) -> None:
        self.frames.append((kind, number, payload))

    def close(self) -> None:
        self.closed = True


FRAMES = st.tuples(st.sampled_from(list(Kind)), st.integers(0, 2**64 - 1), st.binary(max_size=40))


@given(frames=st.lists(FRAMES, max_size=6), cuts=st.lists(st.integers(1, 30)))
def test_frames_survive_any_cutting(frames: list[tuple[Kind, int, bytes]], cuts: list[int]) -> None:
    """However the bytes of a stream arrive, the frames that were sent come out, in order and whole."""
    stream = b"".join(struct.pack(">BQI", kind, number, len(p)) + p for kind, number, p in frames)
    collected = Collected()
    for cut in cuts:
        collected.data_received(stream[:cut])
        stream = stream[cut:]
    collected.data_received(stream)
    assert collected.frames == frames
    assert not collected.closed


@pytest.mark.parametrize(
    "stream",
    [struct.pack(">BQI", 99, 1, 0), struct.pack(">BQI", Kind.CALL, 1, forwarding.MAX_FRAME + 1)],
    ids=["unknown kind", "too long"],
)
def test_a_malformed_frame_ends_the_connection(stream: bytes) -> None:
    """Nothing is made of it, and no memory is kept for what it announces."""
    collected = Collected()
    collected.data_received(stream)
    assert collected.frames == []
    assert collected.closed


@pytest.mark.parametrize("kinds", [[Kind.ANSWER], [Kind.REPORT], [Kind.HEALTH, Kind.HEALTH]])
async def test_a_worker_that_breaks_the_protocol_is_cut_off(kinds: list[Kind]) -> None:
    """An answer where a question is expected, and a number that is in use already."""
    async with working() as worker:
        for kind in kinds:
            worker.link.send(kind, 1, b"ready")
        await until(lambda: worker.lost == 1)
