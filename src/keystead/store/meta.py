"""Single values of the deployment itself, by key: the sealed root key's identity, a format version, a salt.

Owns the SQL of the table `meta`. Deliberately no place for what has a name of its own.
"""

from __future__ import annotations

from sqlalchemy import select

from keystead.store.schema import meta as table
from keystead.store.session import Session


class Meta:
    """Reading the deployment's own values."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, key: str) -> bytes | None:
        """The value of a key."""
        row = self._session.first(select(table.c.value).where(table.c.key == key))
        return None if row is None else bytes(row[0])


class MetaWriter(Meta):
    """Reading and setting the deployment's own values. Setting does not move the epoch."""

    __slots__ = ()

    def put(self, key: str, value: bytes) -> None:
        """Sets the value of a key."""
        statement = self._session.insert(table).values(key=key, value=value)
        self._session.change(
            statement.on_conflict_do_update(index_elements=[table.c.key], set_={"value": value})
        )
