"""The four answers that a customer's key can give, and the error that carries one.

    ENABLED       it encrypts and decrypts
    DISABLED      disabled, scheduled for destruction, destroyed, or not there
    DENIED        the service's grant on the key is gone
    UNREACHABLE   the key service gave no answer

What a service does on each is the service's own rule.
"""

from __future__ import annotations

import enum

from keystead.api.errors import (
    ApiError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)


class Answer(enum.Enum):
    """What the key said when it was last asked."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DENIED = "denied"
    UNREACHABLE = "unreachable"


class KeyUnavailableError(Exception):
    """The customer's key does not open the resource now. `cause` is what the key service answered, in its
    own words; `key` is the key's name."""

    def __init__(self, key: str, answer: Answer, cause: ApiError) -> None:
        super().__init__(f"{key}: {answer.value}: {cause.message}")
        self.key = key
        self.answer = answer
        self.cause = cause


def answer_of(error: ApiError) -> Answer:
    """Which of the four answers an error of the key service is. A wrapped KEK that the enabled key does not
    open (INVALID_ARGUMENT) counts as DISABLED: the key that could is not there."""
    if isinstance(error, PermissionDenied | Unauthenticated):
        return Answer.DENIED
    if isinstance(error, FailedPrecondition | NotFound | InvalidArgument):
        return Answer.DISABLED
    return Answer.UNREACHABLE
