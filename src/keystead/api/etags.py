"""Etags: which revision of a policy or resource a caller read before changing it.

It owns what an etag looks like and when two are the same. It does not count revisions: stores do.

Clients decode an etag and encode it again in the other base64 alphabet (gcloud answers `jSqtuGL_Cw4=` to
`jSqtuGL/Cw4=`), so etags are compared as bytes, and those issued here read alike in both alphabets.
"""

from __future__ import annotations

import base64
from typing import Final

from keystead.api.errors import Aborted

#: The etag of a policy that was never set; "ACAB" in base64.
NEVER_SET: Final = b"\x00\x20\x01"

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_DIGITS = 8
_REVISIONS = len(_ALPHABET) ** _DIGITS
# Coprime to 62, so that multiplying by it permutes the revisions: neighbours look nothing alike.
_SPREAD = 104_729_000_003
# Eight bytes are ten letters and one of these sixteen, whose last two bits are zero.
_LAST = _ALPHABET[::4]

CONFLICT = (
    "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff."
)


def new_etag(revision: int) -> bytes:
    """The etag of a revision: 8 bytes, different for different revisions, without `+` or `/` in base64.

    Revision 0 is the state before the first write and has NEVER_SET. Raises ValueError for a negative
    revision or one of 62**8 and more.
    """
    if not 0 <= revision < _REVISIONS:
        raise ValueError(f"revision {revision} is not in [0, {_REVISIONS})")
    if revision == 0:
        return NEVER_SET
    rest = revision * _SPREAD % _REVISIONS
    letters = ""
    for _ in range(_DIGITS):
        rest, digit = divmod(rest, len(_ALPHABET))
        letters += _ALPHABET[digit]
    return base64.b64decode(f"Bw{letters}{_LAST[revision % len(_LAST)]}=")


def as_text(etag: bytes) -> str:
    """The etag for messages whose etag field is a string (EkmConnection, AutokeyConfig): its base64."""
    return base64.b64encode(etag).decode("ascii")


def matches(sent: bytes, current: bytes) -> bool:
    """Whether a caller's etag is the current one. What an empty one means is the caller's choice."""
    return sent == current


def text_matches(sent: str, current: bytes) -> bool:
    """`matches` for an etag in text, in either base64 alphabet, padded or not."""
    standard = sent.replace("-", "+").replace("_", "/").rstrip("=")
    return standard == as_text(current).rstrip("=")


def require_match(sent: bytes, current: bytes) -> None:
    """Raise Aborted, worded as IAM words it, if an etag was sent and is not the current one.

    A write without an etag overwrites whatever is there (cloud IAM, setIamPolicy).
    """
    if sent and not matches(sent, current):
        raise Aborted(CONFLICT)
