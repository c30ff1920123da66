"""Keyed 64-bit digests of keys: are primary keys unique, do references resolve, in 16 bytes a row.

Owns counting over whole tables what no single batch can show. Digests are multilinear hashes over Z/2^64
with secret random coefficients drawn anew for every import, so nobody can prepare keys that collide; two
different keys collide with a probability of at most 2^-57 (Carter-Wegman universal hashing: at most 2^7 of
the 2^64 values of one coefficient bring two texts of bytes together). They live in memory only and stand for
no protection of anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from keystead.financialservices.failures import Reason, ValidationFailure, failure
from keystead.financialservices.tables import TableSchema

Digests = npt.NDArray[np.uint64]

# Entries after which the references of a table are merged, so that memory follows the number of different
# keys and not the number of rows.
_MERGE_AT: Final = 1_000_000


class Digester:
    """Digests under one secret: equal keys have equal digests for the life of the object."""

    def __init__(self) -> None:
        self._random = np.random.Generator(np.random.PCG64(secrets.randbits(128)))
        self._coefficients = self._draw(64)
        self._combine = self._draw(16) | np.uint64(1)

    def _draw(self, count: int) -> Digests:
        return self._random.integers(0, 2**64, count, dtype=np.uint64)

    def texts(self, column: Any) -> Digests:
        """One digest per value of a `pa.string()` array; NULL counts as the empty string."""
        column = column.fill_null("") if column.null_count else column
        count = len(column)
        _, offset_buffer, data_buffer = column.buffers()
        if count == 0 or data_buffer is None:
            return np.zeros(count, dtype=np.uint64)
        offsets = np.frombuffer(offset_buffer, np.int32)[column.offset : column.offset + count + 1]
        first = int(offsets[0])
        # One is added so that a zero byte at the end still changes the sum.
        data = np.frombuffer(data_buffer, np.uint8)[first : int(offsets[-1])].astype(np.uint64) + np.uint64(1)
        starts = offsets[:-1] - first
        lengths = np.diff(offsets)
        longest = int(lengths.max())
        self._grow(longest)
        if longest == int(lengths.min()):
            sums = data.reshape(count, longest) @ self._coefficients[:longest]
        else:
            places = np.arange(len(data)) - np.repeat(starts, lengths)
            running = np.zeros(len(data) + 1, dtype=np.uint64)
            np.cumsum(data * self._coefficients[places], out=running[1:])
            sums = running[starts + lengths] - running[starts]
        return _mix(sums)

    def rows(self, columns: Sequence[Any]) -> Digests:
        """One digest per row of several columns, each of text or of instants."""
        total = np.zeros(len(columns[0]), dtype=np.uint64)
        for column, factor in zip(columns, self._combine, strict=False):
            if pa.types.is_string(column.type):
                digests = self.texts(column)
            else:
                filled = column.cast(pa.int64()).fill_null(0)
                digests = _mix(filled.to_numpy(zero_copy_only=False).view(np.uint64))
            total = _mix(total + digests * factor)
        return total

    def _grow(self, length: int) -> None:
        if length > len(self._coefficients):
            more = self._draw(length - len(self._coefficients))
            self._coefficients = np.concatenate([self._coefficients, more])


def _mix(values: Digests) -> Digests:
    """The finalizer of SplitMix64: one to one, so it spreads bits without making collisions."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class PrimaryKeys:
    """The primary keys of one table, 8 bytes a row while it streams and 16 when counted."""

    def __init__(self, table: TableSchema) -> None:
        self._table = table
        self._digester = Digester()
        self._seen: list[Digests] = []

    def add(self, batch: Any) -> None:
        self._seen.append(self._digester.rows([batch.column(name) for name in self._table.primary_key]))

    def failures(self) -> list[ValidationFailure]:
        """DUPLICATE_PRIMARY_KEY with the number of rows too many. Forgets the keys."""
        digests = np.concatenate(self._seen) if self._seen else np.zeros(0, dtype=np.uint64)
        self._seen.clear()
        digests.sort()
        repeated = int(np.count_nonzero(digests[1:] == digests[:-1]))
        if not repeated:
            return []
        key = ", ".join(self._table.primary_key)
        return [failure(Reason.DUPLICATE_PRIMARY_KEY, self._table.name, key, repeated)]


# table: (column it defines, columns that refer to a definition in another table)
_DEFINES: Final = {"party": "party_id", "account_party_link": "account_id"}
_REFERS: Final = {
    "account_party_link": ("party_id", "party", Reason.JOINABILITY_ISSUE_PARTY_ID),
    "transaction": ("account_id", "account_party_link", Reason.JOINABILITY_ISSUE_ACCOUNT_ID),
    "risk_case_event": ("party_id", "party", Reason.JOINABILITY_ISSUE_PARTY_ID),
    "party_supplementary_data": ("party_id", "party", Reason.JOINABILITY_ISSUE_PARTY_ID),
}


class _Tally:
    """Different digests and how many rows had each."""

    def __init__(self) -> None:
        self._digests: list[Digests] = []
        self._counts: list[npt.NDArray[np.int64]] = []
        self._entries = 0

    def add(self, digests: Digests) -> None:
        different, counts = np.unique(digests, return_counts=True)
        self._digests.append(different)
        self._counts.append(counts.astype(np.int64))
        self._entries += len(different)
        if self._entries > _MERGE_AT:
            self.merged()
            self._entries = 0

    def merged(self) -> tuple[Digests, npt.NDArray[np.int64]]:
        """(sorted different digests, rows of each)."""
        if not self._digests:
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        digests, counts = np.concatenate(self._digests), np.concatenate(self._counts)
        different, inverse = np.unique(digests, return_inverse=True)
        summed = np.zeros(len(different), dtype=np.int64)
        np.add.at(summed, inverse, counts)
        self._digests, self._counts = [different], [summed]
        return different, summed


class JoinKeys:
    """Which ids the tables of one dataset define and refer to. Give the same object to every import of it."""

    def __init__(self) -> None:
        self._digester = Digester()
        self._defined: dict[str, _Tally] = {}
        self._referred: dict[str, _Tally] = {}

    def add(self, table: TableSchema, batch: Any) -> None:
        if (column := _DEFINES.get(table.name)) is not None:
            self._defined.setdefault(table.name, _Tally()).add(self._digester.texts(batch.column(column)))
        if table.name in _REFERS:
            digests = self._digester.texts(batch.column(_REFERS[table.name][0]).drop_null())
            self._referred.setdefault(table.name, _Tally()).add(digests)

    def failures(self) -> list[ValidationFailure]:
        """JOINABILITY_ISSUE_* with the number of rows whose id is in no row of the table it must be in.

        To be asked after the last table, in whatever order they came; a table that was not given is not
        looked for (its absence is TABLE_EXISTENCE).
        """
        failures = []
        for name, tally in self._referred.items():
            column, target, reason = _REFERS[name]
            if target not in self._defined:
                continue
            known, _ = self._defined[target].merged()
            digests, rows = tally.merged()
            lost = int(rows[~np.isin(digests, known, assume_unique=True)].sum())
            if lost:
                failures.append(failure(reason, name, column, lost))
        return failures
