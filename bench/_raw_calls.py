"""The work of each cryptographic method without Keystead around it, for `signing` to compare with.

Everything that does not change from call to call is made before: keys, parameters, the input. What a call
must make anew for each message, an initialization vector, is made anew.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, mlkem
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR
from cryptography.hazmat.primitives.hashes import SHA1, SHA224, SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from pkcs11 import GCMParams, Mechanism

from keystead.crypto.secret import SecretBytes
from keystead.crypto.xwing import XWingKey
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.backends.hsm import operations

DATA = bytes(range(32))
MU = bytes(range(64))
_HASHES = {"sha1": SHA1(), "sha224": SHA224(), "sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
_MODES = {Family.AES_CBC: CBC, Family.AES_CTR: CTR}
_MLKEM_PUBLIC = {768: mlkem.MLKEM768PublicKey, 1024: mlkem.MLKEM1024PublicKey}
_X25519_SIZE = 32

Call = Callable[[], Any]


def payload_of(algorithm: Algorithm) -> bytes:
    """What a key of it signs here: a digest, mu, or data."""
    if algorithm.digest == "external_mu":
        return MU
    return hashlib.new(algorithm.digest, DATA).digest() if algorithm.digest else DATA


def sealed_to(algorithm: Algorithm, public: bytes) -> bytes:
    """A ciphertext or encapsulation for a public key, as GetPublicKey gives it in DER or raw."""
    if algorithm.family is Family.RSA_OAEP:
        key: Any = load_der_public_key(public)
        return bytes(key.encrypt(DATA, _oaep(algorithm)))
    if algorithm.family is Family.ML_KEM:
        return bytes(_MLKEM_PUBLIC[algorithm.bits].from_public_bytes(public).encapsulate()[1])
    encapsulated = mlkem.MLKEM768PublicKey.from_public_bytes(public[:-_X25519_SIZE]).encapsulate()[1]
    return bytes(encapsulated) + X25519PrivateKey.generate().public_key().public_bytes_raw()


def _oaep(algorithm: Algorithm) -> OAEP:
    return OAEP(MGF1(_HASHES[algorithm.hash]), _HASHES[algorithm.hash], None)


# --- the cryptography library -------------------------------------------------------------------------


def in_software(algorithm: Algorithm, material: bytes, sealed: bytes) -> Call:
    """The call of the `cryptography` library with the material of a software key.

    sealed: of `sealed_to`, where the key opens one.
    """
    if algorithm.symmetric:
        return _with_secret(algorithm, material)
    family = algorithm.family
    if family is Family.XWING:
        return partial(_xwing, XWingKey.from_private(SecretBytes(material)), sealed)
    key: Any = load_der_private_key(material, None)
    if family is Family.RSA_OAEP:
        return partial(key.decrypt, sealed, _oaep(algorithm))
    if family is Family.ML_KEM:
        return partial(key.decapsulate, sealed)
    if algorithm.digest == "external_mu":
        return partial(key.sign_mu, MU)
    return partial(key.sign, payload_of(algorithm), *_scheme(algorithm))


def _scheme(algorithm: Algorithm) -> tuple[Any, ...]:
    """The parameters of a signature."""
    family = algorithm.family
    if family is Family.RSA_RAW_PKCS1:
        return PKCS1v15(), NoDigestInfo()
    if not algorithm.digest:
        return ()
    hashed = _HASHES[algorithm.hash]
    if family is Family.ECDSA:
        return (ec.ECDSA(Prehashed(hashed)),)
    padding = PSS(MGF1(hashed), hashed.digest_size) if family is Family.RSA_PSS else PKCS1v15()
    return padding, Prehashed(hashed)


def _with_secret(algorithm: Algorithm, material: bytes) -> Call:
    if algorithm.family is Family.HMAC:
        return partial(_hmac, material, _HASHES[algorithm.hash])
    if algorithm.family in _MODES:
        return partial(_encrypt, AES(material), _MODES[algorithm.family])
    cipher = AESGCM(material)
    return lambda: cipher.encrypt(os.urandom(12), DATA, None)


def _hmac(key: bytes, hashed: Any) -> bytes:
    mac = HMAC(key, hashed)
    mac.update(DATA)
    return mac.finalize()


def _encrypt(key: AES, mode: type[CBC | CTR]) -> bytes:
    context = Cipher(key, mode(os.urandom(16))).encryptor()
    return context.update(DATA) + context.finalize()


def _xwing(key: XWingKey, sealed: bytes) -> bytes:
    theirs = sealed[-_X25519_SIZE:]
    agreed = key.x25519.exchange(X25519PublicKey.from_public_bytes(theirs))
    # The combiner hashes as many bytes as this, of which two keys and a label do not change.
    return hashlib.sha3_256(
        key.mlkem.decapsulate(sealed[:-_X25519_SIZE]) + agreed + theirs + bytes(38)
    ).digest()


# --- python-pkcs11 ------------------------------------------------------------------------------------


def in_token(algorithm: Algorithm, session: Any, key: Any, sealed: bytes) -> Call:
    """The call of python-pkcs11 with a key in a token.

    session: where its initialization vector comes from, if the token makes it. sealed: as for `in_software`.
    """
    family = algorithm.family
    if family in {Family.SYMMETRIC, Family.AES_GCM}:
        own = family is Family.SYMMETRIC
        return partial(_gcm, key, (lambda: session.generate_random(96)) if own else partial(os.urandom, 12))
    if family in _MODES:
        return partial(_mode, key, family)
    if family is Family.HMAC:
        return partial(key.sign, DATA, mechanism=operations.HMACS[algorithm.hash])
    if family is Family.RSA_OAEP:
        parameter = operations.oaep(algorithm.hash)
        return partial(key.decrypt, sealed, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameter)
    data, mechanism, parameter = operations.prepared(algorithm, payload_of(algorithm))
    return partial(key.sign, data, mechanism=mechanism, mechanism_param=parameter)


def _gcm(key: Any, iv: Callable[[], bytes]) -> Any:
    parameter = GCMParams(iv(), None, 128)
    return key.encrypt(
        DATA, mechanism=Mechanism.AES_GCM, mechanism_param=parameter, buffer_size=len(DATA) + 16
    )


def _mode(key: Any, family: Family) -> Any:
    iv = os.urandom(16)
    is_cbc = family is Family.AES_CBC
    return key.encrypt(
        DATA,
        mechanism=Mechanism.AES_CBC if is_cbc else Mechanism.AES_CTR,
        mechanism_param=iv if is_cbc else struct.pack("L16s", 128, iv),
        buffer_size=len(DATA) + 16,
    )
