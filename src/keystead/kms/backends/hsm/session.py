"""A logged-in session with a token: finding keys, and telling whether the token is still there.

A login belongs to the process, and any part of it can end it. A session that is logged out finds public
objects only, and does not say that there are others. So each session has a private object of its own, which
is gone as soon as the login is; without it no search is believed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error

from keystead.kms.backends.hsm.errors import LostError, MissingError
from keystead.kms.backends.hsm.objects import ObjectRef

TRUSTED_S = 60.0
"""How old a session may be for its word that something is not there, or failed without a reason, to count."""
_MAX_HANDLES = 4096
_PROBE_BITS = 64


class Session:
    """One session. Its methods are called with the module held, and raise PKCS11Error.

    generation: of the module when it was opened. library: what the library says of itself. fresh: whether it
    was opened for the present piece of work.
    """

    def __init__(
        self, raw: pkcs11.Session, token: pkcs11.Token, generation: int, library: Mapping[str, str]
    ) -> None:
        self.raw = raw
        self.token = token
        self.generation = generation
        self.library = library
        self.fresh = True
        self._opened = time.monotonic()
        self._witness = _make_witness(raw)
        self._handles: dict[tuple[ObjectRef, ObjectClass], Any] = {}

    @property
    def user_type(self) -> Any:
        """Who logged in by opening it; nobody where another session of the process had."""
        return self.raw.user_type  # type: ignore[attr-defined]  # the stub of the library lacks it

    @property
    def young(self) -> bool:
        """Whether it was opened within the last TRUSTED_S seconds."""
        return self.fresh or time.monotonic() - self._opened < TRUSTED_S

    def healthy(self) -> bool:
        """Whether token and session answer just now, and the session is logged in."""
        try:
            there = self.token.slot.get_token()
            self.raw.generate_random(_PROBE_BITS)
            self._require_login()
        except (PKCS11Error, LostError):
            return False
        return (there.serial, there.label) == (self.token.serial, self.token.label)

    def key(self, ref: ObjectRef, kind: ObjectClass) -> Any:
        """The one object of that name and class; its handle is remembered.

        Raises MissingError where there is none or more than one, LostError where the token's word that there
        is none cannot be believed.
        """
        known = self._handles.get((ref, kind))
        if known is not None:
            return known
        found = self.search({**ref.attributes, Attribute.CLASS: kind})
        if len(found) != 1:
            if not (self.young and self.healthy()):
                raise LostError
            raise MissingError(_missing(self.token.label, ref, len(found)))
        if len(self._handles) >= _MAX_HANDLES:
            del self._handles[next(iter(self._handles))]
        self._handles[ref, kind] = found[0]
        return found[0]

    def search(self, attributes: dict[Attribute, Any]) -> list[Any]:
        """All objects with these attributes. Raises LostError when logged out. A token that is gone may
        answer that there are none."""
        # python-pkcs11 ends a search that could not begin when its object is dropped. That must not happen
        # later, in another thread: so a session that is gone fails here, and no traceback keeps the object.
        self.raw.generate_random(_PROBE_BITS)
        try:
            found = list(self.raw.get_objects(attributes))
        except PKCS11Error as error:
            raise error.with_traceback(None) from None
        self._require_login()
        return found

    def _require_login(self) -> None:
        try:
            seen = self._witness[Attribute.CLASS]
        except PKCS11Error:
            seen = None
        if seen is None:
            raise LostError

    def destroy(self, attributes: dict[Attribute, Any]) -> int:
        """Destroy all objects with these attributes; how many there were."""
        found = self.search(attributes)
        for each in found:
            each.destroy()
        if found:
            self._handles.clear()
        return len(found)

    def random(self, size: int) -> bytes:
        """Bytes from the token's generator."""
        return self.raw.generate_random(size * 8)

    def close(self) -> None:
        """End it, and the login with it."""
        self.raw.close()


def _make_witness(raw: pkcs11.Session) -> Any:
    """A private object that lives as long as the session and its login."""
    private = {Attribute.TOKEN: False, Attribute.PRIVATE: True}
    try:
        return raw.create_object(private | {Attribute.CLASS: ObjectClass.DATA, Attribute.VALUE: b"keystead"})
    except PKCS11Error:  # not every token takes data
        return raw.generate_key(KeyType.AES, 256, capabilities=MechanismFlag(0), template=private)


def _missing(token: str, ref: ObjectRef, found: int) -> str:
    if found:
        return f"The token '{token}' holds {found} keys of one name for {ref.label}. Remove the wrong ones."
    return f"The key of {ref.label} is not in the token '{token}'. Restore the token from its backup."
