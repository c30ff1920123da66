"""Encrypt and Decrypt of 32 B, 4 KiB and 64 KiB, over REST and gRPC, by a server of one and of two processes.

Every call is offered as fast as it is answered, in 16 lanes, as many to each process of the server; the two
servers take turns. Beside the calls per second stands what limited them: the server or the driver, when it
used up its cores, the machine, when all of its cores were busy, or the latency of a call. The driver shares
the machine: over gRPC the official client costs as much as the server, so that on two cores two processes
can hardly answer more calls than one. CPU per call depends much less on that: as long as two processes need
no more of it than one, more cores serve more calls.

The last column is CPU per call of one process to that of the same work without a server: the cipher of the
ciphertext format and both checksums. No target is set for any of these.

Run: `python bench/serving_sizes.py [--rounds 3] [--seconds 2]`. Takes 24 * rounds * seconds, and 20 s more.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psutil
import requests
import uvloop
from _load import OWNER, GrpcConnection, Lane, RestConnection, flat_out, rest_request, spread
from _measure import ServerProcess, running
from google.cloud.kms_v1.types import service
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from keystead.crypto.aead import Aead
from keystead.crypto.checksum import crc32c
from keystead.crypto.ciphertext import KeyVersionRef, open_message, seal_message
from keystead.crypto.secret import SecretBytes

SIZES = {"32 B": 32, "4 KiB": 4096, "64 KiB": 65536}
WORKERS = (1, 2)
LANES = 16
CHANNELS = 4
PARENT = "projects/bench/locations/global"
KEY = f"{PARENT}/keyRings/ring/cryptoKeys/key"
KMS = "google.cloud.kms.v1.KeyManagementService"
WARM_UP_S = 0.3
RAW_S = 0.2
FULL = 0.9  # of a core: a process that has so much of one has no more to give
BUSY = 0.95  # of all cores
STRANGE = 0.2  # cores: so much other work takes calls per second from the server
REQUESTS = {"Encrypt": service.EncryptRequest.pb(), "Decrypt": service.DecryptRequest.pb()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    rows = [Row(door, rpc, size) for door in DOORS for rpc in REQUESTS for size in SIZES]
    with (
        tempfile.TemporaryDirectory() as scratch,
        serving(Path(scratch), 1) as one,
        serving(Path(scratch), 2) as two,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task("calls", total=len(rows) * len(WORKERS) * options.rounds)
        for door, (run, _) in DOORS.items():
            of_door = [row for row in rows if row.door == door]
            run(measure(of_door, (one, two), options, lambda: progress.advance(task)))
    show(rows)
    return 0


# --- servers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running server with the key. pids: of the processes that listen."""

    process: ServerProcess
    pids: tuple[int, ...]


@contextmanager
def serving(scratch: Path, workers: int) -> Iterator[Server]:
    data = scratch / f"data-{workers}"
    keystead = [str(Path(sys.executable).parent / "keystead"), "serve", "--dev", "--data-dir", str(data)]
    command = [*keystead, "--port", "0", "--grpc-port", "0", "--workers", str(workers)]
    with running(command, data / "run" / "server.json", seconds=120) as process:
        ask(process, f"{PARENT}/keyRings?keyRingId=ring", {})
        ask(process, f"{PARENT}/keyRings/ring/cryptoKeys?cryptoKeyId=key", {"purpose": "ENCRYPT_DECRYPT"})
        main = psutil.Process(process.process.pid)
        yield Server(process, (main.pid, *(child.pid for child in main.children())))


def ask(server: ServerProcess, path: str, body: Any) -> Any:
    """One call over REST, before or between what is measured."""
    url = f"http://127.0.0.1:{server.ports['rest']}/cloudkms/v1/{path}"
    answer = requests.post(url, json=body, headers={"authorization": f"Bearer {OWNER}"}, timeout=30)
    answer.raise_for_status()
    return answer.json()


# --- what is called -----------------------------------------------------------------------------------


@dataclass
class Row:
    """One kind of call. samples: by the number of processes. raw: microseconds of the same work alone."""

    door: str
    rpc: str
    size: str
    samples: dict[int, list[Sample]] = field(default_factory=lambda: {each: [] for each in WORKERS})
    raw: float = 0.0

    def cpu(self, workers: int) -> float:
        """Microseconds of the server's CPU per call."""
        return statistics.median(each.cpu for each in self.samples[workers])

    def rate(self, workers: int) -> float:
        """Calls answered in a second."""
        return statistics.median(each.rate for each in self.samples[workers])

    def limit(self, workers: int) -> str:
        """What kept it from being more, mostly."""
        return statistics.mode(each.limit(workers) for each in self.samples[workers])


@dataclass(frozen=True)
class Sample:
    """One turn: calls a second, microseconds of the server's CPU per call, and how many cores were busy with
    the server, the driver, and all that runs on the machine."""

    rate: float
    cpu: float
    server: float
    driver: float
    machine: float

    def limit(self, workers: int) -> str:
        if self.server >= FULL * workers:
            return "server"
        if self.driver >= FULL:
            return "driver"
        return "machine" if self.machine >= BUSY * (psutil.cpu_count() or 1) else "latency"


def contents(server: Server, row: Row) -> tuple[str, bytes]:
    """The field that the row's request carries, and what is in it."""
    plaintext = os.urandom(SIZES[row.size])
    if row.rpc == "Encrypt":
        return "plaintext", plaintext
    sealed = ask(server.process, f"{KEY}:encrypt", {"plaintext": base64.b64encode(plaintext).decode()})
    return "ciphertext", base64.b64decode(sealed["ciphertext"])


async def rest_lanes(server: Server) -> tuple[list[RestConnection], Callable[[Row], list[Lane]]]:
    """Connections, and the lanes over them for a row."""
    port = server.process.ports["rest"]
    hello = rest_request(port, f"/cloudkms/v1/{KEY}:encrypt", b'{"plaintext": "aGVsbG8="}')

    async def opened() -> RestConnection:
        connection = await RestConnection.open(port)
        await connection.ask(hello)
        return connection

    connections = await spread(opened, server.pids, LANES // len(server.pids))

    def lanes(row: Row) -> list[Lane]:
        name, data = contents(server, row)
        body = {name: base64.b64encode(data).decode(), f"{name}Crc32c": str(crc32c(data))}
        path = f"/cloudkms/v1/{KEY}:{row.rpc.lower()}"
        request = rest_request(port, path, orjson.dumps(body))
        return [partial(each.ask, request) for each in connections]

    return connections, lanes


async def grpc_lanes(server: Server) -> tuple[list[GrpcConnection], Callable[[Row], list[Lane]]]:
    """Connections, and the lanes over them for a row."""
    opened = partial(GrpcConnection.open, server.process.ports["grpc"])
    connections = await spread(opened, server.pids, CHANNELS // len(server.pids))

    def lanes(row: Row) -> list[Lane]:
        name, data = contents(server, row)
        message = REQUESTS[row.rpc](name=KEY, **{name: data})
        getattr(message, f"{name}_crc32c").value = crc32c(data)
        request = message.SerializeToString()
        calls = [partial(each.invoke(f"{KMS}/{row.rpc}"), request) for each in connections]
        return calls * (LANES // CHANNELS)

    return connections, lanes


DOORS: dict[str, tuple[Callable[[Any], Any], Callable[[Server], Awaitable[Any]]]] = {
    "REST": (uvloop.run, rest_lanes),
    "gRPC": (asyncio.run, grpc_lanes),
}


# --- measuring ----------------------------------------------------------------------------------------


async def measure(
    rows: Sequence[Row], servers: Sequence[Server], options: argparse.Namespace, advance: Callable[[], object]
) -> None:
    """Every row of a door, each server in turn."""
    made = [await DOORS[rows[0].door][1](server) for server in servers]
    for row in rows:
        row.raw = raw_cost(row)
        lanes = [lanes_of(row) for _, lanes_of in made]
        for each in lanes:
            await flat_out(each, WARM_UP_S)
        for turn in range(options.rounds):
            for at in (0, 1) if turn % 2 else (1, 0):
                sample = await one_turn(servers[at], lanes[at], options.seconds)
                row.samples[WORKERS[at]].append(sample)
                advance()
    for connections, _ in made:
        for connection in connections:
            await connection.close()


async def one_turn(server: Server, lanes: Sequence[Lane], seconds: float) -> Sample:
    began, driver, machine = time.perf_counter(), time.process_time(), machine_seconds()
    cpu = server.process.cpu_seconds()
    calls = await flat_out(lanes, seconds)
    cpu = server.process.cpu_seconds() - cpu
    took = time.perf_counter() - began
    return Sample(
        rate=calls / took,
        cpu=cpu / calls * 1e6,
        server=cpu / took,
        driver=(time.process_time() - driver) / took,
        machine=(machine_seconds() - machine) / took,
    )


def machine_seconds() -> float:
    """CPU time that anything has used so far, on all cores."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def raw_cost(row: Row) -> float:
    """Microseconds of CPU of what a call does to its bytes: cipher and checksums."""
    cipher, ref = Aead(SecretBytes.random()), KeyVersionRef(bytes(16), KEY, 1)
    plaintext = os.urandom(SIZES[row.size])
    ciphertext = seal_message(cipher, ref, plaintext, b"")

    def encrypt() -> None:
        crc32c(plaintext)
        crc32c(seal_message(cipher, ref, plaintext, b""))

    def decrypt() -> None:
        crc32c(ciphertext)
        crc32c(open_message(cipher, ref, ciphertext, b""))

    work = encrypt if row.rpc == "Encrypt" else decrypt
    samples = []
    end = time.perf_counter() + RAW_S
    while time.perf_counter() < end:
        before = time.process_time()
        for _ in range(100):
            work()
        samples.append((time.process_time() - before) / 100 * 1e6)
    return statistics.median(samples)


def show(rows: Sequence[Row]) -> None:
    """The table."""
    table = Table(title=f"{LANES} calls at a time, {psutil.cpu_count()} cores, which the driver shares")
    table.add_column("", no_wrap=True)
    numbers = [f"workers {each}\n{what}" for each in WORKERS for what in ("calls/s", "CPU us", "limit")]
    for head in ("alone\nus", *numbers, "2 to 1\ncalls/s", "2 to 1\nCPU", "1 to alone\nCPU"):
        table.add_column(head, justify="right")
    for at, row in enumerate(rows, 1):
        cells = [
            cell
            for each in WORKERS
            for cell in (f"{row.rate(each):,.0f}", f"{row.cpu(each):.1f}", row.limit(each))
        ]
        ratios = (row.rate(2) / row.rate(1), row.cpu(2) / row.cpu(1), row.cpu(1) / row.raw)
        shown = (f"{each:.2f}" for each in ratios)
        name = f"{row.door} {row.rpc} {row.size}"
        table.add_row(name, f"{row.raw:.1f}", *cells, *shown, end_section=at % len(SIZES) == 0)
    Console(width=140).print(table)
    others = statistics.median(
        each.machine - each.server - each.driver
        for row in rows
        for samples in row.samples.values()
        for each in samples
    )
    if others > STRANGE:
        print(f"{others:.1f} cores were busy with something else: of this only CPU per call tells anything")


if __name__ == "__main__":
    sys.exit(main())
