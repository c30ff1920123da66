"""Keys wrapped for import as a customer does it: with the library, not with the code under test."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, hpke, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, padding

from keystead.kms.backends import Backend, WrappedKey

_JOB = "projects/p/locations/l/keyRings/r/importJobs/j"


def _oaep(public: bytes, algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    key = serialization.load_der_public_key(public)
    return key.encrypt(data, padding.OAEP(padding.MGF1(algorithm), algorithm, None))


def _hpke(kem: hpke.KEM, public: bytes, data: bytes) -> bytes:
    suite = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    return suite.encrypt(data, mlkem.MLKEM768PublicKey.from_public_bytes(public))


def wrapped_samples(backend: Backend) -> list[tuple[WrappedKey, str]]:
    """One good import per kind of method, with the algorithm it is for."""
    secret, ephemeral = bytes(range(32)), bytes(range(32, 64))
    pair = ec.derive_private_key(12345, ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    samples = []
    for method, digest in (
        ("RSA_OAEP_3072_SHA1_AES_256", hashes.SHA1()),
        ("RSA_OAEP_3072_SHA256_AES_256", hashes.SHA256()),
    ):
        job = backend.generate_import_key(_JOB, method)
        for material, algorithm in ((secret, "GOOGLE_SYMMETRIC_ENCRYPTION"), (pair, "EC_SIGN_P256_SHA256")):
            data = _oaep(job.public, digest, ephemeral) + keywrap.aes_key_wrap_with_padding(
                ephemeral, material
            )
            samples.append((WrappedKey(_JOB, method, job.stored, data), algorithm))
    job = backend.generate_import_key(_JOB, "RSA_OAEP_3072_SHA256")
    data = _oaep(job.public, hashes.SHA256(), secret)
    samples.append((WrappedKey(_JOB, "RSA_OAEP_3072_SHA256", job.stored, data), "HMAC_SHA256"))
    method = "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM"
    job = backend.generate_import_key(_JOB, method)
    data = _hpke(hpke.KEM.MLKEM768, job.public, secret)
    samples.append((WrappedKey(_JOB, method, job.stored, data), "GOOGLE_SYMMETRIC_ENCRYPTION"))
    return samples
