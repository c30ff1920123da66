"""What a token can do: found out once, by its list of mechanisms and by trying what the list does not tell.

A list tells neither the hash functions of OAEP and PSS, nor the curves, nor how a mechanism for AES key wrap
pads, and tokens list what they refuse. So every way of using a key is tried, with keys of this session, and
what comes out is checked where it can be: signatures are verified, and what is encrypted or wrapped here must
come out there. RSA sizes alone are believed, since trying them takes long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error

from keystead.crypto import keywrap, token_formats
from keystead.crypto.ed25519 import Ed25519
from keystead.crypto.errors import CryptoError
from keystead.crypto.hashes import hash_of
from keystead.crypto.mac import HmacKey
from keystead.crypto.raw_aes import BLOCK_SIZE, GCM_IV_SIZE, AesCbc
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import ALGORITHMS, BY_NAME, Algorithm, Family
from keystead.kms.backends import ImportFailedError
from keystead.kms.backends.hsm import errors, importing, keys, operations
from keystead.kms.backends.hsm.errors import LostError
from keystead.kms.backends.hsm.importing import METHODS, Method, Wrapped
from keystead.kms.backends.hsm.keys import KINDS, Kind, Ways, protection
from keystead.kms.backends.hsm.session import Session

_TRIED_BITS = 2048
_WRAPPING = MechanismFlag.WRAP | MechanismFlag.UNWRAP
_ENCRYPTION = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
_SIGNING = MechanismFlag.SIGN | MechanismFlag.VERIFY
_KWP = (Mechanism.AES_KEY_WRAP_KWP, Mechanism.AES_KEY_WRAP_PAD)
_AES = Kind(ObjectClass.SECRET_KEY, KeyType.AES, MechanismFlag.ENCRYPT)
_SECRET = Kind(ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, MechanismFlag.SIGN)
# Lengths of HMAC-SHA256 keys that AES key wrap pads not, and pads.
_EVEN_SIZE = 32
_ODD_SIZE = 33


@dataclass(frozen=True)
class Offer:
    """The algorithms and import methods of a token, and how it wants things done."""

    algorithms: frozenset[str]
    import_methods: frozenset[str]
    ways: Ways


def find_out(session: Session) -> Offer:
    """Try everything; takes about as long as making three RSA keys of 2048 bits.

    Raises PKCS11Error or LostError where the token is lost meanwhile.
    """
    with ExitStack() as kept:
        trial = _Trial(session, kept)
        ways = trial.ways()
        return Offer(
            frozenset(each.name for each in ALGORITHMS.values() if trial.works(each, ways)),
            frozenset(name for name, method in METHODS.items() if trial.imports(method, ways)),
            ways,
        )


class _Trial:
    """Trying a token out in one session. A check is true, false, or raises what `_agrees` takes for false."""

    def __init__(self, session: Session, kept: ExitStack) -> None:
        """What is needed until the end is destroyed by closing `kept`."""
        self._session = session
        self._kept = kept
        self._results: dict[tuple[object, ...], bool] = {}
        self._rsa_sizes = range(0)
        self._rsa: dict[MechanismFlag, tuple[bytes, Any]] = {}
        slot = session.token.slot
        self._listed = slot.get_mechanisms()
        if Mechanism.RSA_PKCS_KEY_PAIR_GEN in self._listed:
            told = slot.get_mechanism_info(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
            self._rsa_sizes = range(told.min_key_length or 0, (told.max_key_length or 0) + 1)

    def ways(self) -> Ways:
        """How the token wants things done."""
        ways = Ways(
            ed25519=next((each for each in keys.ED25519 if self._agrees(self._signs_ed25519, each)), b""),
            trusts=self._agrees(self._makes_trusted),
            derives=Mechanism.ECDH1_DERIVE in self._listed,
            kwp=next((each for each in _KWP if self._agrees(self._unwraps, each)), None),
        )
        if ways.kwp is not None:
            ways = replace(ways, pads=self._agrees(self._wraps, ways.kwp, _ODD_SIZE))
        return replace(ways, imports_ed25519=self._agrees(self._takes_ed25519, ways))

    def works(self, algorithm: Algorithm, ways: Ways) -> bool:
        """Whether keys of an algorithm can be made and used."""
        family = algorithm.family
        if family is Family.AES_KWP:
            return ways.kwp is not None
        if family is Family.ED25519:
            return bool(ways.ed25519)
        if family not in KINDS:
            return False
        if KINDS[family].type is not KeyType.RSA:
            return self._agrees(_CHECKS[family], self, algorithm)
        # The key that is tried stands for RSA keys of all sizes.
        tried = replace(algorithm, name="", number=0, bits=_TRIED_BITS)
        return algorithm.bits in self._rsa_sizes and self._agrees(_CHECKS[family], self, tried)

    def imports(self, method: Method, ways: Ways) -> bool:
        """Whether keys can be imported by a method."""
        tried = replace(method, bits=_TRIED_BITS)
        return method.bits in self._rsa_sizes and self._agrees(self._takes, tried, ways)

    def authenticates(self, algorithm: Algorithm) -> bool:
        iv, aad, text = os.urandom(GCM_IV_SIZE), b"aad", os.urandom(_ODD_SIZE)
        with self._aes(algorithm, _ENCRYPTION) as key:
            sealed = operations.gcm_encrypt(key, text, iv, aad)
            if operations.gcm_decrypt(key, sealed, iv, aad) != text:
                return False
            try:
                operations.gcm_decrypt(key, sealed, iv, b"other")
            except PKCS11Error:
                return True
            return False

    def ciphers(self, algorithm: Algorithm) -> bool:
        mode, iv, text = operations.MODES[algorithm.family], os.urandom(BLOCK_SIZE), bytes(2 * BLOCK_SIZE)
        with self._aes(algorithm, _ENCRYPTION) as key:
            return mode(key.decrypt, mode(key.encrypt, text, iv), iv) == text

    def macs(self, algorithm: Algorithm) -> bool:
        with self._destroyed(
            self._session.raw.generate_key(
                KeyType.GENERIC_SECRET, algorithm.bits, capabilities=MechanismFlag.SIGN, template=_guarded()
            )
        ) as key:
            tag = key.sign(b"", mechanism=operations.HMACS[algorithm.hash])
            return len(tag) == hash_of(algorithm.hash).digest_size

    def signs_rsa(self, algorithm: Algorithm) -> bool:
        if algorithm.family is Family.RSA_RAW_PKCS1:
            algorithm = replace(BY_NAME["RSA_SIGN_PKCS1_2048_SHA256"], name="", number=0)
        return self._signs(*self._rsa_pair(_SIGNING), algorithm)

    def decrypts(self, algorithm: Algorithm) -> bool:
        text = os.urandom(_ODD_SIZE)
        public, key = self._rsa_pair(_ENCRYPTION)
        sealed = token_formats.oaep_encrypt(public, algorithm.hash, SecretBytes(text))
        parameter = operations.oaep(algorithm.hash)
        return text == bytes(
            key.decrypt(sealed, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=parameter)
        )

    def signs_ec(self, algorithm: Algorithm) -> bool:
        with self._pair(KINDS[algorithm.family], keys.CURVES[algorithm.curve]) as (public, private):
            return self._signs(keys.public_of(public, algorithm), private, algorithm)

    def _signs_ed25519(self, parameters: bytes) -> bool:
        algorithm = BY_NAME["EC_SIGN_ED25519"]
        with self._pair(KINDS[algorithm.family], parameters) as (public, private):
            return self._signs(keys.public_of(public, algorithm), private, algorithm)

    def _signs(self, public: bytes, private: Any, algorithm: Algorithm) -> bool:
        payload = os.urandom(hash_of(algorithm.hash or "sha256").digest_size)
        data, mechanism, parameter = operations.prepared(algorithm, payload)
        signature = bytes(private.sign(data, mechanism=mechanism, mechanism_param=parameter))
        if algorithm.family is Family.ECDSA:
            signature = token_formats.ecdsa_der(signature)
        pss = algorithm.family is Family.RSA_PSS
        return token_formats.verifies(public, signature, payload, hash_name=algorithm.hash, pss=pss)

    def _makes_trusted(self) -> bool:
        label = f"keystead-trial-{os.urandom(8).hex()}"
        try:
            key = self._session.raw.generate_key(
                KeyType.AES, 256, label=label, capabilities=_WRAPPING,
                template=_guarded() | {Attribute.TRUSTED: True},
            )  # fmt: skip
            return bool(key[Attribute.TRUSTED])
        finally:
            # SoftHSM2 2.6.1 leaves the key behind that it refuses to make.
            self._session.destroy({Attribute.LABEL: label})

    def _unwraps(self, mechanism: Mechanism) -> bool:
        """Whether a mechanism unwraps by RFC 5649, and wraps so what needs no padding."""
        return self._wraps(mechanism, _EVEN_SIZE) and self._wraps(mechanism, _ODD_SIZE, only_in=True)

    def _wraps(self, mechanism: Mechanism, size: int, *, only_in: bool = False) -> bool:
        """Whether a key of some size that is wrapped here does there what it does here, and is wrapped there
        as it is here."""
        with SecretBytes.random() as outer, SecretBytes.random(size) as inner, self._taken(outer) as by:
            expected = keywrap.wrap(outer, inner)
            guarded = protection(None, Ways(), exportable=not only_in)
            made = Wrapped(by, mechanism, None, expected).unwrap(_SECRET, _SECRET.use, guarded)
            with self._destroyed(made) as key:
                if bytes(key.sign(b"", mechanism=Mechanism.SHA256_HMAC)) != HmacKey(inner, "sha256").mac(b""):
                    return False
                return only_in or bytes(by.wrap_key(key, mechanism=mechanism)) == expected

    def _takes(self, method: Method, ways: Ways) -> bool:
        """Whether an AES key that is wrapped here by an import method does there what it does here."""
        with SecretBytes.random() as outer, SecretBytes.random() as inner:
            first = outer if method.ephemeral else inner
            public, private = self._rsa_pair(_WRAPPING)
            data = token_formats.oaep_encrypt(public, method.hash, first)
            data += keywrap.wrap(outer, inner) if method.ephemeral else b""
            block = bytes(BLOCK_SIZE)
            with (
                importing.unwrapped_whole(self._session, ways, private, method, data) as wrapped,
                self._destroyed(wrapped.unwrap(_AES, _AES.use, _guarded())) as key,
            ):
                return operations.cbc(key.encrypt, block, block) == AesCbc(inner).encrypt(block, block, b"")

    def _takes_ed25519(self, ways: Ways) -> bool:
        key = Ed25519.generate()
        with SecretBytes.random() as outer, key.to_private() as inner, self._taken(outer) as by:
            wrapped = importing.kwp(ways, by, keywrap.wrap(outer, inner))
            taken = importing.prove(self._session, ways, wrapped, BY_NAME["EC_SIGN_ED25519"])
            return taken.public == key.public

    @contextmanager
    def _taken(self, value: SecretBytes) -> Iterator[Any]:
        """A wrapping key of known value: wrapped to the RSA key, or where there is none, as it is. It is
        worth nothing, since all it wraps is made to be tried."""
        for name in ("sha1", "sha256") if self._rsa_sizes else ():
            try:
                public, private = self._rsa_pair(_WRAPPING)
                sealed = token_formats.oaep_encrypt(public, name, value)
                wrapped = Wrapped(private, Mechanism.RSA_PKCS_OAEP, operations.oaep(name), sealed)
                made = wrapped.unwrap(_AES, _WRAPPING, _guarded())
            except PKCS11Error:
                continue
            with self._destroyed(made) as key:
                yield key
            return
        attributes = _guarded() | {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: False,
            Attribute.WRAP: True,
            Attribute.UNWRAP: True,
            Attribute.VALUE: value.use(bytes),
        }
        with self._destroyed(self._session.raw.create_object(attributes)) as key:
            yield key

    @contextmanager
    def _aes(self, algorithm: Algorithm, use: MechanismFlag) -> Iterator[Any]:
        made = self._session.raw.generate_key(
            KeyType.AES, algorithm.bits, capabilities=use, template=_guarded()
        )
        with self._destroyed(made) as key:
            yield key

    @contextmanager
    def _pair(self, kind: Kind, size: int | bytes) -> Iterator[tuple[Any, Any]]:
        public, private = keys.generate_pair(self._session, kind, size, _guarded(), None)
        with self._destroyed(public), self._destroyed(private):
            yield public, private

    @contextmanager
    def _destroyed(self, key: Any) -> Iterator[Any]:
        try:
            yield key
        finally:
            key.destroy()

    def _rsa_pair(self, use: MechanismFlag) -> tuple[bytes, Any]:
        """The public key (DER) and the private one of a pair for one use: some tokens let no key have two."""
        if use not in self._rsa:
            kind = Kind(ObjectClass.PRIVATE_KEY, KeyType.RSA, use)
            public, private = self._kept.enter_context(self._pair(kind, _TRIED_BITS))
            numbers = public[Attribute.MODULUS], public[Attribute.PUBLIC_EXPONENT]
            self._rsa[use] = token_formats.rsa_public(*numbers), private
        return self._rsa[use]

    def _agrees(self, check: Callable[..., bool], *of: object) -> bool:
        """The outcome of a check, made once. Raises LostError where the token is to blame."""
        known = self._results.get((check, *of))
        if known is None:
            try:
                known = check(*of)
            except (CryptoError, ImportFailedError, ValueError):
                known = False
            except PKCS11Error as error:
                if errors.is_lost(error) or not self._session.healthy():
                    raise LostError from error
                known = False
            self._results[check, *of] = known
        return known


_CHECKS: dict[Family, Callable[[_Trial, Algorithm], bool]] = {
    Family.SYMMETRIC: _Trial.authenticates,
    Family.AES_GCM: _Trial.authenticates,
    Family.AES_CBC: _Trial.ciphers,
    Family.AES_CTR: _Trial.ciphers,
    Family.HMAC: _Trial.macs,
    Family.RSA_PSS: _Trial.signs_rsa,
    Family.RSA_PKCS1: _Trial.signs_rsa,
    Family.RSA_RAW_PKCS1: _Trial.signs_rsa,
    Family.RSA_OAEP: _Trial.decrypts,
    Family.ECDSA: _Trial.signs_ec,
}


def _guarded() -> dict[Attribute, Any]:
    return protection(None, Ways())
