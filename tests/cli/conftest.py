"""Fixtures of the command line's tests: a data directory that a server has filled, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.cloud import kms_v1

from tests.cli.commands import Keystead
from tests.clients.pyclients import kms_client
from tests.live import live_server

LOCATION = "projects/p1/locations/europe-west4"


@pytest.fixture(scope="session")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a key and its audit trail, its server stopped."""
    with live_server(tmp_path_factory.mktemp("filled")) as live:
        kms = kms_client(live, "rest")
        ring = kms.create_key_ring(request={"parent": LOCATION, "key_ring_id": "ring", "key_ring": {}})
        purpose = kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT
        for key_id in ("a", "b", "c"):
            kms.create_crypto_key(
                request={"parent": ring.name, "crypto_key_id": key_id, "crypto_key": {"purpose": purpose}}
            )
        assert live.stop() == 0
        return live.data_dir


@pytest.fixture
def data_dir(_filled: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test to damage."""
    copy = tmp_path / "data"
    shutil.copytree(_filled, copy)
    return copy


@pytest.fixture
def keystead(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Keystead:
    """The command line."""
    return Keystead(monkeypatch, capsys)
