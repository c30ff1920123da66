"""The seal of a server: opened at the start or by an operator, closed by an operator, changed.

SECURITY: the root key is unwrapped here and nowhere else, goes to the `RootKey` and is wiped from there when
the seal is closed; whoever keeps keys opened by it is told before `close` returns. One attempt at a time, and
a wrong secret costs a pause, so that nobody guesses through the server. A PIN is not tried a second time by
itself: tokens lock.
"""

from __future__ import annotations

import dataclasses
import logging
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystead.api.errors import ApiError, PermissionDenied, Unavailable
from keystead.audit.operators import OperatorTrail
from keystead.crypto.secret import SecretBytes
from keystead.kms.rootkey import RootKey, create_sealed, read_sealed, unseal
from keystead.kms.seals import SealError, SealOptionsError, SecretNeededError, WrongSecretError
from keystead.kms.seals.choice import (
    SealOptions,
    describe,
    needed_secret,
    new_seal,
    secret_file,
    stored_seal,
)
from keystead.kms.seals.known import KnownSeals
from keystead.kms.seals.private_files import read_line
from keystead.kms.seals.record import SealedRootKey
from keystead.server.resealing import Resealed, Resealing

log = logging.getLogger(__name__)

SEAL_S = 3.0
PAUSE_S = 1.0
_TURN_S = 30.0

Listener = Callable[[], object]


@dataclass(frozen=True)
class SealState:
    """How a seal stands, for an operator.

    seal: in words; empty before the first root key. why: what keeps it sealed. needs: the secret that
    somebody must give to open it ("passphrase", "PIN"), if any. new: there is no root key yet, and the secret
    given next will be that of its seal.
    """

    is_open: bool
    kind: str
    seal: str = ""
    why: str = ""
    needs: str = ""
    new: bool = False


class Sealing:
    """Opens and closes the root key of one server.

    options: what its command line says of the seal. pause_s: what a wrong secret costs, in seconds.
    """

    def __init__(
        self,
        store: Any,
        root_key: RootKey,
        data_dir: Path,
        options: SealOptions,
        trail: OperatorTrail,
        *,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._store = store
        self.root_key = root_key
        self._data_dir = data_dir
        self._options = options
        self._trail = trail
        self._pause_s = pause_s
        self._known = KnownSeals(data_dir)
        self._turn = threading.Lock()
        self._instant = threading.Lock()  # held for moments: closing never waits for an attempt to open
        self._closings = 0
        self._shut = False
        self._why = ""
        self._refused: tuple[Path, object] | None = None
        self._opened: list[Listener] = []
        self._closed: list[Listener] = []

    def subscribe(self, *, opened: Listener | None = None, closed: Listener | None = None) -> None:
        """Have functions called after each opening, and after each closing before `close` returns."""
        self._opened += [opened] if opened is not None else []
        self._closed += [closed] if closed is not None else []

    def when_open(self, act: Listener) -> None:
        """Call a function once: now if it is open, else after the first opening. Not for use by threads."""
        if self.root_key.is_open:
            act()
            return
        waiting = [act]
        self.subscribe(opened=lambda: waiting.pop()() if waiting else None)

    def start(self) -> None:
        """The first attempt to open, which needs nobody. What fails is told and tried again by `retry`.

        Raises SealOptionsError where the command line names no seal, or another than the store is sealed by.
        """
        with self._one_at_a_time():
            self._try(self._options)

    def retry(self) -> None:
        """Try again what needs nobody; cheap while there is nothing to try."""
        if not self._turn.acquire(blocking=False):
            return  # somebody is at it
        try:
            if self.root_key.is_open or self._shut or self._still_refused():
                return
            options = self._options
            if options.passphrase_file is not None and not _is_regular(options.passphrase_file):
                options = dataclasses.replace(
                    options, passphrase_file=None
                )  # a pipe is read once, by `start`
            self._try(options)
        finally:
            self._turn.release()

    def open(self, operator: str, options: SealOptions, secret: SecretBytes | None) -> None:
        """Open for an operator (the name of a user of this machine). Raises SealError and ApiError."""
        with self._one_at_a_time():
            if not self.root_key.is_open:
                chosen = dataclasses.replace(self._options, **_given(options))
                self._unseal(chosen, secret, operator)
                self._options = chosen

    def close(self, operator: str) -> None:
        """Wipe the root key and every key opened by it, until an operator or a restart opens it again."""
        with self._instant:
            self._closings += 1
            self._shut = True
            self._why = "It was sealed by its operator."
            self.root_key.close(f"it was sealed by its operator. {self._todo}")
        log.warning("sealed by %s. %s", operator, self._todo)
        # After the wiping: what another thread unwrapped before it is dropped here too.
        self._tell(self._closed)
        try:
            self._record("Seal.Close", operator, {})
        except ApiError as error:
            log.error("no audit record of the sealing could be written: %s", error.message)  # noqa: TRY400

    def change(
        self,
        operator: str,
        options: SealOptions,
        secret: SecretBytes | None,
        current: SecretBytes | None,
    ) -> Resealed:
        """Wrap the root key by another seal. Raises SealError and ApiError.

        current: passphrase or PIN of the seal as it is, where it needs one; secret: that of the new one.
        """
        with self._one_at_a_time():
            resealing = Resealing(self._store, self._data_dir, self._trail, running=self._options)
            with self._guarded(operator):
                made = resealing.change(operator, options, secret, current)
            self._options, self._refused = SealOptions(), None
            return made

    def stop(self) -> None:
        """The server ends: wipe the root key."""
        self.root_key.close("it is stopping.")

    def state(self) -> SealState:
        """How it stands. Raises SealError and ApiError where the store cannot tell."""
        sealed = read_sealed(self._store)
        is_open = self.root_key.is_open
        why = "" if is_open else self._why
        needs = needed_secret(sealed, self._data_dir, self._options)
        if sealed is None:
            return SealState(is_open, self._options.kind or "file", why=why, needs=needs, new=True)
        return SealState(is_open, sealed.kind, describe(sealed), why, needs)

    def _try(self, options: SealOptions) -> None:
        try:
            self._unseal(options, None, "")
        except SealOptionsError:
            raise
        except SecretNeededError as error:
            self._explain(str(error), f"it waits for its {error.secret}.")
        except (SealError, ApiError) as error:
            text = error.message if isinstance(error, ApiError) else str(error)
            self._explain(text, "its seal does not open just now.")

    def _unseal(self, options: SealOptions, secret: SecretBytes | None, operator: str) -> None:
        """Open with these options; `operator` is empty where nobody asked for it."""
        closings, sealed = self._closings, read_sealed(self._store)
        file = None if secret is not None else secret_file(sealed, self._data_dir, options)
        mark = _mark(file)
        if file is not None and options.passphrase_file is not None:
            secret = read_line(file, "The passphrase file")  # once: it may be a pipe
        if sealed is None:
            sealed = create_sealed(self._store, new_seal(options, self._data_dir, secret))
        elif not operator:
            self._require_known(sealed, options)
        try:
            with self._guarded(operator):
                key = unseal(sealed, stored_seal(sealed, self._data_dir, options, secret))
        except WrongSecretError:
            self._refused = None if file is None else (file, mark)
            raise
        self._known.add(sealed)
        if operator:
            self._record("Seal.Open", operator, {"seal": describe(sealed)})
        self._put(key, closings)
        log.info("opened by its seal: %s", describe(sealed))
        self._tell(self._opened)

    def _require_known(self, sealed: SealedRootKey, options: SealOptions) -> None:
        if not self._known.knows(sealed):
            stored_seal(sealed, self._data_dir, options, SecretBytes(b""))  # the command line fits, at least
            raise SealError(
                "The store names a seal that this data directory has not used before: "
                f"{describe(sealed)}. If that is right, open it yourself, once."
            )

    def _put(self, key: SecretBytes, closings: int) -> None:
        with self._instant:
            if self._closings != closings:
                key.wipe()
                raise SealError("It was sealed by its operator meanwhile.")
            self.root_key.put(key)
            self._shut, self._refused, self._why = False, None, ""

    @contextmanager
    def _guarded(self, operator: str) -> Iterator[None]:
        """A wrong secret that an operator gave costs a pause and is recorded."""
        try:
            yield
        except WrongSecretError as error:
            if operator:
                time.sleep(self._pause_s)
                self._record("Seal.Open", operator, {}, PermissionDenied(str(error)))
            raise

    def _still_refused(self) -> bool:
        """Whether the secret's file holds what was wrong before."""
        return self._refused is not None and _mark(self._refused[0]) == self._refused[1]

    def _explain(self, why: str, public: str) -> None:
        """Say why it is sealed: to the operator all of it, to callers what is no secret of the machine."""
        with self._instant:
            if self.root_key.is_open or self._shut:
                return
            known, self._why = self._why, why
            self.root_key.close(f"{public} {self._todo}")
        if why != known:
            log.warning("Keystead is sealed: %s %s", why, self._todo)

    @property
    def _todo(self) -> str:
        return f"Open it with: keystead seal open --data-dir {self._data_dir}"

    def _record(self, act: str, operator: str, facts: dict[str, str], error: ApiError | None = None) -> None:
        with self._store.write() as tx:
            self._trail.record(tx, act, operator, facts, error)

    def _tell(self, listeners: list[Listener]) -> None:
        for listener in listeners:
            try:
                listener()
            except Exception as error:  # one listener must not keep the others from being told
                log.error("a listener of the seal failed: %s", type(error).__name__)  # noqa: TRY400

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=_TURN_S):
            raise Unavailable("Somebody else is opening the seal. Try again in a moment.")
        try:
            yield
        finally:
            self._turn.release()


def _given(options: SealOptions) -> dict[str, Any]:
    """What was said of a seal, by field."""
    fields = (field.name for field in dataclasses.fields(options))
    return {name: getattr(options, name) for name in fields if getattr(options, name)}


def _mark(path: Path | None) -> object:
    """What changes when a file changes."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True
