"""RawEncrypt and RawDecrypt: ciphertexts that other libraries open and make, and what each mode takes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.errors import InvalidArgument
from keystead.kms.algorithms import BY_NAME, Algorithm, Family
from tests.kms.keyroom import Keyroom, checked, crc, offered

GCM, CBC, CTR = "AES_256_GCM", "AES_256_CBC", "AES_256_CTR"
LIMIT = {"SOFTWARE": 64 * 1024, "HSM": 8 * 1024}
ALL = offered("RAW_ENCRYPT_DECRYPT")
MODES = {Family.AES_CBC: modes.CBC, Family.AES_CTR: modes.CTR}
PLAINTEXT = b"Here is a plaintext to encrypt, 48 bytes long..."


def encrypt(keyroom: Keyroom, version: str, plaintext: bytes = PLAINTEXT, **fields: Any) -> Any:
    return keyroom.call("RawEncrypt", version, plaintext=plaintext, **fields)


def decrypt(
    keyroom: Keyroom, version: str, ciphertext: bytes, iv: bytes, aad: bytes = b"", **more: Any
) -> Any:
    return keyroom.call(
        "RawDecrypt",
        version,
        ciphertext=ciphertext,
        initialization_vector=iv,
        additional_authenticated_data=aad,
        **more,
    )


def elsewhere(algorithm: Algorithm, key: bytes) -> tuple[Callable[..., bytes], Callable[..., bytes]]:
    """The same mode by another library: encrypt(plaintext, iv, aad) and decrypt(ciphertext, iv, aad)."""
    if algorithm.family is Family.AES_GCM:
        gcm = AESGCM(key)
        return (
            lambda plaintext, iv, aad: gcm.encrypt(iv, plaintext, aad),
            lambda ciphertext, iv, aad: gcm.decrypt(iv, ciphertext, aad),
        )

    def run(direction: str, data: bytes, iv: bytes) -> bytes:
        context = getattr(Cipher(algorithms.AES(key), MODES[algorithm.family](iv)), direction)()
        return bytes(context.update(data) + context.finalize())

    return (
        lambda plaintext, iv, _: run("encryptor", plaintext, iv),
        lambda ciphertext, iv, _: run("decryptor", ciphertext, iv),
    )


# --- interoperation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALL)
def test_others_open_what_was_encrypted(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """With the same key, the returned vector and the AAD; the answer says what the API promises."""
    version = keyroom.version(algorithm.name)
    is_gcm = algorithm.family is Family.AES_GCM
    aad = b"aad" if is_gcm else b""
    made = encrypt(keyroom, version, additional_authenticated_data=aad)
    key = keyroom.secret(version)
    assert len(key) == algorithm.bits // 8
    assert elsewhere(algorithm, key)[1](made.ciphertext, made.initialization_vector, aad) == PLAINTEXT
    assert (made.name, made.protection_level) == (version, 1)
    assert made.tag_length == (16 if is_gcm else 0)
    assert len(made.ciphertext) == len(PLAINTEXT) + made.tag_length
    assert len(made.initialization_vector) == (12 if is_gcm else 16)
    assert made.ciphertext_crc32c.value == crc(made.ciphertext)
    assert made.initialization_vector_crc32c.value == crc(made.initialization_vector)


@pytest.mark.parametrize("algorithm", ALL)
def test_what_others_encrypted_opens(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Under a vector of their choice, with or without AAD where there is one; also nothing."""
    version = keyroom.version(algorithm.name)
    is_gcm = algorithm.family is Family.AES_GCM
    seal = elsewhere(algorithm, keyroom.secret(version))[0]
    for aad in (b"", b"aad") if is_gcm else (b"",):
        for plaintext in (PLAINTEXT, b"") if is_gcm else (PLAINTEXT,):
            iv = os.urandom(12 if is_gcm else 16)
            opened = decrypt(keyroom, version, seal(plaintext, iv, aad), iv, aad)
            assert opened.plaintext == plaintext
            assert opened.HasField("plaintext_crc32c")
            assert opened.plaintext_crc32c.value == crc(plaintext)
            assert opened.protection_level == 1


@given(blocks=st.integers(min_value=1, max_value=20), rest=st.binary(max_size=15), aad=st.binary(max_size=50))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_encrypted_decrypts(keyroom: Keyroom, blocks: int, rest: bytes, aad: bytes) -> None:
    """Any plaintext in GCM and CTR, any number of whole blocks in CBC."""
    for name, plaintext, data in (
        (GCM, bytes(16 * blocks) + rest, aad),
        (CTR, bytes(16 * blocks) + rest, b""),
        (CBC, bytes(16 * blocks), b""),
    ):
        version = keyroom.version(name)
        made = encrypt(keyroom, version, plaintext, additional_authenticated_data=data)
        opened = decrypt(keyroom, version, made.ciphertext, made.initialization_vector, data)
        assert opened.plaintext == plaintext


def test_every_raw_algorithm_is_tested(keyroom: Keyroom) -> None:
    """The parameters above are all that software keys offer."""
    software = keyroom.platform.keys.material.backend(1).algorithms
    names = {each.values[0].name for each in ALL}
    assert names == {name for name in software if BY_NAME[name].purpose == "RAW_ENCRYPT_DECRYPT"}
    assert len(names) == 6


# --- initialization vectors --------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALL)
def test_vectors_that_are_made_here_never_repeat(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Each call draws a new one."""
    version = keyroom.version(algorithm.name)
    assert len({encrypt(keyroom, version).initialization_vector for _ in range(50)}) == 50


@pytest.mark.parametrize("size", [1, 12, 16])
@pytest.mark.parametrize("name", ["AES_128_GCM", GCM])
def test_gcm_takes_no_vector_for_encryption(keyroom: Keyroom, name: str, size: int) -> None:
    """INVALID_ARGUMENT, of whatever length."""
    with pytest.raises(InvalidArgument, match=r"initialization_vector.*the service makes it"):
        encrypt(keyroom, keyroom.version(name), initialization_vector=bytes(size))


@pytest.mark.parametrize("name", ["AES_128_CBC", CBC, "AES_128_CTR", CTR])
def test_cbc_and_ctr_take_a_vector_of_sixteen_bytes(keyroom: Keyroom, name: str) -> None:
    """It is used and returned; another length is refused."""
    version, iv = keyroom.version(name), os.urandom(16)
    first, second = (encrypt(keyroom, version, initialization_vector=iv) for _ in range(2))
    assert first.ciphertext == second.ciphertext
    assert first.initialization_vector == iv
    for wrong in (1, 12, 15, 17, 32):
        with pytest.raises(InvalidArgument, match=f"takes 16 bytes; {wrong} were given"):
            encrypt(keyroom, version, initialization_vector=bytes(wrong))


@pytest.mark.parametrize("algorithm", ALL)
def test_decrypting_needs_a_vector_of_the_right_length(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """None is a missing field; another length is refused."""
    version = keyroom.version(algorithm.name)
    made = encrypt(keyroom, version)
    with pytest.raises(InvalidArgument, match="the field initialization_vector is required"):
        decrypt(keyroom, version, made.ciphertext, b"")
    size = len(made.initialization_vector)
    for wrong in {1, 8, 12, 13, 16, 17} - {size}:
        with pytest.raises(InvalidArgument, match=f"takes {size} bytes; {wrong} were given"):
            decrypt(keyroom, version, made.ciphertext, bytes(wrong))


# --- what the modes take -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AES_128_CBC", CBC, "AES_128_CTR", CTR])
def test_only_gcm_takes_associated_data(keyroom: Keyroom, name: str) -> None:
    """Elsewhere nobody would notice that it was not authenticated."""
    version = keyroom.version(name)
    made = encrypt(keyroom, version)
    with pytest.raises(InvalidArgument, match="additional_authenticated_data"):
        encrypt(keyroom, version, additional_authenticated_data=b"aad")
    with pytest.raises(InvalidArgument, match="additional_authenticated_data"):
        decrypt(keyroom, version, made.ciphertext, made.initialization_vector, b"aad")


@pytest.mark.parametrize("length", [1, 15, 17, 47])
def test_cbc_takes_whole_blocks_and_adds_no_padding(keyroom: Keyroom, length: int) -> None:
    """Of plaintext as of ciphertext; a block encrypts to a block."""
    version = keyroom.version(CBC)
    for call in (encrypt, lambda *args: decrypt(*args, bytes(16))):
        with pytest.raises(
            InvalidArgument, match=f"whole blocks of 16 bytes and adds no padding; {length} bytes"
        ):
            call(keyroom, version, bytes(length))
    assert len(encrypt(keyroom, version, bytes(16)).ciphertext) == 16


@pytest.mark.parametrize("algorithm", ALL)
def test_the_tag_has_sixteen_bytes_or_there_is_none(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """`tag_length` may be left out or say so; a shorter tag, which is easier to forge, is refused."""
    version = keyroom.version(algorithm.name)
    made = encrypt(keyroom, version)
    for fitting in (0, made.tag_length):
        opened = decrypt(
            keyroom, version, made.ciphertext, made.initialization_vector, tag_length=fitting
        )  # fmt: skip
        assert opened.plaintext == PLAINTEXT
    for wrong in {-1, 4, 8, 12, 13, 14, 15, 16, 17, 128} - {made.tag_length}:
        with pytest.raises(InvalidArgument, match=f"tag_length.*must be {made.tag_length}"):
            decrypt(keyroom, version, made.ciphertext, made.initialization_vector, tag_length=wrong)


# --- what does not open ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AES_128_GCM", GCM])
def test_every_gcm_failure_reads_the_same(keyroom: Keyroom, name: str) -> None:
    """Any flipped bit, cut off or lengthened, another vector, AAD or key: one answer, no detail."""
    version = keyroom.version(name)
    made = encrypt(keyroom, version, b"plain", additional_authenticated_data=b"aad")
    good, iv = made.ciphertext, made.initialization_vector
    attempts = [(version, good[:n], iv, b"aad") for n in range(1, len(good))]
    attempts += [(version, longer, iv, b"aad") for longer in (good + b"\0", b"\0" + good, good * 2)]
    attempts += [(version, good, iv, aad) for aad in (b"", b"aa", b"aad\0", b"other")]
    attempts += [(version, good, bytes(12), b"aad"), (keyroom.fresh(name), good, iv, b"aad")]
    for bit in range(8 * len(good)):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        attempts.append((version, bytes(changed), iv, b"aad"))
    for attempt in attempts:
        with pytest.raises(InvalidArgument) as refused:
            decrypt(keyroom, *attempt)
        assert (refused.value.message, refused.value.details) == ("Decryption failed.", ())


# --- sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LIMIT)
@pytest.mark.parametrize("name", [GCM, CBC, CTR])
def test_the_largest_plaintext_passes_and_one_more_does_not(keyroom: Keyroom, level: str, name: str) -> None:
    """64 KiB for software keys, 8 KiB in a token; what was made opens again."""
    version, largest = keyroom.version(name, level), bytes(LIMIT[level])
    made = encrypt(keyroom, version, largest)
    assert made.protection_level == (1 if level == "SOFTWARE" else 2)
    assert decrypt(keyroom, version, made.ciphertext, made.initialization_vector).plaintext == largest
    with pytest.raises(InvalidArgument, match="must not exceed"):
        encrypt(keyroom, version, largest + bytes(16))
    with pytest.raises(InvalidArgument, match="must not exceed"):
        decrypt(keyroom, version, largest * 2 + bytes(16), made.initialization_vector)


def test_associated_data_has_a_limit_too(keyroom: Keyroom) -> None:
    """64 KiB of its own for software keys; together with the plaintext 8 KiB in a token."""
    software, token = keyroom.version(GCM), keyroom.version(GCM, "HSM")
    aad = bytes(LIMIT["SOFTWARE"])
    made = encrypt(keyroom, software, aad, additional_authenticated_data=aad)
    assert decrypt(keyroom, software, made.ciphertext, made.initialization_vector, aad).plaintext == aad
    with pytest.raises(InvalidArgument, match=r"additional_authenticated_data.*must not exceed"):
        encrypt(keyroom, software, b"x", additional_authenticated_data=aad + b"x")
    with pytest.raises(InvalidArgument, match=r"additional_authenticated_data.*must not exceed"):
        decrypt(keyroom, software, made.ciphertext, made.initialization_vector, aad + b"x")
    half = bytes(LIMIT["HSM"] // 2)
    made = encrypt(keyroom, token, half, additional_authenticated_data=half)
    assert decrypt(keyroom, token, made.ciphertext, made.initialization_vector, half).plaintext == half
    with pytest.raises(InvalidArgument, match="Together with the additional authenticated data"):
        encrypt(keyroom, token, half + b"x", additional_authenticated_data=half)


def test_plaintext_and_ciphertext_are_required(keyroom: Keyroom) -> None:
    """An empty field is a missing one."""
    with pytest.raises(InvalidArgument, match="the field plaintext is required"):
        encrypt(keyroom, keyroom.version(GCM), b"")
    with pytest.raises(InvalidArgument, match="the field ciphertext is required"):
        decrypt(keyroom, keyroom.version(GCM), b"", bytes(12))


# --- checksums ---------------------------------------------------------------------------------------

VERIFIED = ("plaintext", "ciphertext", "additional_authenticated_data", "initialization_vector")


def verified(answer: Any) -> set[str]:
    """The fields whose checksum the service says it verified."""
    return {name for name in VERIFIED if getattr(answer, f"verified_{name}_crc32c", False)}


@pytest.mark.parametrize("name", [GCM, CTR])
def test_checksums_are_verified_one_by_one(keyroom: Keyroom, name: str) -> None:
    """Each subset that is sent is confirmed, and nothing else; the checksum of nothing is 0 and counts as
    sent, as gcloud sends it."""
    version = keyroom.version(name)
    given_iv = {"initialization_vector": os.urandom(16)} if name == CTR else {"initialization_vector": b""}
    given_aad = {"additional_authenticated_data": b"aad" if name == GCM else b""}
    encrypting = {"plaintext": PLAINTEXT, **given_aad, **given_iv}
    made = keyroom.call("RawEncrypt", version, **encrypting)
    decrypting = {
        "ciphertext": made.ciphertext, **given_aad, "initialization_vector": made.initialization_vector,
    }  # fmt: skip
    for rpc, fields in (("RawEncrypt", encrypting), ("RawDecrypt", decrypting)):
        for count in range(len(fields) + 1):
            for sent in itertools.combinations(fields, count):
                with_sums = checked(**{field: fields[field] for field in sent})
                assert verified(keyroom.call(rpc, version, **{**fields, **with_sums})) == set(sent)
        for field in fields:
            for wrong in (crc(fields[field]) ^ 1, -1, 2**32):
                with pytest.raises(InvalidArgument, match=f"^The checksum in field {field}_crc32c did"):
                    keyroom.call(rpc, version, **fields, **{f"{field}_crc32c": {"value": wrong}})
