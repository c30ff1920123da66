"""A token and the session with it: opened at first use, given up when lost, opened again when it is back.

What is done with a token is a piece of work, a function of the session, that `Token.use` runs. The work may
run twice: once in a session that turns out to be lost, and again in a new one. A token that is away costs
little: the next attempt is made after a pause, and until then every call is answered at once with the
reason. Sealing or failing of other keys does not come into it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import pkcs11
from pkcs11 import TokenFlag, UserType
from pkcs11.exceptions import PKCS11Error

from keystead.api.errors import Unavailable
from keystead.crypto.secret import SecretBytes
from keystead.kms.backends.hsm import errors
from keystead.kms.backends.hsm.config import HsmConfig
from keystead.kms.backends.hsm.errors import LostError, MissingError
from keystead.kms.backends.hsm.module import Module, module_at
from keystead.kms.backends.hsm.pin import Pin
from keystead.kms.backends.hsm.session import Session

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2.0
_WRONG_PIN = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)

T = TypeVar("T")


@dataclass(frozen=True)
class _Down:
    """Why the token cannot be used, until when that is not looked at again, and the pause that was made."""

    reason: str
    until: float
    pause_s: float


@dataclass(frozen=True)
class Status:
    """Whether a token can be used, and a line of text about it."""

    usable: bool
    text: str


class Token:
    """One token. Safe to use from many threads: they take turns."""

    def __init__(self, config: HsmConfig) -> None:
        self._config = config
        self._module: Module = module_at(config.module)
        self._pin = Pin(config.pin)
        self._session: Session | None = None
        self._lost_in = -1  # the generation of the module in which the token was lost
        self._down: _Down | None = None

    def use(self, work: Callable[[Session], T]) -> T:
        """`work(session)`, with the token to itself. It must be safe to repeat.

        Raises Unavailable where the token cannot be used or the key is not in it, and whatever `work` raises
        but PKCS11Error.
        """
        with self._turn():
            try:
                result = self._attempt(work, repeatable=True)
            except LostError:
                result = self._attempt(work, repeatable=False)
            self._down = None
        return result

    def expect(self) -> None:
        """Raises Unavailable where the token was away at the last call and still is; asks it only then."""
        if self._down is not None:
            self.use(lambda _: None)

    def status(self) -> Status:
        """What a person should know of the token now; tries to open it."""
        try:
            return self.use(_describe)
        except Unavailable as error:
            return Status(False, error.message)

    def reset(self) -> None:
        """Try at the next call whatever was given up: a refused PIN too."""
        self._pin.forget()
        self._down = None

    def close(self) -> None:
        """Log out and end the session, if there is one and the token answers; a later `use` opens another."""
        if self._session is None:
            return
        with suppress(Unavailable), self._turn():
            session, self._session = self._session, None
            if session is None or session.generation != self._module.generation:
                return
            try:
                if session.user_type != UserType.NOBODY:
                    self._module.logged_in.discard(session.token.slot.slot_id)
                session.close()
            except PKCS11Error:
                self._lost_in = session.generation

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The token to oneself; Unavailable at once where it is known to be away."""
        self._require_hope()
        down = self._down
        # While one thread looks for a token that is away, the others do not queue up behind it.
        if not self._module.enter(self._config.patience_s if down is None else 0.0):
            still = self._down
            if still is not None:
                raise Unavailable(still.reason)
            if down is None or not self._module.enter(self._config.patience_s):
                raise Unavailable(
                    f"The PKCS#11 library {self._module.path} is busy: a call to it does not return. "
                    f"Check the {self._config.described} and its connection."
                )
        try:
            self._require_hope()  # another thread may have looked while this one waited
            yield
        finally:
            self._module.leave()

    def _require_hope(self) -> None:
        down = self._down
        if down is not None and time.monotonic() < down.until:
            raise Unavailable(down.reason)

    def _attempt(self, work: Callable[[Session], T], *, repeatable: bool) -> T:
        """Run the work; LostError where it should be run again, which `repeatable` allows."""
        session = self._opened()
        try:
            result = work(session)
        except MissingError as missing:
            raise Unavailable(str(missing)) from None
        except (PKCS11Error, LostError) as error:
            self._judge(session, error, repeatable=repeatable)
        finally:
            session.fresh = False
        return result

    def _judge(self, session: Session, error: Exception, *, repeatable: bool) -> NoReturn:
        lost = isinstance(error, LostError) or (isinstance(error, PKCS11Error) and errors.is_lost(error))
        gone = lost or not session.healthy()
        unexplained = not (isinstance(error, PKCS11Error) and errors.is_never(error))
        if gone or (unexplained and not session.young):
            self._session = None
            self._lost_in = session.generation
            if repeatable:
                raise LostError
        failure = errors.unavailable(self._config.described, error)
        if gone:
            self._pause(failure, 0.0)
        raise failure

    def _opened(self) -> Session:
        session = self._session
        if session is not None and session.generation == self._module.generation:
            return session
        self._session = None
        began = time.monotonic()
        try:
            self._session = self._open()
        except Unavailable as failure:
            self._pause(failure, time.monotonic() - began)
            raise
        return self._session

    def _pause(self, failure: Unavailable, took_s: float) -> None:
        """Look again only after a while: longer each time, and at least as long as looking takes."""
        before = self._down.pause_s if self._down is not None else _FIRST_PAUSE_S / 2
        pause_s = min(before * 2, _LONGEST_PAUSE_S)
        self._down = _Down(failure.message, time.monotonic() + max(pause_s, took_s), pause_s)

    def _open(self) -> Session:
        with self._pin.read() as pin:
            token = self._find() if self._lost_in != self._module.generation else None
            if token is None:
                self._module.restart()
                token = self._find()
            if token is None:
                raise Unavailable(
                    f"There is no {self._config.described} at {self._module.path}. Put it back, check the "
                    "library's own configuration, or name the right one. The server tries again by itself."
                )
            self._check(token)
            try:
                raw = self._login(token, pin)
                return Session(raw, token, self._module.generation, self._module.described())
            except PKCS11Error as error:
                self._lost_in = self._module.generation
                raise errors.unavailable(self._config.described, error) from None

    def _find(self) -> pkcs11.Token | None:
        """The token, if the library sees it. Raises Unavailable where there are two."""
        library = self._module.started()
        found = []
        try:
            for slot in library.get_slots(token_present=True):
                try:
                    token = slot.get_token()
                except PKCS11Error:  # another token may be the broken one
                    continue
                if self._config.names(token.label, token.serial):
                    found.append(token)
        except PKCS11Error:
            return None
        if len(found) > 1:
            raise Unavailable(
                f"There is more than one {self._config.described} at {self._module.path}. "
                "Name it by its serial number too."
            )
        return found[0] if found else None

    def _check(self, token: pkcs11.Token) -> None:
        """Raises Unavailable where logging in cannot succeed, or its failure would lock the token."""
        flags = token.flags
        if flags & TokenFlag.USER_PIN_LOCKED:
            raise errors.unavailable(self._config.described, pkcs11.PinLocked())
        if not flags & TokenFlag.USER_PIN_INITIALIZED:
            raise errors.unavailable(self._config.described, pkcs11.UserPinNotInitialized())
        if flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise Unavailable(
                f"The {self._config.described} would lock at one more wrong PIN, so the server does not try. "
                "Log in once with its maker's tools and the right PIN, which clears the count."
            )

    def _login(self, token: pkcs11.Token, pin: SecretBytes) -> pkcs11.Session:
        slot_id = token.slot.slot_id
        if slot_id in self._module.logged_in:
            return token.open(rw=True)
        try:
            raw = token.open(rw=True, user_pin=pin.use(lambda view: str(view, "utf-8")))
        except pkcs11.UserAlreadyLoggedIn:
            # By a program part that does not go through Module. Its login serves this session as well.
            return token.open(rw=True)
        except (PKCS11Error, UnicodeDecodeError) as error:
            # The library leaves the session open whose login failed; only a restart ends it.
            self._module.restart()
            if isinstance(error, PKCS11Error) and not isinstance(error, _WRONG_PIN):
                raise
            raise self._pin.refuse(pin) from None
        self._module.logged_in.add(slot_id)
        return raw


def _describe(session: Session) -> Status:
    if not session.healthy():
        raise LostError
    there = session.token.slot.get_token()
    serial = there.serial.decode(errors="replace")
    maker = f"{there.manufacturer_id} {there.model}".strip()
    return Status(True, f"token '{there.label}' ({maker}, serial number {serial}) is open")
