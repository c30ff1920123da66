"""What callers of AML AI read when a customer's key, or the data under it, cannot be used.

It owns the words and the details clients match on; it asks no key and reads no data.
"""

from __future__ import annotations

from google.rpc import error_details_pb2

from keystead.api.errors import ApiError, FailedPrecondition, Internal, NotFound, Unavailable, bad_field
from keystead.api.names import NameTemplate, location_of
from keystead.cmek.answers import Answer, KeyUnavailableError
from keystead.kms.service import KEY_NAME

ROLE = "roles/cloudkms.cryptoKeyEncrypterDecrypter"


def refusal(error: KeyUnavailableError, agent_email: str) -> ApiError:
    """The answer to a call that needs a key which the key service refuses, with the service's own details.

    A key that is not named is that of a deleted resource: the cause is the answer.
    """
    key, cause = error.key, error.cause
    if not key:
        return cause
    if error.answer is Answer.DENIED:
        text = f"{agent_email} lacks permissions to KMS key {key}. Grant it {ROLE} on the key."
        return FailedPrecondition(text, _violation("KMS_KEY_PERMISSION_DENIED", key), *cause.details)
    if error.answer is Answer.UNREACHABLE:
        return Unavailable(f"The KMS key {key} could not be reached: {cause.message}", *cause.details)
    if isinstance(cause, NotFound):
        text = f"KMS key {key} not found. Data encrypted with it cannot be accessed."
        return FailedPrecondition(text, _violation("KMS_KEY_NOT_FOUND", key), *cause.details)
    return FailedPrecondition(f"The KMS key {key} cannot be used: {cause.message}", *cause.details)


def _violation(kind: str, key: str) -> error_details_pb2.PreconditionFailure:
    violation = error_details_pb2.PreconditionFailure.Violation(type=kind, subject=key)
    return error_details_pb2.PreconditionFailure(violations=[violation])


def damaged(resource: str) -> Internal:
    """The stored data is not what was stored: altered, cut off, exchanged, an older copy, or gone."""
    return Internal(f"The stored data of {resource} is damaged.")


def require_key_name(key: str, location: str) -> None:
    """INVALID_ARGUMENT unless `key` is the name of a key in that location."""
    if not key:
        raise bad_field(
            "instance.kms_key",
            "It is required: AML AI has no default encryption.",
            "The request was invalid: the field instance.kms_key is required. AML AI always requires the use "
            "of CMEK.",
        )
    _require_shape("instance.kms_key", key, KEY_NAME)
    found = location_of(key)
    if found != location:
        raise bad_field(
            "instance.kms_key",
            f"The location of the key is '{found}', that of the instance '{location}'.",
            f"The location of the KMS key {key} must match the location of the instance: '{location}'.",
        )


def _require_shape(field: str, name: str, template: NameTemplate) -> None:
    if template.match(name) is None:
        raise bad_field(
            field,
            f"'{name[:200]}' does not match `{template.template}`.",
            f"Invalid KMS key name: it must be of the form {template.template}.",
        )
