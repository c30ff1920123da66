"""MacSign and MacVerify: HMAC as everybody computes it, and what they refuse."""

from __future__ import annotations

import hmac
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.errors import InvalidArgument
from keystead.kms.algorithms import Algorithm, Family
from tests.kms.keyroom import OFFERED, Keyroom, checked, crc, offered

SHA256 = "HMAC_SHA256"
LEVELS = {"SOFTWARE": 64 * 1024, "HSM": 16 * 1024}


def verify(keyroom: Keyroom, version: str, data: bytes, mac: bytes, **more: Any) -> Any:
    return keyroom.call("MacVerify", version, data=data, mac=mac, **more)


@pytest.mark.parametrize("algorithm", offered("MAC"))
def test_the_mac_is_the_hmac_of_the_data(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Python's own HMAC under the same key gives the same tag, as long as the hash, and it verifies."""
    version, data = keyroom.version(algorithm.name), os.urandom(100)
    made = keyroom.call("MacSign", version, data=data)
    key = keyroom.secret(version)
    assert len(key) == algorithm.key_bytes
    assert made.mac == hmac.digest(key, data, algorithm.hash)
    assert (made.name, made.protection_level) == (version, 1)
    assert made.mac_crc32c.value == crc(made.mac)
    answer = verify(keyroom, version, data, made.mac)
    assert (answer.success, answer.verified_success_integrity) == (True, True)
    assert (answer.name, answer.protection_level) == (version, 1)


@given(data=st.binary(min_size=1, max_size=300), bit=st.integers(min_value=0, max_value=255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_wrong_mac_is_an_answer_and_not_an_error(keyroom: Keyroom, data: bytes, bit: int) -> None:
    """Any flipped bit, and any other data, gives success=false, mirrored in verified_success_integrity."""
    version = keyroom.version(SHA256)
    mac = keyroom.call("MacSign", version, data=data).mac
    changed = bytearray(mac)
    changed[bit // 8] ^= 1 << bit % 8
    for given_data, given_mac in ((data, bytes(changed)), (data + b"x", mac)):
        answer = verify(keyroom, version, given_data, given_mac)
        assert (answer.success, answer.verified_success_integrity) == (False, False)


def test_a_mac_of_another_key_does_not_verify(keyroom: Keyroom) -> None:
    """Two keys of one algorithm have nothing in common."""
    mac = keyroom.call("MacSign", keyroom.fresh(SHA256), data=b"data").mac
    assert not verify(keyroom, keyroom.version(SHA256), b"data", mac).success


@pytest.mark.parametrize("algorithm", offered("MAC"))
def test_a_mac_of_another_length_is_refused(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Truncated or longer tags are INVALID_ARGUMENT: no part of a tag counts."""
    version = keyroom.version(algorithm.name)
    mac = keyroom.call("MacSign", version, data=b"data").mac
    for wrong in (mac[:-1], mac[:1], mac + b"\0", mac * 2):
        with pytest.raises(InvalidArgument, match=f"{algorithm.name} has {len(mac)} bytes"):
            verify(keyroom, version, b"data", wrong)


@pytest.mark.parametrize("level", LEVELS)
def test_the_largest_data_passes_and_one_byte_more_does_not(keyroom: Keyroom, level: str) -> None:
    """64 KiB for software keys, 16 KiB in a token, for both methods."""
    version, largest = keyroom.version(SHA256, level), bytes(LEVELS[level])
    mac = keyroom.call("MacSign", version, data=largest).mac
    assert verify(keyroom, version, largest, mac).success
    with pytest.raises(InvalidArgument, match="must not exceed"):
        keyroom.call("MacSign", version, data=largest + b"x")
    with pytest.raises(InvalidArgument, match="must not exceed"):
        verify(keyroom, version, largest + b"x", mac)


def test_data_and_mac_are_required(keyroom: Keyroom) -> None:
    """An empty field is a missing one."""
    version = keyroom.version(SHA256)
    with pytest.raises(InvalidArgument, match="the field data is required"):
        keyroom.call("MacSign", version)
    with pytest.raises(InvalidArgument, match="the field data is required"):
        verify(keyroom, version, b"", bytes(32))
    with pytest.raises(InvalidArgument, match="the field mac is required"):
        verify(keyroom, version, b"data", b"")


def test_checksums_are_verified_one_by_one(keyroom: Keyroom) -> None:
    """verified_* is true exactly for what was sent; a wrong checksum is refused, 0 being one."""
    version = keyroom.version(SHA256)
    assert not keyroom.call("MacSign", version, data=b"data").verified_data_crc32c
    made = keyroom.call("MacSign", version, **checked(data=b"data"))
    assert made.verified_data_crc32c
    both = keyroom.call("MacVerify", version, **checked(data=b"data", mac=made.mac))
    assert (both.success, both.verified_data_crc32c, both.verified_mac_crc32c) == (True, True, True)
    one = verify(keyroom, version, b"data", made.mac, mac_crc32c={"value": crc(made.mac)})
    assert (one.verified_data_crc32c, one.verified_mac_crc32c) == (False, True)
    wrong: list[dict[str, Any]] = [{"data_crc32c": {"value": 0}}, {"mac_crc32c": {"value": 1}}]
    for each in wrong:
        with pytest.raises(InvalidArgument, match=r"^The checksum in field .* did not match the data"):
            verify(keyroom, version, b"data", made.mac, **each)
    with pytest.raises(InvalidArgument, match=r"^The checksum in field data_crc32c"):
        keyroom.call("MacSign", version, data=b"data", data_crc32c={"value": 0})


def test_every_hmac_of_the_table_is_tested() -> None:
    """The parameters above are the five of Cloud KMS."""
    assert len([each for each in OFFERED if each.family is Family.HMAC]) == 5
