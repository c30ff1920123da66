"""SECURITY: the audit records form a hash chain, so that a changed log does not verify.

Property: the digest of a record is SHA-256 over an injective, domain-separated encoding of the digest
before it and of all its columns. Editing, inserting, reordering records, or deleting any but the last
ones, breaks the chain at that place, unless every later digest is computed anew.

What the chain alone cannot show: records cut off at its end, and a log that somebody with write access to
the store rewrote with new digests throughout (no secret goes into a digest). Both show against a `Head`
that was exported earlier and kept where that somebody could not change it.

Owns the digest, the verification and the text form of a head. Deliberately reads no store and knows
nothing of what a body says.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from keystead.crypto.aad import encode_aad
from keystead.store.rows import AuditRow

#: The digest before the first record.
GENESIS = bytes(32)

_LABEL = "keystead.audit.record.v1"
_HEAD = re.compile(r"keystead-audit-head-v1 (0|[1-9][0-9]{0,17}) ([0-9a-f]{64})", re.ASCII)


class ChainBroken(Exception):
    """The log is not what was recorded. `seq` is the first record that shows it, `what` says how."""

    def __init__(self, seq: int, what: str) -> None:
        super().__init__(f"audit record {seq}: {what}")
        self.seq = seq
        self.what = what


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain at some moment: how many records there were, and the digest of the last."""

    seq: int
    digest: bytes

    def export(self) -> str:
        """One line of text, to be kept outside of the store's reach."""
        return f"keystead-audit-head-v1 {self.seq} {self.digest.hex()}"

    @staticmethod
    def parse(text: str) -> Head:
        """The head that `export` wrote; ValueError for any other text."""
        found = _HEAD.fullmatch(text.strip())
        if found is None:
            raise ValueError("not an audit head: 'keystead-audit-head-v1 <records> <64 hex digits>' expected")
        return Head(int(found[1]), bytes.fromhex(found[2]))


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain that holds together, up to and including this record (0: there are none)."""

    head_seq: int
    head_digest: bytes

    @property
    def head(self) -> Head:
        return Head(self.head_seq, self.head_digest)


def digest_of(row: AuditRow) -> bytes:
    """SHA-256 over every column of a record but the digest itself."""
    return hashlib.sha256(
        encode_aad(
            _LABEL, row.previous, row.seq, row.log_name, row.parent, row.time_us, row.insert_id, row.body
        )
    ).digest()


def link(row: AuditRow, last: AuditRow | None) -> AuditRow:
    """The record as it follows `last` (None: as the first): with seq, previous digest and digest set."""
    placed = replace(
        row, seq=last.seq + 1 if last else 1, previous=last.digest if last else GENESIS, digest=b""
    )
    return replace(placed, digest=digest_of(placed))


def verify(rows: Iterable[AuditRow], head: Head | None = None) -> VerifiedChain:
    """Check a whole log, first record first. Reads the rows once and keeps none.

    With `head`, also that the log still goes on from where that head was taken. Raises ChainBroken at the
    first record that is not what was recorded there.
    """
    seq, digest = 0, GENESIS
    _agree(head, seq, digest)
    for row in rows:
        if row.seq != seq + 1:
            raise ChainBroken(seq + 1, f"it is missing or out of order; record {row.seq} stands in its place")
        if not hmac.compare_digest(row.previous, digest):
            raise ChainBroken(row.seq, "it does not follow from the record before it")
        if not hmac.compare_digest(row.digest, digest_of(row)):
            raise ChainBroken(row.seq, "its content is not what was recorded")
        seq, digest = row.seq, row.digest
        _agree(head, seq, digest)
    if head is not None and head.seq > seq:
        raise ChainBroken(seq + 1, f"it is missing: there were {head.seq} records when the head was taken")
    return VerifiedChain(seq, digest)


def _agree(head: Head | None, seq: int, digest: bytes) -> None:
    if head is not None and head.seq == seq and not hmac.compare_digest(head.digest, digest):
        raise ChainBroken(seq, "it is not the record that the head was taken from: the log was rewritten")
