"""Private keys as PKCS#8 DER (RFC 5208, RFC 5958), the one form in which they are stored and imported.

SECURITY: the bytes come in and go out as `SecretBytes`; the library's own copies live as long as its key
object. Errors tell the form that was expected and quote nothing of what was found.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from keystead.crypto.errors import MalformedError
from keystead.crypto.secret import SecretBytes

_SEQUENCE = 0x30
_VERSIONS = (b"\x02\x01\x00", b"\x02\x01\x01")


def load_private(private: SecretBytes, *, check: bool = True) -> PrivateKeyTypes:
    """The key in `private`, of whatever kind it is. MalformedError for anything else, encrypted keys and
    unknown algorithms included.

    `check` proves an RSA key consistent (its primes prime, its exponents fitting), which takes up to
    fractions of a second: a key that this room made or has once checked needs it no more. Keys of the other
    kinds are always checked, it costs next to nothing.
    """
    if not private.use(_looks_like_pkcs8):
        raise MalformedError("the private key is not unencrypted PKCS#8 in DER")
    try:
        return private.use(
            lambda view: load_der_private_key(view, None, unsafe_skip_rsa_key_validation=not check)
        )
    except UnsupportedAlgorithm:
        raise MalformedError("the private key is not of a known algorithm") from None
    except (ValueError, TypeError):
        raise MalformedError("the private key is not valid unencrypted PKCS#8 in DER") from None


def private_bytes(key: PrivateKeyTypes) -> SecretBytes:
    """The key as PKCS#8: the same bytes for the same key, whatever it was loaded from."""
    return SecretBytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def public_bytes(key: PrivateKeyTypes) -> bytes:
    """Its public key as SubjectPublicKeyInfo in DER (RFC 5280 4.1)."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _looks_like_pkcs8(view: memoryview) -> bool:
    # The library also reads the older forms of RSA and EC keys (RFC 8017 A.1.2, RFC 5915). After the version,
    # those have a number or the key itself where PKCS#8 has the algorithm, a sequence.
    if len(view) < 8 or view[0] != _SEQUENCE:
        return False
    start = 2 if view[1] < 0x80 else 2 + (view[1] & 0x7F)
    return bytes(view[start : start + 3]) in _VERSIONS and bytes(view[start + 3 : start + 4]) == b"\x30"
