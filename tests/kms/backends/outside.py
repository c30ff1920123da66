"""What somebody outside does with keys, by the library alone: use public keys, and wrap keys for import.

It must never import `keystead.crypto`: its use is to disagree with it.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, padding, rsa, x25519
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from keystead.kms.algorithms import Algorithm, Family

HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "secp256k1": ec.SECP256K1(),
}
MLDSA = {
    44: (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    65: (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    87: (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}
MLKEM = {
    768: (mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey),
    1024: (mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey),
}
POST_QUANTUM = frozenset({Family.ML_DSA, Family.ML_KEM, Family.XWING})
RSA = frozenset({Family.RSA_PSS, Family.RSA_PKCS1, Family.RSA_RAW_PKCS1, Family.RSA_OAEP})


def payload(algorithm: Algorithm, data: bytes, public: bytes) -> bytes:
    """What is signed for `data`: its digest, its mu, or the data itself."""
    if algorithm.digest == "external_mu":
        key = MLDSA[algorithm.bits][1].from_public_bytes(public)
        hasher = mldsa.MLDSAMuHasher(key)
        hasher.update(data)
        return hasher.finalize()
    return hashlib.new(algorithm.digest, data).digest() if algorithm.digest else data


def verify(algorithm: Algorithm, public: bytes, signature: bytes, data: bytes) -> None:
    """Raises InvalidSignature."""
    if algorithm.family is Family.ML_DSA:
        MLDSA[algorithm.bits][1].from_public_bytes(public).verify(signature, data)
        return
    key = load_der_public_key(public)
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, data)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(HASHES[algorithm.hash]))
    elif isinstance(key, rsa.RSAPublicKey) and algorithm.family is Family.RSA_PSS:
        name = HASHES[algorithm.hash]
        key.verify(signature, data, padding.PSS(padding.MGF1(name), name.digest_size), name)
    elif isinstance(key, rsa.RSAPublicKey) and algorithm.family is Family.RSA_PKCS1:
        key.verify(signature, data, padding.PKCS1v15(), HASHES[algorithm.hash])
    else:
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.recover_data_from_signature(signature, padding.PKCS1v15(), None) == data


def encrypt(algorithm: Algorithm, public: bytes, plaintext: bytes, label: bytes | None = None) -> bytes:
    """RSA-OAEP to a key of that algorithm."""
    key = load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)
    return key.encrypt(plaintext, oaep(algorithm.hash, label))


def oaep(name: str, label: bytes | None = None) -> padding.OAEP:
    return padding.OAEP(padding.MGF1(HASHES[name]), HASHES[name], label)


def encapsulate(algorithm: Algorithm, public: bytes) -> tuple[bytes, bytes]:
    """The shared secret and its ciphertext."""
    if algorithm.family is Family.ML_KEM:
        return MLKEM[algorithm.bits][1].from_public_bytes(public).encapsulate()
    # draft-connolly-cfrg-xwing-kem, section 5.4
    ss_m, ct_m = mlkem.MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
    ephemeral = x25519.X25519PrivateKey.generate()
    ct_x = ephemeral.public_key().public_bytes_raw()
    ss_x = ephemeral.exchange(x25519.X25519PublicKey.from_public_bytes(public[1184:]))
    secret = hashlib.sha3_256(ss_m + ss_x + ct_x + public[1184:] + b"\\.//^\\").digest()
    return secret, ct_m + ct_x


@dataclass(frozen=True)
class Known:
    """A key made outside: what is wrapped for its import, and its public key as `Made.public` has it."""

    private: bytes
    public: bytes


@functools.cache
def known(algorithm: Algorithm) -> Known:
    """One key for each algorithm, the same for all algorithms of one RSA size."""
    if algorithm.symmetric:
        return Known(os.urandom(algorithm.key_bytes), b"")
    if algorithm.family in RSA:
        return rsa_key(algorithm.bits)
    if algorithm.family is Family.ECDSA:
        return _both(ec.generate_private_key(CURVES[algorithm.curve]))
    if algorithm.family is Family.ED25519:
        return _both(ed25519.Ed25519PrivateKey.generate())
    if algorithm.family is Family.ML_DSA:
        return _raw(MLDSA[algorithm.bits][0].generate())
    if algorithm.family is Family.ML_KEM:
        return _raw(MLKEM[algorithm.bits][0].generate())
    seed = os.urandom(32)
    expanded = hashlib.shake_256(seed).digest(96)
    halves = (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        x25519.X25519PrivateKey.from_private_bytes(expanded[64:]),
    )
    return Known(seed, b"".join(each.public_key().public_bytes_raw() for each in halves))


@functools.cache
def rsa_key(bits: int) -> Known:
    return _both(rsa.generate_private_key(65537, bits))


def _both(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> Known:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Known(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), public)


def _raw(key: object) -> Known:
    assert hasattr(key, "public_key")
    assert hasattr(key, "private_bytes")
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Known(private, key.public_key().public_bytes_raw())


def wrap(method: str, job_public: bytes, key: bytes, *, ephemeral_bytes: int = 32) -> bytes:
    """`key` wrapped to the public key of an import job (Cloud KMS "Key wrapping")."""
    if method.startswith("RSA_OAEP_"):
        name = method.split("_")[3].lower()
        recipient = load_der_public_key(job_public)
        assert isinstance(recipient, rsa.RSAPublicKey)
        assert recipient.key_size == int(method.split("_")[2])
        if not method.endswith("_AES_256"):
            return recipient.encrypt(key, oaep(name))
        ephemeral = os.urandom(ephemeral_bytes)
        return recipient.encrypt(ephemeral, oaep(name)) + aes_key_wrap_with_padding(ephemeral, key)
    if method.startswith("HPKE_KEM_XWING"):
        kem = KEM.MLKEM768_X25519
        halves = (
            mlkem.MLKEM768PublicKey.from_public_bytes(job_public[:1184]),
            x25519.X25519PublicKey.from_public_bytes(job_public[1184:]),
        )
        return Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM).encrypt(key, MLKEM768X25519PublicKey(*halves))
    bits = int(method.split("_")[4])
    kem = KEM.MLKEM768 if bits == 768 else KEM.MLKEM1024
    to = MLKEM[bits][1].from_public_bytes(job_public)
    return Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM).encrypt(key, to)


def unwrap(key: bytes, wrapped: bytes) -> bytes:
    """AES key unwrap with padding (RFC 5649)."""
    return aes_key_unwrap_with_padding(key, wrapped)
