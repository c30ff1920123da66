"""`keystead demo`: the main job, start to end, on this machine."""

from __future__ import annotations

import secrets
from pathlib import Path

import click
from rich.progress import Progress

from keystead.cli.demo.canaries import pick
from keystead.cli.demo.report import Report, StepFailedError
from keystead.cli.demo.stage import TABLES, Stage, table_path
from keystead.cli.demo.story import PARENT, PLANNED, Story
from keystead.cli.output import out


@click.command()
@click.option(
    "--input",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Your own party, account_party_link, transaction and risk_case_event files (Parquet or CSV).",
)
@click.option(
    "--transactions", type=click.IntRange(min=10_000), default=1_000_000, show_default=True, help="How many."
)
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same data.")
@click.option("--keep", is_flag=True, help="Leave the data directory for a look.")
def demo(folder: Path | None, transactions: int, seed: int, keep: bool) -> int:
    """Protect real data under a key, take the key away, and give it back.

    Starts a server of its own on free loopback ports, in an empty directory. Exit status 1 if any step did
    not hold.
    """
    stage = Stage(keep=keep)
    report = Report(out, prefix=f"{PARENT}/")
    try:
        if folder is None:
            _generate(stage, transactions, seed)
        else:
            stage.take_input(folder)
        tables = [(table, path) for table in TABLES if (path := table_path(stage.input, table))]
        canaries = pick(tables)
        if not canaries:
            raise click.ClickException("No id or name in the input is telling enough to look for.")
        stage.start()
        story = Story(stage, report, out, canaries)
        try:
            story.tell()
        except StepFailedError:
            out.print(f"The server's log is kept: {stage.keep_log()}")
        finally:
            story.close()
        report.table(PLANNED)
    finally:
        stage.close()
    if keep:
        out.print(f"Kept in {stage.root}")
    return 0 if report.held and len(report.steps) == PLANNED else 1


def _generate(stage: Stage, transactions: int, seed: int) -> None:
    from keystead.financialservices.generator import generate

    markers = [f"canary-{secrets.token_hex(12)}" for _ in range(20)]
    with Progress(console=out, transient=True) as progress:
        bar = progress.add_task("making input", total=None)

        def tell(table: str, done: int, total: int) -> None:
            progress.update(bar, description=f"making {table}", completed=done, total=total)

        stage.input.mkdir(parents=True)
        generate(stage.input, seed=seed, transactions=transactions, markers=markers, progress=tell)
    out.print(f"Input: {transactions:,} transactions made from seed {seed}")
