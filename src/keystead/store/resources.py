"""Resources: rows found by name, by alias, in order under a parent, or by when they are due.

Owns the SQL of the table `resources`. Deliberately knows no resource type and no state: a body is bytes.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select, update

from keystead.api.errors import Aborted
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

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, name: str) -> Resource | None:
        """The resource of this name."""
        row = self._session.first(select(*_COLUMNS).where(table.c.name == name))
        return None if row is None else Resource(*row)

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
        """How many resources of a kind a parent has."""
        statement = select(func.count()).where(table.c.kind == kind, table.c.parent == parent)
        return int(self._session.rows(statement)[0][0])

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
        self, kind: str, parent: str, *, after: str | None = None, limit: int | None = None
    ) -> list[Resource]:
        """Resources of a kind under a parent, ascending bytewise by `sort`, from the one after `after`."""
        statement = select(*_COLUMNS).where(table.c.kind == kind, table.c.parent == parent)
        if after is not None:
            statement = statement.where(table.c.sort > after)
        statement = statement.order_by(table.c.sort)
        return [Resource(*row) for row in self._session.rows(limited(statement, limit))]


class ResourcesWriter(Resources):
    """Reading and changing resources."""

    __slots__ = ()

    def insert(self, resource: Resource) -> bool:
        """Adds a resource; False, and nothing changed, if its name or alias is taken.

        Raises ValueError if `sort` is taken under its kind and parent: that is a mistake of the program
        (pages of a list would lose rows), not an answer for a client.
        """
        values = {column.name: getattr(resource, column.name) for column in _COLUMNS}
        if self._session.insert_absent(table, values):
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
        if self._session.change(delete(table).where(table.c.name == name)) == 0:
            return False
        self._session.touched = True
        return True
