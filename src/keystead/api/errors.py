"""The one error tree of Keystead's APIs.

Handlers raise these and nothing else knows about HTTP or gRPC; `api.status` turns them into a
`google.rpc.Status`, an HTTP answer or gRPC trailers. Drawn whole:

    ApiError
    ├── InvalidArgument      3   400   the request is wrong whatever the state of the system
    ├── DeadlineExceeded     4   504
    ├── NotFound             5   404   only for callers who may know that the resource is missing
    ├── AlreadyExists        6   409
    ├── PermissionDenied     7   403
    ├── ResourceExhausted    8   429
    ├── FailedPrecondition   9   400   the request is right, the state forbids it
    ├── Aborted             10   409   concurrent change: read again and retry
    ├── OutOfRange          11   400
    ├── Unimplemented       12   501
    ├── Internal            13   500   detail never reaches the caller
    ├── Unavailable         14   503   retry may help
    └── Unauthenticated     16   401
    and Cancelled            1   499

It does not decide who may see what: dispatch does.
"""

from __future__ import annotations

from typing import ClassVar

from google.protobuf.message import Message
from google.rpc import error_details_pb2


class ApiError(Exception):
    """An answer other than success.

    `message` is what the caller reads; `details` are google.rpc detail messages (ErrorInfo,
    PreconditionFailure, BadRequest, ...), sent in order.
    """

    code: ClassVar[int] = 13
    http: ClassVar[int] = 500
    status: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *details: Message) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class Cancelled(ApiError):
    code, http, status = 1, 499, "CANCELLED"


class InvalidArgument(ApiError):
    code, http, status = 3, 400, "INVALID_ARGUMENT"


class DeadlineExceeded(ApiError):
    code, http, status = 4, 504, "DEADLINE_EXCEEDED"


class NotFound(ApiError):
    code, http, status = 5, 404, "NOT_FOUND"


class AlreadyExists(ApiError):
    code, http, status = 6, 409, "ALREADY_EXISTS"


class PermissionDenied(ApiError):
    code, http, status = 7, 403, "PERMISSION_DENIED"


class ResourceExhausted(ApiError):
    code, http, status = 8, 429, "RESOURCE_EXHAUSTED"


class FailedPrecondition(ApiError):
    code, http, status = 9, 400, "FAILED_PRECONDITION"


class Aborted(ApiError):
    code, http, status = 10, 409, "ABORTED"


class OutOfRange(ApiError):
    code, http, status = 11, 400, "OUT_OF_RANGE"


class Unimplemented(ApiError):
    code, http, status = 12, 501, "UNIMPLEMENTED"


class Internal(ApiError):
    code, http, status = 13, 500, "INTERNAL"


class Unavailable(ApiError):
    code, http, status = 14, 503, "UNAVAILABLE"


class Unauthenticated(ApiError):
    code, http, status = 16, 401, "UNAUTHENTICATED"


BY_CODE: dict[int, type[ApiError]] = {
    kind.code: kind
    for kind in (
        Cancelled, InvalidArgument, DeadlineExceeded, NotFound, AlreadyExists, PermissionDenied,
        ResourceExhausted, FailedPrecondition, Aborted, OutOfRange, Unimplemented, Internal,
        Unavailable, Unauthenticated,
    )
}  # fmt: skip


def permission_denied(permission: str, resource: str, service: str) -> PermissionDenied:
    """The denial every Google service words alike; it is also the answer for a resource that the
    caller may not know to be missing (cloud-KMS error table: same text, same ErrorInfo)."""
    info = error_details_pb2.ErrorInfo(
        reason="IAM_PERMISSION_DENIED",
        domain=service,
        metadata={"permission": permission, "resource": resource},
    )
    return PermissionDenied(
        f"Permission '{permission}' denied on resource '{resource}' (or it may not exist).", info
    )


def unauthenticated() -> Unauthenticated:
    """The answer to a call without (valid) credentials, in the words of Google's front end."""
    info = error_details_pb2.ErrorInfo(reason="CREDENTIALS_MISSING", domain="googleapis.com")
    return Unauthenticated(
        "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie "
        "or other valid authentication credential. See "
        "https://developers.google.com/identity/sign-in/web/devconsole-project.",
        info,
    )


def precondition(message: str, kind: str, subject: str, description: str = "") -> FailedPrecondition:
    """FAILED_PRECONDITION with the PreconditionFailure that clients match on (`type`, `subject`)."""
    violation = error_details_pb2.PreconditionFailure.Violation(
        type=kind, subject=subject, description=description
    )
    return FailedPrecondition(message, error_details_pb2.PreconditionFailure(violations=[violation]))


def bad_field(field: str, description: str, message: str | None = None) -> InvalidArgument:
    """INVALID_ARGUMENT naming the field of the request that is wrong (BadRequest detail)."""
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    return InvalidArgument(
        message or f"Invalid value for field '{field}': {description}",
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
