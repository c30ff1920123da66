"""RSA signs and decrypts as RFC 8017 says, and takes only whole keys of the size that was asked for."""

from __future__ import annotations

import hashlib
import os
from functools import cache

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
)

from keystead.crypto.errors import DecryptionError, MalformedError
from keystead.crypto.rsa import PKCS1_OVERHEAD, RsaOaep, RsaPkcs1, RsaPss, RsaRawPkcs1
from keystead.crypto.secret import SecretBytes

from .published import unhex, wycheproof

HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
# RFC 8017 9.2, note 1: what comes before the digest.
DIGEST_INFO = {
    "sha1": "3021300906052b0e03021a05000414",
    "sha224": "302d300d06096086480165030402040500041c",
    "sha256": "3031300d060960864801650304020105000420",
    "sha384": "3041300d060960864801650304020205000430",
    "sha512": "3051300d060960864801650304020305000440",
}

RsaKey = RsaPss | RsaPkcs1 | RsaRawPkcs1 | RsaOaep


def name_of(sha: str) -> str:
    return sha.replace("-", "").lower()


def public_key(public: bytes) -> rsa.RSAPublicKey:
    key = load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def verify_pss(public: bytes, signature: bytes, digest: bytes, name: str) -> None:
    algorithm = HASHES[name]()
    scheme = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
    public_key(public).verify(signature, digest, scheme, Prehashed(algorithm))


def verify_pkcs1(public: bytes, signature: bytes, digest: bytes, name: str) -> None:
    public_key(public).verify(signature, digest, padding.PKCS1v15(), Prehashed(HASHES[name]()))


@cache
def any_private(e: int = 65537) -> bytes:
    key = rsa.generate_private_key(e, 2048)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("bits", [1024, 1536, 2048, 3072, 4096])
def test_pkcs1_signatures_come_out_as_published(bits: int) -> None:
    """Wycheproof's signing vectors, byte for byte; and the raw key over DigestInfo and digest gives the same,
    so that it adds the padding of RFC 8017 9.2 and nothing else."""
    count = 0
    keys: dict[tuple[str, str], tuple[RsaPkcs1, RsaRawPkcs1]] = {}
    for group, test in wycheproof("Signature", f"rsa_pkcs1_{bits}_sig_gen_test"):
        name = name_of(group["sha"])
        private = SecretBytes(unhex(group["privateKeyPkcs8"]))
        which = (name, group["privateKeyPkcs8"])
        if which not in keys:
            keys[which] = (
                RsaPkcs1.from_private(private, bits, name),
                RsaRawPkcs1.from_private(private, bits, check=False),
            )
        signing, raw = keys[which]
        digest = hashlib.new(name, unhex(test["msg"])).digest()
        assert signing.sign(digest).hex() == test["sig"]
        assert raw.sign(unhex(DIGEST_INFO[name]) + digest).hex() == test["sig"]
        count += 1
    assert count >= 24


@pytest.mark.parametrize("size", ["2048_sha256", "3072_sha256", "4096_sha256", "4096_sha512"])
def test_pkcs1_signatures_verify_where_forgeries_do_not(size: str) -> None:
    """The verifier that accepts our signatures refuses every forgery of Wycheproof's."""
    bits, _, name = size.partition("_")
    accepted = refused = 0
    for group, test in wycheproof("Signature", f"rsa_signature_{size}_test"):
        args = (unhex(group["publicKeyDer"]), unhex(test["sig"]))
        digest = hashlib.new(name, unhex(test["msg"])).digest()
        if test["result"] == "valid":
            accepted += 1
            verify_pkcs1(*args, digest, name)
        elif test["result"] == "invalid":
            refused += 1
            with pytest.raises(InvalidSignature):
                verify_pkcs1(*args, digest, name)
    assert accepted > 5
    assert refused > 100
    key = RsaPkcs1.generate(int(bits), name)
    digest = hashlib.new(name, b"data").digest()
    verify_pkcs1(key.public, key.sign(digest), digest, name)
    with pytest.raises(InvalidSignature):
        verify_pkcs1(key.public, key.sign(digest), hashlib.new(name, b"other").digest(), name)


@pytest.mark.parametrize(
    ("file", "name", "bits"),
    [
        ("rsa_pss_2048_sha256_mgf1_32_test", "sha256", 2048),
        ("rsa_pss_3072_sha256_mgf1_32_test", "sha256", 3072),
        ("rsa_pss_4096_sha256_mgf1_32_test", "sha256", 4096),
        ("rsa_pss_4096_sha512_mgf1_64_test", "sha512", 4096),
    ],
)
def test_pss_signatures_verify_where_forgeries_do_not(file: str, name: str, bits: int) -> None:
    """MGF1 of the same hash and a salt as long as the hash: the verifier for exactly that accepts ours and
    refuses every forgery of Wycheproof's."""
    accepted = refused = 0
    for group, test in wycheproof("Signature", file):
        args = (unhex(group["publicKeyDer"]), unhex(test["sig"]))
        digest = hashlib.new(name, unhex(test["msg"])).digest()
        if test["result"] == "valid":
            accepted += 1
            verify_pss(*args, digest, name)
        elif test["result"] == "invalid":
            refused += 1
            with pytest.raises(InvalidSignature):
                verify_pss(*args, digest, name)
    assert accepted > 5
    assert refused > 30
    key = RsaPss.generate(bits, name)
    digest = hashlib.new(name, b"data").digest()
    first, second = key.sign(digest), key.sign(digest)
    assert first != second
    verify_pss(key.public, first, digest, name)
    verify_pss(key.public, second, digest, name)


@pytest.mark.parametrize("size", ["2048_sha1", "2048_sha256", "3072_sha256", "4096_sha256", "4096_sha512"])
def test_oaep_opens_what_is_right_and_nothing_else(size: str) -> None:
    """Wycheproof's vectors byte for byte; whatever is invalid, and whatever carries a label, is refused with
    the one DecryptionError."""
    bits, _, name = size.partition("_")
    keys: dict[str, RsaOaep] = {}
    opened = refused = labelled = 0
    for group, test in wycheproof("Cipher", f"rsa_oaep_{size}_mgf1{name}_test"):
        private = group["privateKeyPkcs8"]
        if private not in keys:
            keys[private] = RsaOaep.from_private(SecretBytes(unhex(private)), int(bits), name)
        key, ciphertext = keys[private], unhex(test["ct"])
        if test["result"] == "valid" and not test["label"]:
            opened += 1
            assert key.decrypt(ciphertext) == unhex(test["msg"])
            continue
        refused += 1
        labelled += bool(test["label"])
        with pytest.raises(DecryptionError) as error:
            key.decrypt(ciphertext)
        assert str(error.value) == "decryption failed"
        assert error.value.__cause__ is None
    assert opened >= 10
    assert refused >= 15
    assert labelled >= 5


@pytest.mark.parametrize("name", ["sha1", "sha256", "sha512"])
def test_oaep_keys_open_what_others_encrypt(name: str) -> None:
    """The longest and the empty plaintext come back; a ciphertext that is cut, longer, or not below the
    modulus is refused like any other."""
    key = RsaOaep.generate(2048, name)
    scheme = padding.OAEP(padding.MGF1(HASHES[name]()), HASHES[name](), None)
    longest = 256 - 2 * HASHES[name]().digest_size - 2
    for plaintext in (b"", b"x", os.urandom(longest)):
        sealed = public_key(key.public).encrypt(plaintext, scheme)
        assert key.decrypt(sealed) == plaintext
    for wrong in (b"", sealed[:-1], sealed + b"\0", b"\xff" * 256, bytes(256), sealed[:-1] + b"\0\0"):
        with pytest.raises(DecryptionError):
            key.decrypt(wrong)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_raw_pkcs1_signs_data_up_to_its_limit(bits: int) -> None:
    """The signature recovers to exactly the data, of any length up to the modulus less 11 bytes; more is
    refused."""
    key = RsaRawPkcs1.generate(bits)
    longest = bits // 8 - PKCS1_OVERHEAD
    for data in (b"", b"x", os.urandom(32), os.urandom(longest)):
        signature = key.sign(data)
        assert len(signature) == bits // 8
        assert public_key(key.public).recover_data_from_signature(signature, padding.PKCS1v15(), None) == data
    with pytest.raises(ValueError, match="too long"):
        key.sign(bytes(longest + 1))


@pytest.mark.parametrize("kind", [RsaPss, RsaPkcs1])
def test_only_a_digest_of_the_right_length_is_signed(kind: type[RsaPss | RsaPkcs1]) -> None:
    """A payload that is no digest of the key's hash is refused, not hashed."""
    key = kind.from_private(SecretBytes(any_private()), 2048, "sha256")
    for length in (0, 20, 31, 33, 64):
        with pytest.raises(ValueError, match="digest"):
            key.sign(bytes(length))


@pytest.mark.parametrize("kind", [RsaPss, RsaPkcs1, RsaRawPkcs1, RsaOaep])
def test_a_key_comes_back_from_its_private_form(
    kind: type[RsaPss | RsaPkcs1 | RsaRawPkcs1 | RsaOaep],
) -> None:
    """PKCS#8 out, the same key in: with the same public key and again the same PKCS#8, checked or not."""
    key = kind.generate(2048, "" if kind is RsaRawPkcs1 else "sha256")
    private = key.to_private()
    for check in (True, False):
        again = kind.from_private(private, 2048, "" if kind is RsaRawPkcs1 else "sha256", check=check)
        assert again.public == key.public
        assert again.to_private() == private
    numbers = public_key(key.public).public_numbers()
    assert numbers.e == 65537
    assert numbers.n.bit_length() == 2048
    assert repr(private) == f"SecretBytes(<{len(private)} bytes>)"


def test_an_exponent_of_three_is_taken() -> None:
    """Keys with another odd exponent than 65537 are keys too."""
    key = RsaPkcs1.from_private(SecretBytes(any_private(e=3)), 2048, "sha256")
    assert public_key(key.public).public_numbers().e == 3
    digest = hashlib.sha256(b"data").digest()
    verify_pkcs1(key.public, key.sign(digest), digest, "sha256")


@pytest.mark.parametrize("bits", [2040, 2047, 2049, 3072, 4096])
def test_a_modulus_of_another_size_is_refused(bits: int) -> None:
    """The size must be the one that was asked for, to the bit, and the error names both."""
    with pytest.raises(MalformedError, match=f"the RSA key has 2048 bits, not {bits}"):
        RsaPss.from_private(SecretBytes(any_private()), bits, "sha256")


def test_an_inconsistent_key_is_refused() -> None:
    """A key whose numbers do not belong together would leak its primes with the first signature."""
    good = load_der_private_key(any_private(), None)
    assert isinstance(good, rsa.RSAPrivateKey)
    n = good.private_numbers()
    for number in (n.public_numbers.n, n.d, n.p, n.q, n.dmp1, n.dmq1, n.iqmp):
        encoded = number.to_bytes((number.bit_length() + 7) // 8, "big")
        assert any_private().count(encoded) == 1
        altered = any_private().replace(encoded, encoded[:-1] + bytes((encoded[-1] ^ 2,)))
        with pytest.raises(MalformedError, match="not valid"):
            RsaPss.from_private(SecretBytes(altered), 2048, "sha256")


def test_only_unencrypted_pkcs8_is_read() -> None:
    """PKCS#1, encrypted PKCS#8, PEM, other kinds of key, cut and extended keys are MalformedError, whose text
    shows nothing of them."""
    good = any_private()
    key = load_der_private_key(good, None)
    with cryptography_vectors.open_vector_file("asymmetric/PKCS8/ec_private_key.pem", "rb") as file:
        other = load_pem_private_key(file.read(), None)
    wrong = [
        b"",
        b"\x30",
        b"\x30\x00",
        b"\x30\x80\x02\x01\x00\x30\x00\x00",
        good[:-1],
        good + b"\0",
        good[:40] + b"\xff" + good[41:],
        key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        other.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        os.urandom(1200),
    ]
    for private in wrong:
        with pytest.raises(MalformedError, match="the private key is not ") as error:
            RsaOaep.from_private(SecretBytes(private), 2048, "sha256")
        assert error.value.__cause__ is None
        assert len(str(error.value)) < 80
