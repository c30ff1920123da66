"""The two listeners of one process: REST and gRPC over the same door.

A port belongs to one server. Where several processes of a server listen on it, the main process takes it for
itself first, so that a port in use is an error as it would be without them, and only then shares it with its
workers. The kernel spreads connections among those who listen (socket(7), SO_REUSEPORT).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from keystead.api.clock import Clock
from keystead.api.dispatch import Door
from keystead.api.registry import Registry
from keystead.server.grpc_listener import GrpcListener
from keystead.server.health import Reports
from keystead.server.rest import Limits, RestApp, uvicorn_config
from keystead.server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from keystead.iam.authentication import Authenticator

_BACKLOG = 2048


@dataclass(frozen=True)
class Ports:
    """Where REST and gRPC listen."""

    rest: int
    grpc: int


@dataclass(frozen=True)
class Served:
    """What the listeners serve."""

    registry: Registry
    door: Door
    authenticator: Authenticator
    health: Reports
    clock: Clock


class Listeners:
    """REST and gRPC of this process, until `end` is called or SIGINT or SIGTERM comes.

    shared: other processes of this server listen on the ports too. joining: this process is one of those, and
    the ports of the settings are shared already. on_end: called when the end begins.
    """

    def __init__(
        self,
        settings: Settings,
        served: Served,
        *,
        shared: bool = False,
        joining: bool = False,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._settings = settings
        self._shared = shared or joining
        self._joining = joining
        self._grpc = GrpcListener(
            served.registry,
            served.door,
            served.authenticator,
            clock=served.clock,
            max_message=settings.max_body,
            shared=self._shared,
        )
        app = RestApp(
            served.registry,
            served.door,
            served.authenticator,
            clock=served.clock,
            health=served.health,
            universe=settings.universe,
            limits=Limits(max_body=settings.max_body),
            loopback_names_only=settings.dev,
        )
        self._rest = _Server(uvicorn_config(app, settings), self._end)
        self._on_end = on_end
        self._reserved: socket.socket | None = None
        self._grpc_ending: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> Ports:
        """Listen. Raises SettingsError where a port cannot be had."""
        settings = self._settings
        rest_socket = self._bind("--port", settings.port, listen=True)
        try:
            grpc_port = await self._start_grpc()
        except BaseException:
            rest_socket.close()
            raise
        self._serving = asyncio.create_task(self._rest.serve([rest_socket]))
        listening = asyncio.create_task(self._rest.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._serving.done():  # by an error, or by a signal
            self._serving.result()
        return Ports(self._rest.port, grpc_port)

    async def ended(self) -> None:
        """Returns once REST has ended, its running calls included."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def stop(self) -> None:
        """End what still runs, after giving it `settings.drain` seconds."""
        self._rest.should_exit = True
        self._end()
        if self._grpc_ending is not None:
            await self._grpc_ending
        if self._serving is not None:
            await self._serving
        if self._reserved is not None:
            self._reserved.close()

    def _end(self) -> None:
        """Both listeners end at the same time: REST by itself, once it was told."""
        if self._grpc_ending is None:
            self._grpc_ending = asyncio.create_task(self._grpc.stop(self._settings.drain))
            self._on_end()

    async def _start_grpc(self) -> int:
        settings = self._settings
        port = settings.grpc_port
        if self._shared and not self._joining:
            # grpcio makes its own sockets, which share the port from the beginning: this one, which never
            # listens, has taken it before.
            self._reserved = self._bind("--grpc-port", port)
            port = int(self._reserved.getsockname()[1])
        try:
            return await self._grpc.start(settings.host, port, settings.tls)
        except RuntimeError as error:  # grpcio's word for a port that cannot be had
            raise _taken("--grpc-port", port, str(error).split(";", 1)[0]) from None

    def _bind(self, option: str, port: int, *, listen: bool = False) -> socket.socket:
        """A socket on a port. Raises SettingsError where it cannot be had."""
        host = self._settings.host
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if bound.family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._joining:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind((host, port))
            if self._shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if listen:
                bound.listen(_BACKLOG)
        except OSError as error:
            bound.close()
            raise _taken(option, port, error.strerror or "unknown reason") from None
        return bound


def _taken(option: str, port: int, reason: str) -> SettingsError:
    return SettingsError(
        f"Port {port} cannot be listened on: {reason}. Give another one with {option}; 0 takes any free one."
    )


class _Server(uvicorn.Server):
    """uvicorn, telling when it listens and on which port."""

    def __init__(self, config: uvicorn.Config, on_end: Callable[[], object]) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.port = 0
        self._on_end = on_end

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
        self._on_end()
