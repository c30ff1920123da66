"""Keys wrapped for import as a customer does it."""

from __future__ import annotations

from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends import Backend, WrappedKey
from tests.kms.backends import outside

_JOB = "projects/p/locations/l/keyRings/r/importJobs/j"
_KEYS = {
    "RSA_OAEP_3072_SHA1_AES_256": ("GOOGLE_SYMMETRIC_ENCRYPTION", "EC_SIGN_P256_SHA256"),
    "RSA_OAEP_3072_SHA256_AES_256": ("GOOGLE_SYMMETRIC_ENCRYPTION", "EC_SIGN_P256_SHA256"),
    "RSA_OAEP_3072_SHA256": ("HMAC_SHA256",),
    "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM": ("GOOGLE_SYMMETRIC_ENCRYPTION",),
}


def wrapped_samples(backend: Backend) -> list[tuple[WrappedKey, str]]:
    """Good imports by one method of each kind, with the algorithm each is for."""
    samples = []
    for method, algorithms in _KEYS.items():
        job = backend.generate_import_key(_JOB, method)
        for name in algorithms:
            data = outside.wrap(method, job.public, outside.known(BY_NAME[name]).private)
            samples.append((WrappedKey(_JOB, method, job.stored, data), name))
    return samples
