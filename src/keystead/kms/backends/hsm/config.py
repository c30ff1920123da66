"""Which token holds the keys, and where its PIN comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keystead.crypto.secret import SecretBytes

PinSource = Path | Callable[[], SecretBytes]
"""A file that holds the PIN, or a function that gives it. Either is asked at each login."""


@dataclass(frozen=True)
class HsmConfig:
    """A token.

    module: the PKCS#11 library of its maker. token: its label; serial: its serial number; one of the two may
    be empty. deployment: the identity of this deployment (`kms.deployment`): two that share a token never
    remove each other's keys. patience_s: for how many seconds a call waits for the token while others use it.
    """

    module: Path
    token: str
    pin: PinSource
    serial: str = ""
    deployment: str = ""
    patience_s: float = 30.0

    def __post_init__(self) -> None:
        if not (self.token or self.serial):
            raise ValueError("a token is named by its label or its serial number")

    def names(self, label: str, serial: bytes) -> bool:
        """Whether a token of this label and serial number is meant."""
        return self.token in {"", label} and self.serial.encode() in {b"", serial}

    @property
    def described(self) -> str:
        """The token as error texts name it."""
        return f"token '{self.token}'" if self.token else f"token with serial number {self.serial}"
