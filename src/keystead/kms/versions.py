"""Key versions: create, get, list, enable, disable, schedule destruction, restore."""

from __future__ import annotations

import datetime as dt
from typing import Any

from keystead.api import masks
from keystead.api.call import Call
from keystead.api.errors import FailedPrecondition, Unimplemented, bad_field
from keystead.api.method import LogKind, method
from keystead.kms import lifecycle
from keystead.kms.events import Change, KeyEvents
from keystead.kms.material import Material
from keystead.kms.messages import (
    CreateCryptoKeyVersionRequest,
    CryptoKey,
    CryptoKeyVersion,
    DestroyCryptoKeyVersionRequest,
    GetCryptoKeyVersionRequest,
    ListCryptoKeyVersionsRequest,
    ListCryptoKeyVersionsResponse,
    RestoreCryptoKeyVersionRequest,
    UpdateCryptoKeyVersionRequest,
)
from keystead.kms.service import KEY, KEYS, KMS, VERSION, VERSIONS, key_of, version_name, version_sort
from keystead.store.collection import Stored

_API = "google.cloud.kms.v1.KeyManagementService"
_SYMMETRIC = CryptoKeyVersion.CryptoKeyVersionAlgorithm.Value("GOOGLE_SYMMETRIC_ENCRYPTION")
_ENCRYPT_DECRYPT = CryptoKey.CryptoKeyPurpose.Value("ENCRYPT_DECRYPT")

_EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)


def micros(moment: dt.datetime) -> int:
    """Microseconds since the epoch, as due times are stored."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


class CryptoKeyVersions:
    """The version methods of KeyManagementService."""

    service = KMS

    def __init__(self, material: Material, events: KeyEvents) -> None:
        self._material = material
        self._events = events

    def add(self, tx: Any, key: Any, now: dt.datetime) -> Any:
        """The next version of a key, with its material. Ids count from 1 and are never used again."""
        require_software_symmetric(key)
        number = tx.resources.count(VERSIONS.kind, key.name) + 1
        version = CryptoKeyVersion(
            name=version_name(key.name, number),
            protection_level=key.version_template.protection_level,
            algorithm=key.version_template.algorithm,
        )
        lifecycle.created(version, now)
        self._material.generate(tx, version.name)
        VERSIONS.insert(tx, version, parent=key.name, sort=version_sort(number))
        return version

    @method(
        f"{_API}/CreateCryptoKeyVersion",
        http=f"POST /v1/{{parent={KEY}}}/cryptoKeyVersions",
        body="crypto_key_version",
        permission="cloudkms.cryptoKeyVersions.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        unsupported=("crypto_key_version.external_protection_level_options",),
    )
    def create(self, call: Call, request: CreateCryptoKeyVersionRequest) -> CryptoKeyVersion:
        key = KEYS.require(call.tx, request.parent).message
        if request.crypto_key_version.state not in {0, lifecycle.ENABLED}:
            raise bad_field("crypto_key_version.state", "A version is created ENABLED.")
        return self.add(call.tx, key, call.now)

    @method(
        f"{_API}/GetCryptoKeyVersion",
        http=f"GET /v1/{{name={VERSION}}}",
        permission="cloudkms.cryptoKeyVersions.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get(self, call: Call, request: GetCryptoKeyVersionRequest) -> CryptoKeyVersion:
        return VERSIONS.require(call.tx, request.name).message

    @method(
        f"{_API}/ListCryptoKeyVersions",
        http=f"GET /v1/{{parent={KEY}}}/cryptoKeyVersions",
        permission="cloudkms.cryptoKeyVersions.list",
        on="parent",
        log=LogKind.ADMIN_READ,
    )
    def list(self, call: Call, request: ListCryptoKeyVersionsRequest) -> ListCryptoKeyVersionsResponse:
        KEYS.require(call.tx, request.parent)
        page = VERSIONS.page(call.tx, request, request.parent)
        return ListCryptoKeyVersionsResponse(
            crypto_key_versions=page.items, next_page_token=page.next_page_token, total_size=page.total or 0
        )

    @method(
        f"{_API}/UpdateCryptoKeyVersion",
        http=f"PATCH /v1/{{crypto_key_version.name={VERSION}}}",
        body="crypto_key_version",
        permission="cloudkms.cryptoKeyVersions.update",
        on="crypto_key_version.name",
        log=LogKind.ADMIN_WRITE,
    )
    def update(self, call: Call, request: UpdateCryptoKeyVersionRequest) -> CryptoKeyVersion:
        masks.require(request.update_mask)
        if masks.normalize(request.update_mask, CryptoKeyVersion.DESCRIPTOR) != ["state"]:
            raise bad_field("update_mask", "Only the field 'state' of a CryptoKeyVersion can be updated.")
        stored = VERSIONS.require(call.tx, request.crypto_key_version.name)
        lifecycle.enable_or_disable(stored.message, request.crypto_key_version.state)
        return self._changed(call, stored)

    @method(
        f"{_API}/DestroyCryptoKeyVersion",
        http=f"POST /v1/{{name={VERSION}}}:destroy",
        body="*",
        permission="cloudkms.cryptoKeyVersions.destroy",
        on="name",
        log=LogKind.ADMIN_WRITE,
    )
    def destroy(self, call: Call, request: DestroyCryptoKeyVersionRequest) -> CryptoKeyVersion:
        stored = VERSIONS.require(call.tx, request.name)
        key = KEYS.require(call.tx, key_of(request.name)).message
        lifecycle.schedule_destruction(stored.message, key, call.now)
        return self._changed(call, stored)

    @method(
        f"{_API}/RestoreCryptoKeyVersion",
        http=f"POST /v1/{{name={VERSION}}}:restore",
        body="*",
        permission="cloudkms.cryptoKeyVersions.restore",
        on="name",
        log=LogKind.ADMIN_WRITE,
    )
    def restore(self, call: Call, request: RestoreCryptoKeyVersionRequest) -> CryptoKeyVersion:
        stored = VERSIONS.require(call.tx, request.name)
        lifecycle.restore(stored.message)
        return self._changed(call, stored)

    def _changed(self, call: Call, stored: Stored) -> Any:
        version = stored.message
        due = None
        if version.state == lifecycle.DESTROY_SCHEDULED:
            due = version.destroy_time.ToMicroseconds()
        VERSIONS.update(call.tx, stored, due=due)
        key = key_of(version.name)
        call.tx.after_commit(lambda: self._events.publish(key, Change.VERSION_STATE))
        return version


def require_software_symmetric(key: Any) -> None:
    """What this server can generate; anything else says so by its name."""
    require_software(key)
    template = key.version_template
    if key.purpose != _ENCRYPT_DECRYPT or template.algorithm != _SYMMETRIC:
        name = CryptoKeyVersion.CryptoKeyVersionAlgorithm.Name(template.algorithm)
        raise Unimplemented(f"Keys of algorithm {name} are not supported by this server.")


def require_software(key: Any) -> None:
    """UNIMPLEMENTED for a key that is to live in a token or in another key manager."""
    template = key.version_template
    level = CryptoKeyVersion.DESCRIPTOR.fields_by_name["protection_level"].enum_type
    if template.protection_level != level.values_by_name["SOFTWARE"].number:
        name = level.values_by_number[template.protection_level].name
        raise Unimplemented(f"Keys of protection level {name} are not supported by this server.")


def require_purpose(key: Any) -> None:
    """FAILED_PRECONDITION unless the key is for symmetric encryption."""
    if key.purpose != _ENCRYPT_DECRYPT:
        purpose = CryptoKey.CryptoKeyPurpose.Name(key.purpose)
        raise FailedPrecondition(
            f"The request cannot be fulfilled. Resource {key.name} has value {purpose} in field "
            "crypto_key.purpose."
        )
