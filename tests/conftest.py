"""Fixtures that every room's tests share: stores of both engines, a clock that stands still, a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keystead.api.clock import ManualClock
from keystead.store import Store, open_store
from tests.hsm import soft_token, softhsm  # noqa: F401  # fixtures
from tests.stores import ENGINES, PostgresForTests


@pytest.fixture(scope="session")
def pg_server() -> Iterator[PostgresForTests]:
    """The PostgreSQL server of this test session, started when a test first needs it."""
    server = PostgresForTests()
    yield server
    server.stop()


@pytest.fixture
def pg_url(pg_server: PostgresForTests) -> Iterator[str]:
    """The URL of an empty store of this test's own in PostgreSQL."""
    url = pg_server.create_store()
    yield url
    pg_server.drop(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite store of this test's own; the file is not there yet."""
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture(params=ENGINES)
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a store of this test's own, once on each engine."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url")
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An open, empty store, once on each engine."""
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    """An open, empty store in SQLite: for rooms to which the engine makes no difference."""
    opened = open_store(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that moves only when told to."""
    return ManualClock()
