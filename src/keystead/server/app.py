"""Running a server: listeners, loops, signals, and the file that says where it listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop

from keystead.server.grpc_listener import GrpcListener
from keystead.server.rest import Limits, RestApp, uvicorn_config
from keystead.server.settings import Settings, SettingsError
from keystead.server.wiring import Platform, build

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises SettingsError, SealError and ApiError where it cannot start."""
    settings.check_servable()
    forbid_core_dumps()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    platform = build(settings)
    try:
        platform.start()
        uvloop.run(_serve(settings, platform))
    finally:
        platform.close()


def forbid_core_dumps() -> None:
    """A core dump would hold keys and customer data in clear."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def _serve(settings: Settings, platform: Platform) -> None:
    clock = platform.clock
    grpc = GrpcListener(
        platform.registry,
        platform.dispatcher,
        platform.authenticator,
        clock=clock,
        max_message=settings.max_body,
    )
    rest_socket = _bind(settings.host, settings.port)
    try:
        grpc_port = await grpc.start(settings.host, settings.grpc_port, settings.tls)
    except RuntimeError as error:  # grpcio's word for a port that cannot be had
        rest_socket.close()
        raise _taken("--grpc-port", settings.grpc_port, str(error).split(";", 1)[0]) from None
    app = RestApp(
        platform.registry,
        platform.dispatcher,
        platform.authenticator,
        clock=clock,
        health=platform.health,
        universe=settings.universe,
        limits=Limits(max_body=settings.max_body),
        loopback_names_only=settings.dev,
    )
    server = _Server(uvicorn_config(app, settings))
    serving = asyncio.create_task(server.serve([rest_socket]))
    await server.listening.wait()
    where = _announce(settings, server.port, grpc_port)
    scheme = "https" if settings.tls else "http"
    log.info("REST %s://%s:%d, gRPC %s:%d", scheme, settings.host, server.port, settings.host, grpc_port)
    try:
        await serving
    finally:
        platform.health.stopping()
        await grpc.stop(settings.drain)
        where.unlink(missing_ok=True)


def _announce(settings: Settings, rest_port: int, grpc_port: int) -> Path:
    """Write the file that says where this process listens; whoever waits for it never reads half of it."""
    where = settings.data_dir / "run" / "server.json"
    where.parent.mkdir(mode=0o700, exist_ok=True)
    partial = where.with_suffix(".new")
    partial.write_text(json.dumps({"pid": os.getpid(), "rest": rest_port, "grpc": grpc_port}))
    partial.replace(where)
    return where


def _bind(host: str, port: int) -> socket.socket:
    """The socket that REST listens on. Raises SettingsError where the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise _taken("--port", port, error.strerror or "unknown reason") from None


def _taken(option: str, port: int, reason: str) -> SettingsError:
    return SettingsError(
        f"Port {port} cannot be listened on: {reason}. Give another one with {option}; 0 takes any free one."
    )


class _Server(uvicorn.Server):
    """uvicorn, telling when it listens and on which port."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.port = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.servers:
            self.port = int(self.servers[0].sockets[0].getsockname()[1])
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server quietly, whatever else runs in the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        yield

    def _end(self) -> None:
        self.should_exit = True
