"""Filters of log entries: the Logging query language on the JSON of an entry, and what of it an index serves.

Owns the two things that entries have and other resources do not (`log_id()`, severities in their order), and
`Bounds`: log names and times that every match must have, so that the store need not hand over all rows.
Deliberately evaluates nothing else: `api.filters` does. Bounds may let through too much, never too little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from google.logging.type import log_severity_pb2

from keystead.api import filters
from keystead.api.errors import bad_field
from keystead.api.filter_grammar import And, Call, Comparison, Node, Not, Operator, Or, parse_tree
from keystead.api.filter_values import document_test, parse_timestamp

_MICRO = 1000  # nanoseconds
_MAX_US = 2**63 - 1
_ENUMS = {"severity": log_severity_pb2.LogSeverity.DESCRIPTOR}
_LOG_NAME = frozenset({("logName",), ("log_name",)})

_NameTest = Callable[[str], bool]


def _log_id(entry: Any, arguments: tuple[str, ...]) -> bool:
    """`log_id("cloudaudit.googleapis.com/activity")`: the log of that id, whatever its parent."""
    if len(arguments) != 1:
        raise bad_field("filter", "log_id() takes one argument", "The filter is invalid: log_id() takes one.")
    name = str(entry.get("logName", ""))
    return unquote(name.partition("/logs/")[2]).casefold() == unquote(arguments[0]).casefold()


_FUNCTIONS = {"log_id": _log_id}


def parse_filter(text: str) -> filters.Filter:
    """A filter to be asked of JSON documents of entries. Raises InvalidArgument for text that is none."""
    return filters.parse(text, enums=_ENUMS, functions=_FUNCTIONS)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What every match has: one of `log_names`, and `since_us` <= time < `until_us` (None: unbounded)."""

    log_names: tuple[str, ...]
    since_us: int | None = None
    until_us: int | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing can match."""
        return not self.log_names or (
            self.since_us is not None and self.until_us is not None and self.since_us >= self.until_us
        )


def bounds_of(text: str, log_names: Sequence[str]) -> Bounds:
    """The bounds of a filter's matches among the logs of these names."""
    since: int | None = None
    until: int | None = None
    names = tuple(log_names)
    for term in _conjuncts(parse_tree(text, frozenset(_FUNCTIONS))):
        if (test := _name_test(term)) is not None:
            names = tuple(name for name in names if test(name))
        low, high = _times(term)
        if low is not None:
            since = low if since is None else max(since, low)
        if high is not None:
            until = high if until is None else min(until, high)
    return Bounds(names, since, until)


def _conjuncts(node: Node) -> Iterator[Node]:
    """The parts of a filter that all must hold."""
    if isinstance(node, And):
        for term in node.terms:
            yield from _conjuncts(term)
    else:
        yield node


def _times(node: Node) -> tuple[int | None, int | None]:
    """The bounds of a comparison of the timestamp, in microseconds, widened to whole ones."""
    if not isinstance(node, Comparison) or node.path != ("timestamp",):
        return None, None
    moment = parse_timestamp(node.value)
    if moment is None:
        return None, None
    low, high = moment // _MICRO, min(moment // _MICRO + 1, _MAX_US)
    match node.operator:
        case Operator.GE | Operator.GT:
            return low, None
        case Operator.LE | Operator.LT:
            return None, high
        case Operator.EQ:
            return low, high
        case _:
            return None, None


def _name_test(node: Node) -> _NameTest | None:
    """The node as a test on log names, if it speaks of nothing else."""
    match node:
        case Comparison(path, operator, value) if path in _LOG_NAME and value != "*":
            return document_test(operator, value)
        case Call(function, arguments):
            return lambda name: _FUNCTIONS[function]({"logName": name}, arguments)
        case Not(term):
            inner = _name_test(term)
            return None if inner is None else lambda name: not inner(name)
        case And(terms) | Or(terms):
            tests = [test for test in map(_name_test, terms) if test is not None]
            if len(tests) < len(terms):
                return None
            combine = all if isinstance(node, And) else any
            return lambda name: combine(test(name) for test in tests)
        case _:
            return None
