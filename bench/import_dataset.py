"""What sealing costs the import of an AML AI dataset: CPU of sealed against plain imports of the same tables.

    python bench/import_dataset.py [--rows 1000000] [--rounds 5]

Both write to memory, in turn, so that only the work is measured and a busy machine troubles both alike. CPU
seconds are those of the whole process, pyarrow's threads included.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from keystead.crypto.sealed_file import SealedWriter
from keystead.crypto.secret import SecretBytes
from keystead.financialservices.generator import generate
from keystead.financialservices.ingest import ingest
from keystead.financialservices.sources import TableSources
from keystead.financialservices.tables import TABLES

TARGET = 1.25
NAMES = ("party", "account_party_link", "transaction", "risk_case_event")


def nothing() -> None:
    """The check of an import nobody cancels."""


def plain(sources: TableSources) -> None:
    for name in NAMES:
        source = sources.resolve(f"bq://bench.aml.{name}")
        ingest(TABLES[name], source, io.BytesIO(), check=nothing)


def sealed(sources: TableSources, key: SecretBytes) -> None:
    for name in NAMES:
        source = sources.resolve(f"bq://bench.aml.{name}")
        with SealedWriter(io.BytesIO(), lambda: key, f"bench/{name}".encode()) as sink:
            ingest(TABLES[name], source, sink, check=nothing)


def cpu_seconds(act: Callable[[], None]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="transactions in the dataset")
    parser.add_argument("--rounds", type=int, default=5, help="imports of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, SecretBytes.random(32) as key:
        root = Path(directory)
        generate(root / "bench" / "aml", seed=1, transactions=options.rows)
        sources = TableSources(root)
        plain(sources)  # the first import also loads libraries and the page cache
        times: dict[str, list[float]] = {"plain": [], "sealed": []}
        for _ in range(options.rounds):
            times["plain"].append(cpu_seconds(lambda: plain(sources)))
            times["sealed"].append(cpu_seconds(lambda: sealed(sources, key)))
    base, cost = (statistics.median(times[kind]) for kind in ("plain", "sealed"))
    ratio = cost / base
    print(f"plain {base:.2f} CPU s, sealed {cost:.2f} CPU s, {options.rows} transactions")
    met = ratio <= TARGET
    print(f"import_sealed_vs_plain {ratio:.2f} (target <= {TARGET}) {'ok' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
