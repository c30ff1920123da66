"""Fuzz every target for a while: `python -m fuzz [--seconds 600] [target...]`.

The time is shared by the targets; two run at once, each in a process of its own that is killed, and counted
as a hang, when it outlives its time by a minute. Exit status 1 with the smallest input of each finding.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.progress import Progress

from fuzz.targets import TARGETS, Target

_AT_ONCE = 2
_ROUND = 400
_GRACE_S = 60.0
_SLOW_MS = 5_000  # one input


def run(target: Target, seconds: float) -> int:
    """Feed a target until the time is over; how many inputs it took. Raises what it finds."""
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:

        @seed(random.randrange(1 << 62))
        @settings(
            max_examples=_ROUND,
            deadline=_SLOW_MS,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(target.inputs())
        def one_round(data: object) -> None:
            nonlocal count
            count += 1
            target.check(data)

        one_round()
    return count


def _all(targets: list[Target], seconds: float) -> int:
    """Every target in a process of its own; how many of them found something."""
    waiting = list(targets)
    share = seconds * _AT_ONCE / max(len(targets), _AT_ONCE)
    running: dict[str, tuple[subprocess.Popen[str], float]] = {}
    bad = 0
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"fuzzing {', '.join(target.name for target in targets)}", total=seconds)
        begun = time.monotonic()
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                name = waiting.pop(0).name
                command = [sys.executable, "-m", "fuzz", "--alone", "--seconds", str(share), name]
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                running[name] = (process, time.monotonic() + share + _GRACE_S)
            time.sleep(0.2)
            progress.update(bar, completed=min(time.monotonic() - begun, seconds))
            for name, (process, latest) in list(running.items()):
                if process.poll() is None and time.monotonic() < latest:
                    continue
                hung = process.poll() is None
                if hung:
                    process.kill()
                output = process.communicate()[0]
                del running[name]
                bad += bool(hung or process.returncode)
                print(f"{name}: {'HANG' if hung else output.strip()}", flush=True)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--alone", action="store_true", help="in this process, one target after the other")
    parser.add_argument("names", nargs="*", help=", ".join(target.name for target in TARGETS))
    asked = parser.parse_args()
    chosen = [target for target in TARGETS if not asked.names or target.name in asked.names]
    if not chosen:
        parser.error("there is no such target")
    if not asked.alone:
        return 1 if _all(chosen, asked.seconds) else 0
    for target in chosen:
        print(f"{run(target, asked.seconds / len(chosen)):,} inputs, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
