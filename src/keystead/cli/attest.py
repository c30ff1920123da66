"""`keystead attest`: check what a deployment says of its keys in a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from keystead.api.errors import FailedPrecondition, NotFound
from keystead.cli.output import say
from keystead.crypto import certificates
from keystead.crypto.errors import MalformedError
from keystead.kms import attestation
from keystead.kms.attestation import AttestationError, Statement, Verified
from keystead.server.settings import Settings
from keystead.store.engine import open_store

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def attest() -> None:
    """Attestations of keys in a token (protection level HSM)."""


@attest.command()
@click.argument("file", type=_FILE)
@click.option("--root", type=_FILE, help="The deployment's root certificate (PEM), got another way.")
@click.option("--public-key", type=_FILE, help="The public key (PEM or DER) it should be about.")
def verify(file: Path, root: Path | None, public_key: Path | None) -> None:
    """Check the attestation in FILE and print what it proves.

    FILE is what `gcloud kms keys versions describe --attestation-file` wrote. Ends with status 1 and the
    reason where it was altered, hangs under another root, or is about another key.
    """
    try:
        trusted = None if root is None else certificates.from_pem(root.read_bytes())[-1]
        public = None if public_key is None else certificates.public_key_der(public_key.read_bytes())
        verified = attestation.verify(file.read_bytes(), root=trusted, public=public)
    except (AttestationError, MalformedError) as error:
        raise FailedPrecondition(f"{file} proves nothing: {error}") from None
    for what, text in _proved(verified, pinned=trusted is not None, compared=public is not None):
        say(f"{what:<22} {text}")


@attest.command("root")
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("keystead-data"), show_default=True)
@click.option("--store-url", default="", envvar="KEYSTEAD_STORE_URL")
def print_root(data_dir: Path, store_url: str) -> None:
    """Print the root certificate of a data directory's deployment (PEM), to be given to verifiers."""
    store = open_store(Settings(data_dir=data_dir, store_url=store_url).database_url, create=False)
    try:
        root = attestation.root_certificate(store)
    finally:
        store.close()
    if root is None:
        raise NotFound("This deployment has attested no key yet. Create one with protection level HSM.")
    say(certificates.to_pem(root).rstrip("\n"))


def _proved(verified: Verified, *, pinned: bool, compared: bool) -> Iterator[tuple[str, str]]:
    statement = verified.statement
    yield "signed by", verified.signer
    how = "as given" if pinned else "NOT COMPARED: give --root, or compare with `keystead attest root`"
    yield "root (SHA-256)", f"{verified.root_sha256} ({how})"
    yield "deployment", statement.deployment
    yield "stated at", f"{statement.time:%Y-%m-%d %H:%M:%S} UTC"
    yield "key version", statement.version
    yield "algorithm", statement.algorithm
    yield "protection level", statement.protection_level
    if statement.public_key_sha256:
        same = "of the key given" if compared else "not compared: give --public-key"
        yield "public key (SHA-256)", f"{statement.public_key_sha256} ({same})"
    yield from _token(statement)


def _token(statement: Statement) -> Iterator[tuple[str, str]]:
    key: dict[str, Any] = statement.facts.get("object") or {}
    token: dict[str, Any] = statement.facts.get("token") or {}
    library: dict[str, Any] = statement.facts.get("library") or {}
    yield "made in the token", _answer(key.get("local"))
    yield "can leave the token", _answer(key.get("extractable"))
    yield "could ever leave it", _not(key.get("never_extractable"))
    yield "value can be read", _not(key.get("sensitive"))
    yield "could ever be read", _not(key.get("always_sensitive"))
    yield "object", f"{key.get('class')} {key.get('type')} id {key.get('id')}"
    yield "token", f"{token.get('label')}, serial number {token.get('serial')}"
    yield (
        "model",
        f"{token.get('manufacturer')} {token.get('model')}, firmware {token.get('firmware_version')}",
    )
    yield "library", f"{library.get('manufacturer')} {library.get('version')}"


def _answer(told: object) -> str:
    return ("yes" if told else "no") if isinstance(told, bool) else "the token did not say"


def _not(told: object) -> str:
    return _answer(not told if isinstance(told, bool) else None)
