"""Versions: their ids, their states through the API, and their lists."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from keystead.api.clock import moment
from keystead.api.errors import FailedPrecondition, InvalidArgument, NotFound
from keystead.kms import lifecycle
from keystead.kms.messages import (
    CreateCryptoKeyVersionRequest,
    GetCryptoKeyVersionRequest,
    ListCryptoKeyVersionsRequest,
    RestoreCryptoKeyVersionRequest,
    UpdateCryptoKeyVersionRequest,
)
from tests.platform import LOCATION, Platform

KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
FIRST = f"{KEY}/cryptoKeyVersions/1"


@pytest.fixture(autouse=True)
def key(platform: Platform) -> None:
    """Every test here starts with one key of one version, destroyed 10 days after it is asked for."""
    platform.key(destroy_scheduled_duration={"seconds": 864_000})


def create(platform: Platform, **fields: Any) -> Any:
    request = CreateCryptoKeyVersionRequest(parent=KEY, crypto_key_version=fields)
    return platform.call("CreateCryptoKeyVersion", request)


def get(platform: Platform, name: str = FIRST) -> Any:
    return platform.call("GetCryptoKeyVersion", GetCryptoKeyVersionRequest(name=name))


def restore(platform: Platform) -> Any:
    return platform.call("RestoreCryptoKeyVersion", RestoreCryptoKeyVersionRequest(name=FIRST))


def ids(platform: Platform, **fields: Any) -> list[str]:
    listed = platform.call("ListCryptoKeyVersions", ListCryptoKeyVersionsRequest(parent=KEY, **fields))
    return [version.name.rsplit("/", 1)[1] for version in listed.crypto_key_versions]


def test_version_ids_count_from_one_and_list_as_numbers(platform: Platform) -> None:
    """The tenth version comes after the ninth, in every order and over pages."""
    for number in range(2, 13):
        assert create(platform).name == f"{KEY}/cryptoKeyVersions/{number}"
    expected = [str(number) for number in range(1, 13)]
    assert ids(platform) == expected
    assert ids(platform, order_by="name desc") == expected[::-1]
    found: list[str] = []
    token = ""
    while True:
        request = ListCryptoKeyVersionsRequest(parent=KEY, page_size=5, page_token=token)
        page = platform.call("ListCryptoKeyVersions", request)
        found += [version.name.rsplit("/", 1)[1] for version in page.crypto_key_versions]
        assert page.total_size == 12
        token = page.next_page_token
        if not token:
            break
    assert found == expected


def test_a_destroyed_versions_id_is_not_used_again(platform: Platform) -> None:
    """The next version after a destroyed one has the next number."""
    platform.destroy(FIRST)
    platform.clock.advance(dt.timedelta(days=10))
    platform.schedule.run_due(platform.clock.now())
    assert create(platform).name.endswith("/2")


def test_a_new_version_is_enabled_with_its_own_material(platform: Platform) -> None:
    """It can be used by its name at once, and what it makes opens under the key."""
    made = create(platform)
    assert (made.state, made.protection_level) == (lifecycle.ENABLED, 1)
    assert moment(made.create_time) == moment(made.generate_time) == platform.clock.now()
    assert platform.decrypt(KEY, platform.encrypt(made.name, b"x")) == b"x"
    with platform.store.read() as tx:
        wrapped = [tx.material.get(name) for name in tx.material.list(KEY)]
    assert len(set(wrapped)) == 2


@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED", "PENDING_IMPORT", 99])
def test_a_version_is_created_enabled_only(platform: Platform, state: Any) -> None:
    """Another initial state is INVALID_ARGUMENT and makes no version."""
    with pytest.raises(InvalidArgument):
        create(platform, state=state)
    assert ids(platform) == ["1"]


@pytest.mark.parametrize(
    ("mask", "state"),
    [
        ([], "DISABLED"),
        (["name"], "DISABLED"),
        (["state", "algorithm"], "DISABLED"),
        (["*"], "DISABLED"),
        (["external_protection_level_options"], "DISABLED"),
        (["state"], "DESTROYED"),
        (["state"], "DESTROY_SCHEDULED"),
        (["state"], 0),
        (["state"], 99),
    ],
)
def test_only_the_state_can_be_updated_and_only_to_enabled_or_disabled(
    platform: Platform, mask: list[str], state: Any
) -> None:
    """Any other mask or target is INVALID_ARGUMENT and changes nothing."""
    request = UpdateCryptoKeyVersionRequest(
        crypto_key_version={"name": FIRST, "state": state}, update_mask={"paths": mask}
    )
    with pytest.raises(InvalidArgument):
        platform.call("UpdateCryptoKeyVersion", request)
    assert get(platform).state == lifecycle.ENABLED


def test_a_version_goes_and_comes_back(platform: Platform) -> None:
    """Disabled, scheduled, restored to DISABLED, enabled: nothing encrypted before is lost."""
    ciphertext = platform.encrypt(KEY, b"kept")
    assert platform.set_state(FIRST, "DISABLED").state == lifecycle.DISABLED
    scheduled = platform.destroy(FIRST)
    assert scheduled.state == lifecycle.DESTROY_SCHEDULED
    assert moment(scheduled.destroy_time) == platform.clock.now() + dt.timedelta(days=10)
    restored = restore(platform)
    assert restored.state == lifecycle.DISABLED
    assert not restored.HasField("destroy_time")
    platform.clock.advance(dt.timedelta(days=11))
    assert platform.schedule.run_due(platform.clock.now()) == 0
    assert platform.set_state(FIRST, "ENABLED") == get(platform)
    assert platform.decrypt(KEY, ciphertext) == b"kept"


def test_the_refusal_of_a_transition_is_the_services_own(platform: Platform) -> None:
    """Destroying twice, enabling what is scheduled and restoring what is not are FAILED_PRECONDITION."""
    with pytest.raises(FailedPrecondition) as refused:
        restore(platform)
    text = "The request cannot be fulfilled. Resource {} has value {} in field crypto_key_version.state."
    assert refused.value.message == text.format(FIRST, "ENABLED")
    platform.destroy(FIRST)
    attempts: list[Callable[[], Any]] = [
        lambda: platform.destroy(FIRST),
        lambda: platform.set_state(FIRST, "ENABLED"),
        lambda: platform.set_state(FIRST, "DISABLED"),
    ]
    for attempt in attempts:
        with pytest.raises(FailedPrecondition) as refused:
            attempt()
        assert refused.value.message == text.format(FIRST, "DESTROY_SCHEDULED")


def test_a_missing_version_is_not_found(platform: Platform) -> None:
    """Whatever is done to a version that is not there is NOT_FOUND."""
    missing = f"{KEY}/cryptoKeyVersions/7"
    attempts: list[Callable[[], Any]] = [
        lambda: get(platform, missing),
        lambda: platform.destroy(missing),
        lambda: platform.set_state(missing, "DISABLED"),
        lambda: platform.encrypt(missing, b"x"),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound) as refused:
            attempt()
        assert refused.value.message == f"CryptoKeyVersion {missing} not found."


def test_versions_filter_by_state_as_the_samples_do(platform: Platform) -> None:
    """`state != DESTROYED AND state != DESTROY_SCHEDULED` leaves the usable ones."""
    create(platform)
    create(platform)
    platform.destroy(f"{KEY}/cryptoKeyVersions/2")
    assert ids(platform, filter="state != DESTROYED AND state != DESTROY_SCHEDULED") == ["1", "3"]
    assert ids(platform, filter="state=DESTROY_SCHEDULED") == ["2"]
    with pytest.raises(InvalidArgument):
        ids(platform, filter="state=")
