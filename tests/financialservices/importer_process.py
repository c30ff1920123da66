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
from keystead.financialservices.ingest import ingest
from tests.financialservices.aml_world import TABLES, aml


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_ingest(moment: str, table: Any, source: Any, sink: Any, **options: Any) -> Any:
    return ingest(table, source, sink, progress=die if table.name == moment else None, **options)


def main() -> None:
    directory, moment = Path(sys.argv[1]), sys.argv[2]
    with aml(directory) as world:
        world.instance()
        imports.ingest = partial(dying_ingest, moment)  # type: ignore[assignment]
        if moment == "commit":
            Task.succeed = die  # type: ignore[method-assign, assignment]
        operation = world.create_dataset({table: f"bq://proj.data.{table}" for table in TABLES})
        world.end(operation)


if __name__ == "__main__":
    main()
