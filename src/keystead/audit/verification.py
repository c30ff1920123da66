"""Verifying the log of a store: the rows of the store through the checks of `chain`.

Owns reading and telling progress. Deliberately repairs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from keystead.api.call import Transactions
from keystead.audit.chain import GENESIS, Head, VerifiedChain, verify
from keystead.store.rows import AuditRow

_STEP = 1000


def verify_store(
    store: Transactions, progress: Callable[[int], None] | None = None, *, head: Head | None = None
) -> VerifiedChain:
    """Verify all records of a store, as of now, while it is in use.

    `progress` is told the number of records done, every thousand and at the end. `head` is one exported
    earlier, without which records cut off at the end go unnoticed. Raises `chain.ChainBroken`.
    """
    with store.read() as tx:
        verified = verify(_told(tx.audit.walk(), progress), head)
    if progress is not None:
        progress(verified.head_seq)
    return verified


def current_head(store: Transactions) -> Head:
    """The end of the chain as it is now, unverified: cheap enough to be exported often."""
    with store.read() as tx:
        last = tx.audit.last()
    return Head(0, GENESIS) if last is None else Head(last.seq, last.digest)


def _told(rows: Iterable[AuditRow], progress: Callable[[int], None] | None) -> Iterator[AuditRow]:
    for row in rows:
        yield row
        if progress is not None and row.seq % _STEP == 0:
            progress(row.seq)
