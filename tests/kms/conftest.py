"""What the tests of the key service share: a running platform of their own, and a room full of keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keystead.kms.backends.hsm.backend import HsmBackend
from tests.hsm import make_token
from tests.kms.importroom import TOKEN_METHODS, ImportRoom
from tests.kms.keyroom import Keyroom
from tests.kms.sealroom import key_service  # noqa: F401  # a fixture
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


@pytest.fixture
def room(platform: Platform) -> ImportRoom:
    """The platform, with import jobs."""
    return ImportRoom(platform)


@pytest.fixture(scope="session")
def imports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportRoom]:
    """The same, shared by all tests of the run that make no time pass: RSA keys are slow to make."""
    with running(tmp_path_factory.mktemp("imports")) as made:
        yield ImportRoom(made)


@pytest.fixture(scope="session")
def token_imports(softhsm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportRoom]:
    """The same for keys of protection level HSM, in a real token."""
    directory = tmp_path_factory.mktemp("token-imports")
    backend = HsmBackend(make_token(softhsm, directory / "pin").config())
    platform = Platform(directory, backends=[backend])
    yield ImportRoom(platform, "HSM", TOKEN_METHODS[0])
    platform.close()
    backend.close()
