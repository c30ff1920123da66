"""Hybrid public key encryption (RFC 9180) to post-quantum recipients: opening what was sealed to our keys.

Mode base, one message, KDF HKDF-SHA256, AEAD AES-256-GCM, empty info and associated data; the KEMs are
ML-KEM-768, ML-KEM-1024 and X-Wing (draft-ietf-hpke-pq). A message is the encapsulated key, then ciphertext
and tag.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

from keystead.crypto.errors import DecryptionError
from keystead.crypto.mlkem import MlKemKey
from keystead.crypto.secret import SecretBytes
from keystead.crypto.xwing import XWingKey

_MLKEM = {768: KEM.MLKEM768, 1024: KEM.MLKEM1024}


def open_message(recipient: MlKemKey | XWingKey, message: bytes) -> SecretBytes:
    """The plaintext of a message to `recipient`. DecryptionError for anything else."""
    try:
        if isinstance(recipient, XWingKey):
            key = MLKEM768X25519PrivateKey(recipient.mlkem, recipient.x25519)
            return SecretBytes(_suite(KEM.MLKEM768_X25519).decrypt(message, key))
        return SecretBytes(_suite(_MLKEM[recipient.bits]).decrypt(message, recipient.key))
    except InvalidTag:
        raise DecryptionError from None


def _suite(kem: KEM) -> Suite:
    return Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
