"""SECURITY: key material in the store is ciphertext, and what was deleted can be made unreadable.

Owns the SQL of the table `key_material`: material wrapped under the root key, by the name of its key version,
and beside it the public key where there is one. Of secrets this module only ever sees wrapped bytes; wrapping
them is the caller's part, and nothing here could tell. A deleted row leaves the file after `Store.scrub`.
"""

from __future__ import annotations

from sqlalchemy import delete, select

from keystead.store.schema import key_material as table
from keystead.store.session import Session, starting_with


class Material:
    """Reading wrapped key material."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, name: str) -> bytes | None:
        """The wrapped material of this name."""
        row = self._session.first(select(table.c.wrapped).where(table.c.name == name))
        return None if row is None else bytes(row[0])

    def public(self, name: str) -> bytes:
        """The public key that was put beside the material of this name; empty if there is none."""
        row = self._session.first(select(table.c.public).where(table.c.name == name))
        return b"" if row is None or row[0] is None else bytes(row[0])

    def list(self, prefix: str = "") -> list[str]:
        """The names that begin with `prefix`, ascending. Names only: material is read one at a time."""
        statement = select(table.c.name).where(starting_with(table.c.name, prefix)).order_by(table.c.name)
        return [row[0] for row in self._session.rows(statement)]


class MaterialWriter(Material):
    """Reading and changing wrapped key material."""

    __slots__ = ()

    def put(self, name: str, wrapped: bytes, public: bytes = b"") -> None:
        """Sets the material of a name and its public key, replacing both."""
        values = {"wrapped": wrapped, "public": public or None}
        statement = self._session.insert(table).values(name=name, **values)
        self._session.change(statement.on_conflict_do_update(index_elements=[table.c.name], set_=values))
        self._session.touched = True

    def delete(self, name: str) -> bool:
        """Removes material; False if there is none. `Store.scrub` then takes its bytes from the disk."""
        if self._session.change(delete(table).where(table.c.name == name)) == 0:
            return False
        self._session.touched = True
        return True
