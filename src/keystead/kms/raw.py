"""RawEncrypt and RawDecrypt: AES-GCM, AES-CBC and AES-CTR as other systems speak them.

Limits: plaintext and additional authenticated data of at most 64 KiB each for software keys, of 8 KiB
together for keys in a token (Cloud KMS "RawEncrypt"); ciphertexts of twice that, since they can come from
elsewhere. An empty field counts as a missing one.

SECURITY: the initialization vector of AES-GCM is always made here: a caller who chose one twice would give
away the key that authenticates. Random vectors of 12 bytes allow 2^32 messages per version (NIST SP 800-38D,
section 8.3). CBC and CTR detect no alteration, and no padding is looked at. Every GCM ciphertext that does
not open reads the same from outside.
"""

from __future__ import annotations

from typing import Any

from keystead.api.call import Call
from keystead.api.errors import bad_field
from keystead.api.method import LogKind, method
from keystead.crypto.checksum import crc32c
from keystead.crypto.errors import CryptoError
from keystead.crypto.raw_aes import BLOCK_SIZE, GCM_IV_SIZE, GCM_TAG_SIZE
from keystead.crypto.secret import random_bytes
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.checks import (
    check_plaintext,
    check_size,
    decryption_failed,
    require_given,
    verify_checksum,
    with_checksums,
)
from keystead.kms.keycache import KeyCache
from keystead.kms.messages import (
    RawDecryptRequest,
    RawDecryptResponse,
    RawEncryptRequest,
    RawEncryptResponse,
)
from keystead.kms.service import KMS, VERSION
from keystead.kms.use import key_in, version_in_use

_API = "google.cloud.kms.v1.KeyManagementService"
_PURPOSE = "RAW_ENCRYPT_DECRYPT"
_AAD, _IV = "additional_authenticated_data", "initialization_vector"
_REDACTED = with_checksums("plaintext", _AAD, _IV, "ciphertext")


class RawEncryption:
    """RawEncrypt and RawDecrypt of KeyManagementService."""

    service = KMS

    def __init__(self, keys: KeyCache) -> None:
        self._keys = keys

    @method(
        f"{_API}/RawEncrypt",
        http=f"POST /v1/{{name={VERSION}}}:rawEncrypt",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToEncrypt",
        on="name",
        log=LogKind.DATA_READ,
        redact=_REDACTED,
        hot=True,
    )
    def encrypt(self, call: Call, request: RawEncryptRequest) -> RawEncryptResponse:
        version = version_in_use(self._keys, request.name, _PURPOSE, inline=call.inline)
        plaintext, aad = request.plaintext, request.additional_authenticated_data
        response = RawEncryptResponse(
            name=version.name,
            tag_length=_tag_length(version.algorithm),
            verified_plaintext_crc32c=verify_checksum(request, "plaintext_crc32c", plaintext),
            verified_additional_authenticated_data_crc32c=verify_checksum(request, f"{_AAD}_crc32c", aad),
            verified_initialization_vector_crc32c=verify_checksum(
                request, f"{_IV}_crc32c", request.initialization_vector
            ),
            protection_level=version.protection_level,
        )
        backend = version.backend
        require_given("plaintext", plaintext)
        check_plaintext(plaintext, aad, backend.max_bytes, together=backend.together)
        _check_mode(version.algorithm, "plaintext", plaintext, aad)
        iv = _new_iv(version.algorithm, request.initialization_vector)
        ciphertext = key_in(version, inline=call.inline).encrypt(plaintext, iv, aad)
        response.ciphertext = ciphertext
        response.ciphertext_crc32c.value = crc32c(ciphertext)
        response.initialization_vector = iv
        response.initialization_vector_crc32c.value = crc32c(iv)
        return response

    @method(
        f"{_API}/RawDecrypt",
        http=f"POST /v1/{{name={VERSION}}}:rawDecrypt",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToDecrypt",
        on="name",
        log=LogKind.DATA_READ,
        redact=_REDACTED,
        hot=True,
    )
    def decrypt(self, call: Call, request: RawDecryptRequest) -> RawDecryptResponse:
        version = version_in_use(self._keys, request.name, _PURPOSE, inline=call.inline)
        ciphertext, aad = request.ciphertext, request.additional_authenticated_data
        iv = request.initialization_vector
        response = RawDecryptResponse(
            verified_ciphertext_crc32c=verify_checksum(request, "ciphertext_crc32c", ciphertext),
            verified_additional_authenticated_data_crc32c=verify_checksum(request, f"{_AAD}_crc32c", aad),
            verified_initialization_vector_crc32c=verify_checksum(request, f"{_IV}_crc32c", iv),
            protection_level=version.protection_level,
        )
        limit = version.backend.max_bytes
        require_given("ciphertext", ciphertext)
        require_given(_IV, iv)
        check_size("ciphertext", ciphertext, 2 * limit)
        check_size(_AAD, aad, limit)
        _check_mode(version.algorithm, "ciphertext", ciphertext, aad)
        _check_iv(version.algorithm, iv)
        tag_length = _tag_length(version.algorithm)
        if request.tag_length not in {0, tag_length}:
            raise bad_field("tag_length", f"It must be {tag_length} for {version.algorithm.name}, or 0.")
        try:
            plaintext = key_in(version, inline=call.inline).decrypt(ciphertext, iv, aad, tag_length)
        except CryptoError:
            raise decryption_failed() from None
        response.plaintext = plaintext
        response.plaintext_crc32c.value = crc32c(plaintext)
        return response


def _is_gcm(algorithm: Algorithm) -> bool:
    return algorithm.family is Family.AES_GCM


def _tag_length(algorithm: Algorithm) -> int:
    return GCM_TAG_SIZE if _is_gcm(algorithm) else 0


def _check_mode(algorithm: Algorithm, field: str, data: bytes, aad: bytes) -> None:
    """What only some of the modes take: associated data, and data that fills no block."""
    if aad and not _is_gcm(algorithm):
        raise bad_field(_AAD, f"{algorithm.name} authenticates nothing; only AES-GCM takes it.")
    if algorithm.family is Family.AES_CBC and len(data) % BLOCK_SIZE:
        raise bad_field(
            field,
            f"{algorithm.name} takes whole blocks of {BLOCK_SIZE} bytes and adds no padding; "
            f"{len(data)} bytes were given.",
        )


def _new_iv(algorithm: Algorithm, given: Any) -> bytes:
    """The caller's vector where the mode takes one, or else a random one."""
    if _is_gcm(algorithm):
        if given:
            raise bad_field(_IV, f"{algorithm.name} takes none for encryption: the service makes it.")
        return random_bytes(GCM_IV_SIZE)
    if not given:
        return random_bytes(BLOCK_SIZE)
    _check_iv(algorithm, given)
    return bytes(given)


def _check_iv(algorithm: Algorithm, iv: bytes) -> None:
    size = GCM_IV_SIZE if _is_gcm(algorithm) else BLOCK_SIZE
    if len(iv) != size:
        raise bad_field(_IV, f"{algorithm.name} takes {size} bytes; {len(iv)} were given.")
