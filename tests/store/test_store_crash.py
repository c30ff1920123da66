"""What was answered survives the server, however it ends."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from keystead.store import open_store

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def _write_and_kill(url: str, acknowledged: int, delay_bytes: int) -> int:
    """Runs the writer until it has acknowledged that many, kills it, and returns what it acknowledged."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(HERE / "writer_process.py"), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        try:
            seen = [writer.stdout.readline() for _ in range(acknowledged)]
            # Some work of our own, so that the kill falls anywhere in a transaction.
            sum(range(delay_bytes))
        finally:
            writer.kill()
        seen += writer.stdout.readlines()
    # A line that was cut off was not acknowledged.
    return int([line for line in seen if line.endswith(b"\n")][-1])


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_no_answered_write_is_lost(store_url: str, seed: int) -> None:
    """After kill -9 every acknowledged transaction is there whole, at most one more, and none half."""
    chance = random.Random(seed)
    last = _write_and_kill(store_url, chance.randrange(1, 60), chance.randrange(200_000))
    store = open_store(store_url)
    assert store.check() == []
    with store.read() as tx:
        resources = {row.name for row in tx.resources.list_kind("Thing")}
        policies = {row.resource for row in tx.policies.list_under("t")}
        records = [row.seq for row in tx.audit.walk()]
        count = tx.resources.count("Thing", "t")
    assert records == list(range(1, len(records) + 1))
    assert resources == policies == {f"t/{number}" for number in records}
    assert count == len(records)
    assert last <= len(records) <= last + 1
    store.close()
