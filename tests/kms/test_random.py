"""GenerateRandomBytes: from a token, of the lengths that Cloud KMS gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keystead.api.errors import InvalidArgument, PermissionDenied, Unimplemented
from keystead.kms.messages import GenerateRandomBytesRequest
from tests.kms.keyroom import Token, crc
from tests.platform import LOCATION, OWNER, PROJECT, Platform


@pytest.fixture
def with_token(tmp_path: Path) -> Iterator[Platform]:
    """A platform with a token."""
    made = Platform(tmp_path / "token", backends=[Token()])
    yield made
    made.close()


def generate(platform: Platform, principal: str = OWNER, **fields: Any) -> Any:
    request = {"location": LOCATION, "length_bytes": 32, "protection_level": "HSM", **fields}
    return platform.call("GenerateRandomBytes", GenerateRandomBytesRequest(**request), principal)


@pytest.mark.parametrize("length", [8, 32, 1024])
def test_as_many_bytes_as_were_asked_for(with_token: Platform, length: int) -> None:
    """With their checksum and nothing else, and never the same twice."""
    answers = [generate(with_token, length_bytes=length) for _ in range(5)]
    assert len({answer.data for answer in answers}) == 5
    for answer in answers:
        assert len(answer.data) == length
        assert answer.data_crc32c.value == crc(answer.data)


@pytest.mark.parametrize("length", [-1, 0, 1, 7, 1025, 2**31 - 1])
def test_fewer_or_more_bytes_are_refused(with_token: Platform, length: int) -> None:
    """Outside of 8 to 1024, whatever the level."""
    for level in ("HSM", "SOFTWARE"):
        with pytest.raises(InvalidArgument, match="between 8 and 1024"):
            generate(with_token, length_bytes=length, protection_level=level)


@pytest.mark.parametrize("level", [0, "SOFTWARE", "EXTERNAL", "EXTERNAL_VPC", "HSM_SINGLE_TENANT", 77])
def test_only_hsm_has_random_bytes(with_token: Platform, level: str | int) -> None:
    """Every other level, none included, is UNIMPLEMENTED as in Cloud KMS."""
    with pytest.raises(Unimplemented, match="only HSM is"):
        generate(with_token, protection_level=level)


def test_without_a_token_there_are_none(platform: Platform) -> None:
    """UNIMPLEMENTED, saying how to have one."""
    with pytest.raises(Unimplemented, match="keystead serve --hsm-module"):
        generate(platform)


@pytest.mark.parametrize("location", ["malformed location", PROJECT, f"{LOCATION}/keyRings/r", ""])
def test_a_malformed_location_is_refused(with_token: Platform, location: str) -> None:
    """INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument):
        generate(with_token, location=location)


def test_a_location_that_is_not_served_is_refused(with_token: Platform) -> None:
    """In the words of every other call there."""
    with pytest.raises(InvalidArgument, match="concerns location 'mars1'"):
        generate(with_token, location=f"{PROJECT}/locations/mars1")


def test_it_needs_its_permission_on_the_project(with_token: Platform) -> None:
    """Held by the Crypto Operator, not by administrator or viewer; the denial names the location."""
    generate(with_token)  # the project comes into being
    member = "user:member@example.com"
    for role in ("roles/cloudkms.admin", "roles/cloudkms.viewer", "roles/cloudkms.cryptoKeyEncrypter"):
        with_token.grant(PROJECT, member, role)
        with pytest.raises(PermissionDenied) as denied:
            generate(with_token, member)
        assert denied.value.message == (
            f"Permission 'cloudkms.locations.generateRandomBytes' denied on resource '{LOCATION}' "
            "(or it may not exist)."
        )
    with_token.grant(PROJECT, member, "roles/cloudkms.cryptoOperator")
    assert len(generate(with_token, member).data) == 32


def test_it_is_not_recorded(with_token: Platform) -> None:
    """Cloud KMS logs no GenerateRandomBytes, even with data access recorded."""
    generate(with_token)
    with_token.record_data_access()
    before = len(with_token.audit_bodies())
    generate(with_token)
    assert len(with_token.audit_bodies()) == before
