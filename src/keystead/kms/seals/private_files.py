"""Reading files that hold a secret: seal keys, passphrases, PINs, access tokens.

SECURITY: a regular file that others can read is refused. What is read goes into a buffer that is wiped, not
into `bytes`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from keystead.crypto.secret import SecretBytes, zeroise
from keystead.kms.seals import SealError

MAX_BYTES = 64 * 1024


def read_private(path: Path, what: str, remedy: str) -> SecretBytes:
    """The content of a file that is `what` ("The passphrase file"); `remedy` is a sentence that says what to
    do when it cannot be read. Pipes are read too, as shells and service managers hand over secrets by them.

    Raises SealError.
    """
    buffer = bytearray(MAX_BYTES + 1)
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                raise SealError(f"{what} {path} is open to others. Run: chmod 600 {path}")
            size = 0
            while count := file.readinto(memoryview(buffer)[size:]):
                size += count
        if size > MAX_BYTES:
            raise SealError(f"{what} {path} is damaged: it has more than {MAX_BYTES} bytes.")
        return SecretBytes(memoryview(buffer)[:size])
    except OSError as error:
        raise SealError(f"{what} {path} cannot be read ({error.strerror}). {remedy}") from None
    finally:
        zeroise(buffer)


def read_line(path: Path, what: str) -> SecretBytes:
    """The content of a secret file without the line end that editors put after it. Raises SealError."""
    with read_private(path, what, "Name the file that holds it.") as content:
        secret = without_line_end(content)
    if not len(secret):
        raise SealError(f"{what} {path} is empty.")
    return secret


def without_line_end(content: SecretBytes) -> SecretBytes:
    """A copy of a secret without one line end after it."""
    view = content.expose()
    end = len(view)
    if end and view[end - 1] == 0x0A:
        end -= 1
        if end and view[end - 1] == 0x0D:
            end -= 1
    return SecretBytes(view[:end])
