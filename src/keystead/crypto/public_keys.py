"""Public keys in the forms in which they are handed out.

They are kept as SubjectPublicKeyInfo in DER (RFC 5280); those of the post-quantum algorithms as the raw bytes
of their standards, which are handed out as they are; those of ML-DSA also as SubjectPublicKeyInfo (RFC 9881).
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PublicKey,
    MLDSA65PublicKey,
    MLDSA87PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from keystead.crypto.errors import MalformedError

_MLDSA: dict[int, type[MLDSA44PublicKey | MLDSA65PublicKey | MLDSA87PublicKey]] = {
    44: MLDSA44PublicKey,
    65: MLDSA65PublicKey,
    87: MLDSA87PublicKey,
}


def to_pem(public: bytes) -> str:
    """A SubjectPublicKeyInfo in DER as PEM (RFC 7468), ending with a line feed.

    MalformedError for what is none, the raw post-quantum keys included.
    """
    try:
        key = load_der_public_key(public)
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("the public key is not a SubjectPublicKeyInfo in DER") from None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def mldsa_to_der(public: bytes, bits: int) -> bytes:
    """The raw public key of ML-DSA-44, 65 or 87 (`bits`) as SubjectPublicKeyInfo in DER.

    MalformedError for a key of another length.
    """
    try:
        key = _MLDSA[bits].from_public_bytes(public)
    except ValueError:
        raise MalformedError(f"this is not a public key of ML-DSA-{bits}") from None
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
