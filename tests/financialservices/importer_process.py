"""A server process that imports a dataset into the directory it is given, and kills itself with SIGKILL in
the middle of a table, or (`commit`) when all is written but its transaction not committed."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from keystead.api.operations import Task
from keystead.financialservices import imports
from tests.financialservices.aml_world import TABLES, aml


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(moment: str, progress: list[Any]) -> None:
    if progress[0] == moment:
        die()


def main() -> None:
    directory, moment = Path(sys.argv[1]), sys.argv[2]
    with aml(directory) as world:
        world.instance()
        imports.note_progress = partial(die_in, moment)
        if moment == "commit":
            Task.succeed = die  # type: ignore[method-assign, assignment]
        operation = world.create_dataset({table: f"bq://proj.data.{table}" for table in TABLES})
        world.end(operation)


if __name__ == "__main__":
    main()
