"""SECURITY: the Logging API v2 over the audit records: reading entries, and listing logs.

Property: a caller reads the entries only of parents on which logging.logEntries.list is granted, and those of
the Data Access log only with logging.privateLogEntries.list besides. What may not be seen is left out of the
query to the store, so no filter, order or page can tell whether it exists.

Owns the answers to the calls that `gcloud logging read`, `gcloud logging logs list` and the client libraries
make. Deliberately accepts no entries (`entries:write` answers UNIMPLEMENTED): only dispatch writes this log.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf import json_format

from keystead.api.call import Call
from keystead.api.errors import InvalidArgument, bad_field, permission_denied
from keystead.api.lists import OrderTerm, PageRequest, page_request
from keystead.api.method import LogKind, method
from keystead.audit import messages
from keystead.audit.entries import DATA_ACCESS, LOG_IDS, log_name
from keystead.audit.log_filters import Bounds, bounds_of, parse_filter
from keystead.audit.services import LOGGING

_READ = "logging.logEntries.list"
_READ_PRIVATE = "logging.privateLogEntries.list"
_LIST_LOGS = "logging.logs.list"
_PARENT = re.compile(r"(?:projects|organizations|folders|billingAccounts)/[^/\s%?#\x00-\x1f]{1,256}")
_MAX_PARENTS = 100
_DEFAULT_PAGE = 50
_BATCH = 500
#: Rows looked at for one page; it may come back short or empty, with a token to go on, as in Cloud Logging.
_MAX_SCAN = 5_000
# Below the 4 MiB that a gRPC client takes in one message.
_MAX_PAGE_BYTES = 3 << 20


class Allowed(Protocol):
    """Whether a principal holds a permission on a resource at some moment."""

    def __call__(self, principal: str, permission: str, resource: str, now: dt.datetime, /) -> bool: ...


class Canonical(Protocol):
    """A resource name with a project number replaced by the project's id."""

    def __call__(self, name: str, /) -> str: ...


@dataclass(frozen=True, slots=True)
class _Query:
    parents: tuple[str, ...]
    bounds: Bounds
    descending: bool


class Logs:
    """google.logging.v2.LoggingServiceV2, its reading half."""

    service = LOGGING

    def __init__(self, allowed: Allowed, canonical: Canonical = str) -> None:
        self._allowed = allowed
        self._canonical = canonical

    # Dispatch authorizes one resource, and this request names several: the permission is checked here, on
    # each of them, before anything else of the request is looked at.
    @method(
        "google.logging.v2.LoggingServiceV2/ListLogEntries",
        http="POST /v2/entries:list",
        body="*",
        permission=None,
        on="resource_names",
        log=LogKind.DATA_READ,
        required=("resource_names",),
        redact=("entries",),
    )
    def list_entries(
        self, call: Call, request: messages.ListLogEntriesRequest
    ) -> messages.ListLogEntriesResponse:
        """Entries in the order they were recorded, or, by `timestamp desc`, against it.

        That is the order of their timestamps as long as the clock was never set back.
        """
        parents = self._authorized(call, request.resource_names, _READ)
        page = page_request(request, default=_DEFAULT_PAGE, parse_filter=parse_filter)
        bounds = bounds_of(request.filter, self._visible(call, parents))
        query = _Query(parents, bounds, _descending(page))
        return _collect(call.tx, query, page)

    @method(
        "google.logging.v2.LoggingServiceV2/ListLogs",
        http=(
            "GET /v2/{parent=projects/*}/logs",
            "GET /v2/{parent=organizations/*}/logs",
            "GET /v2/{parent=folders/*}/logs",
            "GET /v2/{parent=billingAccounts/*}/logs",
        ),
        permission=_LIST_LOGS,
        on="parent",
        log=LogKind.ADMIN_READ,
    )
    def list_logs(self, call: Call, request: messages.ListLogsRequest) -> messages.ListLogsResponse:
        """The names of the logs that hold an entry the caller may read; all on one page."""
        if request.page_token:
            raise bad_field("page_token", "not a token of this list", "The page token is invalid.")
        parents = self._authorized(call, [call.resource, *request.resource_names], _LIST_LOGS)
        held = [
            name
            for name in self._visible(call, parents)
            if call.tx.audit.scan(parents=[name.partition("/logs/")[0]], log_names=[name], limit=1)
        ]
        return messages.ListLogsResponse(log_names=sorted(held))

    def _authorized(self, call: Call, resource_names: Iterable[str], permission: str) -> tuple[str, ...]:
        """The canonical parents that were named, each once; PERMISSION_DENIED unless all are granted."""
        named = list(resource_names)
        if len(named) > _MAX_PARENTS:
            raise InvalidArgument(f"At most {_MAX_PARENTS} resource names may be given.")
        parents: dict[str, None] = {}
        for name in named:
            if not _PARENT.fullmatch(name):
                raise bad_field(
                    "resource_names",
                    "not of the form projects/P, organizations/O, folders/F or billingAccounts/B",
                    f"Invalid resource name '{name[:200]}'.",
                )
            parents[self._canonical(name)] = None
        for parent in parents:
            call.resource = parent  # what a denial, and its record, are about
            if not self._allowed(call.principal or "", permission, parent, call.now):
                raise permission_denied(permission, parent, LOGGING.name)
        call.resource = next(iter(parents), "")
        return tuple(parents)

    def _visible(self, call: Call, parents: Iterable[str]) -> list[str]:
        """The names of the logs of these parents that the caller may read."""
        return [
            log_name(parent, log_id)
            for parent in parents
            for log_id in LOG_IDS
            if log_id != DATA_ACCESS or self._allowed(call.principal or "", _READ_PRIVATE, parent, call.now)
        ]


def _descending(page: PageRequest) -> bool:
    if page.order in {(), (OrderTerm("timestamp"),)}:
        return False
    if page.order == (OrderTerm("timestamp", descending=True),):
        return True
    reason = "it is 'timestamp asc' or 'timestamp desc'"
    raise bad_field("order_by", reason, f"The order is invalid: {reason}.")


def _collect(tx: Any, query: _Query, page: PageRequest) -> Any:
    """One page: rows in batches, so that memory is bounded whatever the log's size."""
    response = messages.ListLogEntriesResponse()
    after, seen, size = _seq(page.after), 0, 0
    # Unfiltered, one more than asked for is enough to know whether there is a next page.
    batch = _BATCH if page.filter is not None else min(page.page_size + 1, _BATCH)
    while not query.bounds.empty:
        rows = tx.audit.scan(
            parents=query.parents,
            log_names=query.bounds.log_names,
            since_us=query.bounds.since_us,
            until_us=query.bounds.until_us,
            descending=query.descending,
            after_seq=after,
            limit=batch,
        )
        for row in rows:
            entry = messages.LogEntry.FromString(row.body)
            if page.filter is None or page.filter.matches(json_format.MessageToDict(entry)):
                full = len(response.entries) == page.page_size or size + len(row.body) > _MAX_PAGE_BYTES
                if full and response.entries:
                    response.next_page_token = page.next_token(str(after))
                    return response
                response.entries.append(entry)
                size += len(row.body)
            after = row.seq
        seen += len(rows)
        if len(rows) < batch:
            return response
        if seen >= _MAX_SCAN:
            response.next_page_token = page.next_token(str(after))
            return response
    return response


def _seq(after: str | None) -> int | None:
    """The record that the page before ended with."""
    if after is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", after):
        raise bad_field("page_token", "not a token of this list", "The page token is invalid.")
    return int(after)
