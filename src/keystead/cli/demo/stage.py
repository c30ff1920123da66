"""The stage: an empty directory, the input tables, and a real server beside this process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

TABLES = ("party", "account_party_link", "transaction", "risk_case_event")
PROJECT = "demo-project"
_START_S = 60.0


class Stage:
    """Everything the story needs, under one temporary directory; removed at the end unless it is kept."""

    def __init__(self, *, keep: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="keystead-demo-"))
        self.data_dir = self.root / "data"
        self.tables = self.root / "tables"
        self.log = self.root / "server.log"
        self.rest_port = 0
        self.grpc_port = 0
        self._keep = keep
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def input(self) -> Path:
        """Where `bq://demo-project.input.<table>` is read from."""
        return self.tables / PROJECT / "input"

    def take_input(self, folder: Path) -> None:
        """Offer the user's own files as the input tables, without copying them."""
        self.input.parent.mkdir(parents=True)
        missing = [table for table in TABLES if table_path(folder, table) is None]
        if missing:
            raise click.ClickException(
                f"{folder} has no {', '.join(missing)}. Each table is a file NAME.parquet or NAME.csv, or a "
                "folder NAME of such files."
            )
        self.input.mkdir()
        for table in TABLES:
            source = table_path(folder, table)
            if source is not None:
                _link(source, self.input / source.name)

    def start(self) -> None:
        """Start the server and wait until it says where it listens."""
        command = [
            sys.executable, "-m", "keystead", "serve", "--dev", "--data-dir", str(self.data_dir),
            "--port", "0", "--grpc-port", "0", "--tables-dir", str(self.tables),
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self._server = subprocess.Popen(command, stdout=log, stderr=log)
        where = self.data_dir / "run" / "server.json"
        deadline = time.monotonic() + _START_S
        while not where.exists():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise click.ClickException(f"The server did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        ports = json.loads(where.read_text())
        self.rest_port, self.grpc_port = ports["rest"], ports["grpc"]

    def keep_log(self) -> Path:
        """Move the server's log out of what is removed."""
        kept = self.root.with_suffix(".log")
        shutil.copyfile(self.log, kept)
        return kept

    def close(self) -> None:
        """Stop the server that was started here, and clean up."""
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        if not self._keep:
            shutil.rmtree(self.root, ignore_errors=True)


def table_path(folder: Path, table: str) -> Path | None:
    """A table's file or folder of parts."""
    for candidate in (folder / f"{table}.parquet", folder / f"{table}.csv", folder / table):
        if candidate.exists():
            return candidate
    return None


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system allows it, else a copy: the server follows no links out of its
    tables directory."""
    if source.is_dir():
        target.mkdir()
        for part in sorted(source.iterdir()):
            _link(part, target / part.name)
        return
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
