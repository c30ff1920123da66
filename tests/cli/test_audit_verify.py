"""`keystead audit verify`: an untouched trail is ok, and any change to it is found."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.commands import Keystead
from tests.clients.pyclients import kms_client
from tests.live import LiveServer

TAMPERINGS = {
    "edited": "UPDATE audit SET body = CAST(replace(CAST(body AS TEXT), 'owner@', 'other@') AS BLOB) "
    "WHERE seq = 2",
    "removed": "DELETE FROM audit WHERE seq = 2",
    "moved in time": "UPDATE audit SET time_us = time_us - 1 WHERE seq = 2",
    "moved to another log": "UPDATE audit SET log_name = log_name || 'x' WHERE seq = 2",
    "swapped": "UPDATE audit SET body = (SELECT body FROM audit WHERE seq = 3) WHERE seq = 2",
    "rechained": "UPDATE audit SET digest = zeroblob(32) WHERE seq = 2",
    "cut at the start": "DELETE FROM audit WHERE seq = 1",
}


def tamper(data_dir: Path, statement: str) -> None:
    """Change the stopped server's store behind its back."""
    with closing(sqlite3.connect(data_dir / "store.db")) as connection:
        assert connection.execute(statement).rowcount == 1
        connection.commit()


def test_an_untouched_trail_is_ok(keystead: Keystead, data_dir: Path) -> None:
    """The number of entries and the head of the chain are printed for a script, alike every time."""
    ran = keystead("audit", "verify", "--data-dir", data_dir)

    assert (ran.status, ran.err) == (0, "")
    assert re.fullmatch(r"ok: [0-9]+ entries, head [0-9a-f]{64}\n", ran.out)
    assert keystead("audit", "verify", "--data-dir", data_dir).out == ran.out


@pytest.mark.parametrize("statement", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_a_changed_trail_is_found(keystead: Keystead, data_dir: Path, statement: str) -> None:
    """An entry edited, removed or moved with a database tool ends with status 1 and says so."""
    tamper(data_dir, statement)
    ran = keystead("audit", "verify", "--data-dir", data_dir)

    assert (ran.status, ran.out) == (1, "")
    assert "The audit trail was changed: " in ran.err


def test_entries_cut_off_the_end_show_in_the_head(keystead: Keystead, data_dir: Path) -> None:
    """A cut at the end leaves a sound chain, but not the head that was noted before."""
    before = keystead("audit", "verify", "--data-dir", data_dir).out
    tamper(data_dir, "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)")
    after = keystead("audit", "verify", "--data-dir", data_dir)

    assert after.status == 0
    assert after.out.split("head ")[1] != before.split("head ")[1]


def test_a_running_servers_trail_can_be_verified(keystead: Keystead, tmp_path: Path) -> None:
    """Verifying needs no stop, and the next change moves the head."""
    live = LiveServer(tmp_path)
    live.start()
    try:
        kms = kms_client(live, "rest")
        heads = []
        for key_ring_id in ("one", "two"):
            parent = "projects/p1/locations/us"
            kms.create_key_ring(request={"parent": parent, "key_ring_id": key_ring_id, "key_ring": {}})
            ran = keystead("audit", "verify", "--data-dir", live.data_dir)
            assert ran.status == 0
            heads.append(ran.out)
    finally:
        live.stop()
    assert heads[0] != heads[1]


def test_no_store_is_an_error_and_none_is_made(keystead: Keystead, tmp_path: Path) -> None:
    """A mistyped directory is refused, and stays absent."""
    ran = keystead("audit", "verify", "--data-dir", tmp_path / "nothing")

    assert ran.status == 1
    assert "There is no store at" in ran.err
    assert not (tmp_path / "nothing").exists()
