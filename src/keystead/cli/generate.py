"""`keystead generate`: make input tables for AML AI from a seed."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import Progress

from keystead.cli.output import err


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--transactions", default=1_000_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--format", "file_format", type=click.Choice(["parquet", "csv"]), default="parquet")
def generate(directory: Path, transactions: int, seed: int, file_format: str) -> None:
    """Write party, account_party_link, transaction and risk_case_event files into DIRECTORY.

    The same seed makes the same data. The people and payments in it do not exist.
    """
    from keystead.financialservices.generator import generate as write

    with Progress(console=err, transient=True) as progress:
        bars: dict[str, int] = {}

        def tell(table: str, done: int, total: int) -> None:
            if table not in bars:
                bars[table] = progress.add_task(table, total=total)
            progress.update(bars[table], completed=done)  # type: ignore[arg-type]

        write(
            directory,
            seed=seed,
            transactions=transactions,
            file_format=file_format,  # type: ignore[arg-type]
            progress=tell,
        )
    err.print(f"wrote {transactions:,} transactions to {directory}")
