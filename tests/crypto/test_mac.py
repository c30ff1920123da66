"""HMAC is that of the RFCs, for every hash that is offered."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.crypto.errors import SecretWipedError
from keystead.crypto.mac import HmacKey
from keystead.crypto.secret import SecretBytes

from .published import records, unhex

SETS = {
    "sha1": "rfc-2202-sha1.txt",
    "sha224": "rfc-4231-sha224.txt",
    "sha256": "rfc-4231-sha256.txt",
    "sha384": "rfc-4231-sha384.txt",
    "sha512": "rfc-4231-sha512.txt",
}


@pytest.mark.parametrize("name", SETS)
def test_the_rfc_s_tags_come_out(name: str) -> None:
    """RFC 2202 and RFC 4231, keys longer than a block included; each key gives each tag twice."""
    count = 0
    for _, record in records(f"HMAC/{SETS[name]}"):
        if "MD" not in record:
            continue
        key = HmacKey(SecretBytes(unhex(record["Key"])), name)
        assert key.mac(unhex(record["Msg"])).hex() == record["MD"]
        assert key.mac(unhex(record["Msg"])).hex() == record["MD"]
        count += 1
    assert count >= 6


@given(st.sampled_from(sorted(SETS)), st.binary(max_size=200), st.binary(max_size=300))
def test_it_agrees_with_another_implementation(name: str, key: bytes, data: bytes) -> None:
    """Python's own HMAC gives the same tag for any key and data."""
    assert HmacKey(SecretBytes(key), name).mac(data) == hmac.digest(key, data, name)


def test_a_key_lives_on_when_the_caller_wipes_its_copy() -> None:
    """What is kept is the keyed state; of a wiped secret none can be made."""
    secret = SecretBytes(b"k" * 32)
    key = HmacKey(secret, "sha256")
    secret.wipe()
    assert key.mac(b"data") == hmac.digest(b"k" * 32, b"data", hashlib.sha256)
    with pytest.raises(SecretWipedError):
        HmacKey(secret, "sha256")


def test_other_hashes_are_not_offered() -> None:
    """A name that is none of the five is a mistake of the program."""
    with pytest.raises(ValueError, match="no hash function 'md5'"):
        HmacKey(SecretBytes(b"k"), "md5")
