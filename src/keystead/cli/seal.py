"""`keystead seal`: look at, open, change and close the seal of the root key."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import click

from keystead.api.clock import SystemClock
from keystead.api.errors import FailedPrecondition
from keystead.audit.operators import OperatorTrail
from keystead.cli.output import say
from keystead.cli.seal_options import asked, chosen, passphrase_file, pin_file, seal_options, secret_from
from keystead.iam.hierarchy import ensure_organization
from keystead.kms.rootkey import read_sealed
from keystead.kms.seals import SealError
from keystead.kms.seals.choice import KINDS, SealOptions, describe, needed_secret
from keystead.server.control import NotRunningError, Secrets
from keystead.server.resealing import Resealed, Resealing
from keystead.server.seal_commands import (
    CURRENT,
    NEW,
    ask_state,
    ask_to_change,
    ask_to_close,
    ask_to_open,
)
from keystead.server.sealing import SealState
from keystead.server.settings import Settings
from keystead.store.engine import open_store
from keystead.store.lock import DataDirLock, server_lock

_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("keystead-data"), show_default=True
)
_store_url = click.option("--store-url", default="", envvar="KEYSTEAD_STORE_URL")


@click.group()
def seal() -> None:
    """Look after the seal of the root key, which every software key is stored under."""


@seal.command()
@_data_dir
@_store_url
def status(data_dir: Path, store_url: str) -> None:
    """Say how the root key is sealed, and whether the server has opened it."""
    settings = Settings(data_dir=data_dir, store_url=store_url)
    try:
        _tell(settings, ask_state(settings.data_dir))
    except NotRunningError:
        say(f"seal    {_stored(settings).seal}")
        say("server  not running")


@seal.command("open")
@_data_dir
@seal_options
@passphrase_file
@pin_file
def open_seal(data_dir: Path, **options: Any) -> None:
    """Have the running server open its seal.

    It is asked for its passphrase or PIN here, where it needs one. The other options say where its parts are
    now, if not where they were.
    """
    settings = Settings(data_dir=data_dir)
    files = options.pop("passphrase_file"), options.pop("pin_file")
    file = files[0] or files[1]
    try:
        state = ask_state(settings.data_dir)
        secrets: Secrets = {}
        if file is not None:
            secrets = {CURRENT: secret_from(file, state.needs or "secret")}
        elif state.needs:
            secrets = {CURRENT: asked(state.needs, new=state.new)}
        _tell(settings, ask_to_open(settings.data_dir, chosen(None, options), secrets))
    except NotRunningError:
        raise _not_running(settings) from None


@seal.command()
@_data_dir
def close(data_dir: Path) -> None:
    """Seal the running server now: the root key, and every key opened by it, are wiped from its memory.

    Calls that need a key are answered UNAVAILABLE until the seal is opened again. Nothing is lost.
    """
    settings = Settings(data_dir=data_dir)
    try:
        _tell(settings, ask_to_close(settings.data_dir))
    except NotRunningError:
        raise _not_running(settings) from None


@seal.command()
@_data_dir
@_store_url
@click.option("--to", "kind", required=True, type=click.Choice(KINDS), help="The kind of the new seal.")
@seal_options
@passphrase_file
@pin_file
@click.option("--current", type=click.Path(path_type=Path), help="File with its passphrase or PIN as it is.")
def change(data_dir: Path, store_url: str, kind: str, current: Path | None, **options: Any) -> None:
    """Seal the root key by another seal. No key and no data is touched, and the server may run.

    All options but --current are of the new seal.
    """
    settings = Settings(data_dir=data_dir, store_url=store_url)
    passphrase = options.pop("passphrase_file")
    new = chosen(kind, options)
    new.check(kind)
    if passphrase is not None and kind != "passphrase":
        raise SealError(
            f"--passphrase-file belongs to a seal of kind passphrase; this one is of kind {kind}."
        )
    try:
        state, running = ask_state(settings.data_dir), True
    except NotRunningError:
        state, running = _stored(settings), False
    if state.new:
        raise SealError(
            "There is no root key yet. Choose its seal at the first start: keystead serve --seal."
        )
    secrets = _secrets(state, new, current, passphrase)
    made = (
        ask_to_change(settings.data_dir, new, secrets) if running else _change_stored(settings, new, secrets)
    )
    say(f"was     {made.before}")
    say(f"is      {made.after}")
    say("Backups of the store made before now still open by what it was: keep that as long as those.")
    if made.left:
        say(f"{made.left} was not deleted. Then delete it.")


def _secrets(state: SealState, new: SealOptions, current: Path | None, passphrase: Path | None) -> Secrets:
    """What the present and the new seal need from somebody."""
    found: Secrets = {}
    if current is not None:
        found[CURRENT] = secret_from(current, state.needs or "PIN")
    elif state.needs:
        found[CURRENT] = asked(f"present {state.needs}", new=False)
    if passphrase is not None:
        found[NEW] = secret_from(passphrase, "passphrase")
    elif new.kind == "passphrase":
        found[NEW] = asked("passphrase", new=True)
    elif new.kind == "pkcs11" and new.pin_file is None:
        found[NEW] = asked("PIN", new=False)
    return found


def _change_stored(settings: Settings, options: SealOptions, secrets: Secrets) -> Resealed:
    """Change the seal of a store whose server does not run."""
    clock = SystemClock()
    with DataDirLock(settings.data_dir):
        store = open_store(settings.database_url, create=False)
        try:
            with server_lock(store):
                trail = OperatorTrail(clock, lambda tx: ensure_organization(tx, clock))
                resealing = Resealing(store, settings.data_dir, trail)
                return resealing.change(getpass.getuser(), options, secrets.get(NEW), secrets.get(CURRENT))
        finally:
            store.close()


def _stored(settings: Settings) -> SealState:
    """How the root key in the store is sealed, without a server. Raises ApiError, SealError."""
    store = open_store(settings.database_url, create=False)
    try:
        sealed = read_sealed(store)
    finally:
        store.close()
    needs = needed_secret(sealed, settings.data_dir, SealOptions())
    if sealed is None:
        return SealState(False, "", "none yet: the first start makes the root key", new=True)
    return SealState(False, sealed.kind, describe(sealed), needs=needs)


def _tell(settings: Settings, state: SealState) -> None:
    say(f"seal    {state.seal or state.kind}")
    if state.is_open:
        say("server  open")
        return
    say(f"server  sealed: {state.why}")
    say(f"        Open it with: keystead seal open --data-dir {settings.data_dir}")


def _not_running(settings: Settings) -> FailedPrecondition:
    return FailedPrecondition(
        f"No server is running on {settings.data_dir}. Start it with: keystead serve --data-dir "
        f"{settings.data_dir}"
    )
