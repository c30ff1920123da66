"""GetPublicKey: every algorithm in every format that fits it, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from keystead.api.errors import Internal, InvalidArgument
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.messages import PublicKey
from tests.kms.backends import outside
from tests.kms.keyroom import SECP256K1, Keyroom, crc, offered

PURPOSES = ("ASYMMETRIC_SIGN", "ASYMMETRIC_DECRYPT", "KEY_ENCAPSULATION")
FORMATS = ("PEM", "DER", "NIST_PQC", "XWING_RAW_BYTES")
FITTING: dict[Family, tuple[str, ...]] = {
    Family.ML_DSA: ("PEM", "DER", "NIST_PQC"),
    Family.ML_KEM: ("NIST_PQC",),
    Family.XWING: ("XWING_RAW_BYTES",),
}
CLASSICAL = ("PEM", "DER")
ALL = offered(*PURPOSES)
_SPKI = PublicFormat.SubjectPublicKeyInfo

_KINDS: dict[Family, Callable[[Algorithm, Any], bool]] = {
    Family.RSA_PSS: lambda of, key: isinstance(key, rsa.RSAPublicKey) and key.key_size == of.bits,
    Family.ECDSA: lambda of, key: (
        isinstance(key, ec.EllipticCurvePublicKey)
        and key.curve.name == {"P-256": "secp256r1", "P-384": "secp384r1"}[of.curve]
    ),
    Family.ED25519: lambda _, key: isinstance(key, ed25519.Ed25519PublicKey),
    Family.ML_DSA: lambda of, key: isinstance(key, getattr(mldsa, f"MLDSA{of.bits}PublicKey")),
}
for _family in (Family.RSA_PKCS1, Family.RSA_RAW_PKCS1, Family.RSA_OAEP):
    _KINDS[_family] = _KINDS[Family.RSA_PSS]


def get(keyroom: Keyroom, version: str, form: str | int = 0) -> Any:
    return keyroom.call("GetPublicKey", version, public_key_format=form)


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("form", FORMATS)
def test_a_format_is_given_where_it_fits(keyroom: Keyroom, algorithm: Algorithm, form: str) -> None:
    """In `public_key` with its checksum, the format echoed, PEM also in `pem`; elsewhere INVALID_ARGUMENT
    naming the formats that fit."""
    version, fitting = keyroom.version(algorithm.name), FITTING.get(algorithm.family, CLASSICAL)
    if form not in fitting:
        with pytest.raises(
            InvalidArgument, match="Invalid value for field 'public_key_format': Only"
        ) as refused:
            get(keyroom, version, form)
        assert all(name in refused.value.message for name in fitting)
        return
    answer = get(keyroom, version, form)
    assert (answer.name, answer.algorithm, answer.protection_level) == (version, algorithm.number, 1)
    assert answer.public_key_format == PublicKey.PublicKeyFormat.Value(form)
    assert answer.public_key.data
    assert answer.public_key.crc32c_checksum.value == crc(answer.public_key.data)
    assert answer.pem == (answer.public_key.data.decode() if form == "PEM" else "")
    assert answer.HasField("pem_crc32c") == (form == "PEM")


@pytest.mark.parametrize("algorithm", ALL)
def test_without_a_format_classical_keys_are_pem_and_the_others_an_error(
    keyroom: Keyroom, algorithm: Algorithm
) -> None:
    """`pem` and its checksum and nothing more; a post-quantum key has no default format."""
    version = keyroom.version(algorithm.name)
    if algorithm.family in outside.POST_QUANTUM:
        with pytest.raises(InvalidArgument, match="public_key_format"):
            get(keyroom, version)
        return
    answer = get(keyroom, version)
    expected = PublicKey(
        name=version,
        algorithm=algorithm.number,
        protection_level=1,
        pem=answer.pem,
        pem_crc32c={"value": crc(answer.pem.encode())},
    )
    assert answer == expected
    assert answer.pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert answer.pem.endswith("-----END PUBLIC KEY-----\n")


@pytest.mark.parametrize("algorithm", [each for each in ALL if each.values[0].family in _KINDS])
def test_pem_and_der_are_the_same_key_of_the_right_kind(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """Another library reads both as one key, of the size or curve that the algorithm names."""
    version = keyroom.version(algorithm.name)
    from_pem = load_pem_public_key(get(keyroom, version, "PEM").public_key.data)
    der = get(keyroom, version, "DER").public_key.data
    assert load_der_public_key(der) == from_pem
    assert from_pem.public_bytes(Encoding.DER, _SPKI) == der
    assert _KINDS[algorithm.family](algorithm, from_pem)


@pytest.mark.parametrize("algorithm", [each for each in ALL if each.values[0].family is Family.ML_DSA])
def test_the_raw_key_is_the_one_in_the_pem(keyroom: Keyroom, algorithm: Algorithm) -> None:
    """FIPS 204's encoding, and RFC 9881's around it."""
    version = keyroom.version(algorithm.name)
    key: Any = load_pem_public_key(get(keyroom, version, "PEM").public_key.data)
    assert key.public_bytes_raw() == get(keyroom, version, "NIST_PQC").public_key.data


@pytest.mark.parametrize(("algorithm", "size"), [("ML_KEM_768", 1184), ("ML_KEM_1024", 1568)])
def test_ml_kem_keys_are_raw(keyroom: Keyroom, algorithm: str, size: int) -> None:
    """FIPS 203's encoding, which another library reads."""
    raw = get(keyroom, keyroom.version(algorithm), "NIST_PQC").public_key.data
    assert len(raw) == size
    kind = mlkem.MLKEM768PublicKey if size == 1184 else mlkem.MLKEM1024PublicKey
    assert kind.from_public_bytes(raw).public_bytes_raw() == raw


def test_xwing_keys_are_raw(keyroom: Keyroom) -> None:
    """ML-KEM-768's key, then X25519's."""
    raw = get(keyroom, keyroom.version("KEM_XWING"), "XWING_RAW_BYTES").public_key.data
    assert len(raw) == 1216
    mlkem.MLKEM768PublicKey.from_public_bytes(raw[:1184])
    X25519PublicKey.from_public_bytes(raw[1184:])


def test_clients_find_the_words_they_look_for(keyroom: Keyroom) -> None:
    """Tink asks for PEM first, and for NIST_PQC where the refusal says so."""
    with pytest.raises(InvalidArgument, match="Only NIST_PQC format is supported"):
        get(keyroom, keyroom.version("ML_KEM_768"), "PEM")


@pytest.mark.parametrize("number", [5, 99, -1])
def test_a_number_that_is_no_format_is_refused(keyroom: Keyroom, number: int) -> None:
    """As one that does not fit."""
    with pytest.raises(InvalidArgument, match="Only PEM and DER formats are supported"):
        get(keyroom, keyroom.version("EC_SIGN_P256_SHA256"), number)


def test_keys_in_a_token_answer_alike(keyroom: Keyroom) -> None:
    """With their own protection level."""
    answer = get(keyroom, keyroom.version(SECP256K1, "HSM"))
    key = load_pem_public_key(answer.pem.encode())
    assert answer.protection_level == 2
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256k1"


def test_a_public_key_that_the_store_lost_is_an_internal_error(keyroom: Keyroom) -> None:
    """It says what to do, and no empty key is handed out."""
    version = keyroom.fresh("EC_SIGN_P256_SHA256")
    with keyroom.platform.store.write() as tx:
        tx.material.put(version, tx.material.get(version) or b"", b"")
    with pytest.raises(Internal, match=r"public key of .* is missing\. Restore the store from a backup"):
        get(keyroom, version)
