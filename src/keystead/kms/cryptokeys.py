"""Keys: create, get, list, update, and which version is primary.

The stored message's `primary` holds the name of the primary version only; what is answered embeds that
version as it stands.
"""

from __future__ import annotations

from typing import Any

from keystead.api import masks, names
from keystead.api.call import Call
from keystead.api.errors import NotFound, Unimplemented, bad_field
from keystead.api.method import LogKind, Need, method
from keystead.kms import lifecycle
from keystead.kms.algorithms import ALGORITHMS, algorithm_of, require_fit
from keystead.kms.checks import require_purpose
from keystead.kms.deletion import check_not_retired
from keystead.kms.events import Change, KeyEvents
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CryptoKey,
    CryptoKeyVersion,
    GetCryptoKeyRequest,
    ListCryptoKeysRequest,
    ListCryptoKeysResponse,
    UpdateCryptoKeyPrimaryVersionRequest,
    UpdateCryptoKeyRequest,
)
from keystead.kms.service import KEY, KEYS, KMS, RING, RINGS, VERSIONS, version_name
from keystead.kms.versions import CryptoKeyVersions, without_attestation

_API = "google.cloud.kms.v1.KeyManagementService"
_MUTABLE = ("labels", "rotation_period", "next_rotation_time", "version_template.algorithm")
_PROTECTION_LEVEL = CryptoKeyVersion.DESCRIPTOR.fields_by_name["protection_level"].enum_type
_SOFTWARE = _PROTECTION_LEVEL.values_by_name["SOFTWARE"].number
_LEVELS = frozenset(_PROTECTION_LEVEL.values_by_number)
_ALGORITHM = CryptoKeyVersion.CryptoKeyVersionAlgorithm
_PURPOSE = CryptoKey.CryptoKeyPurpose
_ENCRYPT_DECRYPT = _PURPOSE.Value("ENCRYPT_DECRYPT")
_OUTPUT_ONLY = ("primary", "create_time")
_JUSTIFICATIONS = "key_access_justifications_policy"
_UNSUPPORTED = ("crypto_key_backend", _JUSTIFICATIONS)
_FULL = CryptoKeyVersion.CryptoKeyVersionView.Value("FULL")


def _template_permission(request: Any) -> str:
    """What keys of some algorithms need beside the right to create or change a key."""
    algorithm = ALGORITHMS.get(request.crypto_key.version_template.algorithm)
    return algorithm.extra_permission if algorithm is not None else ""


def _new_template_permission(request: Any) -> str:
    paths = request.update_mask.paths
    named = any(path.startswith(("version_template", "versionTemplate")) for path in paths)
    return _template_permission(request) if named else ""


class CryptoKeys:
    """The key methods of KeyManagementService."""

    service = KMS

    def __init__(self, versions: CryptoKeyVersions, events: KeyEvents) -> None:
        self._versions = versions
        self._events = events

    @method(
        f"{_API}/CreateCryptoKey",
        http=f"POST /v1/{{parent={RING}}}/cryptoKeys",
        body="crypto_key",
        permission="cloudkms.cryptoKeys.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        unsupported=[f"crypto_key.{field}" for field in _UNSUPPORTED],
        also=[Need(_template_permission, "parent")],
    )
    def create(self, call: Call, request: CreateCryptoKeyRequest) -> CryptoKey:
        names.require_id("crypto_key_id", request.crypto_key_id)
        RINGS.require(call.tx, request.parent)
        key = CryptoKey()
        key.CopyFrom(request.crypto_key)
        for field in _OUTPUT_ONLY:
            key.ClearField(field)
        key.name = f"{request.parent}/cryptoKeys/{request.crypto_key_id}"
        key.create_time.FromDatetime(call.now)
        check_new_key(key, call)
        check_not_retired(call.tx, key.name)
        self._versions.check_template(key)
        if request.skip_initial_version_creation:
            KEYS.insert(call.tx, key, parent=request.parent, due=_due(key))
            return key
        if key.import_only:
            raise bad_field("skip_initial_version_creation", "It must be true for a key that is import-only.")
        if key.purpose == _ENCRYPT_DECRYPT:
            key.primary.name = version_name(key.name, 1)
        KEYS.insert(call.tx, key, parent=request.parent, due=_due(key))
        version = self._versions.add(call.tx, key, call.now)
        if key.purpose == _ENCRYPT_DECRYPT:
            key.primary.CopyFrom(version)
            call.tx.after_commit(lambda: key.primary.CopyFrom(without_attestation(version)))
        return key

    @method(
        f"{_API}/GetCryptoKey",
        http=f"GET /v1/{{name={KEY}}}",
        permission="cloudkms.cryptoKeys.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get(self, call: Call, request: GetCryptoKeyRequest) -> CryptoKey:
        return with_primary(call.tx, KEYS.require(call.tx, request.name).message)

    @method(
        f"{_API}/ListCryptoKeys",
        http=f"GET /v1/{{parent={RING}}}/cryptoKeys",
        permission="cloudkms.cryptoKeys.list",
        on="parent",
        log=LogKind.ADMIN_READ,
    )
    def list(self, call: Call, request: ListCryptoKeysRequest) -> ListCryptoKeysResponse:
        RINGS.require(call.tx, request.parent)
        full = request.version_view == _FULL
        page = KEYS.page(
            call.tx,
            request,
            request.parent,
            complete_all=lambda tx, found: with_primaries(tx, [each.message for each in found], full=full),
        )
        return ListCryptoKeysResponse(
            crypto_keys=page.items, next_page_token=page.next_page_token, total_size=page.total or 0
        )

    @method(
        f"{_API}/UpdateCryptoKey",
        http=f"PATCH /v1/{{crypto_key.name={KEY}}}",
        body="crypto_key",
        permission="cloudkms.cryptoKeys.update",
        on="crypto_key.name",
        log=LogKind.ADMIN_WRITE,
        also=[Need(_new_template_permission, "crypto_key.name")],
    )
    def update(self, call: Call, request: UpdateCryptoKeyRequest) -> CryptoKey:
        masks.require(request.update_mask)
        require_served(request.update_mask)
        stored = KEYS.require(call.tx, request.crypto_key.name)
        key = stored.message
        before = CryptoKey()
        before.CopyFrom(key)
        for field in _OUTPUT_ONLY:  # a client that sends back what it read does not mean to change them
            request.crypto_key.ClearField(field)
        masks.apply(
            key, request.crypto_key, request.update_mask, mutable=_MUTABLE, immutable=immutable_fields()
        )
        check_schedule(key, call, before)
        lifecycle.check_labels(key.labels)
        check_algorithm(key)
        if key.version_template.algorithm != before.version_template.algorithm:
            self._versions.check_template(key)
        KEYS.update(call.tx, stored, due=_due(key))
        return with_primary(call.tx, key)

    @method(
        f"{_API}/UpdateCryptoKeyPrimaryVersion",
        http=f"POST /v1/{{name={KEY}}}:updatePrimaryVersion",
        body="*",
        permission="cloudkms.cryptoKeys.update",
        on="name",
        log=LogKind.ADMIN_WRITE,
        required=("crypto_key_version_id",),
    )
    def update_primary(self, call: Call, request: UpdateCryptoKeyPrimaryVersionRequest) -> CryptoKey:
        stored = KEYS.require(call.tx, request.name)
        require_purpose(stored.message, "ENCRYPT_DECRYPT")
        number = request.crypto_key_version_id
        if not (number.isascii() and number.isdigit() and len(number) <= 10):
            raise bad_field("crypto_key_version_id", "It must be the number of a version of this key.")
        version = VERSIONS.find(call.tx, version_name(request.name, int(number)))
        if version is None:
            raise NotFound(f"CryptoKeyVersion {version_name(request.name, int(number))} not found.")
        stored.message.primary.Clear()
        stored.message.primary.name = version.message.name
        KEYS.update(call.tx, stored, due=_due(stored.message))
        call.tx.after_commit(lambda: self._events.publish(request.name, Change.PRIMARY))
        return with_primary(call.tx, stored.message)


def with_primary(tx: Any, key: Any, *, full: bool = False) -> Any:
    """The key as it is answered: with its primary version embedded, in its real state."""
    return with_primaries(tx, [key], full=full)[0]


def with_primaries(tx: Any, keys: list[Any], *, full: bool = False) -> list[Any]:
    """`with_primary` for many keys, whose primary versions are read together."""
    having = [key for key in keys if key.HasField("primary")]
    versions = VERSIONS.require_many(tx, [key.primary.name for key in having])
    for key in having:
        version = versions[key.primary.name].message
        key.primary.CopyFrom(version if full else without_attestation(version))
    return keys


def require_served(mask: Any) -> None:
    """UNIMPLEMENTED for a mask that names what Cloud KMS could change and this server cannot."""
    for path in masks.normalize(mask, CryptoKey.DESCRIPTOR):
        if path.split(".", 1)[0] == _JUSTIFICATIONS:
            raise Unimplemented(f"The field crypto_key.{_JUSTIFICATIONS} is not supported by this server.")


def immutable_fields() -> list[str]:
    """Every field that an update mask may not name."""
    top = [field.name for field in CryptoKey.DESCRIPTOR.fields if field.name != "version_template"]
    return [name for name in top if name not in _MUTABLE] + ["version_template.protection_level"]


def check_new_key(key: Any, call: Call) -> None:
    """The rules for a new key; fills in the defaults."""
    if not key.purpose:
        raise bad_field("crypto_key.purpose", "The purpose of the key is required.")
    if key.purpose not in _PURPOSE.values():
        raise bad_field("crypto_key.purpose", f"{key.purpose} is not a purpose.")
    template = key.version_template
    template.protection_level = template.protection_level or _SOFTWARE
    if template.protection_level not in _LEVELS:
        raise bad_field(
            "crypto_key.version_template.protection_level",
            f"{template.protection_level} is not a protection level.",
        )
    if not template.algorithm:
        if key.purpose != _ENCRYPT_DECRYPT:
            purpose = _PURPOSE.Name(key.purpose)
            raise bad_field("crypto_key.version_template.algorithm", f"It is required for purpose {purpose}.")
        template.algorithm = _ALGORITHM.Value("GOOGLE_SYMMETRIC_ENCRYPTION")
    check_algorithm(key)
    lifecycle.check_labels(key.labels)
    lifecycle.check_destroy_duration(key)
    check_schedule(key, call)


def check_schedule(key: Any, call: Call, before: Any = None) -> None:
    """A rotation schedule is for keys that encrypt and decrypt only."""
    scheduled = key.HasField("rotation_period") or key.HasField("next_rotation_time")
    if scheduled and key.purpose != _ENCRYPT_DECRYPT:
        raise bad_field("crypto_key.rotation_period", "Only keys with purpose ENCRYPT_DECRYPT rotate.")
    if scheduled and key.import_only:
        raise bad_field("crypto_key.rotation_period", "A key that is import-only does not rotate.")
    lifecycle.check_rotation(key, call.now, before)


def check_algorithm(key: Any) -> None:
    """An algorithm must fit the purpose."""
    field = "crypto_key.version_template.algorithm"
    require_fit(algorithm_of(key.version_template.algorithm, field), key.purpose, field)


def _due(key: Any) -> int | None:
    return key.next_rotation_time.ToMicroseconds() if key.HasField("next_rotation_time") else None
