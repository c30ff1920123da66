"""A kind of resource, stored as its official message: what every room's resources do alike.

    KEY_RINGS = Collection("KeyRing", KeyRing)
    ring = KEY_RINGS.require(tx, name)

The row's body is the serialized message; the store itself never looks inside. Sort keys are the last
segment of the name unless given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keystead.api import names
from keystead.api.errors import AlreadyExists, NotFound
from keystead.api.lists import Page, collect, page_request
from keystead.store.rows import Resource


@dataclasses.dataclass(frozen=True)
class Stored:
    """A resource as it stands: its row (revision, due time, sealed body) and its message."""

    row: Resource
    message: Any


def _as_it_is(_: Any, stored: Stored) -> Any:
    return stored.message


class Collection:
    """All resources of one kind. `kind` is also the noun of its errors: `CryptoKey ... not found.`"""

    def __init__(self, kind: str, message_type: Any) -> None:
        self.kind = kind
        self._type = message_type

    def find(self, tx: Any, name: str) -> Stored | None:
        """The resource of that name, if it exists and is of this kind."""
        row = tx.resources.get(name)
        if row is None or row.kind != self.kind:
            return None
        return self.of(row)

    def of(self, row: Resource) -> Stored:
        return Stored(row, self._type.FromString(row.body))

    def require(self, tx: Any, name: str) -> Stored:
        """The resource of that name. Raises NotFound in the service's words."""
        found = self.find(tx, name)
        if found is None:
            raise NotFound(f"{self.kind} {name} not found.")
        return found

    def require_many(self, tx: Any, names: Iterable[str]) -> dict[str, Stored]:
        """The resources of these names, by name, read together. Raises NotFound if one is not there."""
        wanted = list(names)
        rows = tx.resources.get_many(wanted)
        for name in wanted:
            if name not in rows or rows[name].kind != self.kind:
                raise NotFound(f"{self.kind} {name} not found.")
        return {name: self.of(row) for name, row in rows.items()}

    def insert(
        self,
        tx: Any,
        message: Any,
        *,
        parent: str,
        sort: str | None = None,
        due: int | None = None,
        sealed: bytes | None = None,
        alias: str | None = None,
    ) -> Stored:
        """Add a resource. Raises AlreadyExists."""
        row = Resource(
            name=message.name,
            kind=self.kind,
            parent=parent,
            sort=sort if sort is not None else names.last_of(message.name),
            body=message.SerializeToString(),
            sealed=sealed,
            due=due,
            alias=alias,
        )
        if not tx.resources.insert(row):
            raise AlreadyExists(f"{self.kind} {message.name} already exists.")
        return Stored(row, message)

    def update(self, tx: Any, stored: Stored, **changes: Any) -> None:
        """Write the message back, with row columns in `changes` (due, sealed). Raises Aborted when the row
        has changed since it was read."""
        body = stored.message.SerializeToString()
        tx.resources.update(dataclasses.replace(stored.row, body=body, **changes))

    def all(self, tx: Any, parent: str) -> list[Stored]:
        """Every resource under a parent, by sort key."""
        return [self.of(row) for row in tx.resources.list(self.kind, parent)]

    def page(
        self,
        tx: Any,
        request: Any,
        parent: str,
        *,
        complete: Callable[[Any, Stored], Any] = _as_it_is,
        complete_all: Callable[[Any, list[Stored]], list[Any]] | None = None,
    ) -> Page[Any]:
        """The page that a List request asks for (page size and token, filter, order). `complete(tx, stored)`
        gives the message as it is answered, before the filter sees it; `complete_all` does so for many, in
        their order, where more must be read of each from the store."""

        def walk(descending: bool) -> Callable[[str | None, int], Sequence[tuple[str, Any]]]:
            def fetch(after: str | None, limit: int) -> list[tuple[str, Any]]:
                rows = tx.resources.list(self.kind, parent, after=after, limit=limit, descending=descending)
                found = [self.of(row) for row in rows]
                whole = complete_all(tx, found) if complete_all else [complete(tx, each) for each in found]
                return [(row.sort, message) for row, message in zip(rows, whole, strict=True)]

            return fetch

        return collect(
            page_request(request, of=self._type.DESCRIPTOR),
            walk(descending=False),
            backward=walk(descending=True),
            total=lambda: tx.resources.count(self.kind, parent),
        )
