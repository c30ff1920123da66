"""How the command line speaks: the only module that prints."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line on standard output, as it is (for scripts)."""
    print(text)


def complain(text: str) -> None:
    """An error, with what to do about it."""
    err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
