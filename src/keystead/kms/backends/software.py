"""The software back end: keys that live in the store, wrapped by the root key, and work in this process.

SECURITY: material exists in clear only in `SecretBytes` and in ciphers made of it; what is stored of it is
`software_vault`'s.
"""

from __future__ import annotations

from keystead.kms.algorithms import ALGORITHMS, Algorithm, Family
from keystead.kms.backends import Key, Made, WrappedKey
from keystead.kms.backends import software_keys as keys
from keystead.kms.backends.software_import import KwpWrapper, SoftwareImporter
from keystead.kms.backends.software_vault import Vault
from keystead.kms.rootkey import RootKey

_MAX_BYTES = 65536
# Cloud KMS offers secp256k1 for HSM keys only (cloud.google.com/kms/docs/algorithms).
_HSM_ONLY = {"EC_SIGN_SECP256K1_SHA256"}
_OFFERED = frozenset(
    each.name for each in ALGORITHMS.values() if each.family in keys.FAMILIES and each.name not in _HSM_ONLY
)


class SoftwareBackend:
    """Keys of protection level SOFTWARE."""

    level = "SOFTWARE"
    blocking = False
    max_bytes = _MAX_BYTES
    together = False

    def __init__(self, root_key: RootKey) -> None:
        self._vault = Vault(root_key)
        self._importer = SoftwareImporter(self._vault)

    @property
    def algorithms(self) -> frozenset[str]:
        return _OFFERED

    @property
    def import_methods(self) -> frozenset[str]:
        return self._importer.import_methods

    def generate(self, version: str, algorithm: Algorithm, *, exportable: bool = False) -> Made:
        made = keys.generate(algorithm)
        with made.private as material:
            stored = self._vault.keep(version, algorithm.name, material, exportable=exportable)
        return Made(stored, made.public)

    def load(self, version: str, algorithm: Algorithm, stored: bytes) -> Key:
        with self._vault.material(version, algorithm.name, stored) as material:
            if algorithm.family is Family.AES_KWP:
                return KwpWrapper(self._vault, material)
            return keys.opened(algorithm, material)

    def remove(self, version: str, stored: bytes) -> None:
        """Nothing: the store held all there was of the key."""

    def generate_import_key(self, job: str, method: str) -> Made:
        return self._importer.generate_import_key(job, method)

    def import_key(
        self, wrapped: WrappedKey, version: str, algorithm: Algorithm, *, exportable: bool = False
    ) -> Made:
        return self._importer.import_key(wrapped, version, algorithm, exportable=exportable)
