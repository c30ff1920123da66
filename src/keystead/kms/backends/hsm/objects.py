"""Keys as objects of a token: how one is named, stored and found.

SECURITY: the store keeps of a key only its object's id. The label of the object is the name of the version,
and a key is used only where both fit: a row that was copied to another version opens nothing.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from pkcs11 import Attribute

from keystead.crypto.aad import encode_aad
from keystead.kms.seals import SealError

FORMAT = 1
ID_SIZE = 16
_OWNER_SIZE = 4
_CHECK_SIZE = 8
_STORED_SIZE = 1 + ID_SIZE + _CHECK_SIZE


@dataclass(frozen=True)
class ObjectRef:
    """A key in the token: the CKA_ID of its object or pair of objects, and their CKA_LABEL, which is the name
    of its version or import job."""

    id: bytes
    label: str

    @staticmethod
    def new(owner: bytes, label: str) -> ObjectRef:
        """The name of a new object: `owner`, then random bytes."""
        return ObjectRef(owner + os.urandom(ID_SIZE - _OWNER_SIZE), label)

    @staticmethod
    def decode(label: str, stored: bytes) -> ObjectRef:
        """What `encode` gave for the same label. Raises SealError for anything else."""
        ref = ObjectRef(stored[1 : 1 + ID_SIZE], label)
        if len(stored) != _STORED_SIZE or stored != ref.encode():
            raise SealError(f"What is stored of {label} is damaged.")
        return ref

    def encode(self) -> bytes:
        """What the store keeps: format (1) || id (16) || a checksum over id and label (8)."""
        check = hashlib.sha256(encode_aad("keystead/hsm/object/v1", self.id, self.label)).digest()
        return bytes((FORMAT,)) + self.id + check[:_CHECK_SIZE]

    @property
    def attributes(self) -> dict[Attribute, Any]:
        """Both names, for searches."""
        return {Attribute.ID: self.id, Attribute.LABEL: self.label}


def owner_of(deployment: str) -> bytes:
    """The beginning of the ids of a deployment's objects, by which it knows its own in a shared token."""
    return hashlib.sha256(encode_aad("keystead/hsm/owner/v1", deployment)).digest()[:_OWNER_SIZE]
