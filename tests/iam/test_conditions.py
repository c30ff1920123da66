"""Conditions: which expressions are taken, and what they say."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystead.api.errors import InvalidArgument
from keystead.iam.conditions import compile_condition, resource_type
from tests.iam.deployment import KEY, RING, VERSION

# A Friday.
NOW = dt.datetime(2026, 5, 1, 7, 30, tzinfo=dt.UTC)


def holds(expression: str, resource: str = KEY, now: dt.datetime = NOW) -> bool:
    return compile_condition(expression).holds(now, resource, "cloudkms.cryptoKeys.get")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("true", True),
        ("request.time < timestamp('2026-05-01T08:00:00Z')", True),
        ("request.time < timestamp('2026-05-01T09:00:00+02:00')", False),
        ("request.time < timestamp('2026-05-01T07:00:00Z') + duration('1h')", True),
        ("request.time - timestamp('2026-05-01T07:00:00Z') == duration('1800s')", True),
        ("request.time.getHours('Europe/Berlin') == 9 && request.time.getHours() == 7", True),
        ("request.time.getDayOfWeek() >= 1 && request.time.getDayOfWeek() <= 5", True),
        ("request.time.getFullYear() == 2026", True),
        ("resource.name.startsWith('projects/p1/') && !resource.name.endsWith('/z')", True),
        ("resource.name.extract('keyRings/{ring}/') == 'r'", True),
        ("resource.name.extract('cryptoKeys/{key}') == 'k'", True),
        ("resource.name.extract('{before}/locations/') == 'projects/p1'", True),
        ("resource.name.extract('importJobs/{job}') == ''", True),
        ("resource.type in ['a', 'cloudkms.googleapis.com/CryptoKey']", True),
        ("resource.type == 'cloudkms.googleapis.com/KeyRing' ? false : true", True),
        ("resource.service == 'cloudkms.googleapis.com' || 1 > 2", True),
        ("false", False),
    ],
)
def test_what_expressions_say(expression: str, expected: bool) -> None:
    """The attributes and functions of IAM conditions mean what its documentation says."""
    assert holds(expression) is expected


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "   ",
        "request.time <",
        "request.tme < timestamp('2030-01-01T00:00:00Z')",
        "request.time < '2030-01-01T00:00:00Z'",
        "request.time < timestamp('tomorrow')",
        "request.time.getHours('Nowhere/City') == 1",
        "resource.name",
        "1",
        "resource.name == 1",
        "resource == request",
        "true || 1 == 'x'",
        "resource.matchTag('a', 'b')",
        "resource.name.matches('(a+)+$')",
        "[1, 2].exists(i, i > 1)",
        "has(request.time)",
        "{'a': 1} == {'a': 1}",
        "size(resource.name) > 1",
        "resource.name.extract('no part') == ''",
        "unknown",
        "(" * 400 + "true" + ")" * 400,
        " && ".join(["true"] * 14),
        "true" + " " * 5000,
    ],
)
def test_expressions_that_are_refused(expression: str) -> None:
    """Wrong syntax, wrong types, wrong literals, what IAM does not offer, and what is too big."""
    with pytest.raises(InvalidArgument, match=r"^Condition expression"):
        compile_condition(expression)


def test_twelve_logical_operators_are_taken() -> None:
    """IAM's limit is twelve; the thirteenth is refused."""
    assert holds(" && ".join(["true"] * 13))
    with pytest.raises(InvalidArgument, match="more than 12"):
        compile_condition("!" + " && ".join(["true"] * 13))


def test_a_failing_evaluation_grants_nothing() -> None:
    """An expression that cannot be evaluated for this request is not met, nor is its negation."""
    expression = "timestamp(resource.name.extract('{all}') + '') < request.time"
    sample = "'2026-01-01T00:00:00Z' + resource.name.extract('zzz{x}')"
    for text in (f"timestamp({sample}) < request.time", f"!(timestamp({sample}) < request.time)"):
        condition = compile_condition(text)
        assert not condition.holds(NOW, "projects/zzz1", "cloudkms.cryptoKeys.get")
    with pytest.raises(InvalidArgument):
        compile_condition(expression)


def test_types_of_resources() -> None:
    """Resource types are those that Cloud KMS and Resource Manager name."""
    assert [resource_type(name) for name in (RING, KEY, VERSION, "projects/p", "projects/p/locations/l")] == [
        "cloudkms.googleapis.com/KeyRing",
        "cloudkms.googleapis.com/CryptoKey",
        "cloudkms.googleapis.com/CryptoKeyVersion",
        "cloudresourcemanager.googleapis.com/Project",
        "",
    ]


_ATOMS = st.sampled_from(
    ["request", "resource", ".", "time", "name", "type", "&&", "||", "!", "(", ")", "[", "]", "{", "}", "==",
     "<", "+", "-", "in", "?", ":", "'a'", '"', "1", "2.5", "true", "null", "timestamp", "startsWith",
     ",", "\\", "\n", "é", "//", "b''", "u", "exists", "e9"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(_ATOMS, max_size=12).map(" ".join) | st.text(max_size=30))
def test_any_text_is_taken_or_refused(expression: str) -> None:
    """Whatever is sent as a condition compiles to one that can be asked, or is INVALID_ARGUMENT."""
    try:
        condition = compile_condition(expression)
    except InvalidArgument:
        return
    assert condition.holds(NOW, KEY, "cloudkms.cryptoKeys.get") in {True, False}
