"""What the story shows, step by step, and the table at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass
class Step:
    """One step: what was checked in it, and how long it took. Names are shown without `prefix`."""

    title: str
    seconds: float = 0.0
    prefix: str = ""
    shown: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def expect(self, holds: bool, text: str, instead: str = "") -> None:
        """A check: `text` says what was shown when it holds; `instead` what was seen when it does not."""
        if holds:
            self.shown.append(text.replace(self.prefix, "") if self.prefix else text)
        else:
            self.failed.append(f"{text}: {instead}" if instead else f"not so: {text}")


class StepFailedError(Exception):
    """The story cannot go on."""


class Report:
    """Runs steps and prints them."""

    def __init__(self, console: Console, prefix: str = "") -> None:
        self._console = console
        self._prefix = prefix
        self.steps: list[Step] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step with a spinner while it runs. A failed check ends the story after the step."""
        step = Step(title, prefix=self._prefix)
        self.steps.append(step)
        number = len(self.steps)
        start = time.monotonic()
        try:
            with self._console.status(f"{number}. {title}"):
                yield step
        except Exception as error:
            step.failed.append(f"{type(error).__name__}: {error}"[:500])
        step.seconds = time.monotonic() - start
        mark = "[red]✗[/]" if step.failed else "[green]✓[/]"
        self._console.print(f"{mark} {number}. {title}  [dim]{step.seconds:.2f} s[/]")
        for text in step.shown:
            self._console.print(f"     {text}", markup=False, style="dim")
        for text in step.failed:
            self._console.print(f"     {text}", markup=False, style="red")
        if step.failed:
            raise StepFailedError(title)

    @property
    def held(self) -> bool:
        return not any(step.failed for step in self.steps)

    def table(self, planned: int) -> None:
        """The table at the end."""
        table = Table(title="What was shown", show_lines=True)
        table.add_column("")
        table.add_column("Step", max_width=28)
        table.add_column("Shown", overflow="fold", ratio=1)
        table.add_column("Time", justify="right", no_wrap=True)
        for number, step in enumerate(self.steps, 1):
            mark = "[red]no[/]" if step.failed else "[green]yes[/]"
            shown = "\n".join(step.failed or step.shown)
            table.add_row(f"{number} {mark}", step.title, shown, f"{step.seconds:.2f} s")
        self._console.print(table)
        if not self.held or len(self.steps) < planned:
            self._console.print(f"[bold red]{len(self.steps)} of {planned} steps ran; not all held.[/]")
        else:
            self._console.print(f"[bold green]All {planned} steps held.[/]")
