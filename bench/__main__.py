"""All benchmarks, one after the other: `python -m bench`. Exit status 1 if any target is missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHES = (
    "sealed_file", "serving", "serving_sizes", "signing", "import_dataset", "rotation", "million_keys",
)  # fmt: skip


def main() -> int:
    here = Path(__file__).parent
    missed = []
    for name in BENCHES:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(here / f"{name}.py")], check=False).returncode != 0:
            missed.append(name)
    print(f"missed: {', '.join(missed)}" if missed else "all targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
