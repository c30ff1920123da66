"""The file seal: a random key in a file of its own, readable by the server's user only.

SECURITY: whoever holds both the seal file and the store holds every software key. Keep the file on other
storage than the store's backups. It is created once, never overwritten, and refused when others can read it.
"""

from __future__ import annotations

import os
from pathlib import Path

from keystead.crypto.aad import encode_aad
from keystead.crypto.aead import unwrap_key, wrap_key
from keystead.crypto.errors import CryptoError
from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import SealError

_AAD = encode_aad("keystead/seal/file/v1")
_SIZE = 32


class FileSeal:
    """Seals the root key with the key in `path`; `create` makes the file if there is none when a new root
    key is wrapped. A root key that was sealed before needs the file it was sealed with, not a new one."""

    kind = "file"

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        self._may_create = create

    def wrap(self, root_key: SecretBytes) -> bytes:
        if self._may_create and not self._path.exists():
            _create(self._path)
        with self._key() as key:
            return wrap_key(key, root_key, _AAD)

    def unwrap(self, wrapped: bytes) -> SecretBytes:
        with self._key() as key:
            try:
                return unwrap_key(key, wrapped, _AAD)
            except CryptoError:
                raise SealError(
                    f"The seal file {self._path} does not open this store. Put back the one that does."
                ) from None

    def _key(self) -> SecretBytes:
        try:
            data = bytearray(self._path.read_bytes())
            mode = self._path.stat().st_mode & 0o777
        except OSError as error:
            raise SealError(
                f"The seal file {self._path} cannot be read ({error.strerror}). "
                "Without it no key of this store can be used; restore it from your backup."
            ) from None
        if mode & 0o077:
            raise SealError(f"The seal file {self._path} is open to others. Run: chmod 600 {self._path}")
        if len(data) != _SIZE:
            raise SealError(f"The seal file {self._path} is damaged: {_SIZE} bytes were expected.")
        key = SecretBytes(data)
        data[:] = bytes(len(data))
        return key


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    partial.unlink(missing_ok=True)
    with SecretBytes.random(_SIZE) as key:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, key.expose())
            os.fsync(handle)
        finally:
            os.close(handle)
    partial.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
