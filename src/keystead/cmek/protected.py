"""Protected resources: which resources are under which key, and which version wrapped their KEK.

What may be destroyed without loss is read off this table: a version that no resource names is not needed
by any of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """A resource under a customer's key. `full_name` is as the key inventory names it."""

    name: str
    service: str
    resource_type: str
    project: str
    location: str
    kms_key: str
    key_version: str
    create_us: int

    @property
    def full_name(self) -> str:
        return f"//{self.service}/{self.name}"


class ProtectedResources:
    """Answers from the keychains of all services."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def under(self, kms_key_prefix: str) -> Iterator[ProtectedResource]:
        """Every resource protected by a key, or by any key of a ring or project."""
        with self._store.read() as tx:
            rows = tx.keychains.list(kms_key_prefix or None, None)
        for row in rows:
            yield ProtectedResource(
                row.resource, row.service, row.resource_type, row.project, row.location, row.kms_key,
                row.key_version, row.create_us,
            )  # fmt: skip

    def of(self, resource: str) -> ProtectedResource | None:
        """What is known of one resource."""
        with self._store.read() as tx:
            row = tx.keychains.get(resource)
        if row is None:
            return None
        return ProtectedResource(
            row.resource, row.service, row.resource_type, row.project, row.location, row.kms_key,
            row.key_version, row.create_us,
        )  # fmt: skip
