"""Fixtures of the tests with real clients: one live server per module, and gcloud pointed at it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.gcloud import Gcloud
from tests.live import LiveServer, live_server

PROJECT = "p1"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The server of a test module."""
    with live_server(tmp_path_factory.mktemp("live")) as server:
        yield server


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
