"""Work that child processes do in tests: what the job says. Runs in the child."""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

from google.rpc import error_details_pb2

from keystead.api.errors import FailedPrecondition
from keystead.cmek.channel import Kind
from keystead.cmek.worker import Worker
from tests.cmek.children import descriptors

CANARY = "CANARY-of-a-customer"
_LOADED: list[str] = []


def prepare() -> None:
    _LOADED.append("prepared")


def work(worker: Worker) -> Any:
    return globals()[worker.job["do"]](worker)


def facts(worker: Worker) -> Any:
    """What the kernel says of this process."""
    libc, signal_number = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(2, ctypes.byref(signal_number))  # PR_GET_PDEATHSIG
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    old = os.umask(0o077)
    return {
        "prepared": _LOADED,
        "pid": os.getpid(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "dumpable": libc.prctl(3),  # PR_GET_DUMPABLE
        "death_signal": signal_number.value,
        "umask": old,
        "cwd": str(Path.cwd()),
        "descriptors": descriptors(),
        "status": status,
        "groups": os.getgroups(),
        "environment": dict(os.environ),
    }


def hang(worker: Worker) -> Any:
    worker.progress(os.getpid())
    threading.Event().wait(60)


def key(worker: Worker) -> Any:
    return hashlib.sha256(worker.lease.key().expose()).hexdigest()


def keep_asking(worker: Worker) -> Any:
    """Use the key for as long as it may be used, at most ten seconds."""
    worker.progress(os.getpid())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        worker.lease.key()
        time.sleep(0.01)


def copy(worker: Worker) -> Any:
    with os.fdopen(worker.open(0), "rb") as source, os.fdopen(worker.open(1), "wb") as target:
        return target.write(source.read())


def open_missing(worker: Worker) -> Any:
    try:
        worker.open(0)
    except OSError as error:
        return error.errno


def open_unknown(worker: Worker) -> Any:
    return worker.open(7)


def exit_code(worker: Worker) -> Any:
    os._exit(3)


def segfault(worker: Worker) -> Any:
    os.write(2, CANARY.encode())
    os.kill(os.getpid(), signal.SIGSEGV)


def api_error(worker: Worker) -> Any:
    raise FailedPrecondition("not now", error_details_pb2.ErrorInfo(reason="WHY", metadata={"count": "3"}))


def os_error(worker: Worker) -> Any:
    raise OSError(worker.job["errno"], CANARY)


def bug(worker: Worker) -> Any:
    raise ValueError(CANARY)


def raw(worker: Worker) -> Any:
    """Send bytes that may be no frame, and wait."""
    with socket.socket(fileno=os.dup(0)) as sock:
        sock.sendall(bytes.fromhex(worker.job["bytes"]))
    threading.Event().wait(60)


def forged_notice(worker: Worker) -> Any:
    worker._channel.send(Kind.NOTICE, f"ValueError: {CANARY} at x.py:1".encode())
    threading.Event().wait(60)


FRAMES = {
    "unknown kind": struct.pack(">BI", 99, 0),
    "too long": struct.pack(">BI", Kind.RESULT, 1 << 30),
    "a frame of the server": struct.pack(">BI", Kind.JOB, 0),
    "no JSON": struct.pack(">BI", Kind.RESULT, 1) + b"{",
    "no status": struct.pack(">BI", Kind.FAILED, 1) + b"\xff",
    "no number": struct.pack(">BI", Kind.ERRNO, 1) + b"\x01",
}
