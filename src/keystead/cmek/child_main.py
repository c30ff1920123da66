"""The main program of a child process: `python -I -B -m keystead.cmek.child_main PARENT ENTRY`.

It owns the order in which things are given up and loaded: what binds the process comes before anything else
is imported, privileges go once everything is loaded, and only then is the job asked for. See `child` for who
starts it, `worker` for what it does then.
"""

from __future__ import annotations

import importlib
import os
import sys

from keystead.cmek import sandbox


def main() -> None:
    """Do the work of the module ENTRY for the process PARENT, and end."""
    parent, entry = int(sys.argv[1]), sys.argv[2]
    sandbox.confine(parent)
    worker = importlib.import_module("keystead.cmek.worker")
    work = importlib.import_module(entry)
    work.prepare()
    sandbox.give_up_privileges(parent)
    sandbox.silence()
    worker.run(work)
    # Without the destructors of libraries: everything is said, and the server ends this process anyway.
    os._exit(0)


if __name__ == "__main__":
    main()
