"""AsymmetricDecrypt (RSA-OAEP) and Decapsulate (ML-KEM, X-Wing): what only a private key opens.

SECURITY: every way in which an RSA ciphertext can fail to open reads the same from outside. A KEM ciphertext
that was altered gives another shared secret, not an error (implicit rejection, FIPS 203, section 6.3), and
every one that is refused, which depends on nothing secret, is refused alike.
"""

from __future__ import annotations

from keystead.api.call import Call
from keystead.api.errors import bad_field
from keystead.api.method import LogKind, method
from keystead.crypto.checksum import crc32c
from keystead.crypto.errors import CryptoError
from keystead.kms.checks import decryption_failed, require_given, verify_checksum, with_checksums
from keystead.kms.keycache import KeyCache
from keystead.kms.messages import (
    AsymmetricDecryptRequest,
    AsymmetricDecryptResponse,
    DecapsulateRequest,
    DecapsulateResponse,
)
from keystead.kms.service import KMS, VERSION
from keystead.kms.use import key_in, version_in_use

_API = "google.cloud.kms.v1.KeyManagementService"


class AsymmetricDecryption:
    """AsymmetricDecrypt and Decapsulate of KeyManagementService."""

    service = KMS

    def __init__(self, keys: KeyCache) -> None:
        self._keys = keys

    @method(
        f"{_API}/AsymmetricDecrypt",
        http=f"POST /v1/{{name={VERSION}}}:asymmetricDecrypt",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToDecrypt",
        on="name",
        log=LogKind.DATA_READ,
        redact=with_checksums("ciphertext", "plaintext"),
        hot=True,
    )
    def decrypt(self, call: Call, request: AsymmetricDecryptRequest) -> AsymmetricDecryptResponse:
        version = version_in_use(self._keys, request.name, "ASYMMETRIC_DECRYPT", inline=call.inline)
        ciphertext = request.ciphertext
        verified = verify_checksum(request, "ciphertext_crc32c", ciphertext)
        require_given("ciphertext", ciphertext)
        # A token is not troubled with what cannot be a ciphertext of its key.
        if len(ciphertext) != version.algorithm.bits // 8:
            raise decryption_failed()
        try:
            plaintext = key_in(version, inline=call.inline).decrypt(ciphertext)
        except CryptoError:
            raise decryption_failed() from None
        response = AsymmetricDecryptResponse(
            plaintext=plaintext,
            verified_ciphertext_crc32c=verified,
            protection_level=version.protection_level,
        )
        response.plaintext_crc32c.value = crc32c(plaintext)
        return response

    @method(
        f"{_API}/Decapsulate",
        http=f"POST /v1/{{name={VERSION}}}:decapsulate",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToDecapsulate",
        on="name",
        log=LogKind.DATA_READ,
        redact=with_checksums("ciphertext", "shared_secret"),
        hot=True,
    )
    def decapsulate(self, call: Call, request: DecapsulateRequest) -> DecapsulateResponse:
        version = version_in_use(self._keys, request.name, "KEY_ENCAPSULATION", inline=call.inline)
        ciphertext = request.ciphertext
        verified = verify_checksum(request, "ciphertext_crc32c", ciphertext)
        require_given("ciphertext", ciphertext)
        try:
            secret = key_in(version, inline=call.inline).decapsulate(ciphertext)
        except CryptoError:
            raise bad_field("ciphertext", f"It is not a ciphertext of {version.algorithm.name}.") from None
        return DecapsulateResponse(
            name=version.name,
            shared_secret=secret,
            shared_secret_crc32c=crc32c(secret),
            verified_ciphertext_crc32c=verified,
            protection_level=version.protection_level,
        )
