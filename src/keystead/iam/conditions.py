"""Conditions of role bindings: CEL expressions over the time of the request and the resource.

SECURITY: a condition only ever narrows a grant. An expression that is not of type bool over the supported
attributes is refused when the policy is set; one that fails when it is evaluated grants nothing. Results
depend on the time and are never kept.

It does not decide to which bindings a condition belongs. Source: IAM "Attribute reference for IAM
Conditions"; `condition_types` holds what of CEL is taken.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from functools import lru_cache
from typing import Any

import celpy
from celpy import celtypes
from celpy.celparser import CELParseError

from keystead.api.errors import InvalidArgument
from keystead.iam.condition_types import BOOL, MAX_LOGICAL, TypeMismatch, count_logical, type_of

log = logging.getLogger(__name__)

MAX_CHARACTERS = 4096

# The parser keeps the text it works on in shared state.
_parser = threading.Lock()

# Resource types as Cloud KMS and Resource Manager name them in conditions, by collection.
_TYPES = {
    "organizations": "cloudresourcemanager.googleapis.com/Organization",
    "projects": "cloudresourcemanager.googleapis.com/Project",
    "keyRings": "cloudkms.googleapis.com/KeyRing",
    "cryptoKeys": "cloudkms.googleapis.com/CryptoKey",
    "cryptoKeyVersions": "cloudkms.googleapis.com/CryptoKeyVersion",
    "importJobs": "cloudkms.googleapis.com/ImportJob",
    "ekmConnections": "cloudkms.googleapis.com/EkmConnection",
}


class Condition:
    """A checked expression."""

    def __init__(self, program: Any) -> None:
        self._program = program

    def holds(self, now: dt.datetime, resource: str, permission: str) -> bool:
        """Whether the condition is met by a use of a permission on a resource at a time (aware UTC).

        False if the evaluation fails.
        """
        try:
            return bool(self._program.evaluate(_activation(now, resource, permission)))
        except Exception as error:  # celpy lets out what the functions it calls raise: nothing is granted
            log.warning("a condition could not be evaluated: %s", type(error).__name__)
            return False


def compile_condition(expression: str) -> Condition:
    """The condition of an expression.

    Raises InvalidArgument for a text that is no CEL expression, is not of type bool, uses what IAM does not
    offer, or is longer than IAM takes.
    """
    return _compile(expression)


@lru_cache(maxsize=1024)
def _compile(expression: str) -> Condition:
    if not expression.strip():
        raise InvalidArgument("Condition expression must be specified.")
    if len(expression) > MAX_CHARACTERS:
        raise InvalidArgument(f"Condition expression is longer than {MAX_CHARACTERS} characters.")
    environment = celpy.Environment()
    try:
        with _parser:
            tree = environment.compile(expression)
        kind, operators = type_of(tree), count_logical(tree)
    except TypeMismatch as error:
        raise _refused(str(error)) from None
    except RecursionError:
        raise _refused("the expression is nested too deeply") from None
    except CELParseError as error:
        raise _refused(f"syntax error in line {error.line}, column {error.column}") from None
    if kind != BOOL:
        raise _refused(f"expected type 'bool' but found '{kind}'")
    if operators > MAX_LOGICAL:
        raise _refused(f"more than {MAX_LOGICAL} logical operators")
    program = environment.program(tree, functions={"extract": _extract})
    try:
        program.evaluate(_activation(_SAMPLE, "projects/p", "cloudkms.cryptoKeys.get"))
    except Exception:  # celpy lets out what the functions it calls raise
        # The types are right, so a literal is not: no time, duration, time zone or template.
        raise _refused("a literal cannot be read as what it is used for") from None
    return Condition(program)


_SAMPLE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def _refused(why: str) -> InvalidArgument:
    return InvalidArgument(f"Condition expression compilation failed: {why}.")


def _activation(now: dt.datetime, resource: str, permission: str) -> dict[str, Any]:
    kind = resource_type(resource)
    service = kind.split("/", 1)[0] or f"{permission.split('.', 1)[0]}.googleapis.com"
    return {
        "request": celtypes.MapType({celtypes.StringType("time"): celtypes.TimestampType(now)}),
        "resource": celtypes.MapType(
            {
                celtypes.StringType("name"): celtypes.StringType(resource),
                celtypes.StringType("type"): celtypes.StringType(kind),
                celtypes.StringType("service"): celtypes.StringType(service),
            }
        ),
    }


def resource_type(resource: str) -> str:
    """`resource.type` of a resource name; empty for types that IAM conditions do not name."""
    parts = resource.split("/")
    return _TYPES.get(parts[-2], "") if len(parts) >= 2 and len(parts) % 2 == 0 else ""


def _extract(text: celtypes.StringType, template: celtypes.StringType) -> celtypes.StringType:
    """`text.extract("before{name}after")`: what stands between the two, or "" (IAM's extract function)."""
    before, opened, rest = str(template).partition("{")
    _, closed, after = rest.partition("}")
    if not opened or not closed:
        raise ValueError("the template of extract names no part, as in '{part}'")
    start = text.find(before)
    if start < 0:
        return celtypes.StringType("")
    start += len(before)
    end = text.find(after, start) if after else len(text)
    return celtypes.StringType(text[start:end] if end >= 0 else "")
