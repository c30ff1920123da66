"""`keystead doctor`: what this host lacks for which feature, and how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.markup import escape

from keystead.api.errors import ApiError, Internal
from keystead.cli.output import out
from keystead.kms.rootkey import read_sealed, unseal
from keystead.kms.seals import SealError
from keystead.kms.seals.choice import SealOptions, describe, needed_secret, stored_seal
from keystead.kms.seals.known import KnownSeals
from keystead.server.control import NotRunningError
from keystead.server.seal_commands import ask_state
from keystead.server.settings import Settings
from keystead.store.engine import open_store

_FREE_BYTES = 1 << 30
_BAD = {True: ("missing", "red"), False: ("no", "yellow")}  # by whether it is needed


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `needed` findings that are not `good` make the command fail. `word` stands before
    it, if not the usual one."""

    what: str
    good: bool
    needed: bool
    text: str
    word: str = ""


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("keystead-data"), show_default=True)
@click.option("--store-url", default="", envvar="KEYSTEAD_STORE_URL")
def doctor(data_dir: Path, store_url: str) -> int:
    """Look at this host and, where there is one, at the data directory."""
    failed = False
    settings = Settings(data_dir=data_dir, store_url=store_url)
    for finding in (*_host(settings.data_dir), *_data(settings)):
        word, style = ("ok", "green") if finding.good else _BAD[finding.needed]
        word = finding.word or word
        failed = failed or (finding.needed and not finding.good)
        mark = f"[{style}]{word:<8}[/]"
        # Never cut or folded: a finding may hold a command to be copied.
        out.print(f"{mark} {escape(finding.what):<26} {escape(finding.text)}", soft_wrap=True)
    return 1 if failed else 0


def _host(data_dir: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python 3.11 or newer", sys.version_info >= (3, 11), True, version)
    for module, feature, extra in (
        ("pyarrow", "AML AI", "financialservices"),
        ("psycopg", "PostgreSQL as the store", "postgresql"),
        ("pkcs11", "keys in a token (HSM)", "hsm"),
    ):
        found = importlib.util.find_spec(module) is not None
        yield Finding(feature, found, False, "ready" if found else f"pip install 'keystead[{extra}]'")
    gcloud = shutil.which("gcloud")
    yield Finding(
        "gcloud", gcloud is not None, False, gcloud or "not installed; REST and Python clients work"
    )
    where = data_dir if data_dir.exists() else data_dir.parent
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    yield Finding("disk space", free > _FREE_BYTES, True, f"{free / (1 << 30):.1f} GiB free at {where}")
    yield Finding("data directory is writable", os.access(where, os.W_OK), True, str(where))


def _data(settings: Settings) -> Iterator[Finding]:
    seal = settings.data_dir / "seal" / "root.key"
    store_file = settings.data_dir / "store.db"
    # A store without its seal file is no new data directory: its keys are lost unless the file comes back.
    if not (seal.exists() or store_file.exists() or settings.store_url):
        yield Finding("data directory", True, True, f"{settings.data_dir} is new; `keystead serve` makes it")
        return
    yield _try("store", lambda: _check_store(settings))
    yield _seal(settings)


def _try(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, True, check())
    except (ApiError, SealError) as error:
        return Finding(what, False, True, error.message if isinstance(error, ApiError) else str(error))


def _check_store(settings: Settings) -> str:
    store = open_store(settings.database_url, create=False)
    try:
        faults = store.check()
    finally:
        store.close()
    if faults:
        raise Internal(f"{'; '.join(faults[:3])}. Restore it from a backup.")
    return "intact"


def _seal(settings: Settings) -> Finding:
    """How the seal stands: as the running server says, else tried here where it needs nobody."""
    what = "seal of the root key"
    try:
        state = ask_state(settings.data_dir)
    except NotRunningError:
        return _try(what, lambda: _try_seal(settings))
    except (ApiError, SealError) as error:
        return Finding(what, False, True, str(error))
    if state.is_open:
        return Finding(what, True, True, f"open: {state.seal}")
    text = f"{state.why} Open it with: keystead seal open --data-dir {settings.data_dir}"
    return Finding(what, False, True, text, word="sealed")


def _try_seal(settings: Settings) -> str:
    store = open_store(settings.database_url, create=False)
    try:
        sealed = read_sealed(store)
    finally:
        store.close()
    if sealed is None:
        return "none yet; the first start makes the root key"
    words = describe(sealed)
    if secret := needed_secret(sealed, settings.data_dir, SealOptions()):
        return f"{words}: the server starts sealed and waits for the {secret}: keystead seal open"
    if not KnownSeals(settings.data_dir).knows(sealed):
        return f"{words}: new to this data directory, so the server waits for: keystead seal open"
    unseal(sealed, stored_seal(sealed, settings.data_dir)).wipe()
    return f"opened by {words}"
