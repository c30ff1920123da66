"""The options by which a seal is named on the command line, and how its secrets are asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import SealError
from keystead.kms.seals.choice import SealOptions
from keystead.kms.seals.passphrase import require_strength
from keystead.kms.seals.private_files import MAX_BYTES, read_line, without_line_end

STANDARD_INPUT = Path("-")


class _FullPath(click.ParamType[Path]):
    """A path, made absolute: the server has another working directory. `-` stays as it is."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        return path if path == STANDARD_INPUT else path.expanduser().absolute()


FULL_PATH = _FullPath()
_OPTIONS = (
    click.option("--seal-file", type=FULL_PATH, help="file: where it is; seal/root.key if not said."),
    click.option("--pkcs11-module", type=FULL_PATH, help="pkcs11: the library of the token's maker."),
    click.option("--pkcs11-token", default="", help="pkcs11: the token's label."),
    click.option("--pkcs11-key", default="", help="pkcs11: the key's label; keystead-root if not said."),
    click.option("--kms-key", default="", help="kms: projects/P/locations/L/keyRings/R/cryptoKeys/K."),
    click.option("--kms-endpoint", default="", help="kms: https://host:port/cloudkms; Google's if not said."),
    click.option("--kms-token-file", type=FULL_PATH, help="kms: a bearer token; without it, ADC."),
)
passphrase_file = click.option(
    "--passphrase-file", type=FULL_PATH, help="passphrase: read it from here; - is standard input."
)
pin_file = click.option("--pin-file", type=FULL_PATH, help="pkcs11: where the PIN is read from.")


def seal_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add to a command the options that name a seal, all but those of secrets."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen(kind: str | None, options: dict[str, Any]) -> SealOptions:
    """What was said of a seal, taken out of a command's options."""
    names = SealOptions.__dataclass_fields__.keys() & options.keys()
    return SealOptions(kind=kind or "", **{name: options.pop(name) for name in names})


def secret_from(path: Path, what: str) -> SecretBytes:
    """A secret from a file, or from standard input where it is `-`. Raises SealError."""
    if path != STANDARD_INPUT:
        return read_line(path, f"The {what} file")
    if sys.stdin.isatty():
        raise SealError(f"Standard input is a terminal. Leave out the option to be asked for the {what}.")
    with SecretBytes(sys.stdin.buffer.read(MAX_BYTES)) as content:
        return without_line_end(content)


def asked(what: str, *, new: bool) -> SecretBytes:
    """A secret that somebody types, unseen; one that is `new` twice, and if it is a passphrase, until it is
    long enough. Raises SealError where there is no terminal."""
    if not sys.stdin.isatty():
        raise SealError(
            f"The {what} cannot be asked for: there is no terminal. Name a file that holds it, or - for "
            "standard input."
        )
    while True:
        text = click.prompt(
            f"{'New' if new else 'The'} {what}", hide_input=True, confirmation_prompt=new, err=True
        )
        secret = SecretBytes(text.encode())
        if not (new and what == "passphrase"):
            return secret
        try:
            require_strength(secret)
        except SealError as error:
            click.echo(str(error), err=True)
            continue
        return secret
