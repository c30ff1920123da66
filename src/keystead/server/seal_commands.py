"""What `keystead seal` asks of a running server, on both sides of the control socket."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keystead.kms.seals import SealError
from keystead.kms.seals.choice import SealOptions
from keystead.server.control import Handler, Secrets, ask
from keystead.server.resealing import Resealed
from keystead.server.sealing import Sealing, SealState

NEW = "new"
CURRENT = "current"


def seal_commands(sealing: Sealing) -> Handler:
    """The handler that does them."""

    def handle(operator: str, request: dict[str, Any], secrets: Secrets) -> dict[str, Any]:
        act = request.get("do")
        if act == "seal.status":
            return dataclasses.asdict(sealing.state())
        if act == "seal.open":
            sealing.open(operator, _options(request), secrets.get(CURRENT))
            return dataclasses.asdict(sealing.state())
        if act == "seal.close":
            sealing.close(operator)
            return dataclasses.asdict(sealing.state())
        if act == "seal.change":
            made = sealing.change(operator, _options(request), secrets.get(NEW), secrets.get(CURRENT))
            return dataclasses.asdict(made)
        raise SealError("The server does not know this command: it is of another version.")

    return handle


def ask_state(data_dir: Path) -> SealState:
    """How the seal of a running server stands. Raises NotRunningError, SealError, ApiError, as all here."""
    return SealState(**ask(data_dir, {"do": "seal.status"}))


def ask_to_open(data_dir: Path, options: SealOptions, secrets: Secrets) -> SealState:
    """Have it opened; `secrets` holds its passphrase or PIN by CURRENT, where it needs one."""
    return SealState(**ask(data_dir, {"do": "seal.open", "options": _json(options)}, secrets))


def ask_to_close(data_dir: Path) -> SealState:
    """Have it closed."""
    return SealState(**ask(data_dir, {"do": "seal.close"}))


def ask_to_change(data_dir: Path, options: SealOptions, secrets: Secrets) -> Resealed:
    """Have it changed; `secrets` holds those of the new seal (NEW) and the present one (CURRENT)."""
    return Resealed(**ask(data_dir, {"do": "seal.change", "options": _json(options)}, secrets))


def _json(options: SealOptions) -> dict[str, str]:
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {name: str(value) for name, value in values.items() if value}


def _options(request: Mapping[str, Any]) -> SealOptions:
    given = request.get("options", {})
    known = {field.name: field.default for field in dataclasses.fields(SealOptions)}
    if not isinstance(given, dict) or not given.keys() <= known.keys():
        raise SealError("The server does not know one of these options: it is of another version.")
    # What is not text is a path, and has no default.
    values: dict[str, Any] = {
        name: Path(text) if known[name] is None else text for name, text in given.items()
    }
    return SealOptions(**values)
