"""A ciphertext names its key version and opens nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.crypto.aead import Aead
from keystead.crypto.ciphertext import (
    CIPHERTEXT_OVERHEAD,
    TOKEN_FORMAT,
    CiphertextHeader,
    KeyVersionRef,
    open_message,
    parse_header,
    seal_message,
)
from keystead.crypto.errors import DecryptionError, MalformedError
from keystead.crypto.secret import SecretBytes

from . import independent

KEY = bytes(range(32))
REF = KeyVersionRef(bytes(range(16)), "projects/p/locations/l/keyRings/r/cryptoKeys/k", 3)
AEAD = Aead(SecretBytes(KEY))


@given(st.binary(max_size=100), st.binary(max_size=50), st.integers(1, (1 << 32) - 1))
def test_messages_come_back(plaintext: bytes, caller_aad: bytes, version: int) -> None:
    """Opening gives the plaintext back, the header tells the version, and the size is as stated."""
    ref = replace(REF, version=version)
    made = seal_message(AEAD, ref, plaintext, caller_aad)
    assert parse_header(made) == CiphertextHeader(1, REF.key_id, version)
    assert len(made) == len(plaintext) + CIPHERTEXT_OVERHEAD
    assert open_message(AEAD, ref, made, caller_aad) == plaintext
    theirs = independent.open_ciphertext(KEY, ref.key_id, ref.key_name, version, caller_aad, made)
    assert theirs == plaintext


@pytest.mark.parametrize(
    "other",
    [
        replace(REF, version=4),
        replace(REF, key_name=REF.key_name + "2"),
        replace(REF, key_id=bytes(16)),
    ],
)
def test_it_opens_only_for_its_own_key_version(other: KeyVersionRef) -> None:
    """Even under the same key material, another version, name or id is refused, also with a forged header."""
    made = seal_message(AEAD, REF, b"text", b"")
    for attempt in (made, other.header + made[len(other.header) :]):
        with pytest.raises(DecryptionError):
            open_message(AEAD, other, attempt, b"")


def test_it_opens_only_with_the_caller_s_associated_data_and_key() -> None:
    """Other associated data, none, or other key material are refused."""
    made = seal_message(AEAD, REF, b"text", b"aad")
    for aead, caller_aad in ((AEAD, b"aax"), (AEAD, b""), (Aead(SecretBytes.random()), b"aad")):
        with pytest.raises(DecryptionError):
            open_message(aead, REF, made, caller_aad)


def test_every_flipped_bit_is_refused() -> None:
    """No single bit of a ciphertext can change."""
    made = seal_message(AEAD, REF, b"text", b"aad")
    for bit in range(len(made) * 8):
        flipped = bytearray(made)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DecryptionError, MalformedError)):
            open_message(AEAD, REF, bytes(flipped), b"aad")


def test_headers_are_parsed_strictly() -> None:
    """Too short, another format and version zero are malformed before any key is looked up."""
    made = seal_message(AEAD, REF, b"", b"")
    for cut in range(len(made)):
        with pytest.raises(MalformedError):
            parse_header(made[:cut])
    for form in (0, 3, 255):
        with pytest.raises(MalformedError):
            parse_header(bytes((form,)) + made[1:])
    with pytest.raises(MalformedError):
        parse_header(made[:17] + bytes(4) + made[21:])


def test_formats_are_not_taken_for_each_other() -> None:
    """A ciphertext of a token's key opens only as one: its format is part of what it is bound to."""
    in_token = replace(REF, format=TOKEN_FORMAT)
    made = seal_message(AEAD, in_token, b"text", b"aad")
    assert made[0] == TOKEN_FORMAT
    assert parse_header(made).format == TOKEN_FORMAT
    assert open_message(AEAD, in_token, made, b"aad") == b"text"
    for ref, ciphertext in ((REF, made), (REF, b"\x01" + made[1:]), (in_token, b"\x01" + made[1:])):
        with pytest.raises(DecryptionError):
            open_message(AEAD, ref, ciphertext, b"aad")
    shortest = 21 + 12 + 16
    parse_header(made[:shortest])
    with pytest.raises(MalformedError):
        parse_header(made[: shortest - 1])


@pytest.mark.parametrize(
    ("key_id", "version"), [(bytes(15), 1), (bytes(17), 1), (bytes(16), 0), (bytes(16), 1 << 32)]
)
def test_impossible_key_versions_are_programming_errors(key_id: bytes, version: int) -> None:
    """A reference that no ciphertext could carry cannot be made."""
    with pytest.raises(ValueError, match="key"):
        KeyVersionRef(key_id, "name", version)
