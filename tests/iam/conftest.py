"""Fixtures of this room's tests."""

from __future__ import annotations

import pytest

from keystead.api.clock import ManualClock
from keystead.store import Store
from tests.iam.deployment import Deployment


@pytest.fixture
def iam(sqlite_store: Store, manual_clock: ManualClock) -> Deployment:
    """A deployment in development mode, owned by OWNER, without any project."""
    return Deployment(sqlite_store, manual_clock)


@pytest.fixture
def strict(sqlite_store: Store, manual_clock: ManualClock) -> Deployment:
    """A deployment that is not in development mode."""
    return Deployment(sqlite_store, manual_clock, dev=False)
