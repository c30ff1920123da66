"""The `keystead` command. One module per group of commands; this one only puts them together, and is the
only place that ends the process."""

from __future__ import annotations

import sys

import click

from keystead.api.errors import ApiError
from keystead.cli.attest import attest
from keystead.cli.audit import audit
from keystead.cli.demo.command import demo
from keystead.cli.doctor import doctor
from keystead.cli.env import env
from keystead.cli.generate import generate
from keystead.cli.output import complain
from keystead.cli.seal import seal
from keystead.cli.serve import serve
from keystead.kms.seals import SealError
from keystead.server.settings import SettingsError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="keystead")
def cli() -> None:
    """Keystead: customer-managed encryption keys on your own machines."""


for command in (serve, env, demo, doctor, generate, audit, attest, seal):
    cli.add_command(command)


def main() -> None:
    """Run the command line. Exit status 0: done; 1: refused or failed, and it says why; 2: usage."""
    try:
        result = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (SettingsError, SealError) as error:
        complain(str(error))
        sys.exit(1)
    except ApiError as error:
        complain(error.message)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)
