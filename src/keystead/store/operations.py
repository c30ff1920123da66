"""Long-running operations: rows first, so that a restart forgets none.

Owns the SQL of the table `operations`. Deliberately runs none of them.
"""

from __future__ import annotations

from sqlalchemy import delete, false, select, tuple_, update

from keystead.api.errors import Aborted, AlreadyExists
from keystead.store.faults import COLLISION
from keystead.store.rows import OperationRow
from keystead.store.schema import operations as table
from keystead.store.session import Session, limited

_COLUMNS = (
    table.c.name,
    table.c.service,
    table.c.parent,
    table.c.kind,
    table.c.target,
    table.c.done,
    table.c.body,
    table.c.arguments,
    table.c.principal,
    table.c.request_id,
    table.c.create_us,
)


class Operations:
    """Reading operations."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, name: str) -> OperationRow | None:
        """The operation of this name."""
        row = self._session.first(select(*_COLUMNS).where(table.c.name == name))
        return None if row is None else OperationRow(*row)

    def by_request_id(self, service: str, principal: str, request_id: str) -> OperationRow | None:
        """The operation that an earlier try of the same call started."""
        row = self._session.first(
            select(*_COLUMNS).where(
                table.c.service == service,
                table.c.principal == principal,
                table.c.request_id == request_id,
            )
        )
        return None if row is None else OperationRow(*row)

    def unfinished(self) -> list[OperationRow]:
        """Every operation that is not done, the oldest first: what a restarted server must take up."""
        statement = select(*_COLUMNS).where(table.c.done == false()).order_by(table.c.create_us, table.c.name)
        return [OperationRow(*row) for row in self._session.rows(statement)]

    def list(
        self,
        parent: str,
        service: str | None = None,
        after: tuple[int, str] | None = None,
        limit: int | None = None,
    ) -> list[OperationRow]:
        """Operations under a parent, ascending by (create_us, name), from the one after that pair."""
        statement = select(*_COLUMNS).where(table.c.parent == parent)
        if service is not None:
            statement = statement.where(table.c.service == service)
        if after is not None:
            statement = statement.where(tuple_(table.c.create_us, table.c.name) > tuple_(*after))
        statement = statement.order_by(table.c.create_us, table.c.name)
        return [OperationRow(*row) for row in self._session.rows(limited(statement, limit))]


class OperationsWriter(Operations):
    """Reading and changing operations. None of it moves the epoch: nothing is cached by it."""

    __slots__ = ()

    def create(
        self,
        *,
        name: str,
        service: str,
        parent: str,
        kind: str,
        target: str,
        body: bytes,
        arguments: bytes,
        principal: str,
        request_id: str | None,
        create_us: int,
    ) -> OperationRow:
        """Adds one that is not done and returns its row. Raises AlreadyExists if its name, or its request id
        of that service and principal, is taken."""
        row = OperationRow(
            name, service, parent, kind, target, False, body, arguments, principal, request_id, create_us
        )
        if not self.insert(row):
            raise AlreadyExists(f"Operation {name}, or one of the same request id, already exists.")
        return row

    def insert(self, row: OperationRow) -> bool:
        """Adds one; False if its name, or its request id of that service and principal, is taken."""
        return self._session.insert_absent(
            table, {column.name: getattr(row, column.name) for column in _COLUMNS}
        )

    def update(self, row: OperationRow) -> None:
        """Writes target, done, body and arguments. Raises Aborted if the operation is gone."""
        statement = (
            update(table)
            .where(table.c.name == row.name)
            .values(target=row.target, done=row.done, body=row.body, arguments=row.arguments)
        )
        if self._session.change(statement) == 0:
            raise Aborted(COLLISION)

    def delete(self, name: str) -> bool:
        """Removes an operation; False if there is none."""
        return self._session.change(delete(table).where(table.c.name == name)) > 0
