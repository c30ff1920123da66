"""How many resources of a kind a parent has, and the numbers that were given under it.

Owns the SQL of the table `children`: with it a count costs the same for ten resources and a million, and no
number is given twice. A writing transaction keeps its changes in memory and writes each row once, before it
commits: PostgreSQL would otherwise walk through every version that the transaction itself left of a row.
Deliberately does not look at resources: `resources` says what came and went.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from keystead.store.schema import children as table
from keystead.store.session import Session


@dataclass(slots=True)
class _Children:
    """`last` is the highest number given, and not below any count there was."""

    count: int
    last: int


class Children:
    """Reading counts."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def count(self, kind: str, parent: str) -> int:
        """How many resources of a kind a parent has."""
        return self._read(kind, parent).count

    def _read(self, kind: str, parent: str) -> _Children:
        statement = select(table.c.count, table.c.last).where(table.c.kind == kind, table.c.parent == parent)
        row = self._session.first(statement)
        return _Children(0, 0) if row is None else _Children(*row)


class ChildrenWriter(Children):
    """Reading counts and changing them; nothing is written before `flush`."""

    __slots__ = ("_changed",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._changed: dict[tuple[str, str], _Children] = {}

    def added(self, kind: str, parent: str) -> None:
        """Notes one resource more."""
        found = self._change(kind, parent)
        found.count += 1
        # A resource may have been given the count as its number, without asking for one.
        found.last = max(found.last, found.count)

    def removed(self, kind: str, parent: str) -> None:
        """Notes one resource less."""
        self._change(kind, parent).count -= 1

    def next_number(self, kind: str, parent: str) -> int:
        """The number after the highest that was ever given: 1, 2, 3 and so on."""
        found = self._change(kind, parent)
        found.last += 1
        return found.last

    def flush(self) -> None:
        """Writes what changed; the last act of a transaction before it commits."""
        for (kind, parent), found in self._changed.items():
            values = {"count": found.count, "last": found.last}
            statement = self._session.insert(table).values(kind=kind, parent=parent, **values)
            self._session.change(
                statement.on_conflict_do_update(index_elements=[table.c.kind, table.c.parent], set_=values)
            )
        self._changed.clear()

    def _change(self, kind: str, parent: str) -> _Children:
        return self._changed.setdefault((kind, parent), self._read(kind, parent))

    def _read(self, kind: str, parent: str) -> _Children:
        return self._changed.get((kind, parent)) or super()._read(kind, parent)
