"""Keychains: the wrapped KEK of every protected resource, and the customer's key it hangs on.

Owns the SQL of the table `keychains`. Deliberately wraps and unwraps nothing.
"""

from __future__ import annotations

from sqlalchemy import delete, select, update

from keystead.api.errors import Aborted
from keystead.store.faults import COLLISION
from keystead.store.rows import KeychainRow
from keystead.store.schema import keychains as table
from keystead.store.session import Session, at_or_below

_COLUMNS = (
    table.c.resource,
    table.c.service,
    table.c.resource_type,
    table.c.kms_key,
    table.c.key_version,
    table.c.wrapped_kek,
    table.c.location,
    table.c.project,
    table.c.create_us,
    table.c.revision,
)


class Keychains:
    """Reading keychains."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, resource: str) -> KeychainRow | None:
        """The keychain of this protected resource."""
        row = self._session.first(select(*_COLUMNS).where(table.c.resource == resource))
        return None if row is None else KeychainRow(*row)

    def list(self, kms_key: str | None = None, service: str | None = None) -> list[KeychainRow]:
        """Keychains ascending by resource: those of the key `kms_key`, or of any key below that name (a key
        ring, a location, a project), and those of `service`; None is all."""
        statement = select(*_COLUMNS).order_by(table.c.resource)
        if kms_key is not None:
            statement = statement.where(at_or_below(table.c.kms_key, kms_key))
        if service is not None:
            statement = statement.where(table.c.service == service)
        return [KeychainRow(*row) for row in self._session.rows(statement)]


class KeychainsWriter(Keychains):
    """Reading and changing keychains. None of it moves the epoch: nothing is cached by it."""

    __slots__ = ()

    def insert(self, row: KeychainRow) -> bool:
        """Adds a keychain; False if the resource has one."""
        return self._session.insert_absent(
            table, {column.name: getattr(row, column.name) for column in _COLUMNS}
        )

    def update(self, row: KeychainRow) -> None:
        """Writes every field but resource and create_us, and raises the revision by one.

        Raises Aborted if the stored revision is not `row.revision`, or the keychain is gone.
        """
        statement = (
            update(table)
            .where(table.c.resource == row.resource, table.c.revision == row.revision)
            .values(
                service=row.service,
                resource_type=row.resource_type,
                kms_key=row.kms_key,
                key_version=row.key_version,
                wrapped_kek=row.wrapped_kek,
                location=row.location,
                project=row.project,
                revision=row.revision + 1,
            )
        )
        if self._session.change(statement) == 0:
            raise Aborted(COLLISION)

    def delete(self, resource: str) -> bool:
        """Removes a keychain; False if there is none."""
        return self._session.change(delete(table).where(table.c.resource == resource)) > 0
