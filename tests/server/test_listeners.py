"""Ports: one server has them for itself, and shares them with its own workers only."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from keystead.api.clock import SystemClock
from keystead.server.listeners import Listeners, Ports, Served
from keystead.server.settings import Settings, SettingsError
from tests.api.fakes import Tokens
from tests.server.standin import Server

SETTINGS = Settings(data_dir=Path("unused"), port=0, grpc_port=0, dev=True, drain=1)


@asynccontextmanager
async def listening(
    settings: Settings, *, shared: bool = False, joining: bool = False
) -> AsyncIterator[Ports]:
    """Listeners over a small service, until the end of the block."""
    server = Server()
    served = Served(server.registry, server.dispatcher, Tokens(), server.health, SystemClock())
    listeners = Listeners(settings, served, shared=shared, joining=joining)
    ports = await listeners.start()
    try:
        yield ports
    finally:
        await listeners.stop()


def on(ports: Ports) -> Settings:
    return dataclasses.replace(SETTINGS, port=ports.rest, grpc_port=ports.grpc)


async def answers(ports: Ports) -> None:
    """Both doors answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ports.rest)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 10)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("second_shared", [False, True])
@pytest.mark.parametrize("door", ["rest", "grpc"])
async def test_a_port_that_another_server_has_is_refused(
    shared: bool, second_shared: bool, door: str
) -> None:
    """Whether either of them shares its ports with workers or not, and the text names the option."""
    option = {"rest": "--port", "grpc": "--grpc-port"}[door]
    async with listening(SETTINGS, shared=shared) as ports:
        taken = dataclasses.replace(
            SETTINGS, **({"port": ports.rest} if door == "rest" else {"grpc_port": ports.grpc})
        )
        with pytest.raises(SettingsError, match=rf"cannot be listened on.*with {option};"):
            async with listening(taken, shared=second_shared):
                pass
        await answers(ports)


async def test_workers_join_ports_that_are_shared() -> None:
    """Several listen on the same ports; when one leaves, the others go on, and another may join."""
    async with listening(SETTINGS, shared=True) as ports:
        for _ in range(2):
            async with listening(on(ports), joining=True) as joined, listening(on(ports), joining=True):
                assert joined == ports
                for _ in range(10):
                    await answers(ports)
            await answers(ports)


async def test_nobody_joins_ports_that_are_not_shared() -> None:
    """Without workers the ports are closed to every other process."""
    async with listening(SETTINGS) as ports:
        with pytest.raises(SettingsError):
            async with listening(on(ports), joining=True):
                pass


async def test_ports_are_free_again_afterwards() -> None:
    """A server that ended leaves its ports to the next, shared or not."""
    async with listening(SETTINGS, shared=True) as ports:
        await answers(ports)
    for shared in (False, True):
        async with listening(on(ports), shared=shared) as again:
            assert again == ports
            await answers(ports)
