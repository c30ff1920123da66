"""One open transaction, as the repositories see it: statements in, rows or a count out, errors translated.

Owns: running a statement, the rule that a transaction with a failed statement can only be rolled back, and
the few pieces of SQL that the repositories share. Deliberately begins, commits and ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, and_, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import Executable

from keystead.api.errors import ApiError
from keystead.store.faults import FAULTS, translate

# Well below the number of variables that either engine takes in one statement.
_NAMES_PER_STATEMENT = 500

Insert = postgresql.Insert | sqlite.Insert
Fields = Row[*tuple[Any, ...]]
"""A row of as many columns as were selected."""


class Session:
    """A connection inside a transaction.

    After any statement failed, every further one raises the same error: SQLite may already have rolled back
    by itself (a full disk), and what followed would otherwise be committed alone, half of what was meant.
    """

    __slots__ = ("_connection", "_where", "failure", "touched")

    def __init__(self, connection: Connection, where: str) -> None:
        self._connection = connection
        self._where = where
        self.failure: ApiError | None = None
        self.touched = False

    def rows(self, statement: Executable) -> Sequence[Fields]:
        """All rows of a statement."""
        if self.failure is not None:
            raise self.failure
        try:
            return self._connection.execute(statement).all()
        except FAULTS as error:
            self.failure = translate(error, self._where)
            raise self.failure from None

    def rows_of(
        self, statement: Select[Any], column: ColumnElement[str], names: Iterable[str]
    ) -> Iterator[Fields]:
        """The rows of a statement in which a column is one of these names, in no order, each once."""
        rest = iter(dict.fromkeys(names))
        while batch := list(islice(rest, _NAMES_PER_STATEMENT)):
            yield from self.rows(statement.where(column.in_(batch)))

    def first(self, statement: Executable) -> Fields | None:
        """The first row of a statement that yields at most one."""
        found = self.rows(statement)
        return found[0] if found else None

    def change(self, statement: Executable) -> int:
        """How many rows an UPDATE, DELETE or upsert changed."""
        if self.failure is not None:
            raise self.failure
        try:
            return self._connection.execute(statement).rowcount
        except FAULTS as error:
            self.failure = translate(error, self._where)
            raise self.failure from None

    def insert(self, table: Table) -> Insert:
        """An INSERT that knows ON CONFLICT, which both engines spell alike but SQLAlchemy does not share."""
        if self._connection.dialect.name == "postgresql":
            return postgresql.insert(table)
        return sqlite.insert(table)

    def insert_absent(self, table: Table, values: dict[str, Any]) -> bool:
        """Inserts unless a unique key is taken, and says whether it did. Does not fail the transaction."""
        key = next(iter(table.primary_key.columns))
        statement = self.insert(table).values(**values).on_conflict_do_nothing().returning(key)
        return self.first(statement) is not None


def limited(statement: Select[Any], limit: int | None) -> Select[Any]:
    """`statement` with at most `limit` rows; None is all."""
    return statement if limit is None else statement.limit(limit)


def at_or_below(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """`column` is `name` or a resource name under it.

    A range and not LIKE, so that an index serves it: "0" is the character after "/".
    """
    name = name.rstrip("/")
    return or_(column == name, and_(column >= f"{name}/", column < f"{name}0"))


def starting_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """`column` begins with `prefix`, as a range that an index serves."""
    following = _following(prefix)
    return column >= prefix if following is None else and_(column >= prefix, column < following)


def _following(prefix: str) -> str | None:
    """The least string greater than every string that begins with `prefix`; None where there is none.

    Bytewise order of UTF-8 is the order of code points, and surrogates (U+D800 to U+DFFF) have no UTF-8.
    """
    head = prefix.rstrip("\U0010ffff")
    if not head:
        return None
    last = ord(head[-1]) + 1
    return head[:-1] + chr(0xE000 if last == 0xD800 else last)
