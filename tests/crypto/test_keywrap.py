"""AES key wrap with padding is that of RFC 5649 and NIST SP 800-38F, and opens nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.crypto.errors import CryptoError, DecryptionError, MalformedError, SecretWipedError
from keystead.crypto.keywrap import unwrap, wrap
from keystead.crypto.secret import SecretBytes

from .published import records, unhex, wycheproof

KEK = SecretBytes(bytes(range(32)))


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_nist_s_wrapped_keys_come_out(bits: int) -> None:
    """CAVS, KWP-AE: every wrap, byte for byte."""
    count = 0
    for _, record in records(f"keywrap/kwtestvectors/KWP_AE_{bits}.txt"):
        kek, key = SecretBytes(unhex(record["K"])), SecretBytes(unhex(record["P"]))
        assert wrap(kek, key).hex() == record["C"]
        count += 1
    assert count >= 500


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_nist_s_wrapped_keys_open_or_fail(bits: int) -> None:
    """CAVS, KWP-AD: every unwrap, the failing ones included."""
    opened = failed = 0
    for _, record in records(f"keywrap/kwtestvectors/KWP_AD_{bits}.txt"):
        kek, wrapped = SecretBytes(unhex(record["K"])), unhex(record["C"])
        if "FAIL" in record:
            with pytest.raises(DecryptionError):
                unwrap(kek, wrapped)
            failed += 1
        else:
            assert unwrap(kek, wrapped) == SecretBytes(unhex(record["P"]))
            opened += 1
    assert opened >= 400
    assert failed >= 50


def test_rfc_5649_s_examples() -> None:
    """Section 6, and what OpenSSL and Botan wrapped."""
    count = 0
    for _, record in records("keywrap/kwp_botan.txt"):
        kek, key = SecretBytes(unhex(record["Key"])), SecretBytes(unhex(record["Input"]))
        assert wrap(kek, key) == unhex(record["Output"])
        assert unwrap(kek, unhex(record["Output"])) == key
        count += 1
    assert count >= 4


def test_wycheproof() -> None:
    """Padding that was altered never opens; small keys are as good as large ones."""
    valid = invalid = 0
    for _, test in wycheproof("Cipher", "aes_kwp_test"):
        kek, key, wrapped = SecretBytes(unhex(test["key"])), unhex(test["msg"]), unhex(test["ct"])
        if test["result"] == "valid":
            assert unwrap(kek, wrapped) == SecretBytes(key)
            assert wrap(kek, SecretBytes(key)) == wrapped
            valid += 1
        else:
            with pytest.raises(CryptoError):
                unwrap(kek, wrapped)
            invalid += 1
    assert (valid, invalid) == (77, 177)


@given(st.binary(min_size=1, max_size=200))
def test_what_is_wrapped_opens(key: bytes) -> None:
    """For any length, and 8 bytes longer than the key rounded up to 8."""
    wrapped = wrap(KEK, SecretBytes(key))
    assert len(wrapped) == (len(key) + 7) // 8 * 8 + 8
    assert unwrap(KEK, wrapped) == SecretBytes(key)


@given(st.binary(max_size=100))
def test_anything_else_is_refused(data: bytes) -> None:
    """Arbitrary bytes give one of two errors, by their length alone."""
    with pytest.raises(CryptoError) as caught:
        unwrap(KEK, data)
    malformed = len(data) < 16 or len(data) % 8 != 0
    assert caught.type is (MalformedError if malformed else DecryptionError)


def test_the_empty_key_and_wiped_keys_are_refused() -> None:
    """RFC 5649 wraps one byte or more; a wiped secret wraps nothing."""
    with pytest.raises(ValueError, match="between 1 and"):
        wrap(KEK, SecretBytes(b""))
    wiped = SecretBytes(bytes(32))
    wiped.wipe()
    for kek, key in ((KEK, wiped), (wiped, KEK)):
        with pytest.raises(SecretWipedError):
            wrap(kek, key)
    with pytest.raises(SecretWipedError):
        unwrap(wiped, bytes(16))
