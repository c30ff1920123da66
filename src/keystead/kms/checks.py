"""What every call with data checks before it touches a key: checksums, sizes, purpose.

Checksums are CRC32C of the field (Cloud KMS "Verifying end-to-end data integrity"): whatever the request
carries is verified, and every answer carries its own.
"""

from __future__ import annotations

from typing import Any

from keystead.api.errors import FailedPrecondition, InvalidArgument, bad_field
from keystead.crypto.checksum import crc32c
from keystead.kms.messages import CryptoKey

_PURPOSE = CryptoKey.CryptoKeyPurpose


def verify_checksum(request: Any, checksum: str, data: bytes) -> bool:
    """Whether this checksum was sent, and so verified. Raises InvalidArgument where it is wrong."""
    if not request.HasField(checksum):
        return False
    if getattr(request, checksum).value != crc32c(data):
        field = checksum.removesuffix("_crc32c")
        raise InvalidArgument(f"The checksum in field {checksum} did not match the data in field {field}.")
    return True


def with_checksums(*fields: str) -> tuple[str, ...]:
    """The fields and their checksums, to be redacted together: the CRC32C of a short secret gives it away."""
    return (*fields, *(f"{field}_crc32c" for field in fields))


def require_given(field: str, value: bytes) -> None:
    """Raises InvalidArgument for a required field that is empty, in the words of a missing field.

    For what the service looks at only once it has found the version: NOT_FOUND and the state come first.
    """
    if not value:
        raise bad_field(
            field, "This field is required.", f"The request was invalid: the field {field} is required."
        )


def check_size(field: str, value: bytes, limit: int) -> None:
    """Raises InvalidArgument for more than `limit` bytes."""
    if len(value) > limit:
        raise bad_field(field, f"It must not exceed {limit} bytes; {len(value)} were given.")


def check_plaintext(plaintext: bytes, aad: bytes, limit: int, *, together: bool) -> None:
    """The limits of Encrypt: of each field, or of both together (HSM keys)."""
    if together and len(plaintext) + len(aad) > limit:
        raise bad_field(
            "plaintext",
            f"Together with the additional authenticated data it must not exceed {limit} bytes for keys of "
            f"protection level HSM; {len(plaintext) + len(aad)} were given.",
        )
    check_size("plaintext", plaintext, limit)
    check_size("additional_authenticated_data", aad, limit)


def require_purpose(key: Any, *names: str) -> None:
    """FAILED_PRECONDITION unless the key is for one of these purposes."""
    purpose = _PURPOSE.Name(key.purpose)
    if purpose not in names:
        raise FailedPrecondition(
            f"The request cannot be fulfilled. Resource {key.name} has value {purpose} in field "
            "crypto_key.purpose."
        )


def decryption_failed() -> InvalidArgument:
    """The answer to every ciphertext that a version does not open, whatever is wrong with it."""
    return InvalidArgument("Decryption failed.")
