"""Every algorithm of Cloud KMS: what it is for, how large its keys are, and what its calls take.

One row per value of `CryptoKeyVersionAlgorithm` (cloud.google.com/kms/docs/algorithms). Everything that
depends on an algorithm is asked of its row; which of them a deployment offers, its back ends say.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from keystead.api.errors import bad_field
from keystead.kms.messages import CryptoKey, CryptoKeyVersion


class Family(enum.Enum):
    """What a key of an algorithm does, whatever its size."""

    SYMMETRIC = "symmetric"
    AES_GCM = "aes-gcm"
    AES_CBC = "aes-cbc"
    AES_CTR = "aes-ctr"
    RSA_PSS = "rsa-pss"
    RSA_PKCS1 = "rsa-pkcs1"
    RSA_RAW_PKCS1 = "rsa-raw-pkcs1"
    RSA_OAEP = "rsa-oaep"
    ECDSA = "ecdsa"
    ED25519 = "ed25519"
    ML_DSA = "ml-dsa"
    SLH_DSA = "slh-dsa"
    HMAC = "hmac"
    ML_KEM = "ml-kem"
    XWING = "xwing"
    AES_KWP = "aes-kwp"
    EXTERNAL = "external"


@dataclass(frozen=True)
class Algorithm:
    """One algorithm.

    name, number: as in CryptoKeyVersionAlgorithm. purpose: name of the CryptoKeyPurpose it fits.
    bits: of the AES or HMAC key or the RSA modulus; the parameter set's number for ML-DSA (44, 65, 87) and
    ML-KEM (768, 1024); 0 where the family leaves no choice.
    hash: `sha1`, `sha224`, `sha256`, `sha384` or `sha512` where one belongs to it.
    curve: `P-256`, `P-384` or `secp256k1`. digest: which field of Digest a signature takes instead of data
    (`sha256`, `sha384`, `sha512`, `external_mu`); empty where only data is taken.
    extra_permission: what creating a key of it needs beyond cryptoKeys.create (Cloud KMS permissions).
    """

    name: str
    number: int
    purpose: str
    family: Family
    bits: int = 0
    hash: str = ""
    curve: str = ""
    digest: str = ""
    extra_permission: str = ""

    @property
    def symmetric(self) -> bool:
        """Whether the key is one secret without a public half; such keys are made at once, not later."""
        return self.family in _SECRET

    @property
    def key_bytes(self) -> int:
        """The length of a secret key: AES as named, HMAC as long as its hash (Cloud KMS "MAC signing")."""
        return self.bits // 8


_SECRET = frozenset(
    {
        Family.SYMMETRIC, Family.AES_GCM, Family.AES_CBC, Family.AES_CTR, Family.HMAC, Family.AES_KWP,
        Family.EXTERNAL,
    }
)  # fmt: skip

_NUMBERS = CryptoKeyVersion.CryptoKeyVersionAlgorithm
_HASH_BITS = {"sha1": 160, "sha224": 224, "sha256": 256, "sha384": 384, "sha512": 512}


def _rows() -> list[Algorithm]:
    rows: list[Algorithm] = []

    def add(name: str, purpose: str, family: Family, **facts: object) -> None:
        # The facts are fields of Algorithm, each of its own type, which a mapping cannot say.
        rows.append(Algorithm(name, _NUMBERS.Value(name), purpose, family, **facts))  # type: ignore[arg-type]

    add("GOOGLE_SYMMETRIC_ENCRYPTION", "ENCRYPT_DECRYPT", Family.SYMMETRIC, bits=256)
    add("EXTERNAL_SYMMETRIC_ENCRYPTION", "ENCRYPT_DECRYPT", Family.EXTERNAL)
    for bits in (128, 256):
        add(f"AES_{bits}_GCM", "RAW_ENCRYPT_DECRYPT", Family.AES_GCM, bits=bits)
        add(f"AES_{bits}_CBC", "RAW_ENCRYPT_DECRYPT", Family.AES_CBC, bits=bits,
            extra_permission="cloudkms.cryptoKeyVersions.manageRawAesCbcKeys")  # fmt: skip
        add(f"AES_{bits}_CTR", "RAW_ENCRYPT_DECRYPT", Family.AES_CTR, bits=bits,
            extra_permission="cloudkms.cryptoKeyVersions.manageRawAesCtrKeys")  # fmt: skip
    for bits, digest in ((2048, "sha256"), (3072, "sha256"), (4096, "sha256"), (4096, "sha512")):
        size = f"{bits}_{digest.upper()}"
        for family, label in ((Family.RSA_PSS, "PSS"), (Family.RSA_PKCS1, "PKCS1")):
            add(f"RSA_SIGN_{label}_{size}", "ASYMMETRIC_SIGN", family, bits=bits, hash=digest, digest=digest)
    for bits in (2048, 3072, 4096):
        add(f"RSA_SIGN_RAW_PKCS1_{bits}", "ASYMMETRIC_SIGN", Family.RSA_RAW_PKCS1, bits=bits,
            extra_permission="cloudkms.cryptoKeyVersions.manageRawPKCS1Keys")  # fmt: skip
        for name in ("sha256", "sha1"):
            add(f"RSA_DECRYPT_OAEP_{bits}_{name.upper()}", "ASYMMETRIC_DECRYPT", Family.RSA_OAEP,
                bits=bits, hash=name)  # fmt: skip
    add("RSA_DECRYPT_OAEP_4096_SHA512", "ASYMMETRIC_DECRYPT", Family.RSA_OAEP, bits=4096, hash="sha512")
    for curve, label, digest in (
        ("P-256", "P256_SHA256", "sha256"),
        ("P-384", "P384_SHA384", "sha384"),
        ("secp256k1", "SECP256K1_SHA256", "sha256"),
    ):
        add(f"EC_SIGN_{label}", "ASYMMETRIC_SIGN", Family.ECDSA, curve=curve, hash=digest, digest=digest)
    add("EC_SIGN_ED25519", "ASYMMETRIC_SIGN", Family.ED25519)
    pqc = "cloudkms.cryptoKeyVersions.managePqcSign"
    for bits in (44, 65, 87):
        for suffix, digest in (("", ""), ("_EXTERNAL_MU", "external_mu")):
            add(f"PQ_SIGN_ML_DSA_{bits}{suffix}", "ASYMMETRIC_SIGN", Family.ML_DSA, bits=bits, digest=digest,
                extra_permission=pqc)  # fmt: skip
    add("PQ_SIGN_SLH_DSA_SHA2_128S", "ASYMMETRIC_SIGN", Family.SLH_DSA, extra_permission=pqc)
    add("PQ_SIGN_HASH_SLH_DSA_SHA2_128S_SHA256", "ASYMMETRIC_SIGN", Family.SLH_DSA, hash="sha256",
        digest="sha256", extra_permission=pqc)  # fmt: skip
    for name, bits in _HASH_BITS.items():
        add(f"HMAC_{name.upper()}", "MAC", Family.HMAC, bits=bits, hash=name)
    for bits in (768, 1024):
        add(f"ML_KEM_{bits}", "KEY_ENCAPSULATION", Family.ML_KEM, bits=bits)
    add("KEM_XWING", "KEY_ENCAPSULATION", Family.XWING)
    add("AES_256_KWP", "AES_WRAPPING", Family.AES_KWP, bits=256)
    return rows


ALGORITHMS: dict[int, Algorithm] = {row.number: row for row in _rows()}
BY_NAME: dict[str, Algorithm] = {row.name: row for row in ALGORITHMS.values()}


def algorithm_of(number: int, field: str) -> Algorithm:
    """The algorithm of that number. Raises InvalidArgument naming `field` for a number that is none."""
    found = ALGORITHMS.get(number)
    if found is None:
        raise bad_field(field, f"{number} is not an algorithm.")
    return found


def require_fit(algorithm: Algorithm, purpose: int, field: str) -> None:
    """Raises InvalidArgument unless the algorithm is one for keys of this purpose."""
    name = CryptoKey.CryptoKeyPurpose.Name(purpose)
    if algorithm.purpose != name:
        raise bad_field(field, f"{algorithm.name} cannot be used with purpose {name}.")
