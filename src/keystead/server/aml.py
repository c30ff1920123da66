"""Putting AML AI together: the part of the composition root that needs the `financialservices` extra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keystead.api.method import Service
from keystead.cmek.keychain import Keychain


@dataclass
class AmlService:
    """AML AI as the platform needs it."""

    services: tuple[Service, ...]
    handlers: tuple[Any, ...]
    keychains: tuple[Keychain, ...]

    def recover(self) -> None:
        """Delete what a crash left of files that no resource owns."""
