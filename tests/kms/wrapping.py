"""Wrapping keys for import as a customer does it: with the library, not with the code under test."""

from __future__ import annotations

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem

_KEMS = {
    "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM": (hpke.KEM.MLKEM768, mlkem.MLKEM768PublicKey),
    "HPKE_KEM_ML_KEM_1024_HKDF_SHA256_AES_256_GCM": (hpke.KEM.MLKEM1024, mlkem.MLKEM1024PublicKey),
}


def wrap_hpke(method: str, public: bytes, material: bytes) -> bytes:
    """Material wrapped to the raw public key of an import job by an ML-KEM method."""
    kem, key_type = _KEMS[method]
    suite = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    return suite.encrypt(material, key_type.from_public_bytes(public))
