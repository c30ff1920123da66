"""AsymmetricSign: signatures that other libraries verify by the public key, and the input that each takes."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.errors import InvalidArgument
from keystead.kms.algorithms import BY_NAME, Algorithm, Family
from tests.kms.keyroom import OFFERED, SECP256K1, Keyroom, checked, crc, offered

P256 = "EC_SIGN_P256_SHA256"
P384 = "EC_SIGN_P384_SHA384"
MU = "PQ_SIGN_ML_DSA_65_EXTERNAL_MU"
RAW = "RSA_SIGN_RAW_PKCS1_2048"
DIGESTS = {"sha256": 32, "sha384": 48, "sha512": 64, "external_mu": 64}
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}

SIGNING = offered("ASYMMETRIC_SIGN")
HASHING = [each for each in SIGNING if each.values[0].digest in _HASHES]
NO_DIGEST = [each for each in SIGNING if not each.values[0].digest]
EXTERNAL_MU = [each for each in SIGNING if each.values[0].digest == "external_mu"]


def public_key(keyroom: Keyroom, version: str) -> Any:
    answer = keyroom.call("GetPublicKey", version, public_key_format="PEM")
    return load_pem_public_key(answer.public_key.data)


def verify(algorithm: Algorithm, key: Any, data: bytes, signature: bytes) -> None:
    """Raises InvalidSignature unless this is a signature of the data as the algorithm's name says."""
    if algorithm.family is Family.RSA_PSS:
        scheme = _HASHES[algorithm.hash]
        key.verify(signature, data, padding.PSS(padding.MGF1(scheme), scheme.digest_size), scheme)
    elif algorithm.family is Family.RSA_PKCS1:
        key.verify(signature, data, padding.PKCS1v15(), _HASHES[algorithm.hash])
    elif algorithm.family is Family.RSA_RAW_PKCS1:
        if key.recover_data_from_signature(signature, padding.PKCS1v15(), None) != data:
            raise InvalidSignature
    elif algorithm.family is Family.ECDSA:
        key.verify(signature, data, ec.ECDSA(_HASHES[algorithm.hash]))
    else:
        key.verify(signature, data)


def mu_of(key: Any, data: bytes) -> bytes:
    """FIPS 204, algorithm 7, step 6, with an empty context."""
    assert isinstance(key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey)
    tr = hashlib.shake_256(key.public_bytes_raw()).digest(64)
    return hashlib.shake_256(tr + b"\0\0" + data).digest(64)


def inputs(algorithm: Algorithm, key: Any, data: bytes) -> list[dict[str, Any]]:
    """Every way in which that data can be given to be signed."""
    if algorithm.digest == "external_mu":
        return [{"digest": {"external_mu": mu_of(key, data)}}]
    ways: list[dict[str, Any]] = [{"data": data}]
    if algorithm.digest:
        ways.append({"digest": {algorithm.digest: hashlib.new(algorithm.digest, data).digest()}})
    return ways


@pytest.mark.parametrize("algorithm", SIGNING)
def test_signatures_verify_by_the_public_key(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """By data and by digest; and no other data verifies."""
    version, data = keyroom.version(algorithm.name), os.urandom(100)
    key = public_key(keyroom, version)
    for way in inputs(algorithm, key, data):
        made = keyroom.call("AsymmetricSign", version, **way)
        verify(algorithm, key, data, made.signature)
        with pytest.raises(InvalidSignature):
            verify(algorithm, key, data + b"x", made.signature)
        assert (made.name, made.protection_level) == (version, 1)
        assert made.signature_crc32c.value == crc(made.signature)
        assert (made.verified_data_crc32c, made.verified_digest_crc32c) == (False, False)


def test_every_signing_algorithm_is_tested(keyroom: Keyroom) -> None:
    """All that software keys offer, and secp256k1 in a token; SLH-DSA is offered nowhere."""
    names = {each.name for each in OFFERED if each.purpose == "ASYMMETRIC_SIGN"}
    software = keyroom.platform.keys.material.backend(1).algorithms
    assert names == {name for name in software if BY_NAME[name].purpose == "ASYMMETRIC_SIGN"}
    assert len(names) == 20


def test_secp256k1_signs_in_a_token(keyroom: Keyroom) -> None:
    """Cloud KMS has it for HSM keys only."""
    version = keyroom.version(SECP256K1, "HSM")
    for way in inputs(BY_NAME[SECP256K1], None, b"data"):
        made = keyroom.call("AsymmetricSign", version, **way)
        assert made.protection_level == 2
        verify(BY_NAME[SECP256K1], public_key(keyroom, version), b"data", made.signature)


@given(data=st.binary(min_size=1, max_size=300))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_data_is_hashed_as_the_name_says(keyroom: Keyroom, data: bytes) -> None:
    """A deterministic signature is the same by data and by digest."""
    version = keyroom.version("RSA_SIGN_PKCS1_2048_SHA256")
    digest = hashlib.sha256(data).digest()
    by_data = keyroom.call("AsymmetricSign", version, data=data).signature
    by_digest = keyroom.call("AsymmetricSign", version, digest={"sha256": digest}).signature
    assert by_data == by_digest


# --- what each takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SIGNING)
def test_exactly_one_of_digest_and_data(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Neither and both are INVALID_ARGUMENT; empty data is none."""
    version = keyroom.version(algorithm.name)
    fitting = (
        {algorithm.digest: bytes(DIGESTS[algorithm.digest])} if algorithm.digest else {"sha256": bytes(32)}
    )
    neither: list[dict[str, Any]] = [{}, {"data": b""}, {"data": b"", "data_crc32c": {"value": 0}}]
    for fields in neither:
        with pytest.raises(InvalidArgument, match="one of the fields digest and data is required"):
            keyroom.call("AsymmetricSign", version, **fields)
    both: list[dict[str, Any]] = [{"data": b"data", "digest": fitting}, {"data": b"data", "digest": {}}]
    for fields in both:
        with pytest.raises(InvalidArgument, match="Only one of the fields digest and data"):
            keyroom.call("AsymmetricSign", version, **fields)


@pytest.mark.parametrize("algorithm", HASHING + EXTERNAL_MU)
def test_a_digest_is_of_the_algorithm_s_kind(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Every other field of Digest, and an empty Digest, is refused and told which it is."""
    version = keyroom.version(algorithm.name)
    others: list[dict[str, bytes]] = [
        {name: bytes(n)} for name, n in DIGESTS.items() if name != algorithm.digest
    ]
    for digest in [*others, {}]:
        with pytest.raises(InvalidArgument, match=rf"takes digest\.{algorithm.digest}\."):
            keyroom.call("AsymmetricSign", version, digest=digest)


@pytest.mark.parametrize("algorithm", HASHING + EXTERNAL_MU)
def test_a_digest_has_the_length_of_its_hash(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """One byte more or less, or none, is refused; mu has 64 bytes."""
    version, size = keyroom.version(algorithm.name), DIGESTS[algorithm.digest]
    for length in (0, 1, size - 1, size + 1, 2 * size):
        with pytest.raises(InvalidArgument, match=f"must have {size} bytes; {length} were given"):
            keyroom.call("AsymmetricSign", version, digest={algorithm.digest: bytes(length)})


@pytest.mark.parametrize("algorithm", NO_DIGEST)
def test_what_signs_data_takes_no_digest(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Raw PKCS#1, Ed25519 and pure ML-DSA."""
    for name, size in DIGESTS.items():
        with pytest.raises(InvalidArgument, match="it takes no digest"):
            keyroom.call("AsymmetricSign", keyroom.version(algorithm.name), digest={name: bytes(size)})


@pytest.mark.parametrize("algorithm", EXTERNAL_MU)
def test_external_mu_takes_no_data(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """The representative is computed by the caller."""
    with pytest.raises(InvalidArgument, match=r"takes digest\.external_mu"):
        keyroom.call("AsymmetricSign", keyroom.version(algorithm.name), data=b"data")


@pytest.mark.parametrize("level", ["SOFTWARE", "HSM"])
@pytest.mark.parametrize(
    "algorithm", [P256, "EC_SIGN_ED25519", "PQ_SIGN_ML_DSA_44", "RSA_SIGN_PSS_2048_SHA256"]
)
def test_the_largest_data_passes_and_one_byte_more_does_not(
    keyroom: Keyroom, algorithm: str, level: str
) -> None:
    """64 KiB; 8 KiB of what a token takes whole, which is what no hash is made of here."""
    version = keyroom.version(algorithm, level)
    in_token_whole = level == "HSM" and not BY_NAME[algorithm].digest
    largest = bytes(8 * 1024 if in_token_whole else 64 * 1024)
    made = keyroom.call("AsymmetricSign", version, data=largest)
    verify(BY_NAME[algorithm], public_key(keyroom, version), largest, made.signature)
    with pytest.raises(InvalidArgument, match="must not exceed"):
        keyroom.call("AsymmetricSign", version, data=largest + b"x")


@pytest.mark.parametrize(("bits", "longest"), [(2048, 245), (3072, 373), (4096, 501)])
def test_raw_pkcs1_signs_eleven_bytes_less_than_its_modulus(
    keyroom: Keyroom, bits: int, longest: int
) -> None:
    """And no more; a DigestInfo made elsewhere gives the signature of the hash it names."""
    version = keyroom.version(f"RSA_SIGN_RAW_PKCS1_{bits}")
    data = os.urandom(longest)
    made = keyroom.call("AsymmetricSign", version, data=data)
    verify(BY_NAME[f"RSA_SIGN_RAW_PKCS1_{bits}"], public_key(keyroom, version), data, made.signature)
    with pytest.raises(InvalidArgument, match=f"must not exceed {longest} bytes"):
        keyroom.call("AsymmetricSign", version, data=data + b"x")
    info = bytes.fromhex("3051300d060960864801650304020305000440") + hashlib.sha512(b"data").digest()
    made = keyroom.call("AsymmetricSign", version, data=info)
    public_key(keyroom, version).verify(made.signature, b"data", padding.PKCS1v15(), hashes.SHA512())


# --- checksums ---------------------------------------------------------------------------------------


def test_checksums_are_verified_one_by_one(keyroom: Keyroom) -> None:
    """verified_* is true exactly for what was sent; the digest's checksum is over its bytes."""
    version, digest = keyroom.version(P384), os.urandom(48)
    by_data = keyroom.call("AsymmetricSign", version, **checked(data=b"data"))
    assert (by_data.verified_data_crc32c, by_data.verified_digest_crc32c) == (True, False)
    by_digest = keyroom.call(
        "AsymmetricSign", version, digest={"sha384": digest}, digest_crc32c={"value": crc(digest)}
    )
    assert (by_digest.verified_data_crc32c, by_digest.verified_digest_crc32c) == (False, True)
    wrong: list[dict[str, Any]] = [
        {"data": b"data", "data_crc32c": {"value": 0}},
        {"data": b"data", "digest_crc32c": {"value": crc(b"data")}},
        {"digest": {"sha384": digest}, "digest_crc32c": {"value": 0}},
        {"digest": {"sha384": digest}, "data_crc32c": {"value": crc(digest)}},
    ]
    for fields in wrong:
        with pytest.raises(InvalidArgument, match=r"^The checksum in field .* did not match the data"):
            keyroom.call("AsymmetricSign", version, **fields)


def test_the_checksum_of_mu_is_verified(keyroom: Keyroom) -> None:
    """As of every other digest."""
    mu = os.urandom(64)
    made = keyroom.call(
        "AsymmetricSign",
        keyroom.version(MU),
        digest={"external_mu": mu},
        digest_crc32c={"value": crc(mu)},
    )
    assert made.verified_digest_crc32c
