"""The grammar of list filters: text in, syntax tree out.

It owns the language that Google's `list` methods and Cloud Logging share (Cloud KMS "Sorting and
filtering", Logging query language, AIP-160):

    filter      = [ sequence ]
    sequence    = alternatives { [ "AND" ] alternatives }         a space means AND
    alternatives = term { "OR" term }                              OR binds tighter than AND
    term        = { "NOT" | "-" } ( "(" sequence ")" | comparison | call | search )
    comparison  = path operator ( value | "(" sequence of values ")" )
    path        = segment { "." segment }                          a segment may be quoted
    operator    = "=" "!=" "<" "<=" "=<" ">" ">=" "=>" ":" "=~" "!~"
    call        = name "(" [ value { "," value } ] ")"
    search      = a value by itself: it may be found anywhere
    comment     = "--" to the end of the line

Keywords are upper case. It does not know what a field means: `filters` binds paths to messages and
documents, `filter_values` compares values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn, TypeAlias

from keystead.api.errors import bad_field

MAX_CHARACTERS = 20_000
MAX_NESTING = 50
MAX_SEGMENTS = 50
# Each is evaluated on each row that is looked at.
MAX_COMPARISONS = 1000

_KEYWORDS = frozenset({"AND", "OR", "NOT"})
_SKIP = re.compile(r"(?:\s|--[^\n]*)*")
_WORD = re.compile(r"[^\s()\"',:=<>!~]+")
# After an operator the value is as long as it can be: times and members of policies hold colons.
_VALUE = re.compile(r"[^\s()\"',=<>]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OPERATOR = re.compile(r"!=|!~|=~|<=|=<|>=|=>|=|<|>|:")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_PATTERN_ESCAPE = re.compile(r"\\([\\\"'])")
_CONTROL = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Operator(Enum):
    """How a field is compared; `!=` and `!~` are `Not` of EQ and MATCHES."""

    EQ = "="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    HAS = ":"
    MATCHES = "=~"


_OPERATORS: dict[str, tuple[Operator, bool]] = {
    **{operator.value: (operator, False) for operator in Operator},
    "=<": (Operator.LE, False),
    # Spelled so in the Cloud KMS documentation.
    "=>": (Operator.GE, False),
    "!=": (Operator.EQ, True),
    "!~": (Operator.MATCHES, True),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """`path operator value`; `value` is the text with quotes and escapes undone."""

    path: tuple[str, ...]
    operator: Operator
    value: str


@dataclass(frozen=True, slots=True)
class Search:
    """A value by itself: true where any field holds it."""

    value: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function such as `log_id("x")`; only functions the caller named get this far."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Node


@dataclass(frozen=True, slots=True)
class And:
    """True when all terms are; of no terms, true."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    terms: tuple[Node, ...]


Node: TypeAlias = Comparison | Search | Call | Not | And | Or


def parse_tree(text: str, functions: Collection[str] = ()) -> Node:
    """The syntax tree of a filter; the empty filter is `And(())`.

    Bounded: at most MAX_CHARACTERS characters, MAX_NESTING parentheses deep, MAX_COMPARISONS values and
    MAX_SEGMENTS segments in a path. Raises InvalidArgument, saying where, for anything else than a filter
    that calls only `functions`.
    """
    if len(text) > MAX_CHARACTERS:
        _fail(f"longer than {MAX_CHARACTERS} characters")
    if any("\ud800" <= character <= "\udfff" for character in text):
        _fail("not valid Unicode text")
    return _Parser(text, functions).filter()


def _fail(why: str) -> NoReturn:
    raise bad_field("filter", why, f"The filter is invalid: {why}.")


class _Parser:
    def __init__(self, text: str, functions: Collection[str]) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._values_left = MAX_COMPARISONS
        self._functions = functions

    def filter(self) -> Node:
        self._skip()
        if self._at == len(self._text):
            return And(())
        tree = self._sequence(self._term)
        if self._at < len(self._text):
            self._fail("unexpected ')'")
        return tree

    def _sequence(self, operand: Callable[[], Node]) -> Node:
        terms = [self._alternatives(operand)]
        while not self._ended():
            self._keyword("AND")
            terms.append(self._alternatives(operand))
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def _alternatives(self, operand: Callable[[], Node]) -> Node:
        terms = [operand()]
        while self._keyword("OR"):
            terms.append(operand())
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def _term(self) -> Node:
        negated = False
        while self._keyword("NOT") or self._take("-"):
            negated = not negated
        node = self._group(self._term) if self._peek() == "(" else self._restriction()
        return Not(node) if negated else node

    def _group(self, operand: Callable[[], Node]) -> Node:
        opened = self._at
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(f"parentheses nested deeper than {MAX_NESTING}")
        self._at += 1
        node = self._sequence(operand)
        if not self._take(")"):
            self._fail("this '(' is never closed", opened)
        self._depth -= 1
        return node

    def _restriction(self) -> Node:
        start = self._at
        pieces = self._pieces()
        word = pieces[0][0]
        if self._peek() == "(" and len(pieces) == 1 and not pieces[0][1]:
            return self._call(word, start)
        end = self._at
        self._skip()
        found = _OPERATOR.match(self._text, self._at)
        if found is None:
            self._at = end
            self._end_value()
            return Search("".join(text for text, _ in pieces))
        self._at = found.end()
        return self._values(self._segments(pieces, start), *_OPERATORS[found.group()])

    def _values(self, path: tuple[str, ...], operator: Operator, negated: bool) -> Node:
        def comparison() -> Node:
            node = Comparison(path, operator, self._value(pattern=operator is Operator.MATCHES))
            return Not(node) if negated else node

        def element() -> Node:
            flipped = False
            # A minus sign belongs to a bare value (a number); before a quote or group it negates.
            while self._keyword("NOT") or (self._text[self._at : self._at + 2] in {'-"', "-'", "-("}):
                flipped = not flipped
                self._take("-")
            node = self._group(element) if self._peek() == "(" else comparison()
            return Not(node) if flipped else node

        self._skip()
        return self._group(element) if self._peek() == "(" else comparison()

    def _call(self, name: str, start: int) -> Node:
        if name not in self._functions:
            known = ", ".join(sorted(self._functions)) or "none here"
            self._fail(f"unknown function '{name[:60]}' (known: {known})", start)
        self._at += 1
        arguments: list[str] = []
        while not self._take(")"):
            if arguments and not self._take(","):
                self._fail("',' or ')' is expected")
            self._skip()
            arguments.append(self._value())
        return Call(name, tuple(arguments))

    def _pieces(self) -> list[tuple[str, bool]]:
        """A run of bare and quoted text, `labels."a.b".c`: (text, whether quoted) in order."""
        pieces: list[tuple[str, bool]] = []
        while True:
            dangling = not pieces or (not pieces[-1][1] and pieces[-1][0].endswith("."))
            if dangling and self._peek() in {'"', "'"}:
                pieces.append((self._string(), True))
                if self._peek() != ".":
                    break
            elif word := _WORD.match(self._text, self._at):
                if not pieces and word.group() in _KEYWORDS:
                    self._fail(f"a comparison is expected before or after {word.group()}")
                pieces.append((word.group(), False))
                self._at = word.end()
                if self._peek() not in {'"', "'"}:
                    break
            else:
                break
        if not pieces:
            self._fail("a comparison is expected")
        return pieces

    def _segments(self, pieces: list[tuple[str, bool]], start: int) -> tuple[str, ...]:
        segments: list[str] = []
        for index, (text, quoted) in enumerate(pieces):
            if quoted:
                segments.append(text)
                continue
            parts = text.split(".")
            # The dots next to a quoted segment separate it; they hold no segment of their own.
            first = 1 if index and not parts[0] else 0
            last = len(parts) - 1 if index + 1 < len(pieces) and not parts[-1] else len(parts)
            segments.extend(parts[first:last])
        if not all(segments):
            self._fail("a field path has an empty segment", start)
        if len(segments) > MAX_SEGMENTS:
            self._fail(f"a field path has more than {MAX_SEGMENTS} segments", start)
        return tuple(segments)

    def _value(self, *, pattern: bool = False) -> str:
        if self._peek() in {'"', "'"}:
            value = self._string(pattern=pattern)
        else:
            found = _VALUE.match(self._text, self._at)
            if found is None or found.group() in _KEYWORDS:
                self._fail("a value is expected")
            value = found.group()
            self._at = found.end()
        self._end_value()
        return value

    def _string(self, *, pattern: bool = False) -> str:
        found = _QUOTED.match(self._text, self._at)
        if found is None:
            self._fail("this quote is never closed")
        start, self._at = self._at, found.end()
        body = found.group()[1:-1]
        if pattern:
            # The expression has escapes of its own: only what quoting made necessary is undone.
            return _PATTERN_ESCAPE.sub(r"\1", body)
        return _ESCAPE.sub(lambda escape: self._unescape(escape.group(1), start), body)

    def _unescape(self, escape: str, start: int) -> str:
        if escape[0] in "xuU" and len(escape) > 1:
            code = int(escape[1:], 16)
        elif escape[0] in "01234567":
            code = int(escape, 8)
        elif escape in {"\\", '"', "'"}:
            return escape
        elif escape in _CONTROL:
            return _CONTROL[escape]
        else:
            self._fail(f"unknown escape '\\{escape}' in a quoted string", start)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self._fail(f"escape '\\{escape}' is not a character", start)
        return chr(code)

    def _end_value(self) -> None:
        """What follows a value must be set apart from it, so that a slip does not become an AND."""
        self._values_left -= 1
        if self._values_left < 0:
            self._fail(f"more than {MAX_COMPARISONS} comparisons")
        if self._peek() not in {"", ")", ","} and not self._peek().isspace():
            self._fail("a space, AND, OR or ')' is expected")

    def _skip(self) -> None:
        found = _SKIP.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> bool:
        self._skip()
        if self._peek() != character:
            return False
        self._at += 1
        self._skip()
        return True

    def _keyword(self, word: str) -> bool:
        self._skip()
        end = self._at + len(word)
        following = self._text[end : end + 1]
        if self._text[self._at : end] != word or not (
            following in {"", "(", '"', "'"} or following.isspace()
        ):
            return False
        self._at = end
        self._skip()
        return True

    def _ended(self) -> bool:
        self._skip()
        return self._peek() in {"", ")"}

    def _fail(self, why: str, at: int | None = None) -> NoReturn:
        position = self._at if at is None else at
        near = self._text[position : position + 20]
        where = f"near '{near}'" if near else "at its end"
        _fail(f"{why}, at character {position + 1} ({where})")
