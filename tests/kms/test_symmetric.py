"""Encrypt and Decrypt: what they bind, verify and refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from keystead.kms.messages import (
    CreateCryptoKeyVersionRequest,
    DecryptRequest,
    EncryptRequest,
    UpdateCryptoKeyPrimaryVersionRequest,
)
from tests.platform import CRYPTER, LOCATION, Platform

KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
FIRST = f"{KEY}/cryptoKeyVersions/1"
LIMIT = 64 * 1024
WRONG = "Decryption failed: verify that 'name' refers to the correct CryptoKey."


@pytest.fixture(autouse=True)
def key(platform: Platform) -> None:
    """Every test here starts with one key."""
    platform.key()


def encrypt(platform: Platform, **fields: Any) -> Any:
    return platform.call("Encrypt", EncryptRequest(**{"name": KEY, "plaintext": b"plain", **fields}))


def decrypt(platform: Platform, ciphertext: bytes, **fields: Any) -> Any:
    return platform.call("Decrypt", DecryptRequest(**{"name": KEY, "ciphertext": ciphertext, **fields}))


def add_version(platform: Platform, *, primary: bool = False) -> str:
    name = str(platform.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=KEY)).name)
    if primary:
        request = UpdateCryptoKeyPrimaryVersionRequest(name=KEY, crypto_key_version_id=name.rsplit("/", 1)[1])
        platform.call("UpdateCryptoKeyPrimaryVersion", request)
    return name


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


@given(plaintext=st.binary(max_size=300), aad=st.binary(max_size=100))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_encrypted_decrypts(platform: Platform, plaintext: bytes, aad: bytes) -> None:
    """Any plaintext under any AAD comes back, with the checksums and names the API promises."""
    made = encrypt(platform, plaintext=plaintext, additional_authenticated_data=aad)
    assert (made.name, made.protection_level) == (FIRST, 1)
    assert made.ciphertext_crc32c.value == crc(made.ciphertext)
    assert plaintext not in made.ciphertext or len(plaintext) < 4
    opened = decrypt(platform, made.ciphertext, additional_authenticated_data=aad)
    assert opened.plaintext == plaintext
    assert opened.plaintext_crc32c.value == crc(plaintext)
    assert opened.HasField("plaintext_crc32c")
    assert (opened.used_primary, opened.protection_level) == (True, 1)


def test_equal_plaintexts_have_different_ciphertexts(platform: Platform) -> None:
    """Encryption is randomized."""
    assert len({encrypt(platform).ciphertext for _ in range(20)}) == 20


@pytest.mark.parametrize("aad", [b"", b"other", b"aad\0", b"aa"])
def test_another_aad_does_not_open(platform: Platform, aad: bytes) -> None:
    """The AAD is bound: absent, cut off, or changed, the ciphertext does not open."""
    made = encrypt(platform, additional_authenticated_data=b"aad")
    with pytest.raises(InvalidArgument) as refused:
        decrypt(platform, made.ciphertext, additional_authenticated_data=aad)
    assert refused.value.message == WRONG


def test_the_ciphertext_of_another_key_does_not_open(platform: Platform) -> None:
    """Even where both keys have a version of that number, and the header is relabelled."""
    other = platform.key("other")
    mine, theirs = platform.encrypt(KEY, b"x"), platform.encrypt(other, b"x")
    for ciphertext in (theirs, mine[:17] + theirs[17:], theirs[:17] + mine[17:]):
        with pytest.raises(InvalidArgument) as refused:
            decrypt(platform, ciphertext)
        assert refused.value.message == WRONG


def test_no_bit_of_a_ciphertext_can_be_changed(platform: Platform) -> None:
    """Every flipped bit, header and tag included, gets one and the same answer."""
    ciphertext = platform.encrypt(KEY, b"p", b"a")
    for position in range(len(ciphertext) * 8):
        changed = bytearray(ciphertext)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(InvalidArgument) as refused:
            platform.decrypt(KEY, bytes(changed), b"a")
        assert refused.value.message == WRONG, position


def test_no_part_of_a_ciphertext_opens(platform: Platform) -> None:
    """Cut off anywhere, or with bytes added, it does not open; empty, the field is missing."""
    ciphertext = platform.encrypt(KEY, b"plaintext")
    for length in range(1, len(ciphertext)):
        with pytest.raises(InvalidArgument) as refused:
            decrypt(platform, ciphertext[:length])
        assert refused.value.message == WRONG
    for longer in (ciphertext + b"\0", b"\0" + ciphertext, ciphertext * 2):
        with pytest.raises(InvalidArgument):
            decrypt(platform, longer)
    with pytest.raises(InvalidArgument) as missing:
        decrypt(platform, b"")
    assert missing.value.message == "The request was invalid: the field ciphertext is required."


# --- checksums ---------------------------------------------------------------------------------------


def test_a_request_without_checksums_is_told_that_nothing_was_verified(platform: Platform) -> None:
    """verified_* is false exactly where no checksum was sent."""
    made = encrypt(platform, additional_authenticated_data=b"aad")
    assert not made.verified_plaintext_crc32c
    assert not made.verified_additional_authenticated_data_crc32c


def test_the_checksums_of_a_request_are_verified(platform: Platform) -> None:
    """Right ones are confirmed one by one."""
    made = encrypt(platform, plaintext_crc32c={"value": crc(b"plain")})
    assert (made.verified_plaintext_crc32c, made.verified_additional_authenticated_data_crc32c) == (
        True,
        False,
    )
    made = encrypt(
        platform,
        additional_authenticated_data=b"aad",
        additional_authenticated_data_crc32c={"value": crc(b"aad")},
    )
    assert (made.verified_plaintext_crc32c, made.verified_additional_authenticated_data_crc32c) == (
        False,
        True,
    )
    opened = decrypt(
        platform,
        made.ciphertext,
        ciphertext_crc32c={"value": crc(made.ciphertext)},
        additional_authenticated_data=b"aad",
        additional_authenticated_data_crc32c={"value": crc(b"aad")},
    )
    assert opened.plaintext == b"plain"


def test_the_checksum_of_nothing_is_zero_and_counts_as_sent(platform: Platform) -> None:
    """A checksum of 0 is one: right for empty data, wrong for other data."""
    made = encrypt(platform, plaintext=b"", plaintext_crc32c={"value": 0})
    assert made.verified_plaintext_crc32c
    with pytest.raises(InvalidArgument):
        encrypt(platform, plaintext_crc32c={"value": 0})


@pytest.mark.parametrize("wrong", [0, 1, -1, 2**32, 2**62])
def test_a_wrong_checksum_is_refused(platform: Platform, wrong: int) -> None:
    """For each of the four fields that can carry one, whatever the number."""
    ciphertext = platform.encrypt(KEY, b"plain", b"aad")
    attempts: list[Callable[[], Any]] = [
        lambda: encrypt(platform, plaintext_crc32c={"value": wrong}),
        lambda: encrypt(
            platform,
            additional_authenticated_data=b"aad",
            additional_authenticated_data_crc32c={"value": wrong},
        ),
        lambda: decrypt(
            platform, ciphertext, additional_authenticated_data=b"aad", ciphertext_crc32c={"value": wrong}
        ),
        lambda: decrypt(
            platform,
            ciphertext,
            additional_authenticated_data=b"aad",
            additional_authenticated_data_crc32c={"value": wrong},
        ),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidArgument) as refused:
            attempt()
        assert refused.value.message.startswith("The checksum in field ")


# --- sizes -------------------------------------------------------------------------------------------


def test_the_largest_message_passes_and_one_byte_more_does_not(platform: Platform) -> None:
    """64 KiB of plaintext with 64 KiB of AAD go both ways; a byte more of either is INVALID_ARGUMENT."""
    largest = bytes(range(256)) * (LIMIT // 256)
    ciphertext = platform.encrypt(KEY, largest, largest)
    assert platform.decrypt(KEY, ciphertext, largest) == largest
    for plaintext, aad in ((largest + b"x", b""), (b"x", largest + b"x")):
        with pytest.raises(InvalidArgument):
            platform.encrypt(KEY, plaintext, aad)
    with pytest.raises(InvalidArgument):
        platform.decrypt(KEY, ciphertext, largest + b"x")
    with pytest.raises(InvalidArgument):
        platform.decrypt(KEY, bytes(3 * LIMIT))


# --- versions ----------------------------------------------------------------------------------------


def test_encrypting_by_a_version_uses_that_version(platform: Platform) -> None:
    """Whatever is primary; the answer names the version, and `used_primary` is told at decryption."""
    second = add_version(platform)
    made = encrypt(platform, name=second)
    assert made.name == second
    assert not decrypt(platform, made.ciphertext).used_primary
    add_version(platform, primary=True)
    third = encrypt(platform)
    assert third.name == f"{KEY}/cryptoKeyVersions/3"
    assert decrypt(platform, third.ciphertext).used_primary


@pytest.mark.parametrize("last", ["01", "0", "+1", "1 ", "٣", "x", "1/2", "99999999999999999999", ""])
def test_a_version_has_one_spelling(platform: Platform, last: str) -> None:
    """No other spelling of a version's number reaches it, so that what was authorized is what is used."""
    with pytest.raises((InvalidArgument, NotFound)):
        encrypt(platform, name=f"{KEY}/cryptoKeyVersions/{last}")


@pytest.mark.parametrize("name", [f"{KEY}/x", f"{KEY}/cryptoKeyVersions", "key", f"{LOCATION}/keyRings/ring"])
def test_only_keys_and_versions_encrypt(platform: Platform, name: str) -> None:
    """A name of another shape is INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument):
        encrypt(platform, name=name)


def test_decrypting_takes_a_key_and_not_a_version(platform: Platform) -> None:
    """The version is found from the ciphertext; naming one is INVALID_ARGUMENT."""
    ciphertext = platform.encrypt(KEY, b"x")
    with pytest.raises(InvalidArgument):
        decrypt(platform, ciphertext, name=FIRST)


def test_every_enabled_version_decrypts_what_it_made(platform: Platform) -> None:
    """After rotations old ciphertexts open as before; one version disabled takes only its own away."""
    made = [platform.encrypt(KEY, b"1")]
    for number in (b"2", b"3"):
        add_version(platform, primary=True)
        made.append(platform.encrypt(KEY, number))
    assert [platform.decrypt(KEY, each) for each in made] == [b"1", b"2", b"3"]
    platform.set_state(f"{KEY}/cryptoKeyVersions/2", "DISABLED")
    assert platform.decrypt(KEY, made[0]) == b"1"
    assert platform.decrypt(KEY, made[2]) == b"3"
    with pytest.raises(FailedPrecondition):
        platform.decrypt(KEY, made[1])


def refusal(platform: Platform, state: str, ciphertext: bytes) -> None:
    attempts: list[Callable[[], Any]] = [
        lambda: platform.encrypt(KEY, b"x"),
        lambda: platform.encrypt(FIRST, b"x"),
        lambda: platform.decrypt(KEY, ciphertext),
    ]
    for attempt in attempts:
        with pytest.raises(FailedPrecondition) as refused:
            attempt()
        assert refused.value.message == f"{FIRST} is not enabled, current state is: {state}."
        (failure,) = refused.value.details
        (violation,) = failure.violations  # type: ignore[attr-defined]  # a PreconditionFailure
        assert (violation.type, violation.subject) == (f"KEY_{state}", FIRST)


def test_a_version_that_is_not_enabled_is_refused_in_the_services_words(platform: Platform) -> None:
    """Disabled, scheduled and destroyed: text and violation are those that clients match on."""
    ciphertext = platform.encrypt(KEY, b"x")
    platform.set_state(FIRST, "DISABLED")
    refusal(platform, "DISABLED", ciphertext)
    scheduled = platform.destroy(FIRST)
    refusal(platform, "DESTROY_SCHEDULED", ciphertext)
    platform.clock.advance(
        scheduled.destroy_time.ToDatetime(tzinfo=platform.clock.now().tzinfo) - platform.clock.now()
    )
    assert platform.schedule.run_due(platform.clock.now()) == 1
    refusal(platform, "DESTROYED", ciphertext)


# --- who may -----------------------------------------------------------------------------------------


def test_encrypting_and_decrypting_are_two_grants(platform: Platform) -> None:
    """Who may only encrypt cannot decrypt; the denial names permission and key."""
    member = "user:writer@example.com"
    platform.grant(KEY, member, "roles/cloudkms.cryptoKeyEncrypter")
    ciphertext = platform.encrypt(KEY, b"x", principal=member)
    with pytest.raises(PermissionDenied) as denied:
        platform.decrypt(KEY, ciphertext, principal=member)
    assert denied.value.message == (
        f"Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied on resource '{KEY}' "
        "(or it may not exist)."
    )
    platform.grant(KEY, member, CRYPTER)
    assert platform.decrypt(KEY, ciphertext, principal=member) == b"x"


def test_administering_keys_is_not_using_them(platform: Platform) -> None:
    """Cloud KMS Admin neither encrypts nor decrypts."""
    admin = "user:admin@example.com"
    platform.grant(platform.organization, admin, "roles/cloudkms.admin")
    ciphertext = platform.encrypt(KEY, b"x")
    attempts: list[Callable[[], Any]] = [
        lambda: platform.encrypt(KEY, b"x", principal=admin),
        lambda: platform.decrypt(KEY, ciphertext, principal=admin),
    ]
    for attempt in attempts:
        with pytest.raises(PermissionDenied):
            attempt()
