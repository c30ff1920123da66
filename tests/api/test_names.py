"""Resource names: which texts are one, and what their parts are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.api import names
from keystead.api.errors import InvalidArgument
from keystead.api.names import NameTemplate

VERSION = NameTemplate("projects/*/locations/*/keyRings/*/cryptoKeys/*/cryptoKeyVersions/*")
KEY_OR_VERSION = NameTemplate("projects/*/locations/*/keyRings/*/cryptoKeys/**")
NAME = "projects/p/locations/us/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7"
segments = st.from_regex(r"[a-zA-Z0-9_.:@-]{1,20}", fullmatch=True)


def test_wildcards_stand_for_segments() -> None:
    """`*` is one segment; `**`, last, is the rest."""
    assert VERSION.match(NAME) == ("p", "us", "r", "k", "7")
    assert KEY_OR_VERSION.match(NAME) == ("p", "us", "r", "k/cryptoKeyVersions/7")
    assert KEY_OR_VERSION.match(names.parent_of(NAME)) == ("p", "us", "r", "k")
    assert VERSION.match(names.parent_of(NAME)) is None


@given(st.lists(segments, min_size=5, max_size=5))
def test_format_is_the_inverse_of_match(values: list[str]) -> None:
    """A name made from a template matches it with the same values."""
    assert VERSION.match(VERSION.format(*values)) == tuple(values)


@pytest.mark.parametrize(
    "name",
    [
        "", "/", NAME + "/", "/" + NAME, NAME.replace("/k/", "//"), NAME + "\n", NAME.replace("us", "u s"),
        NAME.replace("us", "u%2Fs"), NAME.replace("us", "u\x00s"), NAME.replace("us", "x" * 300),
        NAME + "?a=b", NAME + "#x", NAME.replace("projects", "Projects"), NAME.replace("us", "u\tv"),
    ],
)  # fmt: skip
def test_what_is_no_name(name: str) -> None:
    """Empty segments, blanks, control and escape characters, and other collections do not match."""
    assert VERSION.match(name) is None
    assert not names.match_any((VERSION,), name)


def test_static_parts_are_literal() -> None:
    """Characters of a template that mean something in regular expressions mean themselves."""
    assert NameTemplate("a.b/*").match("axb/c") is None
    assert NameTemplate("a.b/*").match("a.b/c") == ("c",)


@given(st.text(max_size=60))
def test_any_text_is_judged_without_error(name: str) -> None:
    """Matching any text at all gives values or None."""
    found = KEY_OR_VERSION.match(name)
    assert found is None or len(found) == 4


def test_malformed_names_the_field() -> None:
    """The refusal names the field and the shapes it may have, and does not repeat a huge name."""
    error = names.malformed("parent", "x" * 10000, (VERSION, KEY_OR_VERSION))
    violation = error.details[0].field_violations[0]
    assert violation.field == "parent"
    assert VERSION.template in violation.description
    assert KEY_OR_VERSION.template in violation.description
    assert len(violation.description) < 1000


@pytest.mark.parametrize("value", ["k", "K-1_x", "a" * 63])
def test_ids_that_are_allowed(value: str) -> None:
    """A Cloud KMS id is 1 to 63 letters, digits, underscores and hyphens."""
    assert names.require_id("crypto_key_id", value) == value


@pytest.mark.parametrize("value", ["", "a" * 64, "a.b", "a/b", "k\n", "ключ", "a b"])
def test_ids_that_are_not(value: str) -> None:
    """Any other id is INVALID_ARGUMENT naming the field."""
    with pytest.raises(InvalidArgument) as refused:
        names.require_id("crypto_key_id", value)
    assert refused.value.details[0].field_violations[0].field == "crypto_key_id"


def test_id_patterns_of_other_services() -> None:
    """AIP ids are lower case, begin with a letter and do not end with a hyphen."""
    assert names.require_id("instance_id", "a-1", names.AIP_ID) == "a-1"
    for value in ("A", "1a", "a-", "a" * 64, "a_b"):
        with pytest.raises(InvalidArgument, match=re.escape(value)):
            names.require_id("instance_id", value, names.AIP_ID)


def test_parts_of_a_name() -> None:
    """Project, location, parent, last segment and the one after a collection can be read off a name."""
    assert names.project_of(NAME) == "p"
    assert names.location_of(NAME) == "us"
    assert names.last_of(NAME) == "7"
    assert names.parent_of(NAME) == "projects/p/locations/us/keyRings/r/cryptoKeys/k"
    assert names.segment(NAME, "keyRings") == "r"


def test_parts_that_are_not_there() -> None:
    """A part that a name does not have is empty."""
    assert names.project_of("organizations/1") == ""
    assert names.location_of("projects/p") == ""
    assert names.parent_of("projects/p") == ""
    assert names.segment("projects", "projects") == ""
