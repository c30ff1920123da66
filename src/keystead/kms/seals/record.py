"""The stored form of a sealed root key: docs/formats.md, section 9.

SECURITY: kind and parameters are bound to the wrapped key as associated data, so that nobody who can write
the store can, say, lower the costs of a passphrase and have the root key sealed that way.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

from keystead.crypto.aad import encode_aad
from keystead.kms.seals import Parameters, Seal, SealError

FORMAT = 2
MAX_PARAMETERS = 4096
_LENGTH = struct.Struct(">H")
# The form before parameters were stored: the kind, a zero byte, the wrapped key. Only file seals have it.
_FIRST_FORM = b"file\0"
_FIRST_AAD = encode_aad("keystead/seal/file/v1")


@dataclass(frozen=True)
class SealedRootKey:
    """A root key as it is stored: which kind of seal wraps it, where that is found, and the wrapped key.

    `first_form` marks one that was stored before there were parameters.
    """

    kind: str
    parameters: Parameters
    wrapped: bytes = field(repr=False)
    first_form: bool = False

    @staticmethod
    def decode(stored: bytes) -> SealedRootKey:
        """What `encode` made. Raises SealError for anything else."""
        if stored.startswith(_FIRST_FORM):
            return SealedRootKey("file", {}, stored[len(_FIRST_FORM) :], first_form=True)
        try:
            return _decode(stored)
        except (ValueError, RecursionError):
            raise SealError(
                "The sealed root key in the store is damaged, or a newer Keystead wrote it. Restore the "
                "store from a backup, or start the newer version."
            ) from None

    def encode(self) -> bytes:
        """The bytes that the store keeps."""
        if self.first_form:
            return _FIRST_FORM + self.wrapped
        kind, parameters = self.kind.encode("ascii"), _canonical(self.parameters)
        lengths = bytes((len(kind),)), _LENGTH.pack(len(parameters))
        return b"".join((bytes((FORMAT,)), lengths[0], kind, lengths[1], parameters, self.wrapped))

    @property
    def aad(self) -> bytes:
        """What the wrapped key is bound to."""
        return _FIRST_AAD if self.first_form else bound_to(self.kind, self.parameters)


def bound_to(kind: str, parameters: Parameters) -> bytes:
    """The associated data of a root key that a seal of this kind and these parameters wraps."""
    return encode_aad("keystead/root-key/v2", kind, _canonical(parameters))


def seal_with(seal: Seal, root_key: Any) -> SealedRootKey:
    """The root key, wrapped by a seal. Raises SealError."""
    parameters = dict(seal.parameters)
    return SealedRootKey(seal.kind, parameters, seal.wrap(root_key, bound_to(seal.kind, parameters)))


def _canonical(parameters: Parameters) -> bytes:
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    if len(text) > MAX_PARAMETERS:
        raise SealError("The names and paths of the seal are too long. Choose shorter ones.")
    return text.encode("ascii")


def _decode(stored: bytes) -> SealedRootKey:
    if stored[:1] != bytes((FORMAT,)):
        raise ValueError("format")
    kind, rest = _cut(stored[2:], stored[1] if len(stored) > 1 else 0)
    if len(rest) < _LENGTH.size:
        raise ValueError("length")
    parameters, wrapped = _cut(rest[_LENGTH.size :], _LENGTH.unpack_from(rest)[0])
    if not kind.isalnum() or not wrapped or len(parameters) > MAX_PARAMETERS:
        raise ValueError("fields")
    values = json.loads(parameters.decode("ascii"))
    if not isinstance(values, dict) or any(type(value) not in {str, int} for value in values.values()):
        raise ValueError("parameters")
    record = SealedRootKey(kind.decode("ascii"), values, wrapped)
    # One spelling per record: what is bound is what was read.
    if record.encode() != stored:
        raise ValueError("spelling")
    return record


def _cut(data: bytes, length: int) -> tuple[bytes, bytes]:
    if not 0 < length <= len(data):
        raise ValueError("length")
    return data[:length], data[length:]
