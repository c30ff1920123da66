"""SECURITY: the PIN of a token, read for each login and remembered by nobody.

Property: a PIN that the token refused is not sent again, because tokens lock after a few wrong ones. What is
remembered of it is a keyed hash under a key of this process, and the time stamp of its file. It is tried
again only when the file was written since, the PIN is another, or after `forget`. The library takes the PIN
as text, so a copy that cannot be wiped lives in the process until its memory is reused.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from keystead.api.errors import Unavailable
from keystead.crypto.secret import SecretBytes
from keystead.kms.backends.hsm.config import PinSource
from keystead.kms.backends.hsm.errors import WrongPinError

_MAX_SIZE = 4096
_KEY = os.urandom(32)

Stamp = tuple[int, int, int]


class Pin:
    """The PIN of one token, from `source`."""

    def __init__(self, source: PinSource) -> None:
        self._source = source
        self._refused: tuple[Stamp | None, bytes] | None = None
        self._stamp: Stamp | None = None

    def read(self) -> SecretBytes:
        """The PIN as it is now. Raises Unavailable where there is none, or only the one that was refused."""
        pin = self._read_file(self._source) if isinstance(self._source, Path) else self._source()
        if self._refused == (self._stamp, _digest(pin)):
            pin.wipe()
            raise WrongPinError(f"The token refused this PIN, so it is not tried again. {self._advice}")
        return pin

    def refuse(self, pin: SecretBytes) -> Unavailable:
        """Remember that the token refused what `read` gave; the error to raise."""
        self._refused = (self._stamp, _digest(pin))
        return WrongPinError(f"The token refused the PIN. {self._advice}")

    def forget(self) -> None:
        """Let the next login try whatever PIN there is."""
        self._refused = None

    @property
    def _advice(self) -> str:
        where = f"to {self._source}" if isinstance(self._source, Path) else "where the server reads it"
        return f"Write the right one {where}; the server then goes on by itself."

    def _read_file(self, path: Path) -> SecretBytes:
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                data = bytearray(file.read(_MAX_SIZE))
        except OSError as error:
            raise Unavailable(
                f"The PIN of the token cannot be read from {path} ({error.strerror}). Write it there."
            ) from None
        self._stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if status.st_mode & 0o077:
            data[:] = bytes(len(data))
            raise Unavailable(f"The PIN file {path} is open to others. Run: chmod 600 {path}")
        # Editors end a file with a line feed; a PIN cannot hold one.
        while data and data[-1] in b"\r\n":
            data.pop()
        return SecretBytes.adopt(data)


def _digest(pin: SecretBytes) -> bytes:
    return pin.use(lambda view: hmac.new(_KEY, view, hashlib.sha256).digest())
