"""The control socket: what arrives, who may ask, and what breaks the protocol."""

from __future__ import annotations

import getpass
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import SealError
from keystead.server.control import PATH, ControlSocket, NotRunningError, ask


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlSocket]:
    """A socket that answers with what it was asked, secrets in hex."""

    def echo(operator: str, request: dict[str, Any], secrets: dict[str, SecretBytes]) -> dict[str, Any]:
        if request.get("do") == "fail":
            raise RuntimeError("secret-looking text")
        if request.get("do") == "refuse":
            raise SealError("It is refused.")
        return {"operator": operator, **request, **{name: s.expose().hex() for name, s in secrets.items()}}

    made = ControlSocket(tmp_path, echo)
    made.start()
    yield made
    made.stop()


def test_requests_and_secrets_arrive(control: ControlSocket, tmp_path: Path) -> None:
    """What is asked and each secret, of any length and any bytes, come through; the user is told."""
    long = os.urandom(20_000)
    answer = ask(
        tmp_path, {"do": "it"}, {"a": SecretBytes(b"\n\0{}"), "b": SecretBytes(b""), "c": SecretBytes(long)}
    )
    assert answer == {
        "operator": getpass.getuser(),
        "do": "it",
        "a": b"\n\0{}".hex(),
        "b": "",
        "c": long.hex(),
    }


def test_refusals_and_failures_are_told(control: ControlSocket, tmp_path: Path) -> None:
    """A refusal comes in its own words; of a failure only its kind."""
    with pytest.raises(SealError, match=r"^It is refused\.$"):
        ask(tmp_path, {"do": "refuse"})
    with pytest.raises(SealError, match="The server failed \\(RuntimeError\\)") as failed:
        ask(tmp_path, {"do": "fail"})
    assert "secret-looking" not in str(failed.value)


def test_only_its_own_user_can_reach_it(control: ControlSocket, tmp_path: Path) -> None:
    """The socket is 0600 in a directory of 0700, whatever the umask."""
    where = (tmp_path / PATH).stat()
    assert stat.S_ISSOCK(where.st_mode)
    assert stat.S_IMODE(where.st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / PATH).parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_kernel_tells_who_asks(control: ControlSocket, tmp_path: Path) -> None:
    """Even with every mode open, another user's request is dropped unread."""
    where = tmp_path / PATH
    script = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); os.chdir(sys.argv[1]); os.setuid(65534);"
        's.connect(\'control.sock\'); s.sendall(b\'{"do": "it", "secrets": {}}\\n\'); print(s.recv(100))'
    )
    where.chmod(0o777)
    for directory in (where.parent, *where.parents[:-1]):
        if directory.stat().st_uid == 0 and directory.is_relative_to(tmp_path):
            directory.chmod(0o755)
    ran = subprocess.run(
        [sys.executable, "-c", script, str(where.parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    hung_up = any(name in ran.stderr for name in ("ConnectionResetError", "BrokenPipeError"))
    assert ran.stdout == "b''\n" or (ran.stdout == "" and hung_up), ran


@pytest.mark.parametrize(
    "sent",
    [b"", b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"secrets": []}\n', b'{"secrets": {"a": -1}}\n',
     b'{"secrets": {"a": 1000000000}}\n', b'{"secrets": {"a": "x"}}\n', b'{"secrets": {"a": 5}}\nabc',
     b"x" * 100_000, b"[" * 60_000 + b"\n",
     b'{"secrets": {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0}}\n'],
)  # fmt: skip
def test_what_breaks_the_protocol_gets_no_answer(control: ControlSocket, tmp_path: Path, sent: bytes) -> None:
    """The connection ends, and the next request is answered."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / PATH))
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
        except ConnectionError:
            pass
    assert ask(tmp_path, {"do": "it"})["do"] == "it"


def test_a_long_path_and_a_dead_socket_are_no_obstacle(tmp_path: Path) -> None:
    """A data directory may lie deeper than a socket's address is long; what a killed server left is
    replaced."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    (deep / "run").mkdir(parents=True)
    (deep / PATH).touch()
    with pytest.raises(NotRunningError):
        ask(deep, {"do": "it"})
    made = ControlSocket(deep, lambda *_: {"here": True})
    made.start()
    assert ask(deep, {"do": "it"}) == {"here": True}
    made.stop()
    assert not (deep / PATH).exists()
    with pytest.raises(NotRunningError):
        ask(deep, {"do": "it"})
    with pytest.raises(NotRunningError):
        ask(tmp_path / "nothing", {"do": "it"})
