"""What benchmarks share: servers in processes of their own, their CPU time, contestants in turns, verdicts.

CPU time of the whole process tree is compared, not the clock on the wall: it hardly changes when the machine
is busy with other work. Contestants take turns within one run, so that a slow minute slows them alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil


@dataclass
class ServerProcess:
    """A server that was started for a benchmark. `ports` is what it said about where it listens."""

    process: subprocess.Popen[bytes]
    ports: dict[str, int] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """User and system time of the process and all its children so far."""
        root = psutil.Process(self.process.pid)
        total = 0.0
        for each in [root, *root.children(recursive=True)]:
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total


@contextmanager
def running(command: list[str], ports_file: Path, *, seconds: float = 30) -> Iterator[ServerProcess]:
    """A server that writes its ports as JSON to a file once it listens; ended at the end of the block."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await_ports(process, ports_file, time.monotonic() + seconds, log)
            yield ServerProcess(process, json.loads(ports_file.read_text()))
        finally:
            _end(process)


def _await_ports(process: subprocess.Popen[bytes], ports_file: Path, deadline: float, log: IO[bytes]) -> None:
    while not (ports_file.exists() and ports_file.read_text().endswith("}")):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            raise RuntimeError(f"the server did not start: {log.read().decode()[-2000:]}")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Contestant:
    """One side of a comparison: `drive(n)` makes n calls to `server` and returns when all are answered."""

    name: str
    server: ServerProcess
    drive: Callable[[int], None]
    samples: list[float] = field(default_factory=list)

    def measure(self, calls: int) -> None:
        """One round: microseconds of server CPU per call."""
        before = self.server.cpu_seconds()
        self.drive(calls)
        self.samples.append((self.server.cpu_seconds() - before) / calls * 1e6)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def compare(ours: Contestant, baseline: Contestant, *, calls: int, rounds: int) -> float:
    """The ratio of the medians of both, measured in turns after one round to warm up."""
    for contestant in (baseline, ours):
        contestant.drive(max(calls // 4, 1))
    for _ in range(rounds):
        for contestant in (baseline, ours):
            contestant.measure(calls)
    for contestant in (baseline, ours):
        low, high = min(contestant.samples), max(contestant.samples)
        print(f"  {contestant.name:<34} {contestant.median:7.1f} us CPU per call ({low:.1f} to {high:.1f})")
    return ours.median / baseline.median


def verdict(name: str, value: float, target: float) -> bool:
    """Print whether a ratio is within its target, and say so to the caller."""
    good = value <= target
    print(f"{name} {value:.2f} (target <= {target:g}) {'ok' if good else 'MISSED'}")
    sys.stdout.flush()
    return good
