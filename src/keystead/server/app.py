"""Running a server: listeners, workers, loops, and the file that says where it listens."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import uvloop

from keystead.cmek.sandbox import forbid_core_dumps
from keystead.server.listeners import Listeners, Ports, Served
from keystead.server.settings import Settings
from keystead.server.wiring import Platform, build
from keystead.server.workers import Workers

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises SettingsError, SealError and ApiError where it cannot start."""
    settings.check_servable()
    forbid_core_dumps()
    set_up_logging()
    platform = build(settings)
    try:
        platform.start()
        uvloop.run(_serve(settings, platform))
    finally:
        platform.close()


async def _serve(settings: Settings, platform: Platform) -> None:
    workers = Workers(settings, platform)
    served = Served(
        platform.registry, platform.dispatcher, platform.authenticator, platform.health, platform.clock
    )

    def end() -> None:
        platform.health.stopping()
        workers.end()

    listeners = Listeners(settings, served, shared=settings.workers > 1, on_end=end)
    ports = await listeners.start()
    where: Path | None = None
    try:
        if await _all_listen(listeners, workers, ports):
            where = _announce(settings, ports)
            scheme = "https" if settings.tls else "http"
            log.info(
                "REST %s://%s:%d, gRPC %s:%d", scheme, settings.host, ports.rest, settings.host, ports.grpc
            )
        await listeners.ended()
    finally:
        await asyncio.gather(listeners.stop(), workers.stop())
        if where is not None:
            where.unlink(missing_ok=True)


async def _all_listen(listeners: Listeners, workers: Workers, ports: Ports) -> bool:
    """Start the workers; whether they all listen, which they do not where the server is told to end first."""
    starting = asyncio.create_task(workers.start(ports))
    ended = asyncio.create_task(listeners.ended())
    await asyncio.wait({starting, ended}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        workers.end()
    else:
        ended.cancel()
    return await starting


def _announce(settings: Settings, ports: Ports) -> Path:
    """Write the file that says where this server listens; whoever waits for it never reads half of it."""
    where = settings.data_dir / "run" / "server.json"
    where.parent.mkdir(mode=0o700, exist_ok=True)
    partial = where.with_suffix(".new")
    partial.write_text(json.dumps({"pid": os.getpid(), "rest": ports.rest, "grpc": ports.grpc}))
    partial.replace(where)
    return where


def set_up_logging() -> None:
    """To standard error, the process's own and the libraries' alike."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
