"""MacSign and MacVerify (HMAC).

Limits: data of at most 64 KiB for software keys, of 16 KiB for keys in a token. An empty field counts as a
missing one.

SECURITY: tags are compared in constant time. A wrong tag of the right length is an answer, not an error.
"""

from __future__ import annotations

import hmac
from typing import Any

from keystead.api.call import Call
from keystead.api.errors import bad_field
from keystead.api.method import LogKind, method
from keystead.crypto.checksum import crc32c
from keystead.kms.checks import check_size, require_given, verify_checksum, with_checksums
from keystead.kms.keycache import KeyCache, UsableVersion
from keystead.kms.messages import MacSignRequest, MacSignResponse, MacVerifyRequest, MacVerifyResponse
from keystead.kms.service import KMS, VERSION
from keystead.kms.use import key_in, version_in_use

_API = "google.cloud.kms.v1.KeyManagementService"
_MAX_BYTES = 64 * 1024
_MAX_BYTES_IN_TOKEN = 16 * 1024


class Macs:
    """MacSign and MacVerify of KeyManagementService."""

    service = KMS

    def __init__(self, keys: KeyCache) -> None:
        self._keys = keys

    @method(
        f"{_API}/MacSign",
        http=f"POST /v1/{{name={VERSION}}}:macSign",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToSign",
        on="name",
        log=LogKind.DATA_READ,
        redact=with_checksums("data", "mac"),
        hot=True,
    )
    def sign(self, call: Call, request: MacSignRequest) -> MacSignResponse:
        version = version_in_use(self._keys, request.name, "MAC", inline=call.inline)
        verified = _verified_data(request, version)
        tag = key_in(version, inline=call.inline).mac(request.data)
        response = MacSignResponse(
            name=version.name,
            mac=tag,
            verified_data_crc32c=verified,
            protection_level=version.protection_level,
        )
        response.mac_crc32c.value = crc32c(tag)
        return response

    @method(
        f"{_API}/MacVerify",
        http=f"POST /v1/{{name={VERSION}}}:macVerify",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToVerify",
        on="name",
        log=LogKind.DATA_READ,
        redact=with_checksums("data", "mac"),
        hot=True,
    )
    def verify(self, call: Call, request: MacVerifyRequest) -> MacVerifyResponse:
        version = version_in_use(self._keys, request.name, "MAC", inline=call.inline)
        data_verified = _verified_data(request, version)
        mac_verified = verify_checksum(request, "mac_crc32c", request.mac)
        require_given("mac", request.mac)
        size = version.algorithm.key_bytes  # an HMAC key is as long as its tags
        if len(request.mac) != size:
            raise bad_field("mac", f"A MAC of {version.algorithm.name} has {size} bytes.")
        tag = key_in(version, inline=call.inline).mac(request.data)
        success = hmac.compare_digest(tag, request.mac)
        return MacVerifyResponse(
            name=version.name,
            success=success,
            verified_data_crc32c=data_verified,
            verified_mac_crc32c=mac_verified,
            verified_success_integrity=success,
            protection_level=version.protection_level,
        )


def _verified_data(request: Any, version: UsableVersion) -> bool:
    """Whether a checksum of `data` was sent; raises InvalidArgument where it or the data will not do."""
    verified = verify_checksum(request, "data_crc32c", request.data)
    require_given("data", request.data)
    limit = _MAX_BYTES_IN_TOKEN if version.backend.blocking else _MAX_BYTES
    check_size("data", request.data, limit)
    return verified
