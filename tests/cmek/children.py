"""How tests start child processes whose work is in a test module, and see that they are gone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
ENTRY = "tests.cmek.child_works"


def command(entry: str) -> list[str]:
    """As the product's own, with this tree on the path of an interpreter that takes none from outside."""
    main = f"import sys; sys.path.insert(0, {ROOT!r}); from keystead.cmek.child_main import main; main()"
    return [sys.executable, "-I", "-B", "-c", main, str(os.getpid()), entry]


def eventually(holds: Callable[[], bool], timeout_s: float = 1.0) -> bool:
    """Whether it holds within the time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def gone(pid: int) -> bool:
    """Whether there is no such process, or only what is left of it until it is waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rsplit(")", 1)[1].split()[0] in {"Z", "X"}


def descriptors() -> list[int]:
    """What this process has open, the listing aside."""
    return sorted(int(path.name) for path in list(Path("/proc/self/fd").iterdir()))[:-1]
