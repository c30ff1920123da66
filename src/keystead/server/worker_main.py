"""The main program of a worker process: `python -P -m keystead.server.worker_main PARENT CALLS EPOCH`.

Its arguments are a process id and two descriptors; what must not be seen comes over the socket that is its
standard input (`workers`). What binds its life to the parent's comes before anything else is imported.
"""

from __future__ import annotations

import importlib
import sys

from keystead.cmek import sandbox


def main() -> None:
    """Work for the main process PARENT until it says that this is enough, or ends."""
    parent, calls, epoch = map(int, sys.argv[1:4])
    sandbox.bind(parent)
    importlib.import_module("keystead.server.worker").run(calls, epoch)


if __name__ == "__main__":
    main()
