"""`keystead serve`: what it refuses, how it ends, and that it finds its data again."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
import requests

from tests.cli.commands import Keystead, run_process
from tests.clients.pyclients import kms_client
from tests.live import LiveServer, live_server

LOCATION = "projects/p1/locations/europe-west4"


def test_without_dev_it_refuses_before_anything_is_made(keystead: Keystead, tmp_path: Path) -> None:
    """No way to prove who a caller is: refused with what to do, and no data directory."""
    ran = keystead("serve", "--data-dir", tmp_path / "data", "--port", "0", "--grpc-port", "0")

    assert ran.status == 1
    assert "Without --dev there is no way yet to prove who a caller is" in ran.err
    assert not (tmp_path / "data").exists()


def test_dev_on_an_address_of_others_is_refused(keystead: Keystead, tmp_path: Path) -> None:
    """Development mode believes names, so it listens on loopback only."""
    ran = keystead("serve", "--dev", "--host", "0.0.0.0", "--data-dir", tmp_path / "data")

    assert ran.status == 1
    assert "--dev believes whatever name a caller gives, so it listens on loopback only" in ran.err
    assert not (tmp_path / "data").exists()


def test_a_second_server_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    """The second one names the first and ends; the first goes on serving."""
    with live_server(tmp_path) as live:
        second = run_process(live.command("--dev"))

        assert second.status == 1
        assert f"Another Keystead server (pid {live.pid}) is using the data directory" in second.text
        assert "Traceback" not in second.err
        assert requests.get(f"{live.url}/readyz", timeout=10).status_code == 200


def test_a_taken_port_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """A port that another server holds ends the second with a status of failure, not a hang."""
    with live_server(tmp_path / "first") as first:
        second = LiveServer(tmp_path / "second")
        for option, port in (("--port", first.rest_port), ("--grpc-port", first.grpc_port)):
            ran = run_process([*second.command("--dev"), option, str(port)])
            assert ran.status == 1, option
            assert f"error: Port {port} cannot be listened on: " in ran.text
            assert f"Give another one with {option};" in ran.text
            assert "Traceback" not in ran.err


def test_sigterm_ends_it_cleanly_and_its_data_stays(tmp_path: Path) -> None:
    """Status 0, no file that says where it listens, and after a start the key opens what it sealed."""
    live = LiveServer(tmp_path)
    live.start()
    try:
        kms = kms_client(live, "rest")
        ring = kms.create_key_ring(request={"parent": LOCATION, "key_ring_id": "ring", "key_ring": {}})
        key = kms.create_crypto_key(
            request={"parent": ring.name, "crypto_key_id": "key", "crypto_key": {"purpose": 1}}
        )
        sealed = kms.encrypt(request={"name": key.name, "plaintext": b"kept"})
        assert live.stop() == 0
        assert not (live.data_dir / "run" / "server.json").exists()

        live.start()
        again = kms_client(live, "rest")
        opened = again.decrypt(request={"name": key.name, "ciphertext": sealed.ciphertext})
        assert opened.plaintext == b"kept"
    finally:
        assert live.stop() == 0
    assert "Traceback" not in live.log.read_text()


def test_nobody_else_can_read_the_data_directory(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, whatever the umask."""
    with live_server(tmp_path) as live:
        kms_client(live, "rest").create_key_ring(
            request={"parent": LOCATION, "key_ring_id": "ring", "key_ring": {}}
        )
        assert stat.S_IMODE(live.data_dir.stat().st_mode) == 0o700
        for path in (live.data_dir / "store.db", live.data_dir / "seal" / "root.key"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE((live.data_dir / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["mode", "gone"])
def test_a_store_without_its_seal_is_served_sealed(data_dir: Path, damage: str) -> None:
    """The server starts, logs the reason, makes no new seal beside an old store, and opens by itself once the
    seal is right again."""
    live = LiveServer(data_dir.parent)
    seal = data_dir / "seal" / "root.key"
    away = data_dir / "away.key"
    if damage == "mode":
        seal.chmod(0o640)
    else:
        seal.rename(away)
    live.start()
    try:
        assert requests.get(f"{live.url}/readyz", timeout=10).json()["checks"]["seal"] == "failed"
        assert f"Keystead is sealed: The seal file {seal}" in live.log.read_text()
        assert seal.exists() == (damage == "mode")
        if damage == "mode":
            seal.chmod(0o600)
        else:
            away.rename(seal)
        deadline = time.monotonic() + 60
        while requests.get(f"{live.url}/readyz", timeout=10).status_code != 200:
            assert time.monotonic() < deadline, "it did not open by itself"
            time.sleep(0.1)
    finally:
        assert live.stop() == 0
    assert "Traceback" not in live.log.read_text()


def test_another_seal_than_the_stores_is_refused(data_dir: Path) -> None:
    """What the command line says of the seal must be so, or the server ends with what to do."""
    live = LiveServer(data_dir.parent)
    for options, says in (
        (["--seal", "passphrase"], "This store is sealed by 'file', not by 'passphrase'. Leave out --seal"),
        (["--pin-file", "/x"], "--pin-file belongs to a seal of kind pkcs11; this one is of kind file."),
    ):
        ran = run_process([*live.command("--dev"), *options])
        assert ran.status == 1
        assert says in ran.text
        assert "Traceback" not in ran.err
