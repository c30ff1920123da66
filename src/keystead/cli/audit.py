"""`keystead audit`: check the audit trail of a data directory."""

from __future__ import annotations

from pathlib import Path

import click

from keystead.api.errors import FailedPrecondition
from keystead.audit.chain import ChainBroken
from keystead.audit.verification import verify_store
from keystead.cli.output import say
from keystead.server.settings import Settings
from keystead.store.engine import open_store


@click.group()
def audit() -> None:
    """Look after the audit trail."""


@audit.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("keystead-data"), show_default=True)
@click.option("--store-url", default="", envvar="KEYSTEAD_STORE_URL")
def verify(data_dir: Path, store_url: str) -> None:
    """Check every link of the hash chain: edited, removed, added or moved entries are found.

    Prints the head of the chain. Keep it elsewhere: a head that is not in a later chain shows that entries
    were cut off its end.
    """
    store = open_store(Settings(data_dir=data_dir, store_url=store_url).database_url, create=False)
    try:
        verified = verify_store(store)
    except ChainBroken as error:
        raise FailedPrecondition(f"The audit trail was changed: {error}") from None
    finally:
        store.close()
    say(f"ok: {verified.head.seq} entries, head {verified.head.digest.hex()}")
