"""HTTP requests to RPCs: google.api.http path templates, query parameters, bodies.

`Router` finds the RPC of a path; `bind` makes its request message. What is done with the call is not
decided here, and neither is authentication.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from keystead.api import fields, jsonpb
from keystead.api.errors import InvalidArgument, Unimplemented, bad_field
from keystead.api.method import HttpRule, Method
from keystead.api.registry import Registry

# Parameters of Google's front end that belong to no request message.
_SYSTEM = frozenset(
    {
        "alt", "$alt", "prettyPrint", "$prettyPrint", "key", "fields", "$fields", "quotaUser", "access_token",
        "oauth_token", "callback", "$callback", "upload_protocol", "uploadType", "upload_id", "$.xgafv",
        "$unique", "trace", "userIp",
    }
)  # fmt: skip
_VARIABLE = re.compile(r"\{([^}=]+)(?:=([^}]+))?\}")


@dataclass(frozen=True)
class Route:
    """An HTTP binding of an RPC; `method` is None where no function declares it."""

    rpc: str
    method: Method | None
    rule: HttpRule
    pattern: re.Pattern[str]
    variables: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """A route and the texts of its path variables."""

    route: Route
    values: tuple[str, ...]


class Router:
    """Finds the RPC that serves a path of a service."""

    def __init__(self, registry: Registry) -> None:
        self._routes: dict[tuple[str, str, str], list[Route]] = {}
        for method in registry.methods.values():
            for service in method.services:
                served = dataclasses.replace(method, service=service)  # which API of a mixin is asked
                self._add(service.prefix, method.spec.rpc, served, method.spec.http)
        for rpc, (service, rules) in registry.unimplemented().items():
            self._add(service.prefix, rpc, None, rules)

    def _add(self, prefix: str, rpc: str, method: Method | None, rules: Iterable[HttpRule]) -> None:
        for rule in rules:
            pattern, variables = _compile(rule.template)
            route = Route(rpc, method, rule, pattern, variables)
            self._routes.setdefault((prefix, rule.verb, _verb(rule.template)), []).append(route)

    def find(self, prefix: str, verb: str, path: str) -> Match | None:
        """The route of a raw (percent-encoded) path below the service's prefix."""
        custom_verb = _verb(path)
        for custom in (custom_verb, "") if custom_verb else ("",):
            for route in self._routes.get((prefix, verb, custom), ()):
                found = route.pattern.fullmatch(path)
                if found:
                    return Match(route, tuple(unquote(value) for value in found.groups()))
        return None


def _verb(path: str) -> str:
    """The custom verb (`:encrypt`) that ends a path or a template; empty if there is none."""
    _, _, verb = path.rsplit("/", 1)[-1].rpartition(":")
    return verb if verb.isalnum() and f":{verb}" in path else ""


def _compile(template: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """The regular expression of a path template, with one group per variable."""
    variables: list[str] = []
    pieces: list[str] = []
    at = 0
    for found in _VARIABLE.finditer(template):
        pieces.append(re.escape(template[at : found.start()]))
        inner = "/".join(_segment(part) for part in (found.group(2) or "*").split("/"))
        pieces.append(f"({inner})")
        variables.append(found.group(1))
        at = found.end()
    pieces.append(re.escape(template[at:]))
    return re.compile("".join(pieces)), tuple(variables)


def _segment(part: str) -> str:
    return {"*": r"[^/]+", "**": r"[^/]+(?:/[^/]+)*"}.get(part, re.escape(part))


def bind(match: Match, query: bytes, body: bytes) -> tuple[Any, bool]:
    """The request message of a matched call, and whether enums are to be answered as numbers.

    Raises InvalidArgument for malformed JSON, unknown names and values of the wrong type.
    """
    method = match.route.method
    if method is None:
        raise Unimplemented(f"The method {match.route.rpc} is not implemented.")
    request = method.request_type()
    rule = match.route.rule
    if rule.body == "*":
        jsonpb.parse_into(request, jsonpb.loads(body))
    elif rule.body:
        jsonpb.parse_into(getattr(request, rule.body), jsonpb.loads(body), rule.body)
        getattr(request, rule.body).SetInParent()
    elif body and jsonpb.loads(body) not in ({}, "", None):
        raise InvalidArgument("Invalid JSON payload received. The request of this method has no body.")
    parameters, enum_numbers = _parameters(query)
    if parameters:
        jsonpb.parse_into(request, _nested(request.DESCRIPTOR, parameters))
    for path, value in zip(match.route.variables, match.values, strict=True):
        try:
            fields.set_path(request, path, value)
        except (TypeError, ValueError):
            raise bad_field(path, "The path holds a value of the wrong type.") from None
    return request, enum_numbers


def _parameters(query: bytes) -> tuple[list[tuple[str, str]], bool]:
    """Query parameters that name request fields; and the front end's `enum-encoding`."""
    if not query:
        return [], False
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=500)
    except (ValueError, UnicodeDecodeError):
        raise InvalidArgument("The query string could not be parsed.") from None
    numbers = any(k in {"$alt", "alt"} and "enum-encoding=int" in v for k, v in pairs)
    return [(k, v) for k, v in pairs if k not in _SYSTEM], numbers


def _nested(descriptor: Descriptor, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Dotted query parameters as the JSON object they stand for."""
    root: dict[str, Any] = {}
    for key, text in pairs:
        holder, kind = root, descriptor
        *parents, last = key.split(".")
        for part in parents:
            field = _field(kind, part, key)
            if field.message_type is None or field.is_repeated:
                raise _unbindable(key)
            holder, kind = holder.setdefault(field.json_name, {}), field.message_type
            if not isinstance(holder, dict):  # `updateMask=a&updateMask.paths=b`
                raise _unbindable(key)
        field = _field(kind, last, key)
        value = _scalar(field, text, key)
        if field.is_repeated:
            holder.setdefault(field.json_name, []).append(value)
        else:
            holder[field.json_name] = value
    return root


def _field(descriptor: Descriptor, name: str, key: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
    if field is None:
        raise _unbindable(key)
    return field


def _scalar(field: FieldDescriptor, text: str, key: str) -> Any:
    if field.type == FieldDescriptor.TYPE_BOOL:
        if text.lower() in {"true", "1"}:
            return True
        if text.lower() in {"false", "0"}:
            return False
        raise bad_field(key, f"Invalid value at '{key}' (TYPE_BOOL), \"{text[:50]}\"")
    if field.message_type is not None and not field.message_type.full_name.startswith("google.protobuf."):
        raise _unbindable(key)
    return text


def _unbindable(key: str) -> InvalidArgument:
    text = (
        f'Invalid JSON payload received. Unknown name "{key[:100]}": Cannot bind query parameter. '
        f"Field '{key[:100]}' could not be found in request message."
    )
    return bad_field("", text, text)
