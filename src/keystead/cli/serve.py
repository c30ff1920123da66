"""`keystead serve`: run the server until it is told to stop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from keystead.cli.seal_options import STANDARD_INPUT, chosen, passphrase_file, pin_file, seal_options
from keystead.kms.seals import SealError
from keystead.kms.seals.choice import KINDS
from keystead.server.app import run
from keystead.server.settings import Settings


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("keystead-data"), show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, help="REST port; 0 takes any free one.")
@click.option("--grpc-port", default=8081, show_default=True, help="gRPC port; 0 takes any free one.")
@click.option("--dev", is_flag=True, help="Believe a bearer token that is an IAM member. Loopback only.")
@click.option("--store-url", default="", envvar="KEYSTEAD_STORE_URL", help="PostgreSQL instead of SQLite.")
@click.option(
    "--tables-dir",
    type=click.Path(path_type=Path),
    help="Where bq://project.dataset.table is read from: DIR/project/dataset/table.parquet or .csv.",
)
@click.option("--aml-region", "aml_regions", multiple=True, help="Offer AML AI in this location too.")
@click.option(
    "--workers",
    default=1,
    show_default=True,
    help="Processes that answer Encrypt, Decrypt and their like; one per core for API calls.",
)
@click.option("--universe", default="googleapis.com", show_default=True, help="Domain of the host names.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain (PEM), both listeners.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key (PEM).")
@click.option(
    "--hsm-module", type=click.Path(path_type=Path), help="PKCS#11 library of the token for HSM keys."
)
@click.option("--hsm-token", default="", help="Label of that token.")
@click.option("--hsm-pin-file", type=click.Path(path_type=Path), help="File with its PIN (chmod 600).")
@click.option("--seal", "seal_kind", type=click.Choice(KINDS), help="First start: how to seal the root key.")
@seal_options
@passphrase_file
@pin_file
def serve(aml_regions: tuple[str, ...], seal_kind: str | None, **options: Any) -> None:
    """Run the key service and the data services.

    Everything is kept under the data directory. The first start makes the root key and seals it, by a file
    (seal/root.key) unless --seal says otherwise; later starts find the seal by themselves. What seals it
    opens every key: keep a copy, elsewhere than copies of the store. See: keystead seal.
    """
    if options["passphrase_file"] == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise SealError(
                "Standard input is a terminal. Start without --passphrase-file, then open the seal."
            )
        options["passphrase_file"] = Path("/dev/stdin")
    seal = chosen(seal_kind, options)
    run(Settings(aml_regions=tuple(aml_regions), seal=seal, **options))
