"""Material as it is stored for software keys: wrapped by the root key.

SECURITY: what is stored opens only under the root key, for the same owner, the same use and the same
permission to be exported: a row cannot be copied to another version, nor a key be put to another use or
exported by editing what is stored beside it.
"""

from __future__ import annotations

from keystead.crypto.secret import SecretBytes
from keystead.kms.rootkey import RootKey
from keystead.kms.seals import SealError

# Formats of what is stored (docs/formats.md): the first byte. A wrapped key alone, without a byte of ours,
# begins with 1; symmetric keys were once kept so.
_BARE = 1
_KEPT = 2
_EXPORTABLE = 3


class Vault:
    """Material wrapped by the root key, as `Made.stored` holds it for software keys."""

    def __init__(self, root_key: RootKey) -> None:
        self.root_key = root_key

    def keep(self, owner: str, use: str, material: SecretBytes, *, exportable: bool = False) -> bytes:
        """What to store. It opens again only for the same owner (resource name) and use (name of the
        algorithm, or of the import method)."""
        kind = _EXPORTABLE if exportable else _KEPT
        return bytes((kind,)) + self.root_key.wrap(_bound(kind, owner, use), material)

    def material(self, owner: str, use: str, stored: bytes) -> SecretBytes:
        """What was kept. Raises SealError when it is damaged or was kept for something else."""
        kind = stored[0] if stored else 0
        if kind == _BARE and use == "GOOGLE_SYMMETRIC_ENCRYPTION":
            return self.root_key.unwrap(owner, stored)
        if kind not in {_KEPT, _EXPORTABLE}:
            raise SealError(f"The stored material of {owner} is damaged.")
        return self.root_key.unwrap(_bound(kind, owner, use), stored[1:])

    @staticmethod
    def exportable(stored: bytes) -> bool:
        """Whether the material was kept as that of an exportable key; believe it after `material` opened."""
        return stored[:1] == bytes((_EXPORTABLE,))


def _bound(kind: int, owner: str, use: str) -> str:
    # Resource names contain no '#'.
    return f"{owner}#{use}#exportable" if kind == _EXPORTABLE else f"{owner}#{use}"
