"""The HSM back end: keys made in a PKCS#11 token, used in it, and never out of it.

SECURITY: no key material passes through this process, not even while a key is imported; what the store holds
of a key is the id of its object. `keys` says what keeps a key in the token, `importing` how it comes in.
"""

from __future__ import annotations

from collections.abc import Mapping

from keystead.kms.algorithms import Algorithm, Family
from keystead.kms.backends import GenerationFailedError, ImportFailedError, Key, Made, WrappedKey
from keystead.kms.backends.hsm import importing, keys
from keystead.kms.backends.hsm.config import HsmConfig
from keystead.kms.backends.hsm.errors import LostError
from keystead.kms.backends.hsm.facts import facts_of
from keystead.kms.backends.hsm.mechanisms import Offer, find_out
from keystead.kms.backends.hsm.objects import ObjectRef, owner_of, remove_leftovers
from keystead.kms.backends.hsm.operations import OPENED
from keystead.kms.backends.hsm.session import Session
from keystead.kms.backends.hsm.token import Status, Token
from keystead.kms.backends.hsm.wrapping import TokenWrapper
from keystead.kms.seals import SealError

_MAX_BYTES = 8192


class HsmBackend:
    """Keys of protection level HSM."""

    level = "HSM"
    blocking = True
    max_bytes = _MAX_BYTES
    together = True

    def __init__(self, config: HsmConfig) -> None:
        """Nothing is opened before it is needed."""
        self._token = Token(config)
        self._owner = owner_of(config.deployment)
        self._offer: Offer | None = None

    @property
    def algorithms(self) -> frozenset[str]:
        self._token.expect()
        return self._offered().algorithms

    @property
    def import_methods(self) -> frozenset[str]:
        self._token.expect()
        return self._offered().import_methods

    def generate(self, version: str, algorithm: Algorithm, *, exportable: bool = False) -> Made:
        offer = self._offered()
        if algorithm.name not in offer.algorithms:
            raise GenerationFailedError(f"The token does not offer {algorithm.name}.")
        ref = ObjectRef.new(self._owner, version, algorithm)

        def work(session: Session) -> Made:
            remove_leftovers(session, self._owner, version)
            public = keys.generate(session, offer.ways, ref, algorithm, exportable=exportable)
            return Made(ref.encode(), public)

        return self._token.use(work)

    def load(self, version: str, algorithm: Algorithm, stored: bytes) -> Key:
        ref = ObjectRef.decode(version, stored).of(algorithm)
        if algorithm.family is Family.AES_KWP:
            return TokenWrapper(self._token, ref, self._offered().ways, self._owner)
        return OPENED[algorithm.family](self._token, ref, algorithm)

    def remove(self, version: str, stored: bytes) -> None:
        try:
            ref = ObjectRef.decode(version, stored)
        except SealError:  # its label is left, by which it is found
            ref = None

        def work(session: Session) -> None:
            if ref is None:
                destroyed = remove_leftovers(session, self._owner, version)
            else:
                destroyed = session.destroy(ref.attributes)
            # A token that was away says that there is nothing: only a new session is believed.
            if not destroyed and not (session.fresh and session.healthy()):
                raise LostError

        self._token.use(work)

    def generate_import_key(self, job: str, method: str) -> Made:
        offer = self._offered()
        if method not in offer.import_methods:
            raise GenerationFailedError(f"The token does not offer import by {method}.")
        ref = ObjectRef.new(self._owner, job, None)

        def work(session: Session) -> Made:
            remove_leftovers(session, self._owner, job)
            bits = importing.METHODS[method].bits
            public = keys.generate_import_key(session, offer.ways, ref, bits)
            return Made(ref.encode(), public)

        return self._token.use(work)

    def import_key(
        self, wrapped: WrappedKey, version: str, algorithm: Algorithm, *, exportable: bool = False
    ) -> Made:
        offer = self._offered()
        if wrapped.method not in offer.import_methods or algorithm.name not in offer.algorithms:
            raise ImportFailedError(
                f"The token does not offer the import of {algorithm.name} by {wrapped.method}."
            )
        method = importing.method_for(wrapped.method, algorithm)
        opened_by = ObjectRef.decode(wrapped.job, wrapped.opened_by).of(None)
        ref = ObjectRef.new(self._owner, version, algorithm)

        def work(session: Session) -> Made:
            private = session.key(opened_by, keys.IMPORT_KEY.held)
            remove_leftovers(session, self._owner, version)
            with (
                importing.certain(session),
                importing.unwrapped_whole(session, offer.ways, private, method, wrapped.data) as whole,
            ):
                taken = importing.take_in(session, offer.ways, whole, algorithm, ref, exportable=exportable)
            return Made(ref.encode(), taken.public, taken.fingerprint)

        return self._token.use(work)

    def random(self, size: int) -> bytes:
        """`size` bytes from the token's generator. Raises Unavailable."""
        return self._token.use(lambda session: session.random(size))

    def facts(self, version: str, algorithm: Algorithm | None, stored: bytes) -> Mapping[str, object]:
        """What the token says of a key and of itself, for an attestation; `algorithm` is None for the key of
        an import job. Raises SealError, Unavailable."""
        ref = ObjectRef.decode(version, stored).of(algorithm)
        return self._token.use(lambda session: facts_of(session, ref, algorithm))

    def status(self) -> Status:
        """Whether the token can be used now, and a line of text about it, which says what to do if not."""
        return self._token.status()

    def reset(self) -> None:
        """Forget that a PIN was refused and that the token was away; the next call tries again."""
        self._token.reset()

    def close(self) -> None:
        """Log out of the token; a later call logs in again."""
        self._token.close()

    def _offered(self) -> Offer:
        if self._offer is None:
            self._offer = self._token.use(lambda session: self._offer or find_out(session))
        return self._offer
