"""Making keys in a token: what an object of each family is, and what it may be used for.

SECURITY: keys are CKA_SENSITIVE and not CKA_EXTRACTABLE, so no call gives their value or wraps them; that
holds for whoever has the PIN too, and cannot be undone. A key may be used for what its family does and
nothing else. Exportable keys are CKA_EXTRACTABLE, still CKA_SENSITIVE, and where the token lets a user make
trusted wrapping keys, only those can wrap them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error

from keystead.crypto import token_formats
from keystead.crypto.errors import MalformedError
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.backends import GenerationFailedError
from keystead.kms.backends.hsm import errors
from keystead.kms.backends.hsm.objects import ObjectRef
from keystead.kms.backends.hsm.session import Session

CURVES = {
    "P-256": bytes.fromhex("06082a8648ce3d030107"),
    "P-384": bytes.fromhex("06052b81040022"),
    "secp256k1": bytes.fromhex("06052b8104000a"),
}
"""CKA_EC_PARAMS by curve: the DER of its object identifier (RFC 5480, SEC 2)."""
ED25519 = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")
"""CKA_EC_PARAMS of Ed25519, its object identifier (RFC 8410) or name (PKCS#11 3.0)."""

_ENCRYPTION = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
_SIGNING = MechanismFlag.SIGN | MechanismFlag.VERIFY


@dataclass(frozen=True)
class Kind:
    """What the keys of a family are in a token. held: the class of the object that is used. use: what the
    object, or the pair of objects, is allowed."""

    held: ObjectClass
    type: KeyType
    use: MechanismFlag


_AES = Kind(ObjectClass.SECRET_KEY, KeyType.AES, _ENCRYPTION)
_RSA_SIGNING = Kind(ObjectClass.PRIVATE_KEY, KeyType.RSA, _SIGNING)
KINDS: dict[Family, Kind] = {
    Family.SYMMETRIC: _AES,
    Family.AES_GCM: _AES,
    Family.AES_CBC: _AES,
    Family.AES_CTR: _AES,
    Family.AES_KWP: Kind(ObjectClass.SECRET_KEY, KeyType.AES, MechanismFlag.WRAP | MechanismFlag.UNWRAP),
    Family.HMAC: Kind(ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, MechanismFlag.SIGN),
    Family.RSA_PSS: _RSA_SIGNING,
    Family.RSA_PKCS1: _RSA_SIGNING,
    Family.RSA_RAW_PKCS1: _RSA_SIGNING,
    Family.RSA_OAEP: Kind(ObjectClass.PRIVATE_KEY, KeyType.RSA, _ENCRYPTION),
    Family.ECDSA: Kind(ObjectClass.PRIVATE_KEY, KeyType.EC, _SIGNING),
    Family.ED25519: Kind(ObjectClass.PRIVATE_KEY, KeyType.EC_EDWARDS, _SIGNING),
}
IMPORT_KEY = Kind(ObjectClass.PRIVATE_KEY, KeyType.RSA, MechanismFlag.WRAP | MechanismFlag.UNWRAP)
"""The key pair of an import job."""


@dataclass(frozen=True)
class Ways:
    """How a token wants things done, where tokens differ.

    ed25519: the CKA_EC_PARAMS it takes for Ed25519, empty for none. kwp: its mechanism for RFC 5649. pads:
    whether that wraps keys whose length is no multiple of 8 as the RFC does (SoftHSM2 2.6.1 fills them up
    with zeros before, which then belong to the key). trusts: whether its users can make keys CKA_TRUSTED.
    derives: whether it has Diffie-Hellman. imports_ed25519: whether an Ed25519 key can be unwrapped into it
    and its public key be learnt.
    """

    ed25519: bytes = b""
    kwp: Mechanism | None = None
    pads: bool = False
    trusts: bool = False
    derives: bool = False
    imports_ed25519: bool = False


def protection(family: Family | None, ways: Ways, *, exportable: bool = False) -> dict[Attribute, Any]:
    """The attributes that keep a key in the token; `family` is None for import keys and passing ones."""
    attributes: dict[Attribute, Any] = {
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: exportable,
    }
    if ways.trusts and exportable:
        attributes[Attribute.WRAP_WITH_TRUSTED] = True
    if ways.trusts and family is Family.AES_KWP:
        attributes[Attribute.TRUSTED] = True
    return attributes


def generate(
    session: Session, ways: Ways, ref: ObjectRef, algorithm: Algorithm, *, exportable: bool
) -> bytes:
    """Make the key of a version; its public key (as `Made.public`). Raises GenerationFailedError."""
    kind = KINDS[algorithm.family]
    guarded = protection(algorithm.family, ways, exportable=exportable)
    with failing_for_good(session, algorithm.name):
        if algorithm.symmetric:
            session.raw.generate_key(
                kind.type, algorithm.bits, id=ref.id, label=ref.label, store=True, capabilities=kind.use,
                template=guarded,
            )  # fmt: skip
            return b""
        size = algorithm.bits or parameters_of(algorithm, ways)
        public, _ = generate_pair(session, kind, size, guarded, ref)
        return public_of(public, algorithm)


def generate_import_key(session: Session, ways: Ways, ref: ObjectRef, bits: int) -> bytes:
    """Make the RSA key pair of an import job; its public key (DER). Raises GenerationFailedError."""
    with failing_for_good(session, "an import job"):
        public, _ = generate_pair(session, IMPORT_KEY, bits, protection(None, ways), ref)
        return token_formats.rsa_public(public[Attribute.MODULUS], public[Attribute.PUBLIC_EXPONENT])


@contextmanager
def failing_for_good(session: Session, what: str) -> Iterator[None]:
    """Raises GenerationFailedError where the token says that it can never make this key."""
    try:
        yield
    except PKCS11Error as error:
        if errors.is_never(error) and session.healthy():
            raise GenerationFailedError(
                f"The token cannot make a key for {what} ({type(error).__name__})."
            ) from None
        raise
    except MalformedError as error:
        raise GenerationFailedError(f"The token made a key that is none for {what}: {error}.") from None


def generate_pair(
    session: Session, kind: Kind, size: int | bytes, guarded: dict[Attribute, Any], ref: ObjectRef | None
) -> tuple[Any, Any]:
    """A key pair, public half first; for this session only where there is no `ref`. `size` is the bits of an
    RSA modulus, CKA_EC_PARAMS of other keys."""
    common: dict[str, Any] = {
        "id": ref.id if ref else None,
        "label": ref.label if ref else None,
        "store": ref is not None,
        "capabilities": kind.use,
        "public_template": {Attribute.PRIVATE: False},
        "private_template": guarded,
    }
    if isinstance(size, int):
        return session.raw.generate_keypair(kind.type, size, **common)
    domain = session.raw.create_domain_parameters(kind.type, {Attribute.EC_PARAMS: size}, local=True)
    return domain.generate_keypair(**common)


def parameters_of(algorithm: Algorithm, ways: Ways) -> bytes:
    """CKA_EC_PARAMS for keys of an algorithm on a curve."""
    return CURVES[algorithm.curve] if algorithm.curve else ways.ed25519


def public_of(key: Any, algorithm: Algorithm) -> bytes:
    """SubjectPublicKeyInfo of an object that tells it: a public key, or the private key of RSA. Raises
    PKCS11Error where it does not tell, MalformedError where it is no key of the algorithm."""
    if algorithm.bits:
        modulus = key[Attribute.MODULUS]
        if token_formats.rsa_bits(modulus) != algorithm.bits:
            raise MalformedError(f"its modulus has {token_formats.rsa_bits(modulus)} bits")
        return token_formats.rsa_public(modulus, key[Attribute.PUBLIC_EXPONENT])
    point = key[Attribute.EC_POINT]
    if algorithm.curve:
        return token_formats.ec_public(algorithm.curve, point)
    return token_formats.ed25519_public(point)


def told(key: Any, attribute: Attribute) -> Any:
    """An attribute of an object, or None where the token does not tell it."""
    try:
        return key[attribute]
    except ValueError:  # of its maker's own
        return None
    except PKCS11Error as error:
        if errors.is_lost(error):
            raise
        return None
