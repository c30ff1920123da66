"""The command as a whole: help, usage errors, and how it ends."""

from __future__ import annotations

import sys

import click
import pytest

from keystead.api.errors import FailedPrecondition
from keystead.cli import main as main_module
from keystead.cli.main import cli
from keystead.kms.seals import SealError
from keystead.server.settings import SettingsError
from tests.cli.commands import Keystead, run_process


def paths(command: click.Command, *words: str) -> list[tuple[str, ...]]:
    """A command and all below it, as the words that call them."""
    found = [words]
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            found += paths(below, *words, name)
    return found


@pytest.mark.parametrize("words", paths(cli), ids=" ".join)
def test_every_command_has_help(keystead: Keystead, words: tuple[str, ...]) -> None:
    """`--help` and `-h` print usage and what the command is for, and end well."""
    for flag in ("--help", "-h"):
        ran = keystead(*words, flag)
        assert (ran.status, ran.err) == (0, "")
        assert ran.out.startswith("Usage: ")
        assert " ".join(("keystead", *words)) in ran.out
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert command.get_short_help_str(), "a command without a word on what it does"


def test_the_commands_are_those_of_the_documentation() -> None:
    """serve, env, demo, doctor, generate, audit verify, attest verify and root, and those of the seal."""
    assert set(paths(cli)) == {
        (), ("serve",), ("env",), ("demo",), ("doctor",), ("generate",), ("audit",), ("audit", "verify"),
        ("attest",), ("attest", "verify"), ("attest", "root"),
        ("seal",), ("seal", "status"), ("seal", "open"), ("seal", "close"), ("seal", "change"),
    }  # fmt: skip


def test_version_and_python_m_agree(keystead: Keystead) -> None:
    """`keystead --version` and `python -m keystead --version` print the same version."""
    here = keystead("--version")
    there = run_process([sys.executable, "-m", "keystead", "--version"])

    assert (here.status, there.status) == (0, 0)
    assert here.out.startswith("keystead, version ")
    assert here.out.split()[-1] == there.out.split()[-1]


@pytest.mark.parametrize("words", [("nonsense",), ("serve", "--nonsense"), ("env", "--port", "x"), ()])
def test_a_usage_error_ends_with_2(keystead: Keystead, words: tuple[str, ...]) -> None:
    """What cannot be understood is answered with usage on standard error, and status 2."""
    ran = keystead(*words)

    assert ran.status == 2
    assert "Usage: keystead" in ran.err


@pytest.mark.parametrize("kind", [SettingsError, SealError, FailedPrecondition])
def test_a_refusal_ends_with_1_and_its_own_words(
    keystead: Keystead, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """A refusal is one line with its text as it is, brackets included, and no traceback."""

    @click.command()
    def failing() -> None:
        raise kind("the file [/data] is gone; run 'pip install x[all]'")

    monkeypatch.setitem(main_module.cli.commands, "failing", failing)
    ran = keystead("failing")

    assert (ran.status, ran.out) == (1, "")
    assert ran.err == "error: the file [/data] is gone; run 'pip install x[all]'\n"


def test_an_interrupt_ends_with_130(keystead: Keystead, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command quietly with the status that shells give it."""

    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(main_module.cli.commands, "interrupted", interrupted)

    assert keystead("interrupted").status == 130
