"""AsymmetricSign: RSA, ECDSA, Ed25519 and ML-DSA signatures.

What is signed comes as `digest` or as `data`, never both, and an empty `data` counts as none, since protobuf
does not tell the two apart. Which of them an algorithm takes (Cloud KMS "Data versus digest"):

    RSA PSS and PKCS#1, ECDSA       the digest of its hash, or data, which is hashed here
    raw PKCS#1, Ed25519, ML-DSA     data
    ML-DSA with external mu         digest.external_mu (FIPS 204, algorithm 7)

Limits: data of at most 64 KiB; of 8 KiB where it goes into a token whole; for raw PKCS#1 of 11 bytes less
than the modulus (RFC 8017, section 9.2).
"""

from __future__ import annotations

from typing import Any

from keystead.api.call import Call
from keystead.api.errors import InvalidArgument, bad_field
from keystead.api.method import LogKind, method
from keystead.crypto import hashes
from keystead.crypto.checksum import crc32c
from keystead.crypto.mldsa import MU_SIZE
from keystead.crypto.rsa import PKCS1_OVERHEAD
from keystead.kms.algorithms import Family
from keystead.kms.checks import check_size, verify_checksum, with_checksums
from keystead.kms.keycache import KeyCache, UsableVersion
from keystead.kms.messages import AsymmetricSignRequest, AsymmetricSignResponse
from keystead.kms.service import KMS, VERSION
from keystead.kms.use import key_in, version_in_use

_API = "google.cloud.kms.v1.KeyManagementService"
_MAX_BYTES = 64 * 1024
_MU = "external_mu"
_DIGEST_SIZES = {"sha256": 32, "sha384": 48, "sha512": 64, _MU: MU_SIZE}


class Signing:
    """AsymmetricSign of KeyManagementService."""

    service = KMS

    def __init__(self, keys: KeyCache) -> None:
        self._keys = keys

    @method(
        f"{_API}/AsymmetricSign",
        http=f"POST /v1/{{name={VERSION}}}:asymmetricSign",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToSign",
        on="name",
        log=LogKind.DATA_READ,
        redact=with_checksums("digest", "data", "signature"),
        hot=True,
    )
    def sign(self, call: Call, request: AsymmetricSignRequest) -> AsymmetricSignResponse:
        version = version_in_use(self._keys, request.name, "ASYMMETRIC_SIGN", inline=call.inline)
        digest_verified = verify_checksum(request, "digest_crc32c", _digest_in(request))
        data_verified = verify_checksum(request, "data_crc32c", request.data)
        payload = _payload(request, version)
        signature = key_in(version, inline=call.inline).sign(payload)
        response = AsymmetricSignResponse(
            name=version.name,
            signature=signature,
            verified_digest_crc32c=digest_verified,
            verified_data_crc32c=data_verified,
            protection_level=version.protection_level,
        )
        response.signature_crc32c.value = crc32c(signature)
        return response


def _digest_in(request: Any) -> bytes:
    """The bytes of whichever digest the request carries; its checksum is over these."""
    field = request.digest.WhichOneof("digest")
    return bytes(getattr(request.digest, field)) if field else b""


def _payload(request: Any, version: UsableVersion) -> bytes:
    """What the key signs. Raises InvalidArgument for input that its algorithm does not take."""
    has_digest = request.HasField("digest")
    if has_digest and request.data:
        raise InvalidArgument("Only one of the fields digest and data can be set.")
    if has_digest:
        return _checked_digest(request, version)
    if request.data:
        return _checked_data(request.data, version)
    raise InvalidArgument("The request was invalid: one of the fields digest and data is required.")


def _checked_digest(request: Any, version: UsableVersion) -> bytes:
    algorithm = version.algorithm
    if not algorithm.digest:
        raise bad_field("digest", f"{algorithm.name} signs data; it takes no digest.")
    given = request.digest.WhichOneof("digest")
    if given != algorithm.digest:
        raise bad_field("digest", f"{algorithm.name} takes digest.{algorithm.digest}.")
    digest = _digest_in(request)
    size = _DIGEST_SIZES[given]
    if len(digest) != size:
        raise bad_field(f"digest.{given}", f"It must have {size} bytes; {len(digest)} were given.")
    return digest


def _checked_data(data: bytes, version: UsableVersion) -> bytes:
    algorithm = version.algorithm
    if algorithm.digest == _MU:
        raise bad_field("data", f"{algorithm.name} takes digest.{_MU}, computed from data and public key.")
    limit = _MAX_BYTES if algorithm.digest else version.backend.max_bytes
    if algorithm.family is Family.RSA_RAW_PKCS1:
        limit = algorithm.bits // 8 - PKCS1_OVERHEAD
    check_size("data", data, limit)
    return hashes.digest(algorithm.digest, data) if algorithm.digest else data
