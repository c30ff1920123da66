"""Policies: one body per resource, with a revision that the store never gives twice.

Owns the SQL of the tables `policies` and `counters`. Deliberately knows nothing of bindings and roles.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import delete, select

from keystead.store.rows import PolicyRow
from keystead.store.schema import counters
from keystead.store.schema import policies as table
from keystead.store.session import Session, at_or_below

_COLUMNS = (table.c.resource, table.c.body, table.c.revision)


class Policies:
    """Reading policies."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, resource_name: str) -> PolicyRow | None:
        """The policy set on exactly this resource."""
        row = self._session.first(select(*_COLUMNS).where(table.c.resource == resource_name))
        return None if row is None else PolicyRow(*row)

    def get_many(self, names: Iterable[str]) -> dict[str, PolicyRow]:
        """The policies set on these resources, by resource; a resource without one is left out."""
        rows = self._session.rows_of(select(*_COLUMNS), table.c.resource, names)
        return {row[0]: PolicyRow(*row) for row in rows}

    def list_under(self, prefix: str) -> list[PolicyRow]:
        """The policies of the resource named `prefix` and of everything below it, ascending by resource."""
        statement = select(*_COLUMNS).where(at_or_below(table.c.resource, prefix)).order_by(table.c.resource)
        return [PolicyRow(*row) for row in self._session.rows(statement)]


class PoliciesWriter(Policies):
    """Reading and changing policies."""

    __slots__ = ()

    def put(self, resource_name: str, body: bytes) -> int:
        """Sets the policy of a resource and returns its revision, greater than any given before."""
        revision = self._next_revision()
        statement = self._session.insert(table).values(resource=resource_name, body=body, revision=revision)
        self._session.change(
            statement.on_conflict_do_update(
                index_elements=[table.c.resource], set_={"body": body, "revision": revision}
            )
        )
        self._session.touched = True
        return revision

    def delete(self, resource_name: str) -> bool:
        """Removes the policy of a resource; False if it has none."""
        if self._session.change(delete(table).where(table.c.resource == resource_name)) == 0:
            return False
        self._session.touched = True
        return True

    def _next_revision(self) -> int:
        statement = self._session.insert(counters).values(name="policy", value=1)
        row = self._session.rows(
            statement.on_conflict_do_update(
                index_elements=[counters.c.name], set_={"value": counters.c.value + 1}
            ).returning(counters.c.value)
        )[0]
        return int(row[0])
