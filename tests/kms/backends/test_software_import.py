"""Import into the software back end: what was wrapped right works, anything else fails with a reason."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Callable
from functools import cache

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from keystead.api.errors import Unavailable
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends import ImportFailedError, Made, NotExportableError, WrappedKey
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.messages import ImportJob
from keystead.kms.rootkey import RootKey
from keystead.kms.seals import SealError

from . import outside

JOB = "projects/p/locations/l/keyRings/r/importJobs/j"
VERSION = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
OTHER = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/2"
XWING_PKCS8 = bytes.fromhex("3034020100300d060b2b0601040183e62d81c87a0420")
AES = "RSA_OAEP_3072_SHA256_AES_256"
DIRECT = "RSA_OAEP_3072_SHA256"
MLKEM768 = "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM"
METHODS = sorted(set(ImportJob.ImportMethod.keys()) - {"IMPORT_METHOD_UNSPECIFIED"})
QUICK = [name for name in METHODS if "4096" not in name]
NOT_UNWRAPPED = "The key material in the import request couldn't be unwrapped or wasn't formatted correctly"

ROOT = RootKey(SecretBytes.random())
BACKEND = SoftwareBackend(ROOT)


@cache
def job(method: str) -> Made:
    return BACKEND.generate_import_key(JOB, method)


def wrap(method: str, key: bytes) -> bytes:
    return outside.wrap(method, job(method).public, key)


def imported(
    method: str, data: bytes, algorithm: str, *, version: str = VERSION, exportable: bool = False
) -> Made:
    wrapped = WrappedKey(JOB, method, job(method).stored, data)
    return BACKEND.import_key(wrapped, version, BY_NAME[algorithm], exportable=exportable)


def reason(method: str, data: bytes, algorithm: str) -> str:
    with pytest.raises(ImportFailedError) as caught:
        imported(method, data, algorithm)
    return str(caught.value)


def der(key: object, encryption: KeySerializationEncryption | None = None) -> bytes:
    out: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, encryption or NoEncryption())  # type: ignore[attr-defined]
    return out


def formatted(name: str) -> bytes:
    """A key of that algorithm as it is wrapped for import."""
    return outside.known(BY_NAME[name]).private


def public_of(name: str) -> bytes:
    return outside.known(BY_NAME[name]).public


RSA = "RSA_SIGN_PSS_2048_SHA256"
# One algorithm of each family and size.
KINDS = [
    "GOOGLE_SYMMETRIC_ENCRYPTION", "AES_128_GCM", "AES_256_CBC", "AES_128_CTR", "HMAC_SHA512", "AES_256_KWP",
    RSA, "RSA_SIGN_PKCS1_2048_SHA256", "RSA_SIGN_RAW_PKCS1_2048", "RSA_DECRYPT_OAEP_2048_SHA1",
    "EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384", "EC_SIGN_ED25519", "PQ_SIGN_ML_DSA_44",
    "PQ_SIGN_ML_DSA_65_EXTERNAL_MU", "PQ_SIGN_ML_DSA_87", "ML_KEM_768", "ML_KEM_1024", "KEM_XWING",
]  # fmt: skip


def test_every_method_is_offered() -> None:
    """The software back end leaves none out."""
    assert sorted(BACKEND.import_methods) == METHODS
    assert len(METHODS) == 9


@pytest.mark.parametrize("method", METHODS)
def test_a_key_comes_in_by_every_method(method: str) -> None:
    """And makes the tags that its material makes elsewhere."""
    key = os.urandom(32)
    made = imported(method, wrap(method, key), "HMAC_SHA256")
    opened = BACKEND.load(VERSION, BY_NAME["HMAC_SHA256"], made.stored)
    assert opened.mac(b"data") == hmac.digest(key, b"data", "sha256")  # type: ignore[union-attr]
    assert made.public == b""
    assert len(made.fingerprint) == 32


@pytest.mark.parametrize("name", KINDS)
def test_a_key_of_every_kind_comes_in(name: str) -> None:
    """With its public key, and opened again under its version and algorithm only."""
    made = imported(AES, wrap(AES, formatted(name)), name)
    assert made.public == public_of(name)
    assert BACKEND.load(VERSION, BY_NAME[name], made.stored)
    for version, algorithm in ((OTHER, name), (VERSION, next(each for each in KINDS if each != name))):
        with pytest.raises(SealError):
            BACKEND.load(version, BY_NAME[algorithm], made.stored)


@pytest.mark.parametrize("name", ["EC_SIGN_P256_SHA256", "EC_SIGN_ED25519", "KEM_XWING", "ML_KEM_768"])
def test_small_private_keys_fit_the_direct_method(name: str) -> None:
    """RSA-OAEP of the key itself takes what is short enough; only RSA keys never are."""
    assert imported(DIRECT, wrap(DIRECT, formatted(name)), name).public == public_of(name)


@pytest.mark.parametrize("method", [AES, MLKEM768])
def test_rsa_keys_come_in_by_the_others(method: str) -> None:
    """Under an ephemeral key, or by HPKE; with the exponent 3 too, which Cloud KMS itself never makes."""
    assert imported(method, wrap(method, formatted(RSA)), RSA).public == public_of(RSA)
    key = rsa.generate_private_key(3, 2048)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert imported(method, wrap(method, der(key)), RSA).public == public


def test_job_keys_are_what_their_method_says() -> None:
    """RSA of that size with e = 65537 as SubjectPublicKeyInfo, KEM keys in their raw encoding."""
    public = load_der_public_key(job(AES).public)
    assert isinstance(public, rsa.RSAPublicKey)
    assert (public.key_size, public.public_numbers().e) == (3072, 65537)
    sizes = {name: len(job(name).public) for name in METHODS if name.startswith("HPKE")}
    assert sorted(sizes.values()) == [1184, 1216, 1568]
    assert BACKEND.generate_import_key(JOB, MLKEM768).public != job(MLKEM768).public


def test_a_job_s_key_serves_that_job_and_method_alone() -> None:
    """What is stored of it opens under no other name: the row cannot be copied."""
    data = wrap(AES, os.urandom(32))
    stored = job(AES).stored
    for name, method in ((JOB + "2", AES), (JOB, "RSA_OAEP_3072_SHA1_AES_256")):
        with pytest.raises(SealError, match="damaged"):
            BACKEND.import_key(WrappedKey(name, method, stored, data), VERSION, BY_NAME["HMAC_SHA256"])


def test_fingerprints_know_the_material_again() -> None:
    """By whatever method, in whatever form and for whatever algorithm it came; elsewhere they differ."""
    pss, pkcs1 = (imported(method, wrap(method, formatted(RSA)), name, version=version).fingerprint
                  for method, name, version in ((AES, RSA, VERSION),
                                        (MLKEM768, "RSA_SIGN_PKCS1_2048_SHA256", OTHER)))  # fmt: skip
    assert pss == pkcs1
    key = os.urandom(32)
    symmetric = imported(AES, wrap(AES, key), "AES_256_GCM").fingerprint
    assert symmetric == imported(MLKEM768, wrap(MLKEM768, key), "HMAC_SHA256").fingerprint
    assert symmetric != imported(AES, wrap(AES, os.urandom(32)), "AES_256_GCM").fingerprint
    assert symmetric != RootKey(SecretBytes.random()).fingerprint(SecretBytes(key))
    assert symmetric not in {hashlib.sha256(key).digest(), key}


def ec_without_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 around an ECPrivateKey (RFC 5915) on P-256 that leaves the public key out."""
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    inner = bytes.fromhex("30250201010420") + scalar
    return bytes.fromhex("3041020100301306072a8648ce3d020106082a8648ce3d0301070427") + inner


def one_key_twice() -> list[tuple[str, bytes, bytes]]:
    curve_key = ec.generate_private_key(ec.SECP256R1())
    dsa, kem = mldsa.MLDSA44PrivateKey.generate(), mlkem.MLKEM1024PrivateKey.generate()
    return [
        ("EC_SIGN_P256_SHA256", der(curve_key), ec_without_public(curve_key)),
        ("PQ_SIGN_ML_DSA_44", der(dsa), dsa.private_bytes_raw()),
        ("ML_KEM_1024", der(kem), kem.private_bytes_raw()),
        ("KEM_XWING", XWING_PKCS8 + bytes(range(32)), bytes(range(32))),
    ]


@pytest.mark.parametrize(("name", "one", "other"), one_key_twice(), ids=["EC", "ML-DSA", "ML-KEM", "X-Wing"])
def test_one_key_in_two_encodings_is_one_key(name: str, one: bytes, other: bytes) -> None:
    """EC without its public half, seeds with and without PKCS#8: same public key, same fingerprint."""
    first, second = (imported(AES, wrap(AES, form), name) for form in (one, other))
    assert first.public == second.public
    assert first.fingerprint == second.fingerprint


WRONG: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a key too short": (
        "AES_256_GCM", lambda: os.urandom(16), r"The key material has 16 bytes; AES_256_GCM takes 32\."),
    "a key too long": (
        "HMAC_SHA1", lambda: os.urandom(21), r"The key material has 21 bytes; HMAC_SHA1 takes 20\."),
    "hex for a key": (
        "GOOGLE_SYMMETRIC_ENCRYPTION", lambda: os.urandom(32).hex().encode(), "has 64 bytes"),
    "another modulus": (
        "RSA_SIGN_PKCS1_3072_SHA256", lambda: formatted(RSA), "2048 bits, not 3072"),
    "another curve": (
        "EC_SIGN_P384_SHA384", lambda: der(ec.generate_private_key(ec.SECP256R1())), "not P-384"),
    "another family": (
        "EC_SIGN_P256_SHA256", lambda: formatted(RSA), "not an EC key"),
    "EC for RSA": (
        RSA, lambda: der(ec.generate_private_key(ec.SECP256R1())), "not an RSA key"),
    "another parameter set": (
        "PQ_SIGN_ML_DSA_65", lambda: der(mldsa.MLDSA44PrivateKey.generate()), "not a private key of ML-DSA"),
    "a KEM to sign with": (
        "PQ_SIGN_ML_DSA_65", lambda: der(mlkem.MLKEM768PrivateKey.generate()), "ML-DSA-65"),
    "ML-KEM for X-Wing": (
        "KEM_XWING", lambda: der(mlkem.MLKEM768PrivateKey.generate()), "X-Wing"),
    "an encrypted key": (
        "EC_SIGN_ED25519",
        lambda: der(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"pw")), "PKCS#8"),
    "PEM": (
        "EC_SIGN_ED25519",
        lambda: ed25519.Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "PKCS#8"),
    "a public key": (
        "EC_SIGN_ED25519",
        lambda: ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "PKCS#8"),
    "noise": (RSA, lambda: os.urandom(1200), "PKCS#8"),
    "bytes after the key": (
        "EC_SIGN_ED25519", lambda: der(ed25519.Ed25519PrivateKey.generate()) + b"x", "PKCS#8"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("method", [AES, MLKEM768])
def test_a_key_of_another_kind_is_refused_with_the_reason(case: str, method: str) -> None:
    """Once unwrapped, it is told what is wrong with the key, without a byte of it."""
    algorithm, formatted, expected = WRONG[case]
    key = formatted()
    text = reason(method, wrap(method, key), algorithm)
    assert re.search(expected, text)
    assert text.endswith(".")
    assert key.hex()[:16] not in text
    assert repr(key)[:12] not in text


def test_an_inconsistent_rsa_key_is_refused() -> None:
    """A modulus that is not the product of the primes, as an attacker would import it."""
    broken = bytearray(formatted(RSA))
    key = load_der_private_key(bytes(broken), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    at = bytes(broken).index(key.public_key().public_numbers().n.to_bytes(256, "big"))
    broken[at + 200] ^= 4
    assert NOT_UNWRAPPED in reason(AES, wrap(AES, bytes(broken)), RSA)


@pytest.mark.parametrize("name", [RSA, "RSA_SIGN_RAW_PKCS1_2048"])
def test_direct_wrapping_takes_no_rsa_key(name: str) -> None:
    """And says which methods do."""
    text = reason(DIRECT, wrap(DIRECT, bytes(32)), name)
    assert text == f"{DIRECT} cannot wrap RSA keys. Use an import job whose method ends in _AES_256."


def wrapped_with(scheme: padding.AsymmetricPadding) -> bytes:
    """A key as it would be right, but for the padding."""
    public = load_der_public_key(job(AES).public)
    assert isinstance(public, rsa.RSAPublicKey)
    ephemeral = os.urandom(32)
    return public.encrypt(ephemeral, scheme) + keywrap.aes_key_wrap_with_padding(ephemeral, bytes(32))


@pytest.mark.parametrize(
    ("method", "data", "expected"),
    [
        (AES, lambda: b"", "Wrapped key is too short."),
        (AES, lambda: bytes(384 + 8), "Wrapped key is too short."),
        (AES, lambda: bytes(384 + 17), "Wrapped key does not consist of 64-bit blocks."),
        (AES, lambda: bytes(384 + 40), f"{NOT_UNWRAPPED}."),
        (AES, lambda: wrap(AES, bytes(32))[:-1] + b"x", f"{NOT_UNWRAPPED}."),
        (AES, lambda: b"x" + wrap(AES, bytes(32))[1:], f"{NOT_UNWRAPPED}."),
        (AES, lambda: outside.wrap(AES, job(AES).public, bytes(32), ephemeral_bytes=16), f"{NOT_UNWRAPPED}."),
        (AES, lambda: outside.wrap(AES, job(AES).public, bytes(32), ephemeral_bytes=24), f"{NOT_UNWRAPPED}."),
        (AES, lambda: wrapped_with(outside.oaep("sha1")), f"{NOT_UNWRAPPED}."),
        (AES, lambda: wrapped_with(outside.oaep("sha256", b"x")), f"{NOT_UNWRAPPED}."),
        (AES, lambda: wrapped_with(padding.PKCS1v15()), f"{NOT_UNWRAPPED}."),
        (DIRECT, lambda: b"", "Wrapped key has invalid length."),
        (DIRECT, lambda: bytes(385), "Wrapped key has invalid length."),
        (DIRECT, lambda: bytes(384), f"{NOT_UNWRAPPED}."),
        (DIRECT, lambda: b"\xff" * 384, f"{NOT_UNWRAPPED}."),
        (DIRECT, lambda: wrap(AES, bytes(32)), "Wrapped key has invalid length."),
        (MLKEM768, lambda: b"", "Wrapped key is too short."),
        (MLKEM768, lambda: wrap(MLKEM768, b""), "Wrapped key is too short."),
        (MLKEM768, lambda: wrap(MLKEM768, bytes(32))[:-1], f"{NOT_UNWRAPPED}."),
        (MLKEM768, lambda: bytes(2000), f"{NOT_UNWRAPPED}."),
    ],
)
def test_what_does_not_unwrap_says_only_that(method: str, data: Callable[[], bytes], expected: str) -> None:
    """Lengths are told, for they are public; which layer failed is not."""
    assert reason(method, data(), "AES_256_GCM") == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_altered_wrappings_fail_as_documented(data: st.DataObject) -> None:
    """Whatever happens to the bytes on the way, nothing but ImportFailedError comes out."""
    method = data.draw(st.sampled_from(QUICK))
    wrapped = bytearray(wrap(method, b"k" * 32))
    match data.draw(st.sampled_from(["flip", "cut", "append", "noise"])):
        case "flip":
            wrapped[data.draw(st.integers(0, len(wrapped) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut":
            del wrapped[data.draw(st.integers(0, len(wrapped) - 1)) :]
        case "append":
            wrapped += data.draw(st.binary(min_size=1, max_size=40))
        case _:
            wrapped = bytearray(data.draw(st.binary(max_size=500)))
    assert reason(method, bytes(wrapped), "AES_256_GCM")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_altered_keys_fail_as_documented_or_are_keys(data: st.DataObject) -> None:
    """Well wrapped, but not the key it was: either it is one all the same and opens, or ImportFailedError."""
    name = data.draw(st.sampled_from(KINDS))
    key = bytearray(formatted(name))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(key) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                key[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del key[at + 1 :]
            case _:
                key[at:at] = data.draw(st.binary(max_size=10))
    try:
        made = imported(MLKEM768, wrap(MLKEM768, bytes(key)), name)
    except ImportFailedError:
        return
    assert BACKEND.load(VERSION, BY_NAME[name], made.stored)


def wrapper(name: str = "AES_256_KWP") -> tuple[bytes, object]:
    kek = os.urandom(32)
    made = imported(AES, wrap(AES, kek), name, version=OTHER)
    return kek, BACKEND.load(OTHER, BY_NAME[name], made.stored)


@pytest.mark.parametrize("name", KINDS)
def test_an_exportable_key_travels_under_a_wrapping_key(name: str) -> None:
    """RFC 5649 over its bytes or its PKCS#8, byte for byte; and back in as the same key."""
    made = imported(AES, wrap(AES, formatted(name)), name, exportable=True)
    kek, wrapping = wrapper()
    wrapped = wrapping.wrap(VERSION, BY_NAME[name], made.stored)  # type: ignore[attr-defined]
    travelled = keywrap.aes_key_unwrap_with_padding(kek, wrapped)
    assert travelled.endswith(formatted(name))
    again = wrapping.unwrap(wrapped, OTHER, BY_NAME[name])  # type: ignore[attr-defined]
    assert (again.public, again.fingerprint) == (made.public, made.fingerprint)
    assert BACKEND.load(OTHER, BY_NAME[name], again.stored)


def test_a_key_that_was_not_made_exportable_stays() -> None:
    """Generated, imported or unwrapped; nor does changing the mark in what is stored let it go."""
    algorithm = BY_NAME["AES_256_GCM"]
    _, wrapping = wrapper()
    let_go = BACKEND.generate(VERSION, algorithm, exportable=True)
    wrapped = wrapping.wrap(VERSION, algorithm, let_go.stored)  # type: ignore[attr-defined]
    kept = [
        BACKEND.generate(VERSION, algorithm),
        imported(AES, wrap(AES, bytes(32)), algorithm.name),
        wrapping.unwrap(wrapped, VERSION, algorithm),  # type: ignore[attr-defined]
    ]
    for made in kept:
        with pytest.raises(NotExportableError, match=VERSION):
            wrapping.wrap(VERSION, algorithm, made.stored)  # type: ignore[attr-defined]
        with pytest.raises(SealError):
            wrapping.wrap(VERSION, algorithm, let_go.stored[:1] + made.stored[1:])  # type: ignore[attr-defined]


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_unwrapping_anything_else_fails_as_documented(data: bytes) -> None:
    """The reason is the length where that is wrong."""
    with pytest.raises(ImportFailedError) as caught:
        WRAPPING.unwrap(data, VERSION, BY_NAME["AES_256_GCM"])  # type: ignore[attr-defined]
    expected = f"{NOT_UNWRAPPED}."
    if len(data) < 16:
        expected = "Wrapped key is too short."
    elif len(data) % 8:
        expected = "Wrapped key does not consist of 64-bit blocks."
    assert str(caught.value) == expected


KEK, WRAPPING = wrapper()


def test_an_unwrapped_key_is_checked_too() -> None:
    """The wrapping key's holder cannot make a version of another algorithm than asked for."""
    wrapped = keywrap.aes_key_wrap_with_padding(KEK, formatted(RSA))
    with pytest.raises(ImportFailedError, match="not an EC key"):
        WRAPPING.unwrap(wrapped, VERSION, BY_NAME["EC_SIGN_P256_SHA256"])  # type: ignore[attr-defined]


def test_while_the_root_key_is_sealed_nothing_comes_in() -> None:
    """Unavailable, not a failed import: the client may try again."""
    root = RootKey(SecretBytes.random())
    backend = SoftwareBackend(root)
    made = backend.generate_import_key(JOB, MLKEM768)
    data = outside.wrap(MLKEM768, made.public, bytes(32))
    root.close()
    for act in (
        lambda: backend.import_key(
            WrappedKey(JOB, MLKEM768, made.stored, data), VERSION, BY_NAME["AES_256_GCM"]
        ),
        lambda: backend.generate_import_key(JOB, MLKEM768),
    ):
        with pytest.raises(Unavailable):
            act()


def test_material_does_not_show() -> None:
    """Nothing that is made prints the material, and what is stored does not hold it."""
    key = os.urandom(32)
    made = imported(AES, wrap(AES, key), "AES_256_KWP")
    opened = BACKEND.load(VERSION, BY_NAME["AES_256_KWP"], made.stored)
    for text in (repr(made), repr(opened), repr(BACKEND)):
        assert key.hex() not in text
        assert repr(key)[2:-1] not in text
    assert key not in made.stored
