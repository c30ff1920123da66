"""The head of an answer waits for its body, but never for longer than a turn of the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn

from keystead.server.http_protocol import GatheringHttpProtocol


class Wire:
    """A transport that notes what is written, and in how many pieces."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.written.append(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def connected(app: Any) -> tuple[GatheringHttpProtocol, Wire]:
    """The protocol on a noted wire, serving `app`."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = uvicorn.Server(config).server_state
    protocol = GatheringHttpProtocol(config, state, {}, asyncio.get_running_loop())
    wire = Wire()
    protocol.connection_made(wire)  # type: ignore[arg-type]
    return protocol, wire


def app_answering(*pieces: bytes, pause: bool = False) -> Any:
    """An application that sends these pieces of body, with a turn of the loop between if `pause`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = str(sum(map(len, pieces))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        for index, piece in enumerate(pieces):
            if pause:
                await asyncio.sleep(0.01)
            more = index + 1 < len(pieces)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    return app


async def ask(protocol: GatheringHttpProtocol, extra: bytes = b"") -> None:
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: x\r\n" + extra + b"\r\n")
    await asyncio.sleep(0.1)


async def test_head_and_body_leave_together() -> None:
    """An answer that is there at once is one write."""
    protocol, wire = connected(app_answering(b"body"))
    await ask(protocol)
    assert len(wire.written) == 1
    assert wire.written[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.written[0].endswith(b"\r\n\r\nbody")


async def test_a_head_whose_body_is_late_does_not_wait() -> None:
    """A body that comes later comes alone: the head was sent before."""
    protocol, wire = connected(app_answering(b"late", pause=True))
    await ask(protocol)
    assert [piece[:4] for piece in wire.written] == [b"HTTP", b"late"]


async def test_every_piece_arrives_in_order() -> None:
    """However an answer is cut, its bytes arrive whole and in order, and so do those of the next one."""
    protocol, wire = connected(app_answering(b"a" * 10, b"b" * 10, b"c" * 10))
    await ask(protocol)
    await ask(protocol)
    heads, bodies = b"".join(wire.written).count(b"HTTP/1.1 200 OK"), b"".join(wire.written)
    assert heads == 2
    assert bodies.count(b"a" * 10 + b"b" * 10 + b"c" * 10) == 2


async def test_what_was_written_is_sent_before_the_connection_closes() -> None:
    """An answer that ends its connection is complete."""
    protocol, wire = connected(app_answering(b"bye"))
    await ask(protocol, b"connection: close\r\n")
    assert b"".join(wire.written).endswith(b"bye")
    assert wire.closed
