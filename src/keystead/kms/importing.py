"""Versions that get their key from outside: what every way of importing has in common.

An import is announced by a version in PENDING_IMPORT that keeps the request in its row. Once that is
committed the material is unwrapped into the back end of the version, and the outcome is committed. What a
crash leaves in between is unwrapped again.

SECURITY: key material is kept here only as it came: wrapped. Material for a version that held a key before
must be that key, by its fingerprint; other material is taken out of the back end again and the import fails.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from keystead.api.call import Call
from keystead.api.errors import ApiError, bad_field
from keystead.api.method import Method, Need
from keystead.kms import lifecycle
from keystead.kms.algorithms import ALGORITHMS, Algorithm, algorithm_of, require_fit
from keystead.kms.backends import ImportFailedError, Made
from keystead.kms.checks import check_size
from keystead.kms.events import KeyEvents
from keystead.kms.material import Material
from keystead.kms.messages import (
    ImportCryptoKeyVersionRequest,
    ImportTrustedKeyWrappedCryptoKeyVersionRequest,
)
from keystead.kms.pending import PendingKeys, tell_of
from keystead.kms.seals import SealError
from keystead.kms.service import KEYS, VERSION_NAME, VERSIONS, key_of
from keystead.kms.versions import CryptoKeyVersions, is_hsm_trusted, micros, require_wrappable
from keystead.store.collection import Stored

log = logging.getLogger(__name__)

MAX_WRAPPED = 64 * 1024

# Reasons as Cloud KMS words them (cloud.google.com/kms/docs/import-keys-troubleshooting), and one of ours.
_MALFORMED = "An argument to the import operation was malformed."
_OTHER_MATERIAL = (
    "The key material is not the material that this CryptoKeyVersion held before. Import identical material."
)

_FORMAT = 1
_FINGERPRINT = 32
_DAMAGED = "The record of an import is damaged."
_REQUESTS: dict[int, Any] = {
    1: ImportCryptoKeyVersionRequest,
    2: ImportTrustedKeyWrappedCryptoKeyVersionRequest,
}
_NUMBERS: dict[str, int] = {kind.DESCRIPTOR.name: number for number, kind in _REQUESTS.items()}


@dataclass(frozen=True)
class ImportRecord:
    """What the row of an imported version keeps of its imports, beside its message (docs/formats.md).

    fingerprint: of the key that it holds or held; empty if it never held one. request: the request whose
    material is to be unwrapped; None when nothing is pending.
    """

    fingerprint: bytes = b""
    request: Any = None

    def encode(self) -> bytes:
        head = bytes((_FORMAT, len(self.fingerprint))) + self.fingerprint
        if self.request is None:
            return head + b"\0"
        body: bytes = self.request.SerializeToString()
        return head + bytes((_NUMBERS[self.request.DESCRIPTOR.name],)) + body

    @staticmethod
    def decode(stored: bytes | None) -> ImportRecord:
        """What `encode` gave; an empty record for None. Raises SealError for anything else."""
        if stored is None:
            return ImportRecord()
        end = 2 + stored[1] if len(stored) > 2 else 0
        if stored[:1] != bytes((_FORMAT,)) or end not in {2, 2 + _FINGERPRINT} or len(stored) <= end:
            raise SealError(_DAMAGED)
        fingerprint, number, rest = stored[2:end], stored[end], stored[end + 1 :]
        if number not in _REQUESTS:
            if number or rest:
                raise SealError(_DAMAGED)
            return ImportRecord(fingerprint)
        try:
            return ImportRecord(fingerprint, _REQUESTS[number].FromString(rest))
        except DecodeError:
            raise SealError(_DAMAGED) from None


def permission_to_import(method: Method, request: Any) -> str:
    """What an import needs on the key: nothing where it names an existing version, see `NEEDS`."""
    del method
    return "" if request.crypto_key_version else "cloudkms.cryptoKeyVersions.create"


def _extra_permission(request: Any) -> str:
    algorithm = ALGORITHMS.get(request.algorithm)
    return algorithm.extra_permission if algorithm is not None else ""


NEEDS = (
    Need("cloudkms.cryptoKeyVersions.update", "crypto_key_version", (VERSION_NAME,)),
    Need(_extra_permission, "parent"),
)
"""What every import needs besides."""


@dataclass(frozen=True)
class Target:
    """Where an import goes: the key, and the version that is imported into again; None for a new one."""

    key: Any
    again: Stored | None


class Importing:
    """Announces imports."""

    def __init__(self, material: Material, versions: CryptoKeyVersions, pending: PendingKeys) -> None:
        self._material = material
        self._versions = versions
        self._pending = pending

    def target(self, tx: Any, request: Any) -> Target:
        """Where a request imports to.

        Raises InvalidArgument, NotFound, and where the back end of the key has no such keys Unimplemented or
        Unavailable.
        """
        version = request.crypto_key_version
        if version and key_of(version) != request.parent:  # what was authorized is the version
            raise bad_field("crypto_key_version", f"It is not a version of {request.parent}.")
        check_size("wrapped_key", request.wrapped_key, MAX_WRAPPED)
        key = KEYS.require(tx, request.parent).message
        again = VERSIONS.require(tx, version) if version else None
        algorithm = algorithm_of(request.algorithm, "algorithm")
        require_fit(algorithm, key.purpose, "algorithm")
        self._material.require(key.version_template.protection_level, algorithm)
        return Target(key, again)

    def announce(
        self, call: Call, target: Target, request: Any, *, job: str = "", exportable: bool = False
    ) -> Any:
        """The version that `request` imports, PENDING_IMPORT; the rest is done once that is committed.
        `request` is kept as it is; `job` is its import job, if it has one."""
        if target.again is not None:
            return self._again(call, target.key, target.again, request, job=job, exportable=exportable)
        version = self._versions.next_version(call.tx, target.key, request.algorithm, exportable=exportable)
        lifecycle.import_announced(version, call.now, job)
        record = ImportRecord(request=request)
        self._versions.insert(call.tx, version, due=micros(call.now), sealed=record.encode())
        self._pending.later(call.tx, version.name)
        return version

    def _again(
        self, call: Call, key: Any, stored: Stored, request: Any, *, job: str, exportable: bool
    ) -> Any:
        version = stored.message
        lifecycle.check_reimport(version, request.algorithm, by_job=bool(job))
        if not version.HasField("import_time"):  # it never held a key: all about it is as asked now
            if exportable:
                require_wrappable(key)
            version.algorithm = request.algorithm
            version.hsm_trusted = is_hsm_trusted(version.protection_level, version.algorithm)
            version.trusted_wrapping_enabled = exportable
        elif exportable and not version.trusted_wrapping_enabled:
            raise bad_field("trusted_wrapping_enabled", f"It is immutable and not set on {version.name}.")
        lifecycle.import_announced(version, call.now, job)
        record = ImportRecord(ImportRecord.decode(stored.row.sealed).fingerprint, request)
        VERSIONS.update(call.tx, stored, due=micros(call.now), sealed=record.encode())
        self._pending.later(call.tx, version.name)
        return version


class Way(Protocol):
    """How one kind of import request is unwrapped."""

    def unwrap(self, request: Any, version: Any, algorithm: Algorithm) -> Made:
        """The key in the request, in the back end of the version. Raises ImportFailedError, SealError where
        what should open it is damaged, ApiError where it cannot be done now."""


class PendingImports:
    """Versions in PENDING_IMPORT. `ways` are by the name of the request message."""

    def __init__(self, material: Material, events: KeyEvents, ways: Mapping[str, Way]) -> None:
        self._material = material
        self._events = events
        self._ways = dict(ways)

    def make(self, stored: Stored) -> Made:
        version = stored.message
        record = ImportRecord.decode(stored.row.sealed)
        made = self._unwrapped(record.request, version)
        if record.fingerprint and made.fingerprint != record.fingerprint:
            self._material.backend(version.protection_level).remove(version.name, made.stored)
            raise ImportFailedError(_OTHER_MATERIAL)
        return made

    def record(self, tx: Any, stored: Stored, made: Made | None, failure: str, now: dt.datetime) -> None:
        before = ImportRecord.decode(stored.row.sealed)
        kept = ImportRecord(made.fingerprint if made is not None else before.fingerprint)
        lifecycle.finished(stored.message, now, failure)
        VERSIONS.update(tx, stored, due=None, sealed=kept.encode())
        tell_of(tx, self._events, stored.message.name)

    def _unwrapped(self, request: Any, version: Any) -> Made:
        """As `Way.unwrap`, but everything that coming back to it would not change is an ImportFailedError."""
        way = self._ways[request.DESCRIPTOR.name]
        try:
            return way.unwrap(request, version, ALGORITHMS[version.algorithm])
        except (ImportFailedError, ApiError):
            raise
        except SealError as error:
            log.error("an import into %s failed: %s", version.name, error)  # noqa: TRY400
            raise ImportFailedError("The key that unwraps the key material cannot be opened.") from None
        except Exception as error:  # what came in must not keep the version pending for ever
            log.error("an import into %s failed: %s", version.name, type(error).__name__)  # noqa: TRY400
            raise ImportFailedError(_MALFORMED) from None
