"""Keys as objects of a token: how one is named, stored and found.

SECURITY: the store keeps of a key only its object's id. The id begins with the deployment that made it and
the algorithm it was made for, and the object's label is the name of the version; a key is used only where all
of it fits. So a row that was copied to another version, or whose algorithm was changed, opens nothing.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any, Protocol

from pkcs11 import Attribute

from keystead.crypto.aad import encode_aad
from keystead.kms.algorithms import Algorithm
from keystead.kms.seals import SealError

FORMAT = 1
ID_SIZE = 16
_OWNER_SIZE = 4
_NUMBER_SIZE = 2
_CHECK_SIZE = 8
_STORED_SIZE = 1 + ID_SIZE + _CHECK_SIZE


@dataclass(frozen=True)
class ObjectRef:
    """A key in the token.

    id: the CKA_ID of its object or pair of objects: owner (4 bytes, `owner_of`) || number of the algorithm,
    0 for import jobs (2) || random (10). label: their CKA_LABEL, the name of the version or import job.
    """

    id: bytes
    label: str

    @staticmethod
    def new(owner: bytes, label: str, algorithm: Algorithm | None) -> ObjectRef:
        """The name of a new object; `algorithm` is None for the key of an import job."""
        start = owner + _number(algorithm)
        return ObjectRef(start + os.urandom(ID_SIZE - len(start)), label)

    @staticmethod
    def decode(label: str, stored: bytes) -> ObjectRef:
        """What `encode` gave for the same label. Raises SealError for anything else."""
        ref = ObjectRef(stored[1 : 1 + ID_SIZE], label)
        if len(stored) != _STORED_SIZE or stored != ref.encode():
            raise SealError(f"What is stored of {label} is damaged.")
        return ref

    def of(self, algorithm: Algorithm | None) -> ObjectRef:
        """The same. Raises SealError where it was made for another algorithm."""
        if not self.id[_OWNER_SIZE:].startswith(_number(algorithm)):
            raise SealError(f"What is stored of {self.label} is damaged: it is a key of another algorithm.")
        return self

    def encode(self) -> bytes:
        """What the store keeps: format (1) || id (16) || a checksum over id and label (8)."""
        check = hashlib.sha256(encode_aad("keystead/hsm/object/v1", self.id, self.label)).digest()
        return bytes((FORMAT,)) + self.id + check[:_CHECK_SIZE]

    @property
    def attributes(self) -> dict[Attribute, Any]:
        """Both names, for searches."""
        return {Attribute.ID: self.id, Attribute.LABEL: self.label}


def _number(algorithm: Algorithm | None) -> bytes:
    return (algorithm.number if algorithm else 0).to_bytes(_NUMBER_SIZE, "big")


def owner_of(deployment: str) -> bytes:
    """The beginning of the ids of a deployment's objects, by which it knows its own in a shared token."""
    return hashlib.sha256(encode_aad("keystead/hsm/owner/v1", deployment)).digest()[:_OWNER_SIZE]


class Searchable(Protocol):
    """What looks for objects (`session.Session`)."""

    def search(self, attributes: dict[Attribute, Any]) -> list[Any]: ...


def remove_leftovers(session: Searchable, owner: bytes, label: str) -> int:
    """Destroy what lies under a label, left there by an attempt that was cut short; how many objects it was.
    Other deployments' objects stay."""
    found = [
        each for each in session.search({Attribute.LABEL: label}) if each[Attribute.ID].startswith(owner)
    ]
    for each in found:
        each.destroy()
    return len(found)
