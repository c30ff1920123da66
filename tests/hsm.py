"""A real token for tests: SoftHSM2, its files in a directory of the test's own.

A SoftHSM2 library reads SOFTHSM2_CONF when it is initialised, and is one per process: so is the configuration
of the tests of a process. Each test has a token with a label of its own in it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keystead.kms.backends.hsm.config import HsmConfig
from keystead.kms.backends.hsm.module import module_at

LIBRARY = next(
    (
        path
        for path in map(
            Path,
            (
                os.environ.get("SOFTHSM2_LIBRARY", "/nonexistent"),
                "/usr/lib/softhsm/libsofthsm2.so",
                "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
                "/usr/lib64/libsofthsm2.so",
                "/usr/local/lib/softhsm/libsofthsm2.so",
            ),
        )
        if path.exists()
    ),
    None,
)
SO_PIN = "so-pin-87654321"
PIN = "user-pin-1234"


@dataclass(frozen=True)
class SoftToken:
    """A SoftHSM2 token: `library` with `label`; the PIN is in `pin_file`, the tokens of the process lie in
    `directory`."""

    library: Path
    label: str
    pin_file: Path
    directory: Path

    def config(self, **changes: Any) -> HsmConfig:
        """How a server is told of it."""
        facts: dict[str, Any] = {"deployment": "tests", "pin": self.pin_file} | changes
        return HsmConfig(self.library, self.label, **facts)

    def write_pin(self, pin: str) -> None:
        """Put a PIN into the file that the server reads."""
        self.pin_file.write_text(f"{pin}\n")
        self.pin_file.chmod(0o600)

    def take_away(self) -> None:
        """Remove the token (and those of other tests: they run one after the other)."""
        self.directory.rename(self._elsewhere)
        self.directory.mkdir()

    def put_back(self) -> None:
        """Undo `take_away`."""
        self.directory.rmdir()
        self._elsewhere.rename(self.directory)

    @property
    def _elsewhere(self) -> Path:
        return self.directory.with_name("taken-away")

    def slot(self) -> int:
        """The number of its slot now; the library must be initialised."""
        count = ctypes.c_ulong(100)
        slots = (ctypes.c_ulong * 100)()
        assert self.call("C_GetSlotList", ctypes.c_ubyte(1), slots, ctypes.byref(count)) == 0
        for slot in slots[: count.value]:
            info = ctypes.create_string_buffer(1024)
            assert self.call("C_GetTokenInfo", ctypes.c_ulong(slot), info) == 0
            if info.raw[:32].decode().strip() == self.label:
                return int(slot)
        raise AssertionError("the token is not in any slot")

    def sessions(self) -> list[int]:
        """The sessions this process has with the library, asked of the library itself."""
        info = ctypes.byref((ctypes.c_ulong * 4)())
        with self._inside() as library:
            ask = library.C_GetSessionInfo
            return [handle for handle in range(1, 6000) if ask(ctypes.c_ulong(handle), info) == 0]

    def call(self, function: str, *arguments: object) -> int:
        """Call the library behind everybody's back, though not while somebody is inside."""
        with self._inside() as library:
            return int(getattr(library, function)(*arguments))

    @contextmanager
    def _inside(self) -> Iterator[ctypes.CDLL]:
        module = module_at(self.library)
        assert module.enter(30.0)
        try:
            yield ctypes.CDLL(str(self.library))
        finally:
            module.leave()


def make_token(directory: Path, pin_file: Path, label: str = "") -> SoftToken:
    """A new token with a PIN, in SoftHSM2's directory of this process."""
    label = label or f"test-{secrets.token_hex(4)}"
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert LIBRARY is not None
    token = SoftToken(LIBRARY, label, pin_file, directory)
    token.write_pin(PIN)
    return token


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of SoftHSM2's tokens for this process, which SOFTHSM2_CONF names."""
    if LIBRARY is None:
        warnings.warn("SoftHSM2 is not installed: no test of tokens runs (Debian: softhsm2)", stacklevel=1)
        pytest.skip("SoftHSM2 is not installed: apt-get install softhsm2")
    base = tmp_path_factory.mktemp("softhsm")
    tokens = base / "tokens"
    tokens.mkdir()
    configuration = base / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    yield tokens
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def soft_token(softhsm: Path, tmp_path: Path) -> SoftToken:
    """A token of one test's own."""
    return make_token(softhsm, tmp_path / "pin")
