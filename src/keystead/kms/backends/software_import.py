"""Keys that come to the software back end from outside, and leave it: import jobs, and AES key wrapping.

SECURITY: whatever the wrapped bytes are, a failure to unwrap them says only that they could not be unwrapped;
what is wrong with a key is told only once it was unwrapped whole. Unwrapped keys are checked to be of the
algorithm, size and curve that was asked for before anything is kept.

Import methods (Cloud KMS "Key wrapping"): `*_AES_256` is RSA-OAEP of an ephemeral AES-256 key, then AES-KWP
of the key; `RSA_OAEP_*_SHA256` is RSA-OAEP of the key itself; `HPKE_*` is one message of RFC 9180. In all of
them the key is its plain bytes if secret, else PKCS#8 (DER), or for ML-DSA, ML-KEM and X-Wing the bare seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keystead.crypto import hpke, keywrap
from keystead.crypto.errors import CryptoError, MalformedError
from keystead.crypto.mlkem import MlKemKey
from keystead.crypto.rsa import RsaOaep
from keystead.crypto.secret import SecretBytes
from keystead.crypto.xwing import XWingKey
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.backends import ImportFailedError, Made, NotExportableError, WrappedKey
from keystead.kms.backends import software_keys as keys
from keystead.kms.backends.software_vault import Vault

# Worded as Cloud KMS words `import_failure_reason`.
_NOT_UNWRAPPED = "The key material in the import request couldn't be unwrapped or wasn't formatted correctly"
_TOO_SHORT = "Wrapped key is too short"
_NO_BLOCKS = "Wrapped key does not consist of 64-bit blocks"
_WRONG_LENGTH = "Wrapped key has invalid length"

_RSA = frozenset({Family.RSA_PSS, Family.RSA_PKCS1, Family.RSA_RAW_PKCS1, Family.RSA_OAEP})
_AES_KEY_SIZE = 32
_WRAP_BLOCK = 8
_SHORTEST_WRAP = 16
_TAG_SIZE = 16


@dataclass(frozen=True)
class _RsaMethod:
    """RSA_OAEP_<bits>_<hash>, with _AES_256 (`ephemeral`) or without."""

    bits: int
    hash: str
    ephemeral: bool

    def generate(self) -> RsaOaep:
        return RsaOaep.generate(self.bits, self.hash)

    def unwrap(self, private: SecretBytes, data: bytes) -> SecretBytes:
        key = RsaOaep.from_private(private, self.bits, self.hash, check=False)
        size = self.bits // 8
        if not self.ephemeral:
            _require(len(data) == size, _WRONG_LENGTH)
            return SecretBytes(key.decrypt(data))
        _require(len(data) >= size + _SHORTEST_WRAP, _TOO_SHORT)
        _require((len(data) - size) % _WRAP_BLOCK == 0, _NO_BLOCKS)
        with SecretBytes(key.decrypt(data[:size])) as ephemeral:
            _require(len(ephemeral) == _AES_KEY_SIZE, _NOT_UNWRAPPED)
            return keywrap.unwrap(ephemeral, data[size:])


@dataclass(frozen=True)
class _HpkeMethod:
    """HPKE_KEM_<kem>_HKDF_SHA256_AES_256_GCM; `encapsulated` is the size of the encapsulated key."""

    generate: Callable[[], MlKemKey | XWingKey]
    read: Callable[[SecretBytes], MlKemKey | XWingKey]
    encapsulated: int

    def unwrap(self, private: SecretBytes, data: bytes) -> SecretBytes:
        _require(len(data) > self.encapsulated + _TAG_SIZE, _TOO_SHORT)
        return hpke.open_message(self.read(private), data)


def _mlkem(bits: int, encapsulated: int) -> _HpkeMethod:
    return _HpkeMethod(
        lambda: MlKemKey.generate(bits), lambda private: MlKemKey.from_private(private, bits), encapsulated
    )


_METHODS: dict[str, _RsaMethod | _HpkeMethod] = {
    "RSA_OAEP_3072_SHA1_AES_256": _RsaMethod(3072, "sha1", ephemeral=True),
    "RSA_OAEP_4096_SHA1_AES_256": _RsaMethod(4096, "sha1", ephemeral=True),
    "RSA_OAEP_3072_SHA256_AES_256": _RsaMethod(3072, "sha256", ephemeral=True),
    "RSA_OAEP_4096_SHA256_AES_256": _RsaMethod(4096, "sha256", ephemeral=True),
    "RSA_OAEP_3072_SHA256": _RsaMethod(3072, "sha256", ephemeral=False),
    "RSA_OAEP_4096_SHA256": _RsaMethod(4096, "sha256", ephemeral=False),
    "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM": _mlkem(768, 1088),
    "HPKE_KEM_ML_KEM_1024_HKDF_SHA256_AES_256_GCM": _mlkem(1024, 1568),
    "HPKE_KEM_XWING_HKDF_SHA256_AES_256_GCM": _HpkeMethod(XWingKey.generate, XWingKey.from_private, 1120),
}

_NAMES = frozenset(_METHODS)


class SoftwareImporter:
    """Import jobs of the software back end: the three members of `Backend` about import."""

    __slots__ = ("_vault",)

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @property
    def import_methods(self) -> frozenset[str]:
        """All of ImportMethod."""
        return _NAMES

    def generate_import_key(self, job: str, method: str) -> Made:
        """The key pair of a job."""
        key = _METHODS[method].generate()
        with key.to_private() as private:
            return Made(self._vault.keep(job, method, private), key.public)

    def import_key(
        self, wrapped: WrappedKey, version: str, algorithm: Algorithm, *, exportable: bool = False
    ) -> Made:
        """What was wrapped to the key of a job, kept for `version`.

        Raises ImportFailedError, and SealError when the stored key of the job is damaged.
        """
        method = _METHODS[wrapped.method]
        if isinstance(method, _RsaMethod) and not method.ephemeral and algorithm.family in _RSA:
            raise _failure(
                f"{wrapped.method} cannot wrap RSA keys. Use an import job whose method ends in _AES_256"
            )
        with self._vault.material(wrapped.job, wrapped.method, wrapped.opened_by) as private:
            try:
                unwrapped = method.unwrap(private, wrapped.data)
            except CryptoError:
                raise _failure(_NOT_UNWRAPPED) from None
        with unwrapped:
            return _keep(self._vault, unwrapped, version, algorithm, exportable)


class KwpWrapper:
    """AES_256_KWP: the `Wrapper` of software keys under one AES-256 key."""

    __slots__ = ("_kek", "_vault")

    def __init__(self, vault: Vault, kek: SecretBytes) -> None:
        """Copies `kek`, the caller may wipe it."""
        self._vault = vault
        self._kek = kek.use(SecretBytes)

    def wrap(self, version: str, algorithm: Algorithm, stored: bytes) -> bytes:
        """The material of `version` under this key (RFC 5649): secret keys as their bytes, others as PKCS#8.

        Raises NotExportableError, and SealError when what is stored is damaged.
        """
        with self._vault.material(version, algorithm.name, stored) as material:
            if not self._vault.exportable(stored):
                raise NotExportableError(f"{version} is not exportable.")
            return keywrap.wrap(self._kek, material)

    def unwrap(self, data: bytes, version: str, algorithm: Algorithm) -> Made:
        """The key that was wrapped under this key, kept for `version`. Raises ImportFailedError."""
        _require(len(data) >= _SHORTEST_WRAP, _TOO_SHORT)
        _require(len(data) % _WRAP_BLOCK == 0, _NO_BLOCKS)
        try:
            unwrapped = keywrap.unwrap(self._kek, data)
        except CryptoError:
            raise _failure(_NOT_UNWRAPPED) from None
        with unwrapped:
            return _keep(self._vault, unwrapped, version, algorithm, exportable=False)


def _keep(vault: Vault, key: SecretBytes, version: str, algorithm: Algorithm, exportable: bool) -> Made:
    try:
        material = keys.accept(algorithm, key)
    except MalformedError as error:
        raise _failure(f"{_NOT_UNWRAPPED}: {error}") from None
    with material.private as private:
        stored = vault.keep(version, algorithm.name, private, exportable=exportable)
        return Made(stored, material.public, vault.root_key.fingerprint(private))


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _failure(otherwise)


def _failure(reason: str) -> ImportFailedError:
    return ImportFailedError(f"{reason}.")
