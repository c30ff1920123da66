"""The one door: every call of every listener, of the console and between rooms goes through here.

SECURITY: this module is the only caller of functions declared by `@method`, and does, in this order:
deadline; required and unsupported fields; the principal that the listener proved; the resource name;
authorization (deny unless granted, and a denial is recorded); organization policy; the function inside
one store transaction; the audit record, in that transaction. A call whose record cannot be written fails.

A hot call that passed is remembered for the store's epoch: whatever the steps between name and function look
at (projects, policies, audit configs) moves the epoch when it changes, and conditions, which depend on the
time, are never remembered.

It knows no resource and no wire format.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from keystead.api import fields, names
from keystead.api.call import Call, NeedsMain, Transactions, WouldBlock
from keystead.api.clock import Clock
from keystead.api.errors import (
    ApiError,
    DeadlineExceeded,
    PermissionDenied,
    Unimplemented,
    bad_field,
    permission_denied,
    unauthenticated,
)
from keystead.api.method import LogKind, Method, MethodSpec, Need
from keystead.api.registry import Registry
from keystead.api.status import as_api_error


class Authorizer(Protocol):
    """Who may do what (iam.Authorizer). Each raises WouldBlock when `inline` and it must read the store."""

    def canonical(self, name: str, *, inline: bool) -> str:
        """The name with a project number replaced by the project's id."""

    def allowed(
        self, principal: str, permission: str, resource: str, now: dt.datetime, *, inline: bool
    ) -> bool:
        """Whether a grant on the resource or above it holds the permission."""

    def admit(self, tx: Any, resource: str) -> None:
        """Inside the transaction of a granted call: a project named for the first time comes into being."""

    def admitted(self, resource: str, *, inline: bool) -> bool:
        """Whether `admit` has nothing left to do."""

    def timeless(self, resource: str) -> bool:
        """Whether `allowed` on the resource, just asked, answers the same until the store's epoch moves."""


class AuditTrail(Protocol):
    """What was done (audit.Trail)."""

    def wanted(self, method: Method, call: Call, *, inline: bool) -> bool:
        """Whether a success of this method is to be recorded. Raises WouldBlock when `inline` and unknown."""

    def record(self, tx: Any, event: AuditEvent) -> None:
        """Append a record inside the transaction."""


@dataclasses.dataclass(frozen=True)
class AuditEvent:
    """A call that ended, as the audit trail needs it. `response` is None when it failed."""

    method: Method
    call: Call
    request: Any
    response: Any
    error: ApiError | None
    granted: bool
    permission: str


# How many (method, resource, principal) are remembered to have passed.
_PASSES = 16_384

Policy = Callable[[Method, Any, Call], None]


class Door(Protocol):
    """What a listener needs: a `Dispatcher`, or what stands for one in another process."""

    def inline(self, method: Method, request: Any, call: Call) -> Any:
        """Answer a hot call at once, or raise WouldBlock."""

    async def dispatch(self, method: Method, request: Any, call: Call) -> Any:
        """Answer any call. Raises ApiError."""


class Dispatcher:
    """Runs calls. `dispatch` is for the event loop, `run` for threads and other rooms."""

    def __init__(
        self,
        registry: Registry,
        store: Transactions,
        authorizer: Authorizer,
        audit: AuditTrail,
        clock: Clock,
        *,
        executor: Executor | None = None,
        policies: tuple[Policy, ...] = (),
    ) -> None:
        self.registry = registry
        self._store = store
        self._authorizer = authorizer
        self._audit = audit
        self._clock = clock
        self._executor = executor
        self._policies = policies
        self._passes: dict[tuple[str, str, str | None], int] = {}

    async def dispatch(self, method: Method, request: Any, call: Call) -> Any:
        """Run a call from the event loop: inline when it is hot and all is in memory, else in a thread."""
        if method.spec.hot:
            try:
                return self.inline(method, request, call)
            except WouldBlock:
                pass
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._blocking, method, request, call)

    def run(self, method: Method, request: Any, call: Call) -> Any:
        """Run a call to its end in this thread. Raises ApiError and nothing else."""
        if method.spec.hot:
            try:
                return self.inline(method, request, call)
            except WouldBlock:
                pass
        return self._blocking(method, request, call)

    def call(self, rpc: str, request: Any, call: Call) -> Any:
        """`run` by the name of the RPC: how one room calls another's API."""
        method = self.registry.methods.get(rpc)
        if method is None:
            raise Unimplemented(f"The method {rpc} is not implemented.")
        return self.run(method, request, call)

    def inline(self, method: Method, request: Any, call: Call) -> Any:
        """A hot call from the event loop, without waiting. Raises WouldBlock where it must be dispatched."""
        call.inline = True
        try:
            epoch = self._store.epoch
            known = (method.spec.rpc, getattr(request, method.spec.on), call.principal)
            if self._passes.get(known) == epoch:
                if method.spec.checked:
                    _check_fields(method.spec, request)
                call.resource = known[1]
                return method.function(call, request)
            return self._unwritten(method, request, call, known, epoch)
        except (ApiError, WouldBlock):
            raise
        except Exception as error:
            raise as_api_error(error) from error

    def unwritten(self, method: Method, request: Any, call: Call) -> Any:
        """A hot call in a thread of a process that only reads the store. Raises NeedsMain, with nothing done,
        where something must be written: a denial, a record, a project that comes into being."""
        call.inline = False
        try:
            known = (method.spec.rpc, getattr(request, method.spec.on), call.principal)
            return self._unwritten(method, request, call, known, self._store.epoch)
        except (ApiError, WouldBlock):
            raise
        except Exception as error:
            raise as_api_error(error) from error

    def _unwritten(
        self, method: Method, request: Any, call: Call, known: tuple[str, str, str | None], epoch: int
    ) -> Any:
        permission = self._prepare(method, request, call)
        if not self._granted(method, permission, call):
            raise NeedsMain  # the denial must be recorded
        if permission and not self._authorizer.admitted(call.resource, inline=call.inline):
            raise NeedsMain
        if self._audit.wanted(method, call, inline=call.inline):
            raise NeedsMain
        self._allow_inline(method, request, call)
        if call.resource == known[1] and not self._policies and self._authorizer.timeless(known[1]):
            self._remember(known, epoch)
        return method.function(call, request)

    def _remember(self, known: tuple[str, str, str | None], epoch: int) -> None:
        """This principal's call of this method on this resource passed every step that depends on nothing
        but the store: until its epoch moves, the same call passes them again."""
        if len(self._passes) >= _PASSES:
            self._passes.clear()
        self._passes[known] = epoch

    def _allow_inline(self, method: Method, request: Any, call: Call) -> None:
        try:
            for policy in self._policies:
                policy(method, request, call)
        except ApiError:
            raise NeedsMain from None  # a refusal must be recorded

    def _blocking(self, method: Method, request: Any, call: Call) -> Any:
        call.inline = False
        try:
            permission = self._prepare(method, request, call)
            if not self._granted(method, permission, call):
                self._deny(
                    method,
                    request,
                    call,
                    permission,
                    permission_denied(permission, call.resource, method.service.name),
                )
            for need in method.spec.also:
                self._require(need, method, request, call, permission)
            return self._perform(method, request, call, permission)
        except ApiError:
            raise
        except Exception as error:
            raise as_api_error(error) from error

    def _prepare(self, method: Method, request: Any, call: Call) -> str:
        """Deadline, fields, principal, name; the permission that is needed."""
        call.now = self._clock.now()
        call.service = method.service.name
        if call.deadline is not None and call.now >= call.deadline:
            raise DeadlineExceeded("The deadline expired before the operation could complete.")
        _check_fields(method.spec, request)
        if call.principal is None:
            raise unauthenticated()
        spec = method.spec
        call.resource = self._resource(spec.on, spec.templates, request, inline=call.inline)
        return method.permission(request)

    def _resource(
        self, path: str, templates: tuple[names.NameTemplate, ...], request: Any, *, inline: bool
    ) -> str:
        value = fields.get_path(request, path)
        if not isinstance(value, str):  # a list of names: the first stands for all, the function checks each
            return self._authorizer.canonical(value[0] if value else "", inline=inline)
        name = value
        if templates and not names.match_any(templates, name):
            raise names.malformed(path, name, templates)
        canonical = self._authorizer.canonical(name, inline=inline)
        if canonical != name:
            fields.set_path(request, path, canonical)
        return canonical

    def _granted(self, method: Method, permission: str, call: Call) -> bool:
        if not permission:
            return True
        return self._authorizer.allowed(
            call.principal or "", permission, call.resource, call.now, inline=call.inline
        )

    def _require(self, need: Need, method: Method, request: Any, call: Call, permission: str) -> None:
        """Check what is needed beside `permission`, which the caller holds."""
        needed = need.of(request)
        if not needed or not fields.has_path(request, need.on):
            return
        resource = self._resource(need.on, need.templates, request, inline=False)
        granted = self._authorizer.allowed(call.principal or "", needed, resource, call.now, inline=False)
        call.needs += ((needed, resource, granted),)
        if not granted:
            error = permission_denied(needed, resource, method.service.name)
            self._deny(method, request, call, permission, error)

    def _deny(
        self, method: Method, request: Any, call: Call, permission: str, error: PermissionDenied
    ) -> NoReturn:
        event = AuditEvent(method, call, request, None, error, granted=False, permission=permission)
        with self._store.write() as tx:
            self._audit.record(tx, event)
        raise error

    def _perform(self, method: Method, request: Any, call: Call, permission: str) -> Any:
        """The function in its transaction, with its audit record."""
        spec = method.spec
        wanted = self._audit.wanted(method, call, inline=False)
        original = type(request)()
        original.CopyFrom(request)
        outcome = _Outcome(self, method, call, original, permission, wanted=wanted)
        try:
            for policy in self._policies:
                policy(method, request, call)
            if spec.own_transaction:
                call.opener = outcome.transaction
                response = method.function(call, request)
            elif spec.log in {LogKind.ADMIN_WRITE, LogKind.DATA_WRITE}:
                with outcome.transaction() as tx:
                    call.tx = tx
                    response = call.response = method.function(call, request)
            elif spec.hot:  # it reads through caches of its own
                response = method.function(call, request)
            else:
                with self._store.read() as tx:
                    call.tx = tx
                    response = method.function(call, request)
        except Exception as error:
            failure = as_api_error(error)
            outcome.failed(failure)
            if failure is error:
                raise
            raise failure from error
        finally:
            call.tx = None
        outcome.finish(response)
        return response

    def _admitting(self, tx: Any, call: Call) -> None:
        if not self._authorizer.admitted(call.resource, inline=False):
            self._authorizer.admit(tx, call.resource)


class _Outcome:
    """Sees that exactly one audit record is written for a call that wants one, with its mutation."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        method: Method,
        call: Call,
        request: Any,
        permission: str,
        *,
        wanted: bool,
    ) -> None:
        self._dispatcher = dispatcher
        self._method = method
        self._call = call
        self._request = request
        self._permission = permission
        self._wanted = wanted
        self._opened = False
        self._committed = False

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        if self._opened:
            raise RuntimeError("a call has one transaction: its audit record is in it")
        self._opened = True
        with self._dispatcher._store.write() as tx:
            if self._permission:
                self._dispatcher._admitting(tx, self._call)
            yield tx
            if self._wanted:
                self._record(tx, self._call.response, None)
        self._committed = True

    def finish(self, response: Any) -> None:
        """Success: write what no transaction of the function carried."""
        if self._committed:
            return
        authorizer = self._dispatcher._authorizer
        pending = self._permission and not authorizer.admitted(self._call.resource, inline=False)
        if self._wanted or pending:
            self._call.response = response
            with self.transaction():
                pass

    def failed(self, error: ApiError) -> None:
        """A failure of a call whose success would have been recorded is recorded too, unless the
        function failed after its transaction was committed with its record."""
        wanted = self._wanted or isinstance(error, PermissionDenied)  # a denial always is
        if wanted and not self._committed:
            with self._dispatcher._store.write() as tx:
                self._record(tx, None, error)

    def _record(self, tx: Any, response: Any, error: ApiError | None) -> None:
        granted = not isinstance(error, PermissionDenied)
        event = AuditEvent(
            self._method,
            self._call,
            self._request,
            response,
            error,
            granted=granted,
            permission=self._permission,
        )
        self._dispatcher._audit.record(tx, event)


def _check_fields(spec: MethodSpec, request: Any) -> None:
    """Required and unsupported fields."""
    for path in spec.required:
        if not fields.has_path(request, path):
            raise bad_field(
                path, "This field is required.", f"The request was invalid: the field {path} is required."
            )
    for path in spec.unsupported:
        if fields.has_path(request, path):
            raise Unimplemented(f"The field {path} is not supported by this server.")
