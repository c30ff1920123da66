"""Running `keystead` as a person does, without the cost of a process where none is needed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from keystead.cli.main import main


@dataclass(frozen=True)
class Ran:
    """Exit status, and what was printed on both streams; `text` is both, white space evened out."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return " ".join((self.out + " " + self.err).split())


class Keystead:
    """Runs the real `main` in this process, and catches how it ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: object) -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["keystead", *map(str, words)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Ran(code, printed.out, printed.err)


def run_process(command: list[str]) -> Ran:
    """Run a command to its end in a process of its own."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)
