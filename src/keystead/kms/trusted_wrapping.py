"""Trusted wrapping: key versions that leave and enter wrapped by a key with purpose AES_WRAPPING.

Cloud KMS offers it for protection level HSM_SINGLE_TENANT, whose keys belong to one customer; a deployment of
Keystead has one, so it is offered for its levels (docs/adr/0009-trusted-wrapping.md).

SECURITY: a version leaves only if it was made with `trusted_wrapping_enabled`, only under a key of its own
project, location and protection level, and only for a caller who may change the version and encrypt with that
key. Every export is recorded.
"""

from __future__ import annotations

from typing import Any

from keystead.api.call import Call
from keystead.api.errors import FailedPrecondition, Internal, bad_field
from keystead.api.method import LogKind, Need, method
from keystead.crypto.checksum import crc32c
from keystead.kms import lifecycle
from keystead.kms.algorithms import ALGORITHMS, Algorithm
from keystead.kms.backends import ImportFailedError, Made, NotExportableError
from keystead.kms.checks import require_purpose
from keystead.kms.importing import NEEDS, Importing, permission_to_import
from keystead.kms.material import Material
from keystead.kms.messages import (
    CryptoKeyVersion,
    ExportTrustedKeyWrappedCryptoKeyVersionRequest,
    ExportTrustedKeyWrappedCryptoKeyVersionResponse,
    ImportTrustedKeyWrappedCryptoKeyVersionRequest,
)
from keystead.kms.seals import SealError
from keystead.kms.service import KEY, KEY_NAME, KEYS, KMS, VERSION, VERSION_NAME, VERSIONS, key_of

_API = "google.cloud.kms.v1.KeyManagementService"
_KEY_OR_VERSION = (KEY_NAME, VERSION_NAME)


class TrustedWrapping:
    """Import and export of versions by a wrapping key. Where a request names a key instead of a version, its
    newest ENABLED version is meant: keys of this purpose have no primary version."""

    service = KMS

    def __init__(self, store: Any, material: Material, importing: Importing) -> None:
        self._store = store
        self._material = material
        self._importing = importing

    @method(
        f"{_API}/ImportTrustedKeyWrappedCryptoKeyVersion",
        http=f"POST /v1/{{parent={KEY}}}/cryptoKeyVersions:importTrustedKeyWrappedCryptoKeyVersion",
        body="*",
        permission=permission_to_import,
        on="parent",
        log=LogKind.ADMIN_WRITE,
        required=("importing_key", "wrapped_key", "algorithm"),
        redact=("wrapped_key",),
        also=[*NEEDS, Need("cloudkms.cryptoKeyVersions.useToDecrypt", "importing_key", _KEY_OR_VERSION)],
    )
    def import_version(
        self, call: Call, request: ImportTrustedKeyWrappedCryptoKeyVersionRequest
    ) -> CryptoKeyVersion:
        target = self._importing.target(call.tx, request)
        key = target.key
        level = key.version_template.protection_level
        importing = _wrapping_version(call.tx, "importing_key", request.importing_key, key.name, level)
        kept = ImportTrustedKeyWrappedCryptoKeyVersionRequest()
        kept.CopyFrom(request)
        kept.importing_key = importing.name
        return self._importing.announce(call, target, kept)

    @method(
        f"{_API}/ExportTrustedKeyWrappedCryptoKeyVersion",
        http=f"GET /v1/{{name={VERSION}}}:exportTrustedKeyWrappedCryptoKeyVersion",
        permission="cloudkms.cryptoKeyVersions.update",
        on="name",
        log=LogKind.ADMIN_WRITE,
        required=("wrapping_key",),
        redact=("wrapped_key",),
        own_transaction=True,
        also=[Need("cloudkms.cryptoKeyVersions.useToEncrypt", "wrapping_key", _KEY_OR_VERSION)],
    )
    def export_version(
        self, call: Call, request: ExportTrustedKeyWrappedCryptoKeyVersionRequest
    ) -> ExportTrustedKeyWrappedCryptoKeyVersionResponse:
        try:
            wrapped = self._wrapped(request.name, request.wrapping_key)
        except NotExportableError as error:
            raise FailedPrecondition(f"The request cannot be fulfilled. {error}") from None
        except SealError as error:
            raise Internal(f"{error} Restore the store from a backup.") from None
        response = ExportTrustedKeyWrappedCryptoKeyVersionResponse(wrapped_key=wrapped)
        response.wrapped_key_crc32c.value = crc32c(wrapped)
        return response

    def _wrapped(self, name: str, wrapping_key: str) -> bytes:
        """The key of a version, wrapped; a token does it outside of the transaction."""
        with self._store.read() as tx:
            version = VERSIONS.require(tx, name).message
            lifecycle.require_enabled(version)
            if not version.trusted_wrapping_enabled:
                raise FailedPrecondition(
                    f"The request cannot be fulfilled. Resource {name} has value false in field "
                    "crypto_key_version.trusted_wrapping_enabled."
                )
            level = version.protection_level
            wrapping = _wrapping_version(tx, "wrapping_key", wrapping_key, name, level)
            stored = tx.material.get(name)
            if stored is None:
                raise SealError(f"The material of {name} is missing.")
            wrapper: Any = self._material.open(tx, wrapping)
        wrapped: bytes = wrapper.wrap(name, ALGORITHMS[version.algorithm], stored)
        return wrapped


class ByTrustedKey:
    """Unwraps what an ImportTrustedKeyWrappedCryptoKeyVersionRequest holds; its key is a version by now."""

    def __init__(self, store: Any, material: Material) -> None:
        self._store = store
        self._material = material

    def unwrap(self, request: Any, version: Any, algorithm: Algorithm) -> Made:
        with self._store.read() as tx:
            importing = VERSIONS.find(tx, request.importing_key)
            if importing is None or importing.message.state != lifecycle.ENABLED:
                raise ImportFailedError(
                    f"CryptoKeyVersion {request.importing_key} was not enabled any more when the key "
                    "material was to be unwrapped. Enable it and import again."
                )
            wrapper: Any = self._material.open(tx, importing.message)
        made: Made = wrapper.unwrap(request.wrapped_key, version.name, algorithm)
        return made


def _wrapping_version(tx: Any, field: str, name: str, wrapped: str, level: int) -> Any:
    """The ENABLED version of an AES_WRAPPING key that `name`, a key or version, means; it must be of the
    project, location and protection level of what it wraps.

    Raises InvalidArgument, NotFound and FailedPrecondition.
    """
    if _location_of(name) != _location_of(wrapped):
        raise bad_field(field, f"It must be in {_location_of(wrapped)}, like the key that it wraps.")
    key = KEYS.require(tx, key_of(name)).message
    require_purpose(key, "AES_WRAPPING")
    version = VERSIONS.require(tx, name).message if name != key.name else _newest_enabled(tx, name)
    if version.protection_level != level:
        raise bad_field(field, "Its protection level must be that of the key that it wraps.")
    lifecycle.require_enabled(version)
    return version


def _newest_enabled(tx: Any, key: str) -> Any:
    for row in tx.resources.list(VERSIONS.kind, key, descending=True):
        version = VERSIONS.of(row).message
        if version.state == lifecycle.ENABLED:
            return version
    raise FailedPrecondition(f"CryptoKey {key} has no enabled version.")


def _location_of(name: str) -> str:
    return "/".join(name.split("/")[:4])
