"""Key versions: create, get, list, enable, disable, schedule destruction, restore."""

from __future__ import annotations

import datetime as dt
from typing import Any

from keystead.api import masks
from keystead.api.call import Call
from keystead.api.errors import FailedPrecondition, bad_field
from keystead.api.method import LogKind, method
from keystead.kms import lifecycle
from keystead.kms.algorithms import ALGORITHMS, Family, algorithm_of
from keystead.kms.events import Change, KeyEvents
from keystead.kms.material import LEVELS, Material
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
from keystead.kms.pending import PendingKeys
from keystead.kms.service import (
    KEY,
    KEYS,
    KMS,
    VERSION,
    VERSIONS,
    key_of,
    version_name,
    version_number,
    version_sort,
)
from keystead.store.collection import Stored

_API = "google.cloud.kms.v1.KeyManagementService"
_FULL = CryptoKeyVersion.CryptoKeyVersionView.Value("FULL")
_ENCRYPT_DECRYPT = CryptoKey.CryptoKeyPurpose.Value("ENCRYPT_DECRYPT")

_EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)


def micros(moment: dt.datetime) -> int:
    """Microseconds since the epoch, as due times are stored."""
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


class CryptoKeyVersions:
    """The version methods of KeyManagementService."""

    service = KMS

    def __init__(self, material: Material, pending: PendingKeys, events: KeyEvents) -> None:
        self._material = material
        self._pending = pending
        self._events = events

    def check_template(self, key: Any) -> None:
        """Raises unless this server can make versions of a key as its template asks: Unimplemented,
        InvalidArgument, or Unavailable where the token cannot be asked."""
        template = key.version_template
        algorithm = algorithm_of(template.algorithm, "crypto_key.version_template.algorithm")
        self._material.require(template.protection_level, algorithm)

    def add(self, tx: Any, key: Any, now: dt.datetime, *, exportable: bool = False) -> Any:
        """The next version of a key, by its template. Ids count from 1 and are never used again.

        A secret software key is made in this transaction; a key in a token is made when it is committed and
        before the call is answered; a key pair later, and its version is PENDING_GENERATION until then.
        """
        self._material.require_open()
        self.check_template(key)
        version = self.next_version(tx, key, key.version_template.algorithm, exportable=exportable)
        algorithm = algorithm_of(version.algorithm, "algorithm")
        backend = self._material.backend(version.protection_level)
        due = None
        if algorithm.symmetric and not backend.blocking:
            lifecycle.created(version, now)
            made = backend.generate(version.name, algorithm, exportable=exportable)
            self._material.keep(tx, version.name, made)
        else:
            lifecycle.announced(version, now)
            due = micros(now)
            if algorithm.symmetric:
                self._pending.at_once(tx, version.name, version)
            else:
                self._pending.later(tx, version.name)
        self.insert(tx, version, due=due)
        return version

    def insert(self, tx: Any, version: Any, *, due: int | None, sealed: bytes | None = None) -> None:
        """Store a new version."""
        sort = version_sort(version_number(version.name))
        VERSIONS.insert(tx, version, parent=key_of(version.name), sort=sort, due=due, sealed=sealed)

    def next_version(self, tx: Any, key: Any, algorithm: int, *, exportable: bool) -> Any:
        """The message of the next version of a key, not yet stored."""
        if exportable:
            require_wrappable(key)
        number = tx.resources.next_number(VERSIONS.kind, key.name)
        return CryptoKeyVersion(
            name=version_name(key.name, number),
            protection_level=key.version_template.protection_level,
            algorithm=algorithm,
            trusted_wrapping_enabled=exportable,
            hsm_trusted=is_hsm_trusted(key.version_template.protection_level, algorithm),
        )

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
        asked = request.crypto_key_version
        if asked.state not in {0, lifecycle.ENABLED}:
            raise bad_field("crypto_key_version.state", "A version is created ENABLED.")
        require_generated(key)
        return self.add(call.tx, key, call.now, exportable=asked.trusted_wrapping_enabled)

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
        full = request.view == _FULL
        page = VERSIONS.page(
            call.tx,
            request,
            request.parent,
            complete=lambda _, stored: stored.message if full else without_attestation(stored.message),
        )
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
        lifecycle.restore(stored.message, call.now)
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


def without_attestation(version: Any) -> Any:
    """A version as lists and `primary` show it: only GetCryptoKeyVersion and the FULL view tell more."""
    version.ClearField("attestation")
    return version


def require_wrappable(key: Any) -> None:
    """INVALID_ARGUMENT for `trusted_wrapping_enabled` on a version of a key that cannot have it."""
    if key.purpose == _ENCRYPT_DECRYPT:
        raise bad_field(
            "trusted_wrapping_enabled", "Keys with purpose ENCRYPT_DECRYPT cannot be wrapped by others."
        )


def is_hsm_trusted(level: int, algorithm: int) -> bool:
    """What `hsm_trusted` says of a version: that it is a wrapping key in a token."""
    return level == LEVELS["HSM"] and ALGORITHMS[algorithm].family is Family.AES_KWP


def require_generated(key: Any) -> None:
    """FAILED_PRECONDITION for a key whose versions can only be imported."""
    if key.import_only:
        raise FailedPrecondition(
            f"CryptoKey {key.name} is import-only: its versions are made with ImportCryptoKeyVersion."
        )
