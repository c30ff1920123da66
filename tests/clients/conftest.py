"""Fixtures of the tests with real clients: one live server per module, and gcloud pointed at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.gcloud import Gcloud
from tests.clients.gcloud_commands import claimed_by
from tests.hsm import make_token
from tests.live import LiveServer, live_server

PROJECT = "p1"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The server of a test module."""
    with live_server(tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture(scope="module")
def hsm_server(softhsm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of a test module with a SoftHSM2 token."""
    root = tmp_path_factory.mktemp("live-hsm")
    token = make_token(softhsm, root / "pin")
    server = LiveServer(
        root, "--hsm-module", str(token.library), "--hsm-token", token.label,
        "--hsm-pin-file", str(token.pin_file),
    )  # fmt: skip
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gcloud(live: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Gcloud:
    """The real gcloud as the owner, in a directory of its own."""
    if shutil.which("gcloud") is None:
        pytest.skip(
            "gcloud is not installed: NOT TESTED is whether the real gcloud works with this server. "
            "Install the Google Cloud CLI to run these tests."
        )
    directory: Path = tmp_path_factory.mktemp("gcloud")
    return Gcloud(live.rest_port, live.grpc_port, directory=directory, project=PROJECT)


@pytest.fixture(autouse=True)
def claims(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test of which it is written that it runs certain gcloud commands did run them, if it passed."""
    node: Any = request.node
    commands = claimed_by(f"{node.module.__name__.rsplit('.', 1)[1]}::{node.originalname}")
    if not commands:
        yield
        return
    gcloud: Gcloud = request.getfixturevalue("gcloud")
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed == failed:
        assert [command for command in commands if not gcloud.has_run(command)] == []
