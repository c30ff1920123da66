"""The file seal: a random key in a file of its own, readable by the server's user only.

SECURITY: whoever holds both the seal file and the store holds every software key. Keep the file on other
storage than the store's backups. It is created once, never overwritten, and refused when others can read it.
"""

from __future__ import annotations

import os
from pathlib import Path

from keystead.crypto.aead import unwrap_key, wrap_key
from keystead.crypto.errors import CryptoError
from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import Parameters, SealError
from keystead.kms.seals.private_files import read_private

_SIZE = 32


class FileSeal:
    """Seals the root key with the key in `path`; `create` makes the file if there is none when a new root
    key is wrapped. A root key that was sealed before needs the file it was sealed with, not a new one.

    recorded: the path as it is stored; the same unless given (one below the data directory is relative).
    """

    kind = "file"

    def __init__(self, path: Path, *, create: bool, recorded: str = "") -> None:
        self.path = path
        self._may_create = create
        self._recorded = recorded or str(path)

    @property
    def parameters(self) -> Parameters:
        return {"path": self._recorded}

    def wrap(self, root_key: SecretBytes, aad: bytes) -> bytes:
        if self._may_create:
            self._create_if_missing()
        with self._key() as key:
            return wrap_key(key, root_key, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> SecretBytes:
        with self._key() as key:
            try:
                return unwrap_key(key, wrapped, aad)
            except CryptoError:
                raise SealError(
                    f"The seal file {self.path} does not open this store. Put back the one that does."
                ) from None

    def _create_if_missing(self) -> None:
        try:
            if not self.path.exists():
                _create(self.path)
        except OSError as error:
            raise SealError(
                f"The seal file {self.path} cannot be made ({error.strerror}). Give its directory to the "
                "user that runs Keystead, or name another with --seal-file."
            ) from None

    def _key(self) -> SecretBytes:
        lost = "Without it no key of this store can be used; restore it from your backup."
        key = read_private(self.path, "The seal file", lost)
        if len(key) != _SIZE:
            key.wipe()
            raise SealError(f"The seal file {self.path} is damaged: {_SIZE} bytes were expected.")
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
