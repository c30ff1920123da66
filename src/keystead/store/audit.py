"""SECURITY: the audit log can be appended to and read; this room has no way to change or delete a record.

Owns the SQL of the table `audit`: gapless sequence numbers and the order of the hash chain. Deliberately
computes no digest: the room `audit` does, from what `last` returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import insert, select

from keystead.store.rows import AuditRow
from keystead.store.schema import audit as table
from keystead.store.session import Session, limited

_COLUMNS = (
    table.c.seq,
    table.c.log_name,
    table.c.parent,
    table.c.time_us,
    table.c.insert_id,
    table.c.body,
    table.c.previous,
    table.c.digest,
)
_ROWS_PER_STATEMENT = 500


class Audit:
    """Reading audit records."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def last(self) -> AuditRow | None:
        """The record with the highest seq: the end of the chain."""
        row = self._session.first(select(*_COLUMNS).order_by(table.c.seq.desc()).limit(1))
        return None if row is None else AuditRow(**row._mapping)

    def scan(
        self,
        *,
        parents: Sequence[str],
        log_names: Sequence[str] | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        descending: bool = False,
        after_seq: int | None = None,
        limit: int | None = None,
    ) -> list[AuditRow]:
        """Records of these parents in the order of the chain, or against it.

        `log_names` None is every log. The time is `since_us` <= time < `until_us`. `after_seq` is the last
        record already seen, in the direction of the scan.
        """
        statement = select(*_COLUMNS).where(table.c.parent.in_(parents))
        if log_names is not None:
            statement = statement.where(table.c.log_name.in_(log_names))
        if since_us is not None:
            statement = statement.where(table.c.time_us >= since_us)
        if until_us is not None:
            statement = statement.where(table.c.time_us < until_us)
        if after_seq is not None:
            statement = statement.where(table.c.seq < after_seq if descending else table.c.seq > after_seq)
        statement = statement.order_by(table.c.seq.desc() if descending else table.c.seq)
        return [AuditRow(**row._mapping) for row in self._session.rows(limited(statement, limit))]

    def walk(self, from_seq: int = 1) -> Iterator[AuditRow]:
        """Every record from `from_seq` on, in order, read in batches: for verifying the chain. Only inside
        the transaction that it came from."""
        while True:
            statement = (
                select(*_COLUMNS)
                .where(table.c.seq >= from_seq)
                .order_by(table.c.seq)
                .limit(_ROWS_PER_STATEMENT)
            )
            rows = self._session.rows(statement)
            for row in rows:
                yield AuditRow(**row._mapping)
            if len(rows) < _ROWS_PER_STATEMENT:
                return
            from_seq = rows[-1].seq + 1


class AuditWriter(Audit):
    """Reading and appending audit records. Appending does not move the epoch."""

    __slots__ = ()

    def append(self, row: AuditRow) -> int:
        """Appends a record and returns its seq: one more than the last, or 1.

        Counted inside the transaction and not by a database sequence, which leaves gaps when a transaction is
        rolled back: a gap in this log means that a record was removed. A `row.seq` other than 0 must be the
        seq that the record gets, or ValueError is raised (its digest would cover a wrong number).
        """
        last = self._session.first(select(table.c.seq).order_by(table.c.seq.desc()).limit(1))
        seq = 1 if last is None else int(last[0]) + 1
        if row.seq not in (0, seq):
            raise ValueError(f"the next audit record is {seq}, not {row.seq}")
        values = {column.name: getattr(row, column.name) for column in _COLUMNS}
        self._session.change(insert(table).values({**values, "seq": seq}))
        return seq
