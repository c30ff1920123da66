"""SECURITY: what a child process that works on customer data gives up before it sees any.

Property: once `confine` and `give_up_privileges` have returned, the process leaves no core dump and cannot be
traced by others of its user; it is killed when the process that started it ends, however that ends; it cannot
gain privileges by executing anything; it has no capabilities and no descriptor but 0, 1 and 2; and if it was
started by root it is an unprivileged user without groups, who can open no file of the data directory.

`confine` comes first of all, `give_up_privileges` after everything that must be loaded is loaded: the user it
changes to may not be able to read the program's own files. Linux only (prctl(2), capabilities(7)).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

UNPRIVILEGED: int = 65534
"""User and group `nobody`, the overflow ids of the kernel: they own no file."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_MAX_FILES = 64


def bind(parent: int) -> None:
    """Bind the life of this process to that of `parent`, who started it; leave no core dump, be traced by
    nobody, gain no privileges, and make files for this user only. To be called before any thread is started.

    Raises OSError where the kernel refuses.
    """
    forbid_core_dumps()
    os.umask(0o077)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _hold(parent)


def forbid_core_dumps() -> None:
    """Leave no core dump, which would hold keys and customer data in clear, and be traced by nobody of the
    same user. The limit alone is not obeyed where dumps are piped to a program (core(5)). Raises OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def confine(parent: int) -> None:
    """`bind` this process to `parent`, take its capabilities away, and close what it inherited.

    To be called before any thread is started: the ban on new privileges reaches only threads made later.
    SIGINT, SIGTERM and SIGHUP are ignored, for a stop that is meant for the server's whole group must be the
    server's to answer. Raises OSError where the kernel refuses.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    bind(parent)
    if os.geteuid() != 0:  # root needs them once more, to stop being root
        _drop_capabilities()
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed already
                os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))


def give_up_privileges(parent: int) -> None:
    """Become `UNPRIVILEGED` if this is root; anybody else stays who they are. Raises OSError where that is
    not possible (the id does not exist in this user namespace): the work must then not be done."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    # A change of user makes the kernel forget both settings (prctl(2)).
    _hold(parent)


def silence() -> None:
    """Send whatever is still written to standard error nowhere: libraries quote data in what they print."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _hold(parent: int) -> None:
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told to watch it
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def _drop_capabilities() -> None:
    """Those that a service manager may give a user who is not root (capset(2): header, and no set bit)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def _call(name: str, *arguments: object) -> None:
    if ctypes.CDLL(None, use_errno=True)[name](*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
