"""The PKCS#11 library of a token's maker: loaded once per process, entered by one thread at a time.

python-pkcs11 initialises a library with C_Initialize(NULL), by which the library may take it that no two
threads are inside it at once (PKCS#11 2.40, 5.4). So there is one lock per library, and it is held around
everything that is asked of the library. Threads that do not need the token run on: the interpreter's lock is
released while the library works.

A restart (C_Finalize, C_Initialize) ends every session of the process. It raises `generation`, by which all
who hold a session see that theirs is gone: handles are numbers that are given out again.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from keystead.api.errors import Unavailable

try:
    import pkcs11
    from pkcs11.exceptions import PKCS11Error
except ImportError as missing:
    raise ImportError("Tokens need python-pkcs11. Run: pip install 'keystead[hsm]'") from missing


class Module:
    """One library. Get it by `module_at`; use everything of it between `enter` and `leave`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self.logged_in: set[int] = set()
        """The slots this process is logged in to; a login counts for all sessions of the process."""
        self._lock = threading.Lock()
        self._entered: float | None = None
        self._process = os.getpid()
        self._library: pkcs11._pkcs11.lib | None = None

    def enter(self, patience_s: float) -> bool:
        """Take the library for oneself until `leave`; False where another call has kept it for `patience_s`
        seconds. Raises Unavailable in a child of the process that made this object."""
        if os.getpid() != self._process:
            raise Unavailable("A token cannot be used by a child of the process that opened it.")
        entered = self._entered
        waited = 0.0 if entered is None else time.monotonic() - entered
        if not self._lock.acquire(timeout=max(0.0, patience_s - waited)):
            return False
        self._entered = time.monotonic()
        return True

    def leave(self) -> None:
        """Let the next thread in."""
        self._entered = None
        self._lock.release()

    def started(self) -> pkcs11._pkcs11.lib:
        """The library, loaded and initialised. Raises Unavailable."""
        if self._library is None or not self._library.initialized:
            self.generation += 1
            self.logged_in.clear()
            try:
                self._library = pkcs11.lib(str(self.path))
            except (PKCS11Error, RuntimeError) as error:
                raise Unavailable(
                    f"The PKCS#11 library {self.path} cannot be used "
                    f"({str(error) or type(error).__name__}). Install it, check its own configuration, "
                    "or name the right one."
                ) from None
        return self._library

    def described(self) -> dict[str, str]:
        """What the library says of itself."""
        library = self.started()
        return {
            "manufacturer": library.manufacturer_id,
            "description": library.library_description,
            "version": ".".join(map(str, library.library_version)),
            "cryptoki_version": ".".join(map(str, library.cryptoki_version)),
        }

    def restart(self) -> pkcs11._pkcs11.lib:
        """The library, initialised anew: all sessions of this process are gone. Raises Unavailable."""
        if self._library is not None and self._library.initialized:
            # If it fails it was not initialised; initialising it says what is wrong.
            with suppress(PKCS11Error):
                self._library.finalize()
        return self.started()


_modules: dict[Path, Module] = {}
_registering = threading.Lock()


def module_at(path: Path) -> Module:
    """The one Module of a library in this process; it is loaded when it is first needed.

    One per process, because a library is: its sessions, its login and its initialisation belong to the
    process, not to who asked for them.
    """
    real = path.resolve()
    with _registering:
        return _modules.setdefault(real, Module(real))
