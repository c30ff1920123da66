"""Fixtures of this room's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.financialservices.aml_world import World, aml


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """AML AI on an empty platform."""
    with aml(tmp_path) as made:
        yield made
