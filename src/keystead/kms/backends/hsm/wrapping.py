"""AES_256_KWP: keys of the token wrapped by another of its keys, and unwrapped again, inside the token."""

from __future__ import annotations

from typing import Any

import pkcs11
from pkcs11 import Attribute, ObjectClass

from keystead.kms.algorithms import Algorithm
from keystead.kms.backends import Made, NotExportableError
from keystead.kms.backends.hsm import importing
from keystead.kms.backends.hsm.keys import KINDS, Ways
from keystead.kms.backends.hsm.objects import ObjectRef, remove_leftovers
from keystead.kms.backends.hsm.session import Session
from keystead.kms.backends.hsm.token import Token

_BLOCK = 8
_REFUSED = (
    pkcs11.KeyUnextractable,
    pkcs11.KeyNotWrappable,
    pkcs11.KeyTypeInconsistent,
    pkcs11.MechanismInvalid,
)


class TokenWrapper:
    """The `Wrapper` of one wrapping key."""

    __slots__ = ("_owner", "_ref", "_token", "_ways")

    def __init__(self, token: Token, ref: ObjectRef, ways: Ways, owner: bytes) -> None:
        self._token = token
        self._ref = ref
        self._ways = ways
        self._owner = owner

    def wrap(self, version: str, algorithm: Algorithm, stored: bytes) -> bytes:
        ref = ObjectRef.decode(version, stored).of(algorithm)
        if not self._ways.pads and (not algorithm.symmetric or algorithm.key_bytes % _BLOCK):
            raise NotExportableError(
                f"{version} cannot be exported: the token pads keys of {algorithm.name} otherwise than "
                "RFC 5649 does, and they would not open elsewhere."
            )

        def work(session: Session) -> bytes:
            by = self._key(session)
            target = session.key(ref, KINDS[algorithm.family].held)
            try:
                return bytes(by.wrap_key(target, mechanism=self._ways.kwp))
            except _REFUSED as error:
                if not target[Attribute.EXTRACTABLE]:
                    raise NotExportableError(f"{version} is not exportable.") from None
                raise NotExportableError(
                    f"{version} cannot be exported: the token does not wrap keys of {algorithm.name} "
                    f"({type(error).__name__})."
                ) from None

        return self._token.use(work)

    def unwrap(self, data: bytes, version: str, algorithm: Algorithm) -> Made:
        ref = ObjectRef.new(self._owner, version, algorithm)

        def work(session: Session) -> Made:
            remove_leftovers(session, self._owner, version)
            by = self._key(session)
            with importing.certain(session):
                wrapped = importing.kwp(self._ways, by, data)
                taken = importing.take_in(session, self._ways, wrapped, algorithm, ref, exportable=False)
            return Made(ref.encode(), taken.public, taken.fingerprint)

        return self._token.use(work)

    def _key(self, session: Session) -> Any:
        return session.key(self._ref, ObjectClass.SECRET_KEY)
