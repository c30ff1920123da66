"""What the tests of CMEK share: a running platform of their own, and a protected resource on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cmek.scene import Scene
from tests.platform import Platform, running


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform with nothing in it but the organization's owner."""
    with running(tmp_path) as made:
        yield made


@pytest.fixture
def scene(platform: Platform) -> Scene:
    """One protected resource, whose lease is good until it is doubted."""
    made = Scene(platform)
    made.protect()
    return made
