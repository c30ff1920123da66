"""What drives a server in a benchmark: connections over REST and gRPC, and lanes that call over them.

A lane has one call in flight at a time. Requests are made before the clock runs, and answers are only looked
at as far as to see that they are successes, so that the driver takes as little of the machine as it can.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import grpc
import psutil

OWNER = "user:owner@example.com"
_LENGTH = b"content-length: "

Lane = Callable[[], Awaitable[Any]]


class Connection(Protocol):
    """What `spread` needs of a connection. port: this end's."""

    port: int

    async def close(self) -> None: ...


AnyConnection = TypeVar("AnyConnection", bound=Connection)


class RestConnection(asyncio.Protocol):
    """A keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self.port = 0
        self._transport: Any = None
        self._waiting: asyncio.Future[None] | None = None
        self._head = b""
        self._left = -1  # bytes of the body that are still to come; -1 in the head

    @classmethod
    async def open(cls, port: int) -> RestConnection:
        """Connect to this machine."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    def ask(self, request: bytes) -> asyncio.Future[None]:
        """Send a whole request; done when the whole answer is there. Raises RuntimeError if it is no 200."""
        self._waiting = waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return waiting

    async def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.port = int(transport.get_extra_info("sockname")[1])

    def data_received(self, data: bytes) -> None:
        if self._left >= 0:
            self._left -= len(data)
        elif not self._began(data):
            return
        if self._left == 0 and self._waiting is not None:
            self._left = -1
            self._waiting.set_result(None)

    def _began(self, data: bytes) -> bool:
        """Whether the head is complete."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self._head = self._head, b""
        if not head.startswith(b"HTTP/1.1 200 "):
            self._fail(RuntimeError(head.decode()))
            return False
        at = head.index(_LENGTH) + len(_LENGTH)
        self._left = int(head[at : head.index(b"\r", at)]) - (len(head) - end - 4)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def rest_request(port: int, path: str, body: bytes) -> bytes:
    """A POST of JSON as the owner, with the headers that clients send."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {OWNER}\r\n"
        "content-type: application/json\r\naccept: */*\r\nuser-agent: bench\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class GrpcConnection:
    """A channel with a connection of its own; any number of calls at a time."""

    def __init__(self, port: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)
        self._metadata = (("authorization", f"Bearer {OWNER}"),)
        self.port = 0

    @classmethod
    async def open(cls, port: int) -> GrpcConnection:
        """Connect to this machine."""
        before = _own_ports(port)
        connection = cls(port)
        await connection._channel.channel_ready()
        (connection.port,) = _own_ports(port) - before
        return connection

    def invoke(self, rpc: str) -> Callable[[bytes], Awaitable[bytes]]:
        """Calls of an RPC, from message to message. Raise grpc.RpcError."""
        call = self._channel.unary_unary(f"/{rpc}")
        return lambda request: call(request, metadata=self._metadata)

    async def close(self) -> None:
        await self._channel.close()


async def spread(
    opened: Callable[[], Awaitable[AnyConnection]], pids: Sequence[int], each: int
) -> list[AnyConnection]:
    """Connections, so many to each of the processes that listen on a port: the kernel chooses among those by
    itself, so those beyond are closed again. `opened` makes one that was accepted."""
    found: list[AnyConnection] = []
    share: Counter[int] = Counter()
    while len(found) < each * len(pids):
        connection = await opened()
        owner = next(pid for pid in pids if connection.port in _peer_ports(pid))
        if share[owner] < each:
            share[owner] += 1
            found.append(connection)
        else:
            await connection.close()
    return found


def _peer_ports(pid: int) -> set[int]:
    return {each.raddr.port for each in psutil.Process(pid).net_connections("tcp") if each.raddr}


def _own_ports(server_port: int) -> set[int]:
    return {
        each.laddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == server_port
    }


async def paced(lanes: Sequence[Lane], calls: int, rate: float) -> None:
    """So many calls, `rate` a second in all lanes.

    Contestants are offered the same calls at the same moments. Driven as fast as each can, the faster one
    would find its next call waiting, while the slower one pays for waking a driver that sleeps.
    """

    async def some(number: int, lane: Lane) -> None:
        start = time.perf_counter() + number / rate
        for turn in range(calls // len(lanes)):
            moment = start + turn * len(lanes) / rate
            await asyncio.sleep(max(moment - time.perf_counter(), 0))
            await lane()

    await asyncio.gather(*(some(number, lane) for number, lane in enumerate(lanes)))


async def flat_out(lanes: Sequence[Lane], seconds: float) -> int:
    """Every lane calls again as soon as it is answered, for so long; how many calls were answered."""
    end = time.perf_counter() + seconds

    async def some(lane: Lane) -> int:
        calls = 0
        while time.perf_counter() < end:
            await lane()
            calls += 1
        return calls

    return sum(await asyncio.gather(*map(some, lanes)))
