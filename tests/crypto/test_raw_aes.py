"""The raw AES modes are those of NIST, and take nothing that is not theirs."""

from __future__ import annotations

import os

import pytest

from keystead.crypto.errors import DecryptionError, MalformedError, SecretWipedError
from keystead.crypto.raw_aes import AesCbc, AesCtr, AesGcm
from keystead.crypto.secret import SecretBytes

from .published import records, unhex, wycheproof

GCM = "ciphers/AES/GCM"
CBC = "ciphers/AES/CBC"
CBC_SETS = ("CBCMMT", "CBCVarKey", "CBCVarTxt", "CBCGFSbox", "CBCKeySbox")


@pytest.mark.parametrize("bits", [128, 256])
def test_gcm_decrypts_as_nist_says(bits: int) -> None:
    """Every CAVP record with a 96-bit IV and a 128-bit tag: those marked FAIL are refused; other tags are."""
    opened = refused = 0
    for facts, record in records(f"{GCM}/gcmDecrypt{bits}.rsp"):
        if facts["IVlen"] != "96":
            continue
        tag = unhex(record["Tag"])
        key = AesGcm(SecretBytes(unhex(record["Key"])))
        args = (unhex(record["CT"]) + tag, unhex(record["IV"]), unhex(record["AAD"]), len(tag))
        if len(tag) != 16:
            with pytest.raises(MalformedError, match="the tag has 16 bytes"):
                key.decrypt(*args)
        elif "FAIL" in record:
            refused += 1
            with pytest.raises(DecryptionError):
                key.decrypt(*args)
        else:
            opened += 1
            assert key.decrypt(*args) == unhex(record["PT"])
    assert opened > 100
    assert refused > 100


@pytest.mark.parametrize("bits", [128, 256])
def test_gcm_encrypts_as_nist_says(bits: int) -> None:
    """Every CAVP record with a 96-bit IV and a 128-bit tag comes out byte for byte."""
    count = 0
    for facts, record in records(f"{GCM}/gcmEncryptExtIV{bits}.rsp"):
        if facts["IVlen"] != "96" or facts["Taglen"] != "128":
            continue
        key = AesGcm(SecretBytes(unhex(record["Key"])))
        sealed = key.encrypt(unhex(record["PT"]), unhex(record["IV"]), unhex(record["AAD"]))
        assert sealed.hex() == record["CT"] + record["Tag"]
        count += 1
    assert count > 100


def test_gcm_holds_against_wycheproof() -> None:
    """Altered messages are refused; IVs of other lengths and 192-bit keys are not taken at all."""
    valid = invalid = other = 0
    for group, test in wycheproof("Cipher", "aes_gcm_test"):
        secret = SecretBytes(unhex(test["key"]))
        if group["keySize"] == 192:
            with pytest.raises(ValueError, match="16 or 32 bytes"):
                AesGcm(secret)
            continue
        key = AesGcm(secret)
        message, iv, aad = unhex(test["ct"]) + unhex(test["tag"]), unhex(test["iv"]), unhex(test["aad"])
        if group["ivSize"] != 96:
            other += 1
            with pytest.raises(MalformedError, match="initialization vector"):
                key.decrypt(message, iv, aad, 16)
        elif test["result"] == "valid":
            valid += 1
            assert key.decrypt(message, iv, aad, 16) == unhex(test["msg"])
            assert key.encrypt(unhex(test["msg"]), iv, aad) == message
        else:
            invalid += 1
            with pytest.raises(DecryptionError):
                key.decrypt(message, iv, aad, 16)
    assert valid > 50
    assert invalid > 50
    assert other > 50


@pytest.mark.parametrize("bits", [128, 256])
@pytest.mark.parametrize("name", CBC_SETS)
def test_cbc_is_nist_s(name: str, bits: int) -> None:
    """The CAVP sets come out byte for byte in both directions."""
    count = 0
    for _, record in records(f"{CBC}/{name}{bits}.rsp"):
        if "KEY" not in record:
            continue
        key = AesCbc(SecretBytes(unhex(record["KEY"])))
        iv, plaintext, ciphertext = (unhex(record[each]) for each in ("IV", "PLAINTEXT", "CIPHERTEXT"))
        assert key.encrypt(plaintext, iv, b"") == ciphertext
        assert key.decrypt(ciphertext, iv, b"", 0) == plaintext
        count += 1
    assert count >= 5


@pytest.mark.parametrize("bits", [128, 256])
def test_ctr_is_that_of_rfc_3686(bits: int) -> None:
    """The RFC's records come out byte for byte in both directions."""
    count = 0
    for _, record in records(f"ciphers/AES/CTR/aes-{bits}-ctr.txt"):
        if "KEY" not in record:
            continue
        key = AesCtr(SecretBytes(unhex(record["KEY"])))
        iv, plaintext, ciphertext = (unhex(record[each]) for each in ("IV", "PLAINTEXT", "CIPHERTEXT"))
        assert key.encrypt(plaintext, iv, b"") == ciphertext
        assert key.decrypt(ciphertext, iv, b"", 0) == plaintext
        count += 1
    assert count == 3


def test_the_counter_wraps_at_its_end() -> None:
    """The counter is the whole block: after ff..ff comes 00..00 (SP 800-38A, appendix B.1)."""
    key = AesCtr(SecretBytes(os.urandom(32)))
    stream = key.encrypt(bytes(32), b"\xff" * 16, b"")
    assert stream[16:] == key.encrypt(bytes(16), bytes(16), b"")


def test_lengths_the_modes_do_not_take_are_refused() -> None:
    """IVs, partial blocks, tags and associated data where they do not belong are MalformedError."""
    secret = SecretBytes(os.urandom(16))
    gcm, cbc, ctr = AesGcm(secret), AesCbc(secret), AesCtr(secret)
    for key in (cbc, ctr):
        for iv in (b"", bytes(12), bytes(15), bytes(17)):
            with pytest.raises(MalformedError, match="initialization vector"):
                key.encrypt(bytes(16), iv, b"")
        with pytest.raises(MalformedError, match="only GCM"):
            key.encrypt(bytes(16), bytes(16), b"aad")
        with pytest.raises(MalformedError, match="only GCM"):
            key.decrypt(bytes(16), bytes(16), b"", 16)
        assert key.encrypt(b"", bytes(16), b"") == b""
    for length in (1, 15, 17):
        with pytest.raises(MalformedError, match="whole blocks"):
            cbc.encrypt(bytes(length), bytes(16), b"")
        with pytest.raises(MalformedError, match="whole blocks"):
            cbc.decrypt(bytes(length), bytes(16), b"", 0)
    for short in range(16):
        with pytest.raises(DecryptionError):
            gcm.decrypt(bytes(short), bytes(12), b"", 16)


@pytest.mark.parametrize("kind", [AesGcm, AesCbc, AesCtr])
def test_a_key_lives_on_when_the_caller_wipes_its_copy(kind: type[AesGcm | AesCbc | AesCtr]) -> None:
    """The object has a copy of its own; of a wiped secret none can be made."""
    secret = SecretBytes(bytes(range(32)))
    key = kind(secret)
    iv = bytes(12 if kind is AesGcm else 16)
    before = key.encrypt(bytes(16), iv, b"")
    secret.wipe()
    assert key.encrypt(bytes(16), iv, b"") == before
    with pytest.raises(SecretWipedError):
        kind(secret)
