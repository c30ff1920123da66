"""What the tests of the key service share: a running platform of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.platform import Platform, running


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform with nothing in it but the organization's owner."""
    with running(tmp_path) as made:
        yield made
