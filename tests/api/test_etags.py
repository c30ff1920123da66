"""Etags: told apart by revision, the same in either base64 alphabet."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.api import etags
from keystead.api.errors import Aborted


def test_the_never_set_policy_has_googles_etag() -> None:
    """Reading a policy that nobody set answers the etag "ACAB"."""
    assert etags.new_etag(0) == etags.NEVER_SET
    assert etags.as_text(etags.NEVER_SET) == "ACAB"


@given(st.integers(1, 62**8 - 1))
def test_an_etag_reads_alike_in_both_alphabets(revision: int) -> None:
    """Eight bytes whose base64 has neither "+" nor "/", so that no client can respell it."""
    etag = etags.new_etag(revision)
    assert len(etag) == 8
    assert base64.urlsafe_b64encode(etag) == base64.b64encode(etag)
    assert etags.as_text(etag).startswith("Bw")


@given(st.integers(0, 62**8 - 1), st.integers(0, 62**8 - 1))
def test_different_revisions_have_different_etags(one: int, other: int) -> None:
    """Two revisions share an etag only if they are the same."""
    assert etags.matches(etags.new_etag(one), etags.new_etag(other)) is (one == other)


def test_a_run_of_revisions_never_repeats() -> None:
    """The first ten thousand writes of a policy all have etags of their own."""
    assert len({etags.new_etag(revision) for revision in range(10_000)}) == 10_000


@pytest.mark.parametrize("revision", [-1, 62**8])
def test_a_revision_out_of_range_is_a_programming_error(revision: int) -> None:
    """A counter that left its range is refused rather than wrapped around."""
    with pytest.raises(ValueError, match="revision"):
        etags.new_etag(revision)


@pytest.mark.parametrize("sent", ["jSqtuGL/Cw4=", "jSqtuGL_Cw4=", "jSqtuGL_Cw4"])
def test_text_etags_match_however_they_are_spelled(sent: str) -> None:
    """gcloud answers an etag in the other base64 alphabet; it is still the same etag."""
    assert etags.text_matches(sent, base64.b64decode("jSqtuGL/Cw4="))
    assert not etags.text_matches(sent, etags.NEVER_SET)


def test_a_stale_etag_is_a_concurrent_change() -> None:
    """A write with an etag that is not current is ABORTED in IAM's words; without one it overwrites."""
    current = etags.new_etag(2)
    etags.require_match(current, current)
    etags.require_match(b"", current)
    with pytest.raises(Aborted, match="There were concurrent policy changes"):
        etags.require_match(etags.new_etag(1), current)
