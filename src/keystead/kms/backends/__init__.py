"""Where key material lives and works: one back end per protection level, one small protocol per use.

A back end makes, opens and removes keys; what it keeps of a key between calls are the bytes in `Made.stored`
(wrapped material, or the name of an object in a token), which the store holds by the name of the version.
An opened key does one thing, and its protocol says which. Asking a key for anything else is a mistake of the
program: the handlers check the purpose first.

Back ends know no IAM, no state and no transaction. They raise `api.errors.Unavailable` where what holds the
keys cannot be reached just now, with a text that says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import Algorithm


@dataclass(frozen=True)
class Made:
    """A key that was just made or imported.

    stored: what the store keeps to open it again. public: its public key; SubjectPublicKeyInfo (DER) for RSA,
    EC and Ed25519, the raw encoding of FIPS 203 or 204 for ML-KEM and ML-DSA, 1216 bytes for X-Wing; empty
    for secret keys. fingerprint: 32 bytes that only the same material gives again in this deployment and
    that reveal nothing of it; for imported keys, else empty.
    """

    stored: bytes
    public: bytes = b""
    fingerprint: bytes = b""


@dataclass(frozen=True)
class WrappedKey:
    """Key material on its way in: `data`, wrapped by `method` (name of an ImportMethod) to the key of an
    import job, whose own `Made.stored` is `opened_by`. `job` is the job's resource name."""

    job: str
    method: str
    opened_by: bytes
    data: bytes


class GenerationFailedError(Exception):
    """The key can never be made; the text becomes `generation_failure_reason`."""


class ImportFailedError(Exception):
    """The key cannot be imported; the text becomes `import_failure_reason`."""


class NotExportableError(Exception):
    """The key was not made exportable; the text names it."""


class SymmetricKey(Protocol):
    """ENCRYPT_DECRYPT: authenticated encryption under nonces of its own choice (crypto.aead.Aead is one).

    `open` raises CryptoError for whatever was not sealed so.
    """

    def seal(self, plaintext: bytes, aad: bytes) -> bytes: ...
    def open(self, message: bytes | memoryview, aad: bytes) -> bytes: ...


class RawCipher(Protocol):
    """RAW_ENCRYPT_DECRYPT. GCM ciphertexts end with a tag of 16 bytes; CBC takes whole blocks and adds no
    padding; `aad` is empty but for GCM. `decrypt` raises CryptoError."""

    def encrypt(self, plaintext: bytes, iv: bytes, aad: bytes) -> bytes: ...
    def decrypt(self, ciphertext: bytes, iv: bytes, aad: bytes, tag_length: int) -> bytes: ...


class Signer(Protocol):
    """ASYMMETRIC_SIGN. The payload is the digest where the algorithm hashes, mu (64 bytes) for external-mu
    ML-DSA, else the data itself; its length has been checked. ECDSA signatures are DER, the others raw."""

    def sign(self, payload: bytes) -> bytes: ...


class Decrypter(Protocol):
    """ASYMMETRIC_DECRYPT. Raises CryptoError for every ciphertext that does not open, all alike."""

    def decrypt(self, ciphertext: bytes) -> bytes: ...


class Decapsulator(Protocol):
    """KEY_ENCAPSULATION: 32 bytes of shared secret. Raises CryptoError for a ciphertext of a wrong length."""

    def decapsulate(self, ciphertext: bytes) -> bytes: ...


class MacKey(Protocol):
    """MAC: the whole tag."""

    def mac(self, data: bytes) -> bytes: ...


class Wrapper(Protocol):
    """AES_WRAPPING: AES key wrap with padding (RFC 5649) of other keys of the same back end.

    wrap: `stored` is that of the exported version. Symmetric keys are wrapped as their bytes, asymmetric ones
    as PKCS#8; raises NotExportableError. unwrap: makes `version` of what was wrapped; raises
    ImportFailedError.
    """

    def wrap(self, version: str, algorithm: Algorithm, stored: bytes) -> bytes: ...
    def unwrap(self, data: bytes, version: str, algorithm: Algorithm) -> Made: ...


Key = SymmetricKey | RawCipher | Signer | Decrypter | Decapsulator | MacKey | Wrapper


class Backend(Protocol):
    """The keys of one protection level. All methods may be called from any thread.

    level: name of the ProtectionLevel. blocking: whether using its keys can wait for something outside of the
    process, so that it must not happen on the event loop. max_bytes: how long plaintext and associated data
    may be; `together` says whether the limit holds for their sum.
    """

    level: str
    blocking: bool
    max_bytes: int
    together: bool

    @property
    def algorithms(self) -> frozenset[str]:
        """Names of the algorithms it offers. Raises Unavailable when it cannot be asked."""

    @property
    def import_methods(self) -> frozenset[str]:
        """Names of the import methods it offers. Raises Unavailable when it cannot be asked."""

    def generate(self, version: str, algorithm: Algorithm, *, exportable: bool = False) -> Made:
        """Make the key of a version (a resource name). Repeating it after a crash replaces what the first
        attempt may have left. `exportable` keys can be wrapped by a `Wrapper`, others never leave.

        Raises GenerationFailedError and Unavailable.
        """

    def load(self, version: str, algorithm: Algorithm, stored: bytes) -> Key:
        """Open a key. Raises SealError when what is stored is damaged, Unavailable."""

    def remove(self, version: str, stored: bytes) -> None:
        """Take the key out of wherever it lies beyond the store; done already is no error. Raises
        Unavailable."""

    def generate_import_key(self, job: str, method: str) -> Made:
        """The key pair of an import job. `public` is SubjectPublicKeyInfo for RSA methods, the KEM's raw
        public key for HPKE ones. Raises GenerationFailedError and Unavailable."""

    def import_key(
        self, wrapped: WrappedKey, version: str, algorithm: Algorithm, *, exportable: bool = False
    ) -> Made:
        """Unwrap a key into this back end. Raises ImportFailedError and Unavailable."""


def require_length(material: SecretBytes, algorithm: Algorithm) -> None:
    """Raises ImportFailedError unless a secret key is as long as its algorithm demands."""
    if len(material) != algorithm.key_bytes:
        raise ImportFailedError(
            f"The key material has {len(material)} bytes; {algorithm.name} takes {algorithm.key_bytes}."
        )
