"""Inside a child process: the job, the lease, the files, and how the work's end is told.

SECURITY: the KEK is held by an ordinary `Lease`, whose refresh asks the server; the server answers while its
own lease lives and kills this process when it does not. It is wiped before the end is told. Nothing leaves
but what `channel` lists; of an unexpected exception only its type and its place in the program, for its text
may quote data.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any, Final, Protocol

import orjson

from keystead.api.errors import ApiError, Internal
from keystead.api.status import to_status
from keystead.cmek.channel import (
    MAX_ANSWER,
    MAX_JOB,
    Channel,
    ChannelClosedError,
    Frame,
    Kind,
    ProtocolError,
    decode_number,
    encode_number,
)
from keystead.cmek.lease import Lease
from keystead.crypto.secret import SecretBytes

# The server's own lease has an age already when it answers: what is added to it here is kept small.
MAX_AGE_S: Final = 0.1


class Entry(Protocol):
    """What a module offers whose work is done in a child process."""

    def prepare(self) -> None:
        """Load all that the work will need: afterwards the program's own files may be out of reach."""

    def work(self, worker: Worker) -> Any:
        """Do the job; the result, a JSON value. What it raises is raised to the caller of `run_child`."""


class Worker:
    """What the work of a child process is given."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._turn = threading.Lock()
        self.job: Any = orjson.loads(channel.receive(MAX_JOB).payload)
        asked = time.monotonic()
        self._kek = self._ask_key()
        self.lease = Lease(self._kek, self._ask_key, MAX_AGE_S, asked)

    def open(self, number: int) -> int:
        """The descriptor of a file, opened by the server as it is meant to be used. Raises OSError."""
        frame = self._ask(Kind.FILE, encode_number(number))
        if frame.kind is Kind.ERRNO:
            code = decode_number(frame.payload)
            raise OSError(code, os.strerror(code))
        if frame.kind is not Kind.FILE or frame.descriptor is None:
            raise ProtocolError
        return frame.descriptor

    def progress(self, value: Any) -> None:
        """Tell how far the work is: a JSON value."""
        with self._turn:
            self._channel.send(Kind.PROGRESS, orjson.dumps(value))

    def wipe(self) -> None:
        """Let go of the KEK."""
        self._kek.wipe()

    def _ask_key(self) -> SecretBytes:
        frame = self._ask(Kind.KEY)
        if frame.kind is not Kind.KEY:
            raise ProtocolError
        return SecretBytes.adopt(frame.payload)

    def _ask(self, kind: Kind, payload: bytes = b"") -> Frame:
        with self._turn:
            self._channel.send(kind, payload)
            return self._channel.receive(MAX_ANSWER, descriptors=True)


def run(entry: Entry) -> None:
    """Do the work, and tell how it ended. Returns without a word when the server is gone."""
    with socket.socket(fileno=0) as sock:
        channel = Channel(sock)
        try:
            _tell(channel, entry)
        except ChannelClosedError:
            return


def _tell(channel: Channel, entry: Entry) -> None:
    try:
        result = _work(channel, entry)
    except ChannelClosedError:
        raise
    except ApiError as error:
        channel.send(Kind.FAILED, to_status(error).SerializeToString())
    except Exception as error:  # whatever ends the work is told; nothing of its text is
        if isinstance(error, OSError) and error.errno:
            channel.send(Kind.ERRNO, encode_number(error.errno))
            return
        channel.send(Kind.NOTICE, _notice(error))
        channel.send(Kind.FAILED, to_status(Internal("Internal error encountered.")).SerializeToString())
    else:
        channel.send(Kind.RESULT, orjson.dumps(result))


def _work(channel: Channel, entry: Entry) -> Any:
    worker = Worker(channel)
    try:
        return entry.work(worker)
    finally:
        worker.wipe()


def _notice(error: BaseException) -> bytes:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename.rsplit("/", 2)[-2:] if trace else ["unknown"]
    line = trace.tb_lineno if trace else 0
    return f"{type(error).__name__} at {'/'.join(file)}:{line}".encode("ascii", "replace")
