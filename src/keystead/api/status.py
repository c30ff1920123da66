"""Errors at the edge: one place turns an exception into google.rpc.Status, HTTP JSON and gRPC trailers.

SECURITY: the text of an unexpected exception never reaches the caller (it may quote data or keys);
it is logged with its type only, and the caller gets INTERNAL.
"""

from __future__ import annotations

import logging
from typing import Any

from google.protobuf import any_pb2, json_format
from google.rpc import status_pb2

from keystead.api.errors import BY_CODE, ApiError, Internal

log = logging.getLogger(__name__)


def as_api_error(error: BaseException) -> ApiError:
    """The error itself, or INTERNAL for anything a handler should not have let out."""
    if isinstance(error, ApiError):
        return error
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    log.error("unexpected %s at %s", type(error).__name__, where)
    return Internal("Internal error encountered.")


def to_status(error: ApiError) -> status_pb2.Status:
    """The google.rpc.Status of an error, details packed."""
    status = status_pb2.Status(code=error.code, message=error.message)
    for detail in error.details:
        if isinstance(detail, any_pb2.Any):
            status.details.append(detail)
        else:
            status.details.add().Pack(detail)
    return status


def from_status(status: status_pb2.Status) -> ApiError:
    """The error of a google.rpc.Status (a remote key service's answer, a stored operation's)."""
    error = BY_CODE.get(status.code, Internal)(status.message)
    error.details = tuple(status.details)
    return error


def to_json(error: ApiError) -> dict[str, Any]:
    """The body of an HTTP error answer, as Google's front end words it."""
    body: dict[str, Any] = {"code": error.http, "message": error.message, "status": error.status}
    details = [json_format.MessageToDict(detail) for detail in to_status(error).details]
    if details:
        body["details"] = details
    return {"error": body}


def to_trailers(error: ApiError) -> tuple[tuple[str, bytes], ...]:
    """gRPC trailing metadata that carries the details (`grpc-status-details-bin`)."""
    return (("grpc-status-details-bin", to_status(error).SerializeToString()),)
