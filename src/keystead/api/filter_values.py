"""Comparing one value of a filter with one value of a resource, by the type of the latter.

It owns the conversions: RFC 3339 times and durations by value, enums by name or number, text by
case-insensitive substring for `:`, RE2 (linear time) for `=~`. It does not find the value: `filters` does.

Values of messages are typed, so a literal that cannot be of that type is an InvalidArgument. Values of
documents (the JSON of a log entry) are not: there a mismatch is no match, and text is equal whatever its
case, as in Cloud Logging ("String comparisons aren't case sensitive").
"""

from __future__ import annotations

import base64
import binascii
import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeAlias

import re2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from keystead.api.errors import InvalidArgument, bad_field
from keystead.api.filter_grammar import Operator

Test: TypeAlias = Callable[[Any], bool]

_NANOS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):([0-5]\d)))?",
    re.ASCII,
)
_DURATION = re.compile(r"([+-]?)(\d{1,12})(?:\.(\d{1,9}))?s", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_FLOAT = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_BOOLEANS = {"true": True, "false": False}
_COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQ: operator.eq,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
    # Of a value that has no parts, "has" is "equals".
    Operator.HAS: operator.eq,
}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}


def parse_timestamp(text: str) -> int | None:
    """Nanoseconds since the epoch of an RFC 3339 time, or of a date (its midnight, UTC); else None."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, off_hours, off_minutes = found.groups()
    offset = timedelta(hours=int(off_hours or 0), minutes=int(off_minutes or 0))
    try:
        zone = timezone(-offset if sign == "-" else offset)
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=zone
        )
    except ValueError:
        return None
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * _NANOS + int((fraction or "").ljust(9, "0"))


def parse_duration(text: str) -> int | None:
    """Nanoseconds of a duration as JSON spells it ("86400s", "1.5s"); else None."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    sign, seconds, fraction = found.groups()
    nanos = int(seconds) * _NANOS + int((fraction or "").ljust(9, "0"))
    return -nanos if sign == "-" else nanos


def parse_number(text: str) -> int | float | None:
    """An integer or a decimal fraction; else None."""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else None


def nanoseconds(value: Any) -> int:
    """Of a google.protobuf.Timestamp or Duration message."""
    return int(value.seconds) * _NANOS + int(value.nanos)


def pattern_test(pattern: str) -> Test:
    """Whether RE2 finds the pattern in a text. InvalidArgument for a pattern that RE2 refuses."""
    options = re2.Options()
    options.log_errors = False
    # What a pattern may compile to; the default, 8 MiB, is more than a filter needs.
    options.max_mem = 1 << 20
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as refused:
        reason = str(refused.args[0], "utf-8", "replace") if refused.args else "not an RE2 expression"
        raise _invalid(f"bad regular expression: {reason}") from None
    # RE2 reads UTF-8; what has none (a lone surrogate) cannot match and must not fail.
    return lambda value: compiled.search(value.encode("utf-8", "replace")) is not None


def text_test(how: Operator, text: str) -> Test:
    """On str: `:` is a case-insensitive substring, `=` exact, `<` by code point, `=~` RE2."""
    if how is Operator.MATCHES:
        return pattern_test(text)
    if how is Operator.HAS:
        folded = text.casefold()
        return lambda value: folded in value.casefold()
    return _against(how, text)


def enum_test(how: Operator, text: str, enum: EnumDescriptor) -> Test:
    """On enum numbers: `=` by name (as spelled) or number, `<` by number, `:` and `=~` on the name."""
    if how in {Operator.HAS, Operator.MATCHES}:
        on_name = text_test(how, text)
        return lambda value: on_name(_enum_name(enum, value))
    return _against(how, enum_number(text, enum))


def enum_number(text: str, enum: EnumDescriptor) -> int:
    """The number of an enum value given by name or number; InvalidArgument if it has none."""
    if _INTEGER.fullmatch(text):
        return int(text)
    value = enum.values_by_name.get(text)
    if value is None:
        raise _invalid(f"'{text[:100]}' is not a value of {enum.name}")
    return int(value.number)


def scalar_test(how: Operator, text: str, field: FieldDescriptor) -> Test:
    """A test on values of a scalar field; InvalidArgument if `text` cannot be of the field's type."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_ENUM and field.enum_type is not None:
        return enum_test(how, text, field.enum_type)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return (
            _bytes_test(how, text, field)
            if field.type == FieldDescriptor.TYPE_BYTES
            else text_test(how, text)
        )
    value: Any = None
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        value = _BOOLEANS.get(text.casefold())
    elif kind in _FLOATS or (kind in _INTEGERS and _INTEGER.fullmatch(text)):
        value = parse_number(text)
    return _typed(how, value, text, field)


def instant_test(how: Operator, text: str, field: FieldDescriptor) -> Test:
    """A test on google.protobuf.Timestamp messages."""
    test = _typed(how, parse_timestamp(text), text, field)
    return lambda value: test(nanoseconds(value))


def span_test(how: Operator, text: str, field: FieldDescriptor) -> Test:
    """A test on google.protobuf.Duration messages."""
    test = _typed(how, parse_duration(text), text, field)
    return lambda value: test(nanoseconds(value))


def document_test(how: Operator, text: str, enum: EnumDescriptor | None = None) -> Test:
    """A test on values of a JSON document (str, int, float, bool, None, mappings; not lists).

    With `enum`, names are ordered as that enum orders them (`severity>=ERROR`), in any case.
    """
    on_text = _document_text_test(how, text, enum)
    on_number = _optional(how, parse_number(text))
    on_boolean = _optional(how, _BOOLEANS.get(text.casefold()))

    def test(value: Any) -> bool:
        if isinstance(value, str):
            return on_text(value)
        if isinstance(value, bool):
            return on_boolean(value)
        if isinstance(value, int | float):
            return on_number(value)
        if isinstance(value, Mapping):
            return how is Operator.HAS and (text in value or holds(value, on_text))
        return value is None and how is Operator.EQ and text in {"null", "NULL_VALUE"}

    return test


def holds(document: Any, test: Test) -> bool:
    """Whether any text anywhere in a document passes the test."""
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            if test(value):
                return True
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
    return False


def _document_text_test(how: Operator, text: str, enum: EnumDescriptor | None) -> Test:
    if how in {Operator.HAS, Operator.MATCHES}:
        return text_test(how, text)
    if enum is not None:
        names = enum.values_by_name
        ranked = _against(how, enum_number(text.upper(), enum))
        return lambda value: value.upper() in names and ranked(names[value.upper()].number)
    # What reads alike on both sides is compared by value: times, durations, then (for order) numbers.
    readings: list[tuple[Callable[[str], int | float | None], Test]] = []
    for read in (parse_timestamp, parse_duration, parse_number):
        mine = read(text)
        # "007" and "7" are different texts; only their order is numeric.
        if mine is not None and not (read is parse_number and how is Operator.EQ):
            readings.append((read, _against(how, mine)))
    plain = _against(how, text.casefold())

    def test(value: str) -> bool:
        for read, by_value in readings:
            theirs = read(value)
            if theirs is not None:
                return by_value(theirs)
        return plain(value.casefold())

    return test


def _bytes_test(how: Operator, text: str, field: FieldDescriptor) -> Test:
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    try:
        expected = base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(f"'{text[:100]}' is not base64, which field '{field.name}' needs") from None
    if how not in {Operator.EQ, Operator.HAS}:
        raise _invalid(f"field '{field.name}' can only be compared by '=' and '!='")
    return _against(how, expected)


def _typed(how: Operator, value: Any, text: str, field: FieldDescriptor) -> Test:
    if how is Operator.MATCHES:
        raise _invalid(f"field '{field.name}' is not text, so '=~' does not apply")
    if value is None:
        raise _invalid(f"'{text[:100]}' is not a value of field '{field.name}'")
    return _against(how, value)


def _against(how: Operator, expected: Any) -> Test:
    compare = _COMPARE[how]
    return lambda value: compare(value, expected)


def _optional(how: Operator, expected: Any) -> Test:
    if expected is None or how not in _COMPARE:
        return lambda _: False
    return _against(how, expected)


def _enum_name(enum: EnumDescriptor, number: int) -> str:
    value = enum.values_by_number.get(number)
    return str(number) if value is None else str(value.name)


def _invalid(why: str) -> InvalidArgument:
    return bad_field("filter", why, f"The filter is invalid: {why}.")
