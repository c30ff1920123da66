"""Long-running operations: a row first, then work in a thread, then the outcome in one transaction.

An operation is never forgotten: whatever is unfinished when the server starts is run again, so the work
of a kind must be repeatable from the start (it finds what an interrupted run left and clears it).

    class Imports(Work):
        kind = "CreateDataset"
        def run(self, task): ...; with task.transaction() as tx: ...; task.succeed(tx)
        def failed(self, tx, row): ...   # takes back what the operation had announced

Operation ids begin with the prefix of their service, `operations/financialservices-...`, so that the
permission of a call on them follows from the name. Who may see them is decided by dispatch.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool, empty_pb2, message_factory
from google.protobuf.message import Message

from keystead.api import names
from keystead.api.call import Call, Transactions
from keystead.api.clock import Clock
from keystead.api.errors import ApiError, Cancelled, FailedPrecondition, NotFound, Unimplemented
from keystead.api.lists import collect, page_request
from keystead.api.method import LogKind, Method, Service, method
from keystead.api.status import as_api_error, from_status, to_status

log = logging.getLogger(__name__)


class Stopping(Exception):
    """The server is stopping: leave the operation unfinished, it is run again at the next start."""


class Work(Protocol):
    """What one kind of operation does."""

    kind: str

    def run(self, task: Task) -> None:
        """Do it; must end in `task.succeed` or raise. ApiError becomes the operation's error."""

    def failed(self, tx: Any, row: Any) -> None:
        """Take back, in the transaction that records the failure, what creation announced."""

    def response(self, row: Any) -> Message | None:
        """The response of a finished operation; made when asked for, so that customer data in it is
        readable only while the key says so. Raises what reading the resource raises."""


class Task:
    """One run of an operation, as its work sees it."""

    def __init__(self, runner: OperationRunner, row: Any) -> None:
        self._runner = runner
        self.row = row
        self.done = False

    def check(self) -> None:
        """Raises Cancelled or Stopping when the work should end; call it often."""
        if self._runner.stopping.is_set():
            raise Stopping
        if self.row.name in self._runner.cancelled:
            raise Cancelled("The operation was cancelled.")

    def transaction(self) -> AbstractContextManager[Any]:
        """A write transaction of the store."""
        return self._runner.store.write()

    def succeed(self, tx: Any) -> None:
        """Record success in the transaction that makes the result visible."""
        operation = operations_pb2.Operation.FromString(self.row.body)
        operation.done = True
        stamp_end(operation, self._runner.clock)
        tx.operations.update(
            dataclasses.replace(self.row, done=True, body=operation.SerializeToString(), arguments=b"")
        )
        tx.after_commit(self._mark)

    def _mark(self) -> None:
        self.done = True


def stamp_end(operation: Any, clock: Clock) -> None:
    """Set `end_time` in the operation's metadata, where its type has one."""
    kind = operation.metadata.TypeName()
    if not kind:
        return
    metadata: Any = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(kind))()
    operation.metadata.Unpack(metadata)
    if "end_time" in metadata.DESCRIPTOR.fields_by_name:
        metadata.end_time.FromDatetime(clock.now())
        operation.metadata.Pack(metadata)


class OperationRunner:
    """Starts operations, runs them in threads, and takes up again what a crash left."""

    def __init__(self, store: Transactions, clock: Clock, executor: Executor) -> None:
        self.store = store
        self.clock = clock
        self.stopping = threading.Event()
        self.cancelled: set[str] = set()
        self._executor = executor
        self._works: dict[str, Work] = {}
        self._running: dict[str, Future[None]] = {}

    def register(self, *works: Work) -> None:
        for work in works:
            self._works[work.kind] = work

    def work(self, kind: str) -> Work:
        return self._works[kind]

    def start(
        self,
        tx: Any,
        service: Service,
        kind: str,
        *,
        parent: str,
        target: str,
        metadata: Message,
        call: Call,
        arguments: bytes = b"",
        request_id: str = "",
    ) -> operations_pb2.Operation:
        """Insert the row of a new operation and schedule its work for after the commit."""
        name = f"{parent}/operations/{service.prefix}-{uuid.uuid4()}"
        operation = operations_pb2.Operation(name=name)
        operation.metadata.Pack(metadata)
        row = tx.operations.create(
            name=name,
            service=service.name,
            parent=parent,
            kind=kind,
            target=target,
            body=operation.SerializeToString(),
            arguments=arguments,
            principal=call.principal or "",
            request_id=request_id or None,
            create_us=int(self.clock.now().timestamp() * 1_000_000),
        )
        tx.after_commit(lambda: self._schedule(row))
        return operation

    def unfinished(self) -> Sequence[Any]:
        """The rows of whatever is unfinished; to be read when the server starts, before anything runs."""
        with self.store.read() as tx:
            rows: Sequence[Any] = tx.operations.unfinished()
        return rows

    def resume(self, left: Sequence[Any] | None = None) -> int:
        """Schedule what was unfinished when the server started (`left`; read now if not given); returns how
        many. Called once."""
        rows = self.unfinished() if left is None else left
        for row in rows:
            self._schedule(row)
        return len(rows)

    def stop(self) -> None:
        """Ask all work to end and wait for it; what is unfinished stays so."""
        self.stopping.set()
        for future in list(self._running.values()):
            future.exception(timeout=60)

    def wait(self, name: str, timeout_s: float) -> None:
        """Wait until an operation that runs here has ended, or the time is over."""
        future = self._running.get(name)
        if future is not None:
            try:
                future.result(timeout=timeout_s)
            except TimeoutError:
                return

    def render(self, row: Any) -> operations_pb2.Operation:
        """The operation of a row as it is answered: with its response, where it has ended well. Raises what
        reading the response raises."""
        operation = operations_pb2.Operation.FromString(row.body)
        if operation.done and not operation.HasField("error"):
            response = self.work(row.kind).response(row)
            operation.response.Pack(response if response is not None else empty_pb2.Empty())
        return operation

    def _schedule(self, row: Any) -> None:
        if not self.stopping.is_set():
            self._running[row.name] = self._executor.submit(self._run, row)

    def _run(self, row: Any) -> None:
        task = Task(self, row)
        try:
            work = self._works.get(row.kind)
            if work is None:
                raise Unimplemented(f"This server cannot resume an operation of kind {row.kind}.")
            work.run(task)
        except Stopping:
            log.info("operation %s interrupted; it is resumed at the next start", row.name)
        except Exception as error:  # the outcome of any failure is the operation's error
            if not task.done:
                self._fail(row, as_api_error(error))
        finally:
            self._running.pop(row.name, None)
            self.cancelled.discard(row.name)

    def _fail(self, row: Any, error: ApiError) -> None:
        operation = operations_pb2.Operation.FromString(row.body)
        operation.done = True
        operation.error.CopyFrom(to_status(error))
        stamp_end(operation, self.clock)
        with self.store.write() as tx:
            work = self._works.get(row.kind)
            if work is not None:
                work.failed(tx, row)
            body = operation.SerializeToString()
            tx.operations.update(dataclasses.replace(row, done=True, body=body, arguments=b""))


def _permission(verb: str) -> Callable[[Method, Any], str]:
    """`financialservices.operations.get` for `operations/financialservices-...`."""

    def permission(_: Method, request: Any) -> str:
        service = names.last_of(request.name).split("-", 1)[0]
        return f"{service}.operations.{verb}"

    return permission


def _list_permission(served: Method, _: Any) -> str:
    return f"{served.service.prefix}.operations.list"


_NAME = "projects/*/locations/*/operations/*"
_PATH = "/v1/{name=" + _NAME + "}"


class Operations:
    """google.longrunning.Operations over the operation rows, a mixin of several services."""

    def __init__(self, runner: OperationRunner, services: Sequence[Service]) -> None:
        self._runner = runner
        self.services = tuple(services)

    @method(
        "google.longrunning.Operations/GetOperation",
        http=f"GET {_PATH}",
        permission=_permission("get"),
        on="name",
        log=LogKind.ADMIN_READ,
        redact=("response",),
    )
    def get(self, call: Call, request: operations_pb2.GetOperationRequest) -> operations_pb2.Operation:
        return self._runner.render(self._row(call, request.name))

    @method(
        "google.longrunning.Operations/ListOperations",
        http="GET /v1/{name=projects/*/locations/*}/operations",
        permission=_list_permission,
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def list(
        self, call: Call, request: operations_pb2.ListOperationsRequest
    ) -> operations_pb2.ListOperationsResponse:
        def fetch(after: str | None, limit: int) -> Sequence[tuple[str, Any]]:
            create_us, _, name = (after or "").partition(" ")
            place = (int(create_us), name) if after is not None else None
            rows = call.tx.operations.list(request.name, None, place, limit)
            return [
                (f"{row.create_us:020d} {row.name}", operations_pb2.Operation.FromString(row.body))
                for row in rows
            ]

        page = collect(page_request(request), fetch)
        return operations_pb2.ListOperationsResponse(
            operations=page.items, next_page_token=page.next_page_token
        )

    @method(
        "google.longrunning.Operations/CancelOperation",
        http=f"POST {_PATH}:cancel",
        body="*",
        permission=_permission("cancel"),
        on="name",
        log=LogKind.ADMIN_WRITE,
    )
    def cancel(self, call: Call, request: operations_pb2.CancelOperationRequest) -> empty_pb2.Empty:
        row = self._row(call, request.name)
        if not row.done:
            call.tx.after_commit(lambda: self._runner.cancelled.add(row.name))
        return empty_pb2.Empty()

    @method(
        "google.longrunning.Operations/DeleteOperation",
        http=f"DELETE {_PATH}",
        permission=_permission("delete"),
        on="name",
        log=LogKind.ADMIN_WRITE,
    )
    def delete(self, call: Call, request: operations_pb2.DeleteOperationRequest) -> empty_pb2.Empty:
        row = self._row(call, request.name)
        if not row.done:
            raise FailedPrecondition(f"Operation {row.name} is still running; cancel it first.")
        call.tx.operations.delete(row.name)
        return empty_pb2.Empty()

    def _row(self, call: Call, name: str) -> Any:
        row = call.tx.operations.get(name)
        if row is None:
            raise NotFound(f"Operation {name} not found.")
        return row


def error_of(operation: operations_pb2.Operation) -> ApiError | None:
    """The error of a finished operation, as an exception."""
    return from_status(operation.error) if operation.HasField("error") else None
