"""Which seals this data directory has used: a file beside the seal file, `seal/known`.

SECURITY: a seal in a token or in another key service makes the server load a library, or send a token to an
address, that is named in the store. The store may lie on another machine; who can write it must not thereby
choose what runs here or who gets our token. So such a seal is used by itself only where this data directory
has used it before; any other waits for an operator's `keystead seal open`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from keystead.kms.seals import SealError
from keystead.kms.seals.record import SealedRootKey

_REACHING_OUT = frozenset({"pkcs11", "kms"})


class KnownSeals:
    """The seals known to a data directory, by a digest of kind and parameters."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "seal" / "known"

    def knows(self, sealed: SealedRootKey) -> bool:
        """Whether the server may use this seal without being told to."""
        return sealed.kind not in _REACHING_OUT or _digest(sealed) in self._read()

    def add(self, sealed: SealedRootKey) -> None:
        """Know this one too; on disk when it returns. Raises SealError."""
        if not self.knows(sealed):
            self._write([*self._read(), _digest(sealed)])

    def only(self, sealed: SealedRootKey) -> None:
        """Know this one and no other. Raises SealError."""
        wanted = [_digest(sealed)] if sealed.kind in _REACHING_OUT else []
        if wanted != self._read():
            self._write(wanted)

    def _read(self) -> list[str]:
        try:
            return self._path.read_text("ascii").split()
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise SealError(f"{self._path} cannot be read ({type(error).__name__}). Remove it.") from None

    def _write(self, digests: list[str]) -> None:
        partial = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with partial.open("w", encoding="ascii") as file:
                file.writelines(f"{digest}\n" for digest in digests)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError as error:
            raise SealError(
                f"{self._path} cannot be written ({error.strerror}). Give its directory to the user that "
                "runs Keystead."
            ) from None


def _digest(sealed: SealedRootKey) -> str:
    return hashlib.sha256(sealed.aad).hexdigest()
