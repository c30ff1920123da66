"""What the tests of the key service share: a running platform of their own, and a room full of keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kms.keyroom import Keyroom
from tests.platform import Platform, running


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform with nothing in it but the organization's owner."""
    with running(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def keyroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyroom]:
    """A platform with keys of all kinds, shared by all tests of the run."""
    room = Keyroom(tmp_path_factory.mktemp("keyroom"))
    yield room
    room.platform.close()
