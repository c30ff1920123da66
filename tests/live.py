"""A real server beside the tests: `keystead serve --dev` in a process of its own, on ports it picked itself.

Owns starting it on a data directory, waiting until it listens, stopping or killing it by its process id, and
starting it again on the same directory. What it prints goes to `server.log` beside the data directory.
`tests.platform` has a smaller Keystead inside the test's process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWNER = "user:owner@example.com"
_START_S = 60.0
_STOP_S = 30.0


class LiveServer:
    """One server at a time over `root/data`, with the input tables in `root/tables`."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self._options = options
        self.data_dir = root / "data"
        self.tables_dir = root / "tables"
        self.tables_dir.mkdir(parents=True, exist_ok=True)
        self.log = root / "server.log"
        self.rest_port = 0
        self.grpc_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where REST listens."""
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def grpc_target(self) -> str:
        """Where gRPC listens, as a channel takes it."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and neither stopped nor killed since."""
        return self._process is not None

    def command(self, *more: str) -> list[str]:
        """The command line that serves this data directory."""
        serve = [sys.executable, "-m", "keystead", "serve", "--data-dir", str(self.data_dir)]
        ports = ["--port", "0", "--grpc-port", "0"]
        return [*serve, *ports, "--tables-dir", str(self.tables_dir), *self._options, *more]

    def start(self) -> None:
        """Start it and wait until it says where it listens. Raises AssertionError with its log if it ends."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command("--dev"), stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._listening():
            assert self._process.poll() is None, f"the server ended:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"the server did not start:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.02)

    def _listening(self) -> bool:
        """Whether this process (not one that was killed before it) has said where it listens."""
        try:
            ports = json.loads((self.data_dir / "run" / "server.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        if ports["pid"] != self.pid:
            return False
        self.rest_port, self.grpc_port = ports["rest"], ports["grpc"]
        return True

    def kill(self) -> None:
        """SIGKILL: it gets no chance to write or tidy up anything."""
        assert self._process is not None, "the server was not started"
        self._process.kill()
        self._process.wait()
        self._process = None

    def ended(self) -> int:
        """Its exit status, once it ends by itself. Raises TimeoutExpired if it does not."""
        assert self._process is not None, "the server was not started"
        status = self._process.wait(timeout=_STOP_S)
        self._process = None
        return status

    def stop(self) -> int:
        """SIGTERM, and its exit status; nothing if it does not run."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            status = self._process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._process = None
        return status


@contextmanager
def live_server(root: Path) -> Iterator[LiveServer]:
    """A server over an empty (or earlier) `root`, stopped at the end."""
    server = LiveServer(root)
    server.start()
    try:
        yield server
    finally:
        server.stop()
