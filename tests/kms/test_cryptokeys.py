"""Keys: what creating, reading, listing and updating them promises."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import pytest

from keystead.api.clock import moment
from keystead.api.errors import (
    AlreadyExists,
    ApiError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
)
from keystead.kms.cryptokeys import check_algorithm
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CreateCryptoKeyVersionRequest,
    CryptoKey,
    CryptoKeyVersion,
    GetCryptoKeyRequest,
    GetCryptoKeyVersionRequest,
    ListCryptoKeysRequest,
    ListCryptoKeyVersionsRequest,
    UpdateCryptoKeyPrimaryVersionRequest,
    UpdateCryptoKeyRequest,
)
from tests.platform import LOCATION, Platform

RING = f"{LOCATION}/keyRings/ring"
KEY = f"{RING}/cryptoKeys/key"
DAY = 86_400
SYMMETRIC = CryptoKeyVersion.CryptoKeyVersionAlgorithm.Value("GOOGLE_SYMMETRIC_ENCRYPTION")


def create(platform: Platform, key_id: str = "key", *, skip: bool = False, **fields: Any) -> Any:
    request = CreateCryptoKeyRequest(
        parent=RING,
        crypto_key_id=key_id,
        crypto_key={"purpose": "ENCRYPT_DECRYPT", **fields},
        skip_initial_version_creation=skip,
    )
    return platform.call("CreateCryptoKey", request)


def get(platform: Platform) -> Any:
    return platform.call("GetCryptoKey", GetCryptoKeyRequest(name=KEY))


def update(platform: Platform, mask: str, **fields: Any) -> Any:
    request = UpdateCryptoKeyRequest(
        crypto_key={"name": KEY, **fields}, update_mask={"paths": mask.split(",") if mask else []}
    )
    return platform.call("UpdateCryptoKey", request)


def version_numbers(platform: Platform) -> list[str]:
    listed = platform.call("ListCryptoKeyVersions", ListCryptoKeyVersionsRequest(parent=KEY))
    return [version.name.rsplit("/", 1)[1] for version in listed.crypto_key_versions]


@pytest.fixture(autouse=True)
def ring(platform: Platform) -> None:
    """Every test here starts with an empty key ring."""
    platform.ring()


def test_a_new_key_has_an_enabled_first_version_and_the_defaults(platform: Platform) -> None:
    """Version 1 is primary and ENABLED; SOFTWARE, GOOGLE_SYMMETRIC_ENCRYPTION and 30 days are filled in."""
    key = create(platform)
    assert key.name == KEY
    assert moment(key.create_time) == platform.clock.now()
    assert key.primary.name == f"{KEY}/cryptoKeyVersions/1"
    assert CryptoKeyVersion.CryptoKeyVersionState.Name(key.primary.state) == "ENABLED"
    assert moment(key.primary.generate_time) == platform.clock.now()
    assert key.version_template.algorithm == key.primary.algorithm == SYMMETRIC
    assert key.version_template.protection_level == key.primary.protection_level == 1
    assert key.destroy_scheduled_duration.seconds == 30 * DAY
    assert get(platform) == key


def test_output_only_fields_of_a_new_key_are_ignored(platform: Platform) -> None:
    """A client cannot choose name, primary or time of creation."""
    key = create(
        platform,
        name="projects/x",
        primary={"name": "nonsense", "state": "DESTROYED"},
        create_time={"seconds": 5},
    )
    assert (key.name, key.primary.name) == (KEY, f"{KEY}/cryptoKeyVersions/1")
    assert moment(key.create_time) == platform.clock.now()


def test_a_second_key_of_that_name_is_refused_and_changes_nothing(platform: Platform) -> None:
    """The refusal is ALREADY_EXISTS in the service's words; the first key keeps its one version."""
    before = create(platform)
    with pytest.raises(AlreadyExists) as refused:
        create(platform, labels={"a": "b"})
    assert refused.value.message == f"CryptoKey {KEY} already exists."
    assert get(platform) == before
    assert version_numbers(platform) == ["1"]


def test_a_key_needs_its_ring(platform: Platform) -> None:
    """Creating and listing under a ring that is not there is NOT_FOUND, and names the ring."""
    missing = f"{LOCATION}/keyRings/none"
    for rpc, request in (
        (
            "CreateCryptoKey",
            CreateCryptoKeyRequest(
                parent=missing, crypto_key_id="key", crypto_key={"purpose": "ENCRYPT_DECRYPT"}
            ),
        ),
        ("ListCryptoKeys", ListCryptoKeysRequest(parent=missing)),
    ):
        with pytest.raises(NotFound) as refused:
            platform.call(rpc, request)
        assert refused.value.message == f"KeyRing {missing} not found."


@pytest.mark.parametrize("key_id", ["", "a b", "x" * 64, "a.b", "é"])
def test_key_ids_have_a_shape(platform: Platform, key_id: str) -> None:
    """An id is 1 to 63 letters, digits, hyphens and underscores."""
    with pytest.raises(InvalidArgument):
        create(platform, key_id)


def test_a_key_without_first_version_has_no_primary_until_it_is_given_one(platform: Platform) -> None:
    """With skip_initial_version_creation Encrypt is refused until a version is made and made primary."""
    key = create(platform, skip=True)
    assert not key.HasField("primary")
    assert version_numbers(platform) == []
    with pytest.raises(FailedPrecondition) as refused:
        platform.encrypt(KEY, b"x")
    assert refused.value.message == f"CryptoKey {KEY} has no primary version."
    platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
    assert not get(platform).HasField("primary")
    request = UpdateCryptoKeyPrimaryVersionRequest(name=KEY, crypto_key_version_id="1")
    assert platform.call("UpdateCryptoKeyPrimaryVersion", request).primary.name.endswith("/1")
    assert platform.decrypt(KEY, platform.encrypt(KEY, b"x")) == b"x"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"purpose": 0}, InvalidArgument),
        ({"purpose": 77}, InvalidArgument),
        ({"version_template": {"algorithm": 777}}, InvalidArgument),
        ({"version_template": {"protection_level": 77}}, InvalidArgument),
        ({"version_template": {"algorithm": "RSA_SIGN_PSS_2048_SHA256"}}, InvalidArgument),
        ({"purpose": "ASYMMETRIC_SIGN"}, InvalidArgument),
        (
            {"purpose": "MAC", "version_template": {"algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}},
            InvalidArgument,
        ),
        ({"labels": {"Not": "ok"}}, InvalidArgument),
        ({"rotation_period": {"seconds": DAY - 1}}, InvalidArgument),
        ({"next_rotation_time": {"seconds": 1}}, InvalidArgument),
        ({"destroy_scheduled_duration": {"seconds": DAY - 1}}, InvalidArgument),
        (
            {
                "purpose": "MAC",
                "version_template": {"algorithm": "HMAC_SHA256"},
                "rotation_period": {"seconds": DAY},
            },
            InvalidArgument,
        ),
        (
            {"purpose": "ASYMMETRIC_SIGN", "version_template": {"algorithm": "EC_SIGN_SECP256K1_SHA256"}},
            InvalidArgument,
        ),
        (
            {"purpose": "ASYMMETRIC_SIGN", "version_template": {"algorithm": "PQ_SIGN_SLH_DSA_SHA2_128S"}},
            Unimplemented,
        ),
        ({"version_template": {"protection_level": "HSM"}}, Unimplemented),
        ({"version_template": {"protection_level": "EXTERNAL"}}, Unimplemented),
        ({"import_only": True}, InvalidArgument),
        ({"destroy_scheduled_duration": {}}, InvalidArgument),
        ({"crypto_key_backend": "projects/p/x"}, Unimplemented),
        ({"key_access_justifications_policy": {}}, Unimplemented),
    ],
)
def test_what_cannot_be_a_key_is_refused_and_leaves_nothing(
    platform: Platform, fields: dict[str, Any], kind: type[ApiError]
) -> None:
    """A wrong field is INVALID_ARGUMENT, one that is not served UNIMPLEMENTED; no key is made."""
    with pytest.raises(kind):
        create(platform, **fields)
    with pytest.raises(NotFound):
        get(platform)
    with platform.store.read() as tx:
        assert tx.material.list(KEY) == []


def test_every_algorithm_of_the_api_fits_exactly_one_purpose() -> None:
    """The table of purposes and algorithms leaves none of the API's out and none in doubt."""
    fits: dict[str, list[str]] = {}
    for purpose, algorithm in itertools.product(
        CryptoKey.CryptoKeyPurpose.values(), CryptoKeyVersion.CryptoKeyVersionAlgorithm.values()
    ):
        if not purpose or not algorithm:
            continue
        key = CryptoKey(purpose=purpose, version_template={"algorithm": algorithm})
        name = CryptoKeyVersion.CryptoKeyVersionAlgorithm.Name(algorithm)
        fits.setdefault(name, [])
        try:
            check_algorithm(key)
        except InvalidArgument:
            continue
        fits[name].append(CryptoKey.CryptoKeyPurpose.Name(purpose))
    assert {name: found for name, found in fits.items() if len(found) != 1} == {}
    assert {found[0] for found in fits.values()} == set(CryptoKey.CryptoKeyPurpose.keys()[1:])


def test_a_key_of_another_purpose_does_not_encrypt(platform: Platform) -> None:
    """Encrypt, Decrypt and making a version primary are FAILED_PRECONDITION for a signing key."""
    create(
        platform,
        skip=True,
        purpose="ASYMMETRIC_SIGN",
        version_template={"algorithm": "EC_SIGN_P256_SHA256"},
    )
    request = UpdateCryptoKeyPrimaryVersionRequest(name=KEY, crypto_key_version_id="1")
    for attempt in (
        lambda: platform.encrypt(KEY, b"x"),
        lambda: platform.decrypt(KEY, b"x" * 100),
        lambda: platform.call("UpdateCryptoKeyPrimaryVersion", request),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            attempt()
        assert refused.value.message == (
            f"The request cannot be fulfilled. Resource {KEY} has value ASYMMETRIC_SIGN in field "
            "crypto_key.purpose."
        )


# --- updates -----------------------------------------------------------------------------------------


def test_an_update_changes_what_its_mask_names_and_nothing_else(platform: Platform) -> None:
    """Labels change; the rotation schedule in the same message, not in the mask, does not."""
    before = create(platform, labels={"team": "a"})
    after = update(platform, "labels", labels={"team": "b"}, rotation_period={"seconds": 2 * DAY})
    assert dict(after.labels) == {"team": "b"}
    assert not after.HasField("rotation_period")
    before.labels["team"] = "b"
    assert get(platform) == after == before


def test_a_masked_field_that_is_absent_is_cleared(platform: Platform) -> None:
    """Terraform takes a schedule away by a mask of both fields with neither set."""
    create(platform, rotation_period={"seconds": DAY}, labels={"a": "b"})
    cleared = update(platform, "rotationPeriod,nextRotationTime")
    assert not cleared.HasField("rotation_period")
    assert not cleared.HasField("next_rotation_time")
    assert not update(platform, "labels").labels


def test_a_rotation_period_without_a_time_starts_now(platform: Platform) -> None:
    """The first rotation is due one period after the schedule was set."""
    create(platform)
    platform.clock.advance(dt.timedelta(hours=5))
    key = update(platform, "rotation_period", rotation_period={"seconds": 3 * DAY})
    assert moment(key.next_rotation_time) == platform.clock.now() + dt.timedelta(days=3)


@pytest.mark.parametrize(
    ("mask", "fields"),
    [
        ("", {"labels": {"a": "b"}}),
        ("purpose", {"purpose": "MAC"}),
        ("name", {}),
        ("primary", {}),
        ("primary.state", {"primary": {"state": "DISABLED"}}),
        ("create_time", {}),
        ("destroy_scheduled_duration", {"destroy_scheduled_duration": {"seconds": 2 * DAY}}),
        ("import_only", {"import_only": True}),
        ("version_template.protection_level", {"version_template": {"protection_level": "HSM"}}),
        ("version_template.algorithm", {"version_template": {"algorithm": "HMAC_SHA256"}}),
        ("version_template.algorithm", {}),
        ("rotation_period", {"rotation_period": {"seconds": 1}}),
        ("next_rotation_time", {"next_rotation_time": {"seconds": 1}}),
        ("labels", {"labels": {"Not": "ok"}}),
        ("nonsense", {}),
        ("*", {"purpose": "MAC"}),
    ],
)
def test_what_may_not_be_updated_is_refused_and_changes_nothing(
    platform: Platform, mask: str, fields: dict[str, Any]
) -> None:
    """No mask, an immutable or output-only field, and invalid values are INVALID_ARGUMENT."""
    before = create(platform)
    with pytest.raises(InvalidArgument):
        update(platform, mask, **fields)
    assert get(platform) == before


def test_a_key_that_was_read_can_be_written_back(platform: Platform) -> None:
    """Read, change a label, write all of it back under `*`: the embedded primary does not get in the way."""
    create(platform)
    key = get(platform)
    key.labels["team"] = "b"
    request = UpdateCryptoKeyRequest(crypto_key=key, update_mask={"paths": ["*"]})
    assert platform.call("UpdateCryptoKey", request) == key


def test_labels_can_change_while_a_rotation_is_overdue(platform: Platform) -> None:
    """A next rotation time that came to pass is no fault of an update that does not touch it."""
    create(platform, rotation_period={"seconds": DAY})
    platform.clock.advance(dt.timedelta(days=2))
    assert dict(update(platform, "labels", labels={"a": "b"}).labels) == {"a": "b"}
    assert platform.schedule.run_due(platform.clock.now()) == 1


def test_a_missing_key_is_not_found(platform: Platform) -> None:
    """Reading, updating and using a key that is not there is NOT_FOUND, and names it."""
    for attempt in (
        lambda: get(platform),
        lambda: update(platform, "labels"),
        lambda: platform.encrypt(KEY, b"x"),
        lambda: platform.decrypt(KEY, b"x" * 100),
        lambda: platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY)),
        lambda: platform.call("ListCryptoKeyVersions", ListCryptoKeyVersionsRequest(parent=KEY)),
    ):
        with pytest.raises(NotFound) as refused:
            attempt()
        assert refused.value.message == f"CryptoKey {KEY} not found."


def test_a_ring_name_does_not_read_a_key(platform: Platform) -> None:
    """A name of another shape is INVALID_ARGUMENT."""
    for name in (RING, f"{KEY}/cryptoKeyVersions/1", "", "key"):
        with pytest.raises(InvalidArgument):
            platform.call("GetCryptoKey", GetCryptoKeyRequest(name=name))


# --- the primary -------------------------------------------------------------------------------------


def make_primary(platform: Platform, version_id: str) -> Any:
    request = UpdateCryptoKeyPrimaryVersionRequest(name=KEY, crypto_key_version_id=version_id)
    return platform.call("UpdateCryptoKeyPrimaryVersion", request)


def test_a_new_version_is_not_made_primary(platform: Platform) -> None:
    """CreateCryptoKeyVersion leaves the primary as it is."""
    create(platform)
    platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
    assert get(platform).primary.name.endswith("/1")
    assert make_primary(platform, "2").primary.name.endswith("/2")


@pytest.mark.parametrize("version_id", ["", "x", "-1", "1.5", "٣", "99999999999", "projects/p"])
def test_a_version_id_is_a_number(platform: Platform, version_id: str) -> None:
    """Anything but a number is INVALID_ARGUMENT."""
    create(platform)
    with pytest.raises(InvalidArgument):
        make_primary(platform, version_id)


def test_a_version_that_is_not_there_cannot_be_primary(platform: Platform) -> None:
    """NOT_FOUND, and the primary stays."""
    create(platform)
    with pytest.raises(NotFound) as refused:
        make_primary(platform, "2")
    assert refused.value.message == f"CryptoKeyVersion {KEY}/cryptoKeyVersions/2 not found."
    assert get(platform).primary.name.endswith("/1")


def test_a_disabled_version_can_be_primary_and_shows_its_real_state(platform: Platform) -> None:
    """The embedded primary is the version as it stands, in get and list; Encrypt is then refused."""
    create(platform)
    platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY))
    platform.set_state(f"{KEY}/cryptoKeyVersions/2", "DISABLED")
    made = make_primary(platform, "2")
    listed = platform.call("ListCryptoKeys", ListCryptoKeysRequest(parent=RING)).crypto_keys[0]
    version = platform.call("GetCryptoKeyVersion", GetCryptoKeyVersionRequest(name=made.primary.name))
    assert made.primary == get(platform).primary == listed.primary == version
    assert CryptoKeyVersion.CryptoKeyVersionState.Name(version.state) == "DISABLED"
    with pytest.raises(FailedPrecondition) as refused:
        platform.encrypt(KEY, b"x")
    assert refused.value.message == f"{version.name} is not enabled, current state is: DISABLED."
