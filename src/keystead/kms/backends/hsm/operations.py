"""Using keys in a token: one class per use (`kms.backends` has the protocols).

SECURITY: a ciphertext that does not open is a DecryptionError, all alike, and never taken for a failure of
the token: what a token answers to it is understood together with whether the token is well. IVs of messages
come from the token's generator, 12 random bytes each; a key therefore stays below 2^32 messages (NIST SP
800-38D 8.3), which rotation keeps.

Signing takes digests, so that no data passes to the token that need not. ECDSA signatures come as r || s and
leave as DER.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from pkcs11 import MGF, GCMParams, Mechanism
from pkcs11.exceptions import PKCS11Error

from keystead.crypto import token_formats
from keystead.crypto.errors import DecryptionError, MalformedError
from keystead.crypto.hashes import hash_of
from keystead.crypto.raw_aes import BLOCK_SIZE, GCM_IV_SIZE, GCM_TAG_SIZE
from keystead.crypto.rsa import PKCS1_OVERHEAD
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.backends import Key
from keystead.kms.backends.hsm.errors import blames_input
from keystead.kms.backends.hsm.keys import KINDS
from keystead.kms.backends.hsm.objects import ObjectRef
from keystead.kms.backends.hsm.session import Session
from keystead.kms.backends.hsm.token import Token

HASHES: Mapping[str, tuple[Mechanism, MGF]] = {
    "sha1": (Mechanism.SHA_1, MGF.SHA1),
    "sha256": (Mechanism.SHA256, MGF.SHA256),
    "sha512": (Mechanism.SHA512, MGF.SHA512),
}
"""The parameters of OAEP and PSS by hash: the hash and the mask generation with it."""
HMACS: Mapping[str, Mechanism] = {
    "sha1": Mechanism.SHA_1_HMAC,
    "sha224": Mechanism.SHA224_HMAC,
    "sha256": Mechanism.SHA256_HMAC,
    "sha384": Mechanism.SHA384_HMAC,
    "sha512": Mechanism.SHA512_HMAC,
}
_WRAPPING_COUNTER = 1 << (8 * BLOCK_SIZE)


class TokenKey:
    """A key of one version, found in the token when it is used."""

    __slots__ = ("_algorithm", "_held", "_ref", "_token")

    def __init__(self, token: Token, ref: ObjectRef, algorithm: Algorithm) -> None:
        self._token = token
        self._ref = ref
        self._algorithm = algorithm
        self._held = KINDS[algorithm.family].held

    def _use(self, work: Callable[[Session, Any], bytes]) -> bytes:
        return self._token.use(lambda session: work(session, session.key(self._ref, self._held)))

    def _open(self, work: Callable[[Any], bytes]) -> bytes:
        """`work(key)`, where an error may mean that what was given does not open."""

        def guarded(session: Session, key: Any) -> bytes:
            try:
                return work(key)
            except PKCS11Error as error:
                if blames_input(error, session):
                    raise DecryptionError from None
                raise

        return self._use(guarded)


class TokenSymmetric(TokenKey):
    """AES-256-GCM: `iv (12) || ciphertext || tag (16)`."""

    __slots__ = ()

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        def work(session: Session, key: Any) -> bytes:
            iv = session.random(GCM_IV_SIZE)
            return iv + gcm_encrypt(key, plaintext, iv, aad)

        return self._use(work)

    def open(self, message: bytes | memoryview, aad: bytes) -> bytes:
        if len(message) < GCM_IV_SIZE + GCM_TAG_SIZE:
            raise DecryptionError
        iv, sealed = bytes(message[:GCM_IV_SIZE]), bytes(message[GCM_IV_SIZE:])
        return self._open(lambda key: gcm_decrypt(key, sealed, iv, aad))


class TokenGcm(TokenKey):
    """AES-GCM with an IV of the caller's."""

    __slots__ = ()

    def encrypt(self, plaintext: bytes, iv: bytes, aad: bytes) -> bytes:
        _require_iv(iv, GCM_IV_SIZE)
        return self._use(lambda _, key: gcm_encrypt(key, plaintext, iv, aad))

    def decrypt(self, ciphertext: bytes, iv: bytes, aad: bytes, tag_length: int) -> bytes:
        _require_iv(iv, GCM_IV_SIZE)
        if tag_length != GCM_TAG_SIZE:
            raise MalformedError(f"the tag has {GCM_TAG_SIZE} bytes, not {tag_length}")
        if len(ciphertext) < GCM_TAG_SIZE:
            raise DecryptionError
        return self._open(lambda key: gcm_decrypt(key, ciphertext, iv, aad))


class TokenCipher(TokenKey):
    """AES-CBC of whole blocks without padding, or AES-CTR, whose IV is the first counter block."""

    __slots__ = ()

    def encrypt(self, plaintext: bytes, iv: bytes, aad: bytes) -> bytes:
        self._require(plaintext, iv, aad)
        apply = MODES[self._algorithm.family]
        return self._use(lambda _, key: apply(key.encrypt, plaintext, iv))

    def decrypt(self, ciphertext: bytes, iv: bytes, aad: bytes, tag_length: int) -> bytes:
        if tag_length:
            raise MalformedError("only GCM has a tag")
        self._require(ciphertext, iv, aad)
        apply = MODES[self._algorithm.family]
        return self._open(lambda key: apply(key.decrypt, ciphertext, iv))

    def _require(self, data: bytes, iv: bytes, aad: bytes) -> None:
        _require_iv(iv, BLOCK_SIZE)
        if aad:
            raise MalformedError("only GCM authenticates additional data")
        if self._algorithm.family is Family.AES_CBC and len(data) % BLOCK_SIZE:
            raise MalformedError(f"CBC takes whole blocks of {BLOCK_SIZE} bytes; no padding is added")


class TokenMac(TokenKey):
    """HMAC."""

    __slots__ = ()

    def mac(self, data: bytes) -> bytes:
        mechanism = HMACS[self._algorithm.hash]
        return self._use(lambda _, key: bytes(key.sign(data, mechanism=mechanism)))


class TokenSigner(TokenKey):
    """All signatures; `prepared` says what the token is given."""

    __slots__ = ()

    def sign(self, payload: bytes) -> bytes:
        algorithm = self._algorithm
        data, mechanism, parameter = prepared(algorithm, payload)
        signature = self._use(
            lambda _, key: bytes(key.sign(data, mechanism=mechanism, mechanism_param=parameter))
        )
        return token_formats.ecdsa_der(signature) if algorithm.family is Family.ECDSA else signature


class TokenDecrypter(TokenKey):
    """RSAES-OAEP with an empty label."""

    __slots__ = ()

    def decrypt(self, ciphertext: bytes) -> bytes:
        if len(ciphertext) != self._algorithm.bits // 8:
            raise DecryptionError
        parameter = oaep(self._algorithm.hash)
        return self._open(
            lambda key: bytes(
                key.decrypt(ciphertext, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameter)
            )
        )


OPENED: dict[Family, Callable[[Token, ObjectRef, Algorithm], Key]] = {
    Family.SYMMETRIC: TokenSymmetric,
    Family.AES_GCM: TokenGcm,
    Family.AES_CBC: TokenCipher,
    Family.AES_CTR: TokenCipher,
    Family.HMAC: TokenMac,
    Family.RSA_PSS: TokenSigner,
    Family.RSA_PKCS1: TokenSigner,
    Family.RSA_RAW_PKCS1: TokenSigner,
    Family.ECDSA: TokenSigner,
    Family.ED25519: TokenSigner,
    Family.RSA_OAEP: TokenDecrypter,
}
"""The class of an opened key by family; AES_KWP is `importing.TokenWrapper`."""


def oaep(hash_name: str) -> tuple[Mechanism, MGF, None]:
    """The parameters of RSA_PKCS_OAEP, the label empty."""
    mechanism, mask = HASHES[hash_name]
    return mechanism, mask, None


def prepared(algorithm: Algorithm, payload: bytes) -> tuple[bytes, Mechanism, Any]:
    """What a token is given to sign a payload (`Signer`), by which mechanism, with which parameter.

    ValueError for a digest of another length, or more data than the key signs.
    """
    family = algorithm.family
    if family is Family.ED25519:
        return payload, Mechanism.EDDSA, None
    if family is Family.RSA_RAW_PKCS1:
        if len(payload) > algorithm.bits // 8 - PKCS1_OVERHEAD:
            raise ValueError("the data is longer than the key signs")
        return payload, Mechanism.RSA_PKCS, None
    if family is Family.RSA_PKCS1:
        return token_formats.digest_info(algorithm.hash, payload), Mechanism.RSA_PKCS, None
    size = hash_of(algorithm.hash).digest_size
    if len(payload) != size:
        raise ValueError(f"a digest of {algorithm.hash} has {size} bytes")
    if family is Family.RSA_PSS:
        return payload, Mechanism.RSA_PKCS_PSS, (*HASHES[algorithm.hash], size)
    return payload, Mechanism.ECDSA, None


def gcm_encrypt(key: Any, plaintext: bytes, iv: bytes, aad: bytes) -> bytes:
    """Ciphertext || tag of 16 bytes."""
    return bytes(key.encrypt(plaintext, buffer_size=len(plaintext) + GCM_TAG_SIZE, **_gcm(iv, aad)))


def gcm_decrypt(key: Any, ciphertext: bytes, iv: bytes, aad: bytes) -> bytes:
    """The plaintext. Raises PKCS11Error where the tag does not fit."""
    return bytes(key.decrypt(ciphertext, buffer_size=len(ciphertext), **_gcm(iv, aad)))


def _gcm(iv: bytes, aad: bytes) -> dict[str, Any]:
    return {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(iv, aad or None, 8 * GCM_TAG_SIZE)}


def cbc(function: Callable[..., bytes], data: bytes, iv: bytes) -> bytes:
    """`function`, encrypting or decrypting, over whole blocks."""
    size = len(data) + BLOCK_SIZE
    return bytes(function(data, mechanism=Mechanism.AES_CBC, mechanism_param=iv, buffer_size=size))


def ctr(function: Callable[..., bytes], data: bytes, iv: bytes) -> bytes:
    """`function`, encrypting or decrypting, over any data; the counter is big-endian."""
    # Tokens refuse to count past the last block; the counter then goes on from zero, as it does elsewhere.
    first = (_WRAPPING_COUNTER - int.from_bytes(iv, "big")) * BLOCK_SIZE
    counted = _count(function, data[:first], iv)
    return counted + _count(function, data[first:], bytes(BLOCK_SIZE)) if data[first:] else counted


def _count(function: Callable[..., bytes], data: bytes, iv: bytes) -> bytes:
    # CK_AES_CTR_PARAMS: all 128 bits of the block are the counter.
    parameter = struct.pack("L16s", 8 * BLOCK_SIZE, iv)
    size = len(data) + BLOCK_SIZE
    return bytes(function(data, mechanism=Mechanism.AES_CTR, mechanism_param=parameter, buffer_size=size))


MODES: dict[Family, Callable[[Callable[..., bytes], bytes, bytes], bytes]] = {
    Family.AES_CBC: cbc,
    Family.AES_CTR: ctr,
}
"""The modes of `TokenCipher` by family."""


def _require_iv(iv: bytes, size: int) -> None:
    if len(iv) != size:
        raise MalformedError(f"the initialization vector has {size} bytes, not {len(iv)}")
