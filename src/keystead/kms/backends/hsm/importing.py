"""Keys that come into a token wrapped, and leave it wrapped: import jobs, and AES key wrapping.

SECURITY: nothing is unwrapped in this process. The token unwraps what was wrapped to it, by C_UnwrapKey, into
objects that are as sensitive as those it makes itself; the AES key between the two steps of an import is one
of them too, and is destroyed at once. A key is first unwrapped for this session only, allowed for what
proves it: that it is of the type, size and curve that was asked for, that its private half fits its public
one, what its fingerprint is. Only then is it unwrapped for good, allowed for what its family does.

The public key of an imported EC key is learnt by Diffie-Hellman with the generator of the curve: that gives
the x coordinate of the public key and nothing of the private one; which of the two points it is, a signature
tells. An Ed25519 key cannot be asked so, and is refused where the token does not tell its public key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from pkcs11 import KDF, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.constants import DEFAULT
from pkcs11.exceptions import PKCS11Error

from keystead.crypto import token_formats
from keystead.crypto.aad import encode_aad
from keystead.crypto.errors import MalformedError
from keystead.crypto.hashes import hash_of
from keystead.crypto.raw_aes import BLOCK_SIZE
from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.backends import ImportFailedError
from keystead.kms.backends.hsm import operations
from keystead.kms.backends.hsm.errors import LostError, blames_input
from keystead.kms.backends.hsm.keys import KINDS, Kind, Ways, parameters_of, protection, public_of, told
from keystead.kms.backends.hsm.objects import ObjectRef
from keystead.kms.backends.hsm.session import Session

# Worded as Cloud KMS words `import_failure_reason`.
NOT_UNWRAPPED = "The key material in the import request couldn't be unwrapped or wasn't formatted correctly"
TOO_SHORT = "Wrapped key is too short"
NO_BLOCKS = "Wrapped key does not consist of 64-bit blocks"
WRONG_LENGTH = "Wrapped key has invalid length"

_BLOCK = 8
_SHORTEST = 16
_PASSING = Kind(ObjectClass.SECRET_KEY, KeyType.AES, MechanismFlag.UNWRAP)
# What python-pkcs11 puts into every template, and a private key does not have.
_NOT_PRIVATE = dict.fromkeys((Attribute.ENCRYPT, Attribute.WRAP, Attribute.VERIFY), DEFAULT)
_CONSTANT = hashlib.sha256(b"keystead/hsm/fingerprint/v1").digest()


@dataclass(frozen=True)
class Method:
    """RSA_OAEP_<bits>_<hash>, with _AES_256 (`ephemeral`) or without."""

    bits: int
    hash: str
    ephemeral: bool


METHODS = {
    f"RSA_OAEP_{bits}_{name.upper()}{'_AES_256' if ephemeral else ''}": Method(bits, name, ephemeral)
    for bits in (3072, 4096)
    for name, ephemeral in (("sha1", True), ("sha256", True), ("sha256", False))
}
"""The import methods that tokens can offer; HPKE (RFC 9180) is not one of theirs."""


def method_for(name: str, algorithm: Algorithm) -> Method:
    """The method of that name. Raises ImportFailedError where it cannot carry keys of the algorithm."""
    method = METHODS[name]
    if not method.ephemeral and KINDS[algorithm.family].type is KeyType.RSA:
        fail(f"{name} cannot wrap RSA keys. Use an import job whose method ends in _AES_256")
    return method


@dataclass(frozen=True)
class Wrapped:
    """A wrapped key, and the key in the token that unwraps it."""

    by: Any
    mechanism: Mechanism
    parameter: Any
    data: bytes

    def unwrap(
        self, kind: Kind, use: MechanismFlag, guarded: dict[Attribute, Any], ref: ObjectRef | None = None
    ) -> Any:
        """The key as an object of the token, for this session only where there is no `ref`."""
        template = guarded if kind.held is ObjectClass.SECRET_KEY else guarded | _NOT_PRIVATE
        return self.by.unwrap_key(
            kind.held, kind.type, self.data,
            id=ref.id if ref else None, label=ref.label if ref else None, store=ref is not None,
            mechanism=self.mechanism, mechanism_param=self.parameter, capabilities=use, template=template,
        )  # fmt: skip

    @property
    def sizes(self) -> range:
        """How long the key can be, as far as its wrapping tells (RFC 5649: all of it but the padding)."""
        whole = len(self.data) - _BLOCK
        return range(whole - _BLOCK + 1, whole + 1) if self.parameter is None else range(0)


@dataclass(frozen=True)
class Taken:
    """A key that was taken in (as `Made` has it)."""

    public: bytes
    fingerprint: bytes


@contextmanager
def unwrapped_whole(
    session: Session, ways: Ways, private: Any, method: Method, data: bytes
) -> Iterator[Wrapped]:
    """What an import request wraps, ready to be unwrapped; the AES key in between lives in the token as long
    as this lasts. Raises ImportFailedError."""
    size = method.bits // 8
    parameter = operations.oaep(method.hash)
    if not method.ephemeral:
        require(len(data) == size, WRONG_LENGTH)
        yield Wrapped(private, Mechanism.RSA_PKCS_OAEP, parameter, data)
        return
    require(len(data) >= size + _SHORTEST, TOO_SHORT)
    require((len(data) - size) % _BLOCK == 0, NO_BLOCKS)
    outer = Wrapped(private, Mechanism.RSA_PKCS_OAEP, parameter, data[:size])
    with blaming(session):
        passing = outer.unwrap(_PASSING, _PASSING.use, protection(None, ways))
    try:
        yield kwp(ways, passing, data[size:])
    finally:
        passing.destroy()


def kwp(ways: Ways, by: Any, data: bytes) -> Wrapped:
    """A key that another one of the token wrapped by RFC 5649. Raises ImportFailedError."""
    require(len(data) >= _SHORTEST, TOO_SHORT)
    require(len(data) % _BLOCK == 0, NO_BLOCKS)
    if ways.kwp is None:
        fail("This token cannot unwrap keys with AES-KWP")
    return Wrapped(by, ways.kwp, None, data)


def take_in(
    session: Session, ways: Ways, wrapped: Wrapped, algorithm: Algorithm, ref: ObjectRef, *, exportable: bool
) -> Taken:
    """Unwrap a key for good, once it has proved to be one of the algorithm. Raises ImportFailedError."""
    family = algorithm.family
    if family is Family.ED25519 and not ways.imports_ed25519:
        fail("This token cannot import Ed25519 keys. Have the key generated in the token instead")
    kind = KINDS[family]
    taken = prove(session, ways, wrapped, algorithm)
    with blaming(session):
        wrapped.unwrap(kind, kind.use, protection(family, ways, exportable=exportable), ref)
    return taken


def prove(session: Session, ways: Ways, wrapped: Wrapped, algorithm: Algorithm) -> Taken:
    """Unwrap a key for this session, and find out all about it. Raises ImportFailedError."""
    kind = KINDS[algorithm.family]
    use = MechanismFlag.ENCRYPT if kind.type is KeyType.AES else MechanismFlag.SIGN
    with passing(session, ways, wrapped, kind, use) as key:
        if algorithm.symmetric:
            return Taken(b"", _secret_fingerprint(key, wrapped, algorithm))
        public = _public(session, ways, wrapped, key, algorithm)
        return Taken(public, _digest("public", public))


@contextmanager
def passing(session: Session, ways: Ways, wrapped: Wrapped, kind: Kind, use: MechanismFlag) -> Iterator[Any]:
    """The key as an object that lives as long as this lasts. ImportFailedError where it is to blame."""
    with blaming(session):
        key = wrapped.unwrap(kind, use, protection(None, ways))
        try:
            yield key
        finally:
            key.destroy()


@contextmanager
def certain(session: Session) -> Iterator[None]:
    """Lets an import fail for good only while the token is well; LostError otherwise."""
    try:
        yield
    except ImportFailedError:
        if not session.healthy():
            raise LostError from None
        raise


@contextmanager
def blaming(session: Session) -> Iterator[None]:
    """Turns an error that the wrapped key is to blame for into ImportFailedError."""
    try:
        yield
    except PKCS11Error as error:
        if blames_input(error, session):
            fail(NOT_UNWRAPPED)
        raise
    except MalformedError as error:
        fail(f"{NOT_UNWRAPPED}: {error}")


def require(holds: bool, otherwise: str) -> None:
    """Raises ImportFailedError unless it holds."""
    if not holds:
        fail(otherwise)


def fail(reason: str) -> NoReturn:
    """Raises ImportFailedError."""
    raise ImportFailedError(f"{reason}.") from None


def _secret_fingerprint(key: Any, wrapped: Wrapped, algorithm: Algorithm) -> bytes:
    """A fingerprint, by what only this key makes of a constant. Its length is proved before."""
    _require_size(key, wrapped, algorithm)
    if algorithm.family is Family.HMAC:
        return _digest(algorithm.hash, bytes(key.sign(_CONSTANT, mechanism=operations.HMACS[algorithm.hash])))
    return _digest("aes", operations.cbc(key.encrypt, _CONSTANT, bytes(BLOCK_SIZE)))


def _require_size(key: Any, wrapped: Wrapped, algorithm: Algorithm) -> None:
    # SoftHSM2 2.6.1 answers 0 for unwrapped keys. The wrapping then tells the size up to 7 bytes less; of
    # these sizes AES has only one, and for HMAC a token refuses what is shorter than the hash.
    size = told(key, Attribute.VALUE_LEN) or 0
    if size and size != algorithm.key_bytes:
        fail(f"The key material has {size} bytes; {algorithm.name} takes {algorithm.key_bytes}")
    if not size and algorithm.key_bytes not in wrapped.sizes:
        if not wrapped.sizes:
            fail("This token does not tell the size of an imported key. Use a method that ends in _AES_256")
        fail(f"The key material has another length than {algorithm.name} takes: {algorithm.key_bytes} bytes")


def _public(session: Session, ways: Ways, wrapped: Wrapped, key: Any, algorithm: Algorithm) -> bytes:
    """The public key of a private key for this session, which is proved to fit."""
    hash_name = algorithm.hash if algorithm.hash not in {"", "sha1"} else "sha256"
    payload, signature = _signed(key, algorithm, hash_name)
    for public in _candidates(session, ways, wrapped, key, algorithm):
        if token_formats.verifies(public, signature, payload, hash_name=hash_name):
            return public
    return fail(f"{NOT_UNWRAPPED}: the private key does not fit its public key")


def _candidates(
    session: Session, ways: Ways, wrapped: Wrapped, key: Any, algorithm: Algorithm
) -> tuple[bytes, ...]:
    """What the public key can be, as far as the token tells."""
    if algorithm.bits:
        return (public_of(key, algorithm),)
    if algorithm.curve and told(key, Attribute.EC_PARAMS) != parameters_of(algorithm, ways):
        fail(f"{NOT_UNWRAPPED}: the EC key is not on the curve {algorithm.curve}")
    if told(key, Attribute.EC_POINT):
        return (public_of(key, algorithm),)
    if not algorithm.curve or not ways.derives:
        fail("This token does not tell the public key of an imported key. Have the key generated in it")
    # Some tokens let no key both sign and derive: another object of it does this.
    with passing(session, ways, wrapped, KINDS[algorithm.family], MechanismFlag.DERIVE) as deriving:
        return token_formats.ec_publics(algorithm.curve, _coordinate(deriving, algorithm.curve))


def _signed(key: Any, algorithm: Algorithm, hash_name: str) -> tuple[bytes, bytes]:
    """A random payload, and the key's signature of it: PKCS#1 v1.5 for all RSA keys."""
    payload = os.urandom(hash_of(hash_name).digest_size)
    if algorithm.bits:
        data = token_formats.digest_info(hash_name, payload)
        return payload, bytes(key.sign(data, mechanism=Mechanism.RSA_PKCS))
    if algorithm.curve:
        return payload, token_formats.ecdsa_der(bytes(key.sign(payload, mechanism=Mechanism.ECDSA)))
    return payload, bytes(key.sign(payload, mechanism=Mechanism.EDDSA))


def _coordinate(key: Any, curve: str) -> bytes:
    """The x coordinate of the key's public point."""
    size = token_formats.field_size(curve)
    shared = key.derive_key(
        KeyType.GENERIC_SECRET, size * 8,
        mechanism=Mechanism.ECDH1_DERIVE,
        mechanism_param=(KDF.NULL, None, token_formats.base_point(curve)),
        capabilities=0,
        template={Attribute.PRIVATE: False, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True},
    )  # fmt: skip
    try:
        return bytes(shared[Attribute.VALUE])
    finally:
        shared.destroy()


def _digest(label: str, content: bytes) -> bytes:
    return hashlib.sha256(encode_aad("keystead/hsm/fingerprint/v1", label, content)).digest()
