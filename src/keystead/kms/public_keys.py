"""GetPublicKey: the public halves of asymmetric keys, in the formats that fit them.

PEM and DER are SubjectPublicKeyInfo (RFC 7468, RFC 5280), NIST_PQC the encoding of FIPS 203 and 204,
XWING_RAW_BYTES that of the X-Wing draft. Cloud KMS ("Retrieve a public key") has PEM and DER for ML-DSA too,
but not for ML-KEM and X-Wing.
"""

from __future__ import annotations

from typing import Any

from keystead.api.call import Call
from keystead.api.errors import Internal, bad_field
from keystead.api.method import LogKind, method
from keystead.crypto.checksum import crc32c
from keystead.crypto.public_keys import mldsa_to_der, to_pem
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.keycache import KeyCache, UsableVersion
from keystead.kms.messages import GetPublicKeyRequest, PublicKey
from keystead.kms.service import KMS, VERSION
from keystead.kms.use import enabled_version

_API = "google.cloud.kms.v1.KeyManagementService"
_PURPOSES = ("ASYMMETRIC_SIGN", "ASYMMETRIC_DECRYPT", "KEY_ENCAPSULATION")

_FORMAT = PublicKey.PublicKeyFormat
_UNSPECIFIED = _FORMAT.Value("PUBLIC_KEY_FORMAT_UNSPECIFIED")
_PEM, _DER = _FORMAT.Value("PEM"), _FORMAT.Value("DER")
_NIST_PQC, _XWING = _FORMAT.Value("NIST_PQC"), _FORMAT.Value("XWING_RAW_BYTES")

_POST_QUANTUM = {
    Family.ML_DSA: (_NIST_PQC, _PEM, _DER),
    Family.SLH_DSA: (_NIST_PQC,),
    Family.ML_KEM: (_NIST_PQC,),
    Family.XWING: (_XWING,),
}


class PublicKeys:
    """GetPublicKey of KeyManagementService."""

    service = KMS

    def __init__(self, keys: KeyCache) -> None:
        self._keys = keys

    @method(
        f"{_API}/GetPublicKey",
        http=f"GET /v1/{{name={VERSION}}}/publicKey",
        permission="cloudkms.cryptoKeyVersions.viewPublicKey",
        on="name",
        log=LogKind.DATA_READ,
        hot=True,
    )
    def get(self, call: Call, request: GetPublicKeyRequest) -> PublicKey:
        version = enabled_version(self._keys, request.name, *_PURPOSES, inline=call.inline)
        asked = request.public_key_format
        _check_format(version.algorithm, asked)
        if not version.public:
            raise Internal(f"The public key of {version.name} is missing. Restore the store from a backup.")
        response = PublicKey(
            name=version.name,
            algorithm=version.algorithm.number,
            protection_level=version.protection_level,
            public_key_format=asked,
        )
        encoded = _encoded(version, asked)
        if asked in {_UNSPECIFIED, _PEM}:
            response.pem = encoded.decode()
            response.pem_crc32c.value = crc32c(encoded)
        if asked != _UNSPECIFIED:
            response.public_key.data = encoded
            response.public_key.crc32c_checksum.value = crc32c(encoded)
        return response


def _check_format(algorithm: Algorithm, asked: int) -> None:
    """Raises InvalidArgument for a format that does not fit, naming those that do."""
    fitting = _POST_QUANTUM.get(algorithm.family, (_UNSPECIFIED, _PEM, _DER))
    if asked in fitting:
        return
    names = [_FORMAT.Name(each) for each in fitting if each != _UNSPECIFIED]
    # Clients match on "Only NIST_PQC format is supported".
    only = f"Only {names[0]} format is" if len(names) == 1 else f"Only {' and '.join(names)} formats are"
    raise bad_field("public_key_format", f"{only} supported for {algorithm.name}.")


def _encoded(version: UsableVersion, asked: Any) -> bytes:
    """The public key in that format, or in PEM where none was named."""
    if asked in {_NIST_PQC, _XWING}:
        return version.public
    der = version.public
    if version.algorithm.family is Family.ML_DSA:
        der = mldsa_to_der(version.public, version.algorithm.bits)
    return der if asked == _DER else to_pem(der).encode()
