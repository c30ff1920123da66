"""Encrypt and Decrypt: the hot calls of the key service.

Limits: plaintext and additional authenticated data of at most 64 KiB each for software keys, of 8 KiB
together for keys in a token (Cloud KMS "Encrypt").

SECURITY: every way in which a ciphertext can fail to open reads the same from outside.
"""

from __future__ import annotations

from keystead.api.call import Call
from keystead.api.errors import FailedPrecondition, InvalidArgument, NotFound
from keystead.api.method import LogKind, method
from keystead.crypto.checksum import crc32c
from keystead.crypto.ciphertext import open_message, parse_header, seal_message
from keystead.crypto.errors import CryptoError
from keystead.kms import lifecycle
from keystead.kms.checks import check_plaintext, check_size, require_purpose, verify_checksum, with_checksums
from keystead.kms.keycache import KeyCache, UsableVersion, key_id
from keystead.kms.messages import DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse
from keystead.kms.service import KEY, KMS, RING, key_of
from keystead.kms.use import key_in, version_number_in

_API = "google.cloud.kms.v1.KeyManagementService"
MAX_BYTES = 64 * 1024
_MAX_CIPHERTEXT = 2 * MAX_BYTES
_KEY_SLASHES = KEY.count("/")


class SymmetricEncryption:
    """Encrypt and Decrypt of KeyManagementService."""

    service = KMS

    def __init__(self, keys: KeyCache) -> None:
        self._keys = keys

    @method(
        f"{_API}/Encrypt",
        http=f"POST /v1/{{name={RING}/cryptoKeys/**}}:encrypt",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToEncrypt",
        on="name",
        log=LogKind.DATA_READ,
        redact=with_checksums("plaintext", "additional_authenticated_data", "ciphertext"),
        hot=True,
    )
    def encrypt(self, call: Call, request: EncryptRequest) -> EncryptResponse:
        plaintext, aad = request.plaintext, request.additional_authenticated_data
        plaintext_verified = verify_checksum(request, "plaintext_crc32c", plaintext)
        aad_verified = verify_checksum(request, "additional_authenticated_data_crc32c", aad)
        version = self._encrypting_version(request.name, inline=call.inline)
        backend = version.backend
        if len(plaintext) + len(aad) > backend.max_bytes:
            check_plaintext(plaintext, aad, backend.max_bytes, together=backend.together)
        cipher = key_in(version, inline=call.inline)
        sealed = seal_message(cipher, version.ref, plaintext, aad)
        response = EncryptResponse(
            name=version.name,
            ciphertext=sealed,
            verified_plaintext_crc32c=plaintext_verified,
            verified_additional_authenticated_data_crc32c=aad_verified,
            protection_level=version.protection_level,
        )
        response.ciphertext_crc32c.value = crc32c(sealed)
        return response

    @method(
        f"{_API}/Decrypt",
        http=f"POST /v1/{{name={KEY}}}:decrypt",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToDecrypt",
        on="name",
        log=LogKind.DATA_READ,
        redact=with_checksums("ciphertext", "additional_authenticated_data", "plaintext"),
        required=("ciphertext",),
        hot=True,
    )
    def decrypt(self, call: Call, request: DecryptRequest) -> DecryptResponse:
        ciphertext, aad = request.ciphertext, request.additional_authenticated_data
        verify_checksum(request, "ciphertext_crc32c", ciphertext)
        verify_checksum(request, "additional_authenticated_data_crc32c", aad)
        check_size("additional_authenticated_data", aad, MAX_BYTES)
        check_size("ciphertext", ciphertext, _MAX_CIPHERTEXT)
        key = self._keys.key(request.name, inline=call.inline)
        require_purpose(key.message, "ENCRYPT_DECRYPT")
        try:
            header = parse_header(ciphertext)
        except CryptoError:
            raise cannot_decrypt() from None
        if header.key_id != key_id(request.name):
            raise cannot_decrypt()
        try:
            version = self._keys.version(key, header.version, inline=call.inline)
        except NotFound:
            raise cannot_decrypt() from None
        lifecycle.require_enabled(version.message)
        try:
            plaintext = open_message(key_in(version, inline=call.inline), version.ref, ciphertext, aad)
        except CryptoError:
            raise cannot_decrypt() from None
        response = DecryptResponse(
            plaintext=plaintext,
            used_primary=header.version == key.primary,
            protection_level=version.protection_level,
        )
        response.plaintext_crc32c.value = crc32c(plaintext)
        return response

    def _encrypting_version(self, name: str, *, inline: bool) -> UsableVersion:
        """The version that a key or version name encrypts with, checked to be usable."""
        is_key = name.count("/") == _KEY_SLASHES
        key = self._keys.key(name if is_key else key_of(name), inline=inline)
        if is_key and key.encrypting is not None:
            return key.encrypting
        require_purpose(key.message, "ENCRYPT_DECRYPT")
        if is_key:
            if not key.primary:
                raise FailedPrecondition(f"CryptoKey {name} has no primary version.")
            number = key.primary
        else:
            number = version_number_in(name)
        version = self._keys.version(key, number, inline=inline)
        lifecycle.require_enabled(version.message)
        if is_key:
            key.encrypting = version
        return version


def cannot_decrypt() -> InvalidArgument:
    return InvalidArgument("Decryption failed: verify that 'name' refers to the correct CryptoKey.")
