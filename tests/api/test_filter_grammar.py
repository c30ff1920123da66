"""The grammar of filters: every filter means what its parts mean, and nothing else is read.

Random filters are built together with their meaning and evaluated both ways.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from google.cloud import kms_v1
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keystead.api import filter_grammar
from keystead.api.errors import InvalidArgument
from keystead.api.filters import parse

CryptoKey = kms_v1.CryptoKey.pb()
CryptoKeyVersion = kms_v1.CryptoKeyVersion.pb()
REASONS = (
    kms_v1.KeyAccessJustificationsPolicy.pb().DESCRIPTOR.fields_by_name["allowed_access_reasons"].enum_type
)


# --- the grammar -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=", "a value is expected, at character 3 (at its end)"),
        ("a=1 AND", "a comparison is expected, at character 8"),
        ("AND a=1", "at character 1 (near 'AND a=1')"),
        ("a=1 OR OR b=1", "at character 8"),
        ("a=1 NOT", "a comparison is expected"),
        ("(a=1", "this '(' is never closed, at character 1"),
        ("a=1)", "unexpected ')', at character 4"),
        ("()", "a comparison is expected"),
        ("a=()", "a value is expected"),
        ('a="x', "this quote is never closed, at character 3"),
        ('a="x"b', "a space, AND, OR or ')' is expected"),
        ("a=1=2", "a space, AND, OR or ')' is expected"),
        ("a==1", "a value is expected"),
        ("a..b=1", "a field path has an empty segment, at character 1"),
        (".a=1", "empty segment"),
        ("a.=1", "empty segment"),
        ("=1", "a comparison is expected, at character 1"),
        ("a=AND", "a value is expected"),
        (r'a="\q"', r"unknown escape '\q'"),
        (r'a="\x1"', "unknown escape"),
        (r'a="\ud800"', "not a character"),
        (r'a="\UFFFFFFFF"', "not a character"),
        ("f(x)", "unknown function 'f'"),
        ('a=~"("', "bad regular expression"),
        ("a=1, b=2", "a comparison is expected"),
        ("\ud800", "not valid Unicode"),
        ("x" * 20_001, "longer than 20000 characters"),
        (".".join("a" * 51) + "=1", "more than 50 segments"),
        ("x " * 1001, "more than 1000 comparisons"),
        ("(" * 51 + "a=1" + ")" * 51, "nested deeper than 50"),
        ("a=" + "(" * 51 + "1" + ")" * 51, "nested deeper than 50"),
    ],
)
def test_a_broken_filter_says_what_is_wrong_and_where(text: str, said: str) -> None:
    """Whatever is not a filter is INVALID_ARGUMENT, with the position of the fault."""
    with pytest.raises(InvalidArgument) as refused:
        parse(text)
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("quoted", "value"),
    [
        (r'"a\"b"', 'a"b'),
        (r"'a\'b\"'", "a'b\""),
        (r'"\\"', "\\"),
        (r'"\x41\u00e9\U0001F511\101\n"', "A\u00e9\U0001f511A\n"),
        ('" AND ( "', " AND ( "),
        ('""', ""),
        ('"--"', "--"),
    ],
)
def test_quoted_values_are_taken_as_they_are(quoted: str, value: str) -> None:
    """Escapes are undone and nothing inside quotes is read as an operator."""
    assert parse(f"a={quoted}").matches({"a": value})
    assert not parse(f"a={quoted}").matches({"a": value + "x"})


def test_the_largest_filters_are_still_answered() -> None:
    """At its limits of depth and length a filter is read and evaluated without trouble."""
    deep = "(" * 50 + "a=1" + ")" * 50
    assert parse(deep).matches({"a": "1"})
    assert parse("-" + "(-" * 50 + "a=1" + ")" * 50).matches({"a": "2"})
    assert parse("a=" + "(" * 50 + "1" + ")" * 50).matches({"a": "1"})
    assert parse("NOT " * 4998 + "a=1").matches({"a": "1"})
    wide = " OR ".join(f"a={n}" for n in range(1000))
    assert parse(wide).matches({"a": "999"})


def test_a_regular_expression_takes_linear_time() -> None:
    """An expression that blows up a backtracking matcher is answered at once."""
    started = time.monotonic()
    assert not parse('a =~ "^(a+)+$"').matches({"a": "a" * 50_000 + "b"})
    assert time.monotonic() - started < 5
    assert not parse("a=~b").matches({"a": "\ud800"})


# --- random filters ----------------------------------------------------------------------------------

Document = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A filter in words, and what it means, computed without the parser."""

    text: str
    meaning: Callable[[Any], bool]
    # How tightly it binds: 3 an operand, 2 an OR, 1 an AND.
    level: int = 3


FIELDS = ["a", "b", "c"]
WORDS = ["x", "xy", "AND", "a b", 'q"q', "z\\", "(", "--", "é"]
NUMBERS = [0, 1, 2, 10]
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda value, literal: value == literal,
    "!=": lambda value, literal: value != literal,
    "<": lambda value, literal: value < literal,
    "<=": lambda value, literal: value <= literal,
    ">": lambda value, literal: value > literal,
    ">=": lambda value, literal: value >= literal,
}


def quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def text_case(field: str, word: str, operator: str) -> Case:
    def meaning(document: Document) -> bool:
        value = document.get(field)
        if not isinstance(value, str):
            return operator == "!="
        return word in value if operator == ":" else COMPARE[operator](value, word)

    return Case(f"{field}{operator}{quote(word)}", meaning)


def number_case(field: str, number: int, operator: str, space: str) -> Case:
    def meaning(document: Document) -> bool:
        value = document.get(field)
        if not isinstance(value, int):
            return operator == "!="
        return COMPARE[operator](value, number)

    return Case(f"{field}{space}{operator}{space}{number}", meaning)


def grouped(case: Case, level: int) -> str:
    return case.text if case.level >= level else f"({case.text})"


def negated(case: Case, sign: str) -> Case:
    text = grouped(case, 3)
    # Two minus signs in a row open a comment.
    space = " " if sign == text[0] == "-" else ""
    return Case(sign + space + text, lambda document: not case.meaning(document))


def either(cases: list[Case]) -> Case:
    return Case(
        " OR ".join(grouped(case, 3) for case in cases),
        lambda document: any(case.meaning(document) for case in cases),
        2,
    )


def both(cases: list[Case], joint: str) -> Case:
    return Case(
        joint.join(grouped(case, 2) for case in cases),
        lambda document: all(case.meaning(document) for case in cases),
        1,
    )


# Words are compared for equality and containment only; a document's numbers are never words, so that the
# two readings of "10" (a text, a number) stay out of what is tested here.
leaves = st.builds(
    text_case, st.sampled_from(FIELDS), st.sampled_from(WORDS), st.sampled_from(["=", "!=", ":"])
) | st.builds(
    number_case,
    st.sampled_from(FIELDS),
    st.sampled_from(NUMBERS),
    st.sampled_from(sorted(COMPARE)),
    st.sampled_from(["", " "]),
)


def combined(operands: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    """Filters made of these with NOT, OR, AND and parentheses, the latter only where they are needed."""
    return st.recursive(
        operands,
        lambda inner: (
            st.builds(negated, inner, st.sampled_from(["-", "NOT "]))
            | st.builds(either, st.lists(inner, min_size=2, max_size=3))
            | st.builds(both, st.lists(inner, min_size=2, max_size=3), st.sampled_from([" ", " AND ", "\n"]))
        ),
        max_leaves=12,
    )


cases = combined(leaves)
documents = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from([*WORDS, *NUMBERS]), max_size=3)


@given(cases, documents)
def test_a_filter_means_what_its_parts_mean(case: Case, document: Document) -> None:
    """Any combination of comparisons, NOT, OR, AND and parentheses evaluates as its syntax says."""
    # A word is contained, or equal, whatever its case; none here differ by case alone. A number is not a
    # text and a text is not a number, so a text compared for order with a number is left out.
    if any(isinstance(value, str) for value in document.values()) and any(sign in case.text for sign in "<>"):
        document = {field: value for field, value in document.items() if isinstance(value, int)}
    assert parse(case.text).matches(document) is case.meaning(document)


# --- random filters over keys -------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """A field of a key: how it may be spelled, its values in a key (none where it is unset), and the literals
    it may be compared with, each with its value. `present` says what `field:*` does."""

    spellings: list[str]
    values: Callable[[Any], list[Any]]
    literals: dict[str, Any]
    present: Callable[[Any], bool]
    # Of enums: what `:` looks into.
    names: dict[int, str] | None = None
    is_text: bool = False


def enum_field(spellings: list[str], enum: Any, values: Callable[[Any], list[Any]], *, always: bool) -> Field:
    names = {value.number: value.name for value in enum.values}
    literals = {name: number for number, name in names.items()} | {str(number): number for number in names}
    return Field(
        spellings, values, literals, lambda key: any(values(key)) if always else bool(values(key)), names
    )


def text_field(spellings: list[str], values: Callable[[Any], list[Any]], *, always: bool) -> Field:
    literals = {word: word for word in ["prod", "PROD", "Test", "p", "a b", "é", "1", "2026-01-01T00:00:00Z"]}
    present = (lambda key: any(values(key))) if always else (lambda key: bool(values(key)))
    return Field(spellings, values, literals, present, is_text=True)


def one(key: Any, name: str, read: Callable[[Any], Any]) -> list[Any]:
    return [read(getattr(key, name))] if key.HasField(name) else []


def seconds(value: Any) -> float:
    return float(value.seconds + value.nanos / 1e9)


# The same moment in several spellings, and others around it.
MOMENTS = {
    "1970-01-01T00:00:05Z": 5.0, "1970-01-01t00:00:05.000z": 5.0, "1970-01-01T01:30:05+01:30": 5.0,
    "1969-12-31T23:00:05-01:00": 5.0, "1970-01-01T00:00:05.5Z": 5.5, "1970-01-01": 0.0,
    "1970-01-01T00:00:04.999999999Z": 4.999999999, "9999-12-31T23:59:59Z": 253402300799.0,
}  # fmt: skip
SPANS = {"86400s": 86_400.0, "86400.000s": 86_400.0, "86400.5s": 86_400.5, "0s": 0.0, "-1s": -1.0}
KEY_FIELDS = [
    text_field(["name"], lambda key: [key.name], always=True),
    text_field(["labels.env"], lambda key: [key.labels["env"]] if "env" in key.labels else [], always=False),
    text_field(
        ["labels.k8s.io/app", 'labels."k8s.io/app"'],
        lambda key: [key.labels["k8s.io/app"]] if "k8s.io/app" in key.labels else [],
        always=False,
    ),
    text_field(
        ["primary.importJob", "primary.import_job"],
        lambda key: one(key, "primary", lambda primary: primary.import_job),
        always=True,
    ),
    enum_field(["purpose"], CryptoKey.CryptoKeyPurpose.DESCRIPTOR, lambda key: [key.purpose], always=True),
    enum_field(
        ["primary.state"],
        CryptoKeyVersion.CryptoKeyVersionState.DESCRIPTOR,
        lambda key: one(key, "primary", lambda primary: primary.state),
        always=True,
    ),
    enum_field(
        ["key_access_justifications_policy.allowed_access_reasons",
         "keyAccessJustificationsPolicy.allowedAccessReasons"],
        REASONS,
        lambda key: list(key.key_access_justifications_policy.allowed_access_reasons),
        always=False,
    ),
    Field(
        ["importOnly", "import_only"],
        lambda key: [key.import_only],
        {"true": True, "FALSE": False},
        lambda key: key.import_only,
    ),
    Field(
        ["createTime", "create_time"],
        lambda key: one(key, "create_time", seconds),
        MOMENTS,
        lambda key: key.HasField("create_time"),
    ),
    Field(
        ["rotation_period", "rotationPeriod"],
        lambda key: one(key, "rotation_period", seconds),
        SPANS,
        lambda key: key.HasField("rotation_period"),
    ),
]  # fmt: skip
SIGNS = {**COMPARE, "=>": COMPARE[">="], "=<": COMPARE["<="]}


def key_meaning(field: Field, sign: str, literal: str) -> Callable[[Any], bool]:
    """What a comparison of a key's field means, in as few words as the documentation needs."""
    if sign == ":" and field.is_text:
        return lambda key: any(literal.lower() in value.lower() for value in field.values(key))
    if sign == ":" and field.names is not None:
        names = field.names
        return lambda key: any(literal.lower() in names[value].lower() for value in field.values(key))
    expected = field.literals[literal]
    if sign == "!=":
        return lambda key: all(value != expected for value in field.values(key))
    compare = COMPARE["="] if sign == ":" else SIGNS[sign]
    return lambda key: any(compare(value, expected) for value in field.values(key))


@st.composite
def key_comparisons(draw: st.DrawFn) -> Case:
    field = draw(st.sampled_from(KEY_FIELDS))
    path = draw(st.sampled_from(field.spellings))
    if draw(st.integers(0, 9)) == 0:
        return Case(f"{path}:*", field.present)
    sign = draw(st.sampled_from([*SIGNS, ":"]))
    literal = draw(st.sampled_from(sorted(field.literals)))
    quotes = ['"', "'"] if " " in literal else ["", '"', "'"]
    mark, before, after = (draw(st.sampled_from(choice)) for choice in (quotes, ["", " "], ["", " ", "\n"]))
    return Case(f"{path}{before}{sign}{after}{mark}{literal}{mark}", key_meaning(field, sign, literal))


@st.composite
def crypto_keys(draw: st.DrawFn) -> Any:
    words = st.sampled_from(["", "prod", "Prod", "p", "a b c", "É", "é", "12", "2026-01-01T00:00:00Z"])
    key = CryptoKey(
        name=draw(words), purpose=draw(st.sampled_from([0, 1, 9])), import_only=draw(st.booleans())
    )
    for label in ("env", "k8s.io/app"):
        if draw(st.booleans()):
            key.labels[label] = draw(words)
    if draw(st.booleans()):
        key.create_time.seconds, key.create_time.nanos = draw(
            st.sampled_from([(0, 0), (5, 0), (5, 500_000_000)])
        )
    if draw(st.booleans()):
        key.rotation_period.seconds = draw(st.sampled_from([0, 86_400, 90_000]))
    if draw(st.booleans()):
        key.primary.state = draw(st.sampled_from([0, 1, 2, 5]))
        key.primary.import_job = draw(words)
    key.key_access_justifications_policy.allowed_access_reasons.extend(
        draw(st.lists(st.sampled_from([1, 2, 8]), max_size=2))
    )
    return key


@settings(max_examples=400, deadline=None)
@given(combined(key_comparisons()), crypto_keys())
def test_a_filter_over_keys_means_what_its_parts_mean(case: Case, key: Any) -> None:
    """Every kind of field, spelling, operator and literal, in any combination, over typed messages."""
    assert parse(case.text).matches(key) is bool(case.meaning(key))


FIELD_NAMES = ["a", "labels.env", "primary", "purpose", "name", "createTime", "x", "1", "é", "\x00"]
OPERATORS = ["=", "!=", ":", "=~", "<", "-", "--", "NOT ", " AND ", " OR ", " ", "\n", "log_id("]
PUNCTUATION = ["(", ")", '"', "'", "\\", "*", ".", ","]
fragments = st.lists(st.sampled_from(FIELD_NAMES + OPERATORS + PUNCTUATION), max_size=15).map("".join)


@given(st.text(max_size=60) | fragments)
@example("a" * 20_000)
@example('"' + "\\" * 19_999)
@example(" -" * 10_000)
def test_no_text_makes_a_filter_fail_otherwise(text: str) -> None:
    """Whatever is sent as a filter is answered, or is INVALID_ARGUMENT; no other error exists."""
    try:
        wanted = parse(text, functions={"log_id": lambda entry, arguments: bool(arguments)})
    except InvalidArgument:
        return
    assert wanted.matches({"a": ["x", 1, {"b": None}], "name": "2026-01-01", "labels": {"env": "x"}}) in {
        True,
        False,
    }
    try:
        assert wanted.matches(CryptoKey(name="x", labels={"env": "x"})) in {True, False}
    except InvalidArgument:
        return


def test_the_empty_tree_is_true() -> None:
    """An empty filter, or one that is only a comment, asks for everything."""
    assert filter_grammar.parse_tree(" -- nothing") == filter_grammar.And(())
    assert parse("-- nothing").matches({})
