"""The declaration of an RPC, made once, on the method that serves it.

    class CryptoKeys:
        service = KMS

        @method("google.cloud.kms.v1.KeyManagementService/GetCryptoKey",
                http="GET /v1/{name=projects/*/locations/*/keyRings/*/cryptoKeys/*}",
                permission="cloudkms.cryptoKeys.get", on="name", log=LogKind.ADMIN_READ)
        def get(self, call: Call, request: GetCryptoKeyRequest) -> CryptoKey: ...

Request and response types are read from the annotations. Nothing runs here: `api.dispatch` is the
only caller of such a function, `api.registry` collects them, `api.transcoding` reads the HTTP rules.
"""

from __future__ import annotations

import enum
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from keystead.api.names import NameTemplate


class LogKind(enum.Enum):
    """How a call is audited (Cloud Audit Logs classes). ADMIN_WRITE is always on; the other three
    are Data Access logs, written where an audit config asks for them. A denial always is."""

    NONE = 0
    ADMIN_READ = 1
    DATA_WRITE = 2
    DATA_READ = 3
    ADMIN_WRITE = 4


@dataclass(frozen=True)
class Service:
    """A served API: `name` as Google has it (`cloudkms.googleapis.com`), from which the REST path
    prefix (`/cloudkms`) and the host label follow."""

    name: str
    title: str
    short_method_names: bool = False
    at_root: bool = False

    @property
    def prefix(self) -> str:
        return self.name.split(".", 1)[0]


@dataclass(frozen=True)
class HttpRule:
    """One google.api.http binding: `verb`, path `template`, and which field the body fills."""

    verb: str
    template: str
    body: str | None

    @staticmethod
    def parse(text: str, body: str | None) -> HttpRule:
        verb, template = text.split(" ", 1)
        return HttpRule(verb, template, body)

    def variables(self) -> dict[str, NameTemplate]:
        """Field path to name template, for each variable of the path."""
        found = re.findall(r"\{([^}=]+)(?:=([^}]+))?\}", self.template)
        return {path: NameTemplate(pattern or "*") for path, pattern in found}


@dataclass(frozen=True)
class Need:
    """A permission that a call needs beside its first one: on the resource that field path `on` names, which
    has one of the shapes in `templates`. Where the field is empty, or `permission` gives an empty text,
    nothing is needed."""

    permission: str | Callable[[Any], str]
    on: str
    templates: tuple[NameTemplate, ...] = ()

    def of(self, request: Any) -> str:
        """What this request needs; empty if nothing."""
        return self.permission(request) if callable(self.permission) else self.permission


F = TypeVar("F", bound=Callable[..., Any])
Permission: TypeAlias = "str | Callable[[Method, Any], str] | None"


@dataclass(frozen=True)
class MethodSpec:
    """What `@method` was told; see its docstring."""

    rpc: str
    http: tuple[HttpRule, ...]
    permission: Permission
    on: str
    log: LogKind
    required: tuple[str, ...]
    unsupported: tuple[str, ...]
    redact: tuple[str, ...]
    hot: bool
    own_transaction: bool
    templates: tuple[NameTemplate, ...]
    also: tuple[Need, ...] = ()

    @cached_property
    def checked(self) -> bool:
        """Whether any field is required or unsupported."""
        return bool(self.required or self.unsupported)

    @property
    def short_name(self) -> str:
        return self.rpc.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Method:
    """A served RPC: its declaration, the function, and the message types."""

    spec: MethodSpec
    function: Callable[[Any, Any], Any]
    request_type: Any
    response_type: Any
    service: Service
    services: tuple[Service, ...]
    handler: Any

    def permission(self, request: Any) -> str:
        """What this call needs on its resource; empty if nothing."""
        needed = self.spec.permission
        return needed(self, request) if callable(needed) else (needed or "")

    @property
    def audit_name(self) -> str:
        """`methodName` in audit logs: short for Cloud KMS, fully qualified elsewhere."""
        return self.spec.short_name if self.service.short_method_names else self.spec.rpc.replace("/", ".")


_MARK = "__keystead_method__"


def method(
    rpc: str,
    *,
    http: str | Sequence[str] = (),
    body: str | None = None,
    permission: Permission,
    on: str,
    log: LogKind,
    required: Sequence[str] = (),
    unsupported: Sequence[str] = (),
    redact: Sequence[str] = (),
    hot: bool = False,
    own_transaction: bool = False,
    templates: Sequence[str] = (),
    also: Sequence[Need] = (),
) -> Callable[[F], F]:
    """Declare the RPC that a method serves.

    rpc: `package.Service/Method`. http, body: its google.api.http bindings.
    permission: what the caller needs on the resource, a function of method and request where one RPC
    serves many kinds of resource, or None for the few calls that every authenticated caller may make.
    on: field path of the request that names the resource; its shapes are those of the path variable,
    or `templates`.
    log: audit class. redact: field paths of request and response that no log may hold.
    required: field paths that must be set. unsupported: field paths that answer UNIMPLEMENTED when set.
    hot: the function may be tried on the event loop, where it is not told the time; it raises WouldBlock to
    be run in a thread.
    also: what the caller needs beside `permission`; checked after it, and never on a hot call.
    own_transaction: the function opens `call.transaction()` itself, because it calls keys or engines
    before it writes.

    The object that serves it says which API it belongs to: `service`, or `services` for a mixin
    (locations, operations, IAM policies).
    """
    rules = tuple(HttpRule.parse(text, body) for text in ([http] if isinstance(http, str) else http))
    shapes = [template for rule in rules for path, template in rule.variables().items() if path == on]
    shapes += [NameTemplate(text) for text in templates]

    def mark(function: F) -> F:
        spec = MethodSpec(
            rpc=rpc, http=rules, permission=permission, on=on, log=log, required=tuple(required),
            unsupported=tuple(unsupported), redact=tuple(redact), hot=hot, own_transaction=own_transaction,
            templates=tuple(shapes), also=tuple(also),
        )  # fmt: skip
        setattr(function, _MARK, spec)
        return function

    return mark


def methods_of(handler: Any) -> list[Method]:
    """The RPCs that an object serves: its methods that carry a declaration, bound to it."""
    found = []
    for name in dir(type(handler)):
        spec = getattr(getattr(type(handler), name), _MARK, None)
        if isinstance(spec, MethodSpec):
            function = getattr(handler, name)
            hints = typing.get_type_hints(function)
            services = tuple(getattr(handler, "services", None) or (handler.service,))
            found.append(
                Method(spec, function, hints["request"], hints["return"], services[0], services, handler)
            )
    return found
