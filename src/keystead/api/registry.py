"""The table of what is served: every RPC by its name, and what of a served API is not declared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keystead.api.method import HttpRule, Method, Service, methods_of


class Registry:
    """All methods of all handlers.

    `known` holds the RPCs of the served APIs, whether somebody declared a function for them or not:
    `{service: {rpc: [http rules]}}`. What is known but not declared answers UNIMPLEMENTED.
    """

    def __init__(self) -> None:
        self.methods: dict[str, Method] = {}
        self.known: dict[str, tuple[Service, tuple[HttpRule, ...]]] = {}

    def add(self, handlers: Iterable[Any]) -> None:
        """Take the RPCs of these objects; one RPC has one function."""
        for handler in handlers:
            for found in methods_of(handler):
                if found.spec.rpc in self.methods:
                    raise ValueError(f"two functions declare {found.spec.rpc}")
                self.methods[found.spec.rpc] = found

    def know(self, service: Service, rules: dict[str, list[tuple[str, str | None]]]) -> None:
        """Name the RPCs of a served API: `{rpc: [("POST /v1/...", body), ...]}`."""
        for rpc, bindings in rules.items():
            self.known[rpc] = (service, tuple(HttpRule.parse(text, body) for text, body in bindings))

    def unimplemented(self) -> dict[str, tuple[Service, tuple[HttpRule, ...]]]:
        """The known RPCs that no function declares."""
        return {rpc: entry for rpc, entry in self.known.items() if rpc not in self.methods}

    @property
    def services(self) -> list[Service]:
        """Every served API, each once."""
        found = {s.name: s for m in self.methods.values() for s in m.services}
        found.update({service.name: service for service, _ in self.known.values()})
        return list(found.values())
