"""Resources: rows found by name, by alias, in order under a parent, or by when they are due.

Owns the SQL of the table `resources`. Deliberately knows no resource type and no state: a body is bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import delete, select, update

from keystead.api.errors import Aborted
from keystead.store.children import Children, ChildrenWriter
from keystead.store.faults import COLLISION
from keystead.store.rows import Resource
from keystead.store.schema import resources as table
from keystead.store.session import Session, limited

_COLUMNS = (
    table.c.name,
    table.c.kind,
    table.c.parent,
    table.c.sort,
    table.c.body,
    table.c.sealed,
    table.c.revision,
    table.c.due,
    table.c.alias,
)


class Resources:
    """Reading resources."""

    __slots__ = ("_children", "_session")

    _children: Children

    def __init__(self, session: Session) -> None:
        self._session = session
        self._children = Children(session)

    def get(self, name: str) -> Resource | None:
        """The resource of this name."""
        row = self._session.first(select(*_COLUMNS).where(table.c.name == name))
        return None if row is None else Resource(*row)

    def get_many(self, names: Iterable[str]) -> dict[str, Resource]:
        """The resources of these names, by name; a name that nothing has is left out."""
        rows = self._session.rows_of(select(*_COLUMNS), table.c.name, names)
        return {row[0]: Resource(*row) for row in rows}

    def by_alias(self, alias: str) -> Resource | None:
        """The resource that has this alias."""
        row = self._session.first(select(*_COLUMNS).where(table.c.alias == alias))
        return None if row is None else Resource(*row)

    def list_kind(self, kind: str, after_name: str | None = None, limit: int | None = None) -> list[Resource]:
        """Resources of a kind under any parent, ascending by name, from the one after `after_name`."""
        statement = select(*_COLUMNS).where(table.c.kind == kind).order_by(table.c.name)
        if after_name is not None:
            statement = statement.where(table.c.name > after_name)
        return [Resource(*row) for row in self._session.rows(limited(statement, limit))]

    def count(self, kind: str, parent: str) -> int:
        """How many resources of a kind a parent has; costs the same however many they are."""
        return self._children.count(kind, parent)

    def due(self, kind: str, now_us: int, limit: int) -> list[Resource]:
        """At most `limit` resources of a kind that are due at `now_us`, the longest due first."""
        statement = (
            select(*_COLUMNS)
            .where(table.c.kind == kind, table.c.due <= now_us)
            .order_by(table.c.due, table.c.name)
            .limit(limit)
        )
        return [Resource(*row) for row in self._session.rows(statement)]

    def list(
        self,
        kind: str,
        parent: str,
        *,
        after: str | None = None,
        limit: int | None = None,
        descending: bool = False,
    ) -> list[Resource]:
        """Resources of a kind under a parent, bytewise by `sort` (ascending unless `descending`), from the
        one that follows `after`."""
        statement = select(*_COLUMNS).where(table.c.kind == kind, table.c.parent == parent)
        if after is not None:
            statement = statement.where(table.c.sort < after if descending else table.c.sort > after)
        statement = statement.order_by(table.c.sort.desc() if descending else table.c.sort)
        return [Resource(*row) for row in self._session.rows(limited(statement, limit))]


class ResourcesWriter(Resources):
    """Reading and changing resources."""

    __slots__ = ()

    _children: ChildrenWriter

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._children = ChildrenWriter(session)

    def insert(self, resource: Resource) -> bool:
        """Adds a resource; False, and nothing changed, if its name or alias is taken.

        Raises ValueError if `sort` is taken under its kind and parent: that is a mistake of the program
        (pages of a list would lose rows), not an answer for a client.
        """
        values = {column.name: getattr(resource, column.name) for column in _COLUMNS}
        if self._session.insert_absent(table, values):
            self._children.added(resource.kind, resource.parent)
            self._session.touched = True
            return True
        if self.get(resource.name) is None and (
            resource.alias is None or self.by_alias(resource.alias) is None
        ):
            raise ValueError(
                f"another {resource.kind} under {resource.parent!r} has the sort key of {resource.name!r}"
            )
        return False

    def update(self, resource: Resource) -> None:
        """Writes body, sealed, due, sort and alias, and raises the revision by one.

        Raises Aborted if the stored revision is not `resource.revision`, or the resource is gone.
        """
        statement = (
            update(table)
            .where(table.c.name == resource.name, table.c.revision == resource.revision)
            .values(
                body=resource.body,
                sealed=resource.sealed,
                due=resource.due,
                sort=resource.sort,
                alias=resource.alias,
                revision=resource.revision + 1,
            )
        )
        if self._session.change(statement) == 0:
            raise Aborted(COLLISION)
        self._session.touched = True

    def delete(self, name: str) -> bool:
        """Removes a resource; False if there is none of this name."""
        statement = delete(table).where(table.c.name == name).returning(table.c.kind, table.c.parent)
        row = self._session.first(statement)
        if row is None:
            return False
        self._children.removed(*row)
        self._session.touched = True
        return True

    def next_number(self, kind: str, parent: str) -> int:
        """A number for a resource of a kind under a parent: 1, 2, 3 and so on, each once.

        No number is given again, also when what it was given to is deleted; only those of a transaction that
        was rolled back are. A number is also above how many there ever were at a time.
        """
        return self._children.next_number(kind, parent)

    def flush(self) -> None:
        """Writes the counts that changed; `Store.write` calls it before it commits."""
        self._children.flush()
