"""Work on customer data in a child process, as the server sees it: started, served, and ended in time.

SECURITY: the child has the KEK only by asking for it here, where it is given only while the lease lives. It
is killed, not asked, as soon as the lease ends, the work is cancelled or the server stops: at the latest at
the next tick, `TICK_S` after that is known. It opens no file: it gets descriptors of those it was started
for, one by one. What it says of itself is not trusted: sizes are bounded, and only a notice of the form
`Type at file:line` reaches the log. Its standard error is read only up to the moment when it asks for its
job, before which it can know no customer data.

The child's own half is `child_main` and `worker`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import orjson
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from keystead.api.errors import Internal
from keystead.api.status import from_status
from keystead.cmek.channel import (
    MAX_ANSWER,
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

log = logging.getLogger(__name__)

TICK_S: Final = 0.05
_ENVIRONMENT: Final = {
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "OPENBLAS_NUM_THREADS": "1",  # no linear algebra is done: its idle threads would only cost memory
}
_NOTICE: Final = re.compile(rb"[A-Za-z_][\w.]{0,80} at [\w./<>-]{1,300}:\d{1,6}", re.ASCII)
_MAX_NOTICES: Final = 10
_MAX_STARTUP_TEXT: Final = 8192

OpenFile = Callable[[], int]
"""Opens a file for the child: a descriptor, which the runner closes once it is sent. Raises OSError."""


def run_child(
    entry: str,
    job: Any,
    lease: Lease,
    *,
    files: Sequence[OpenFile] = (),
    check: Callable[[], None],
    progress: Callable[[Any], None] = lambda _: None,
) -> Any:
    """Have a child process do `entry.work` on a job, and return its result (both JSON values).

    entry: a module with the functions that `worker.Entry` names. files: what the child may have opened, by
    number. check: called at least every TICK_S; what it raises ends the child and the call.

    The kernel ends the child with the thread that started it, so the call does not return before it is dead.
    Raises what `check` raises; KeyUnavailableError when the lease ends; the ApiError or OSError that ended
    the work in the child; Internal when the child ended without an answer.
    """

    def tick() -> None:
        check()
        lease.key()

    with _Process(entry) as process:
        channel = Channel(process.socket, tick)
        server = _Server(channel, lease, files, progress)
        try:
            channel.send(Kind.JOB, orjson.dumps(job))
            while True:
                tick()
                frame = channel.receive(MAX_ANSWER)
                if frame.kind is Kind.RESULT:
                    return orjson.loads(frame.payload)
                server.serve(frame)
        except ChannelClosedError:
            tick()  # a child that ends because everything does is no failure of the work
            process.report_end()
        except (ProtocolError, DecodeError, orjson.JSONDecodeError):
            log.error("worker %s broke the protocol and was ended", entry)  # noqa: TRY400 (may quote data)
        raise Internal("The worker process ended unexpectedly.")


class _Server:
    """Answers what a child asks."""

    def __init__(
        self, channel: Channel, lease: Lease, files: Sequence[OpenFile], progress: Callable[[Any], None]
    ) -> None:
        self._channel = channel
        self._lease = lease
        self._files = files
        self._progress = progress
        self._notices = 0

    def serve(self, frame: Frame) -> None:
        """Answer one frame, or raise the error it says the work ended with."""
        match frame.kind:
            case Kind.KEY:
                # From a copy that was whole when it was made: a lease that ends now wipes its own under us.
                with self._lease.key().use(SecretBytes) as kek:
                    self._channel.send(Kind.KEY, kek.expose())
            case Kind.FILE:
                self._send_file(decode_number(frame.payload))
            case Kind.PROGRESS:
                self._progress(orjson.loads(frame.payload))
            case Kind.NOTICE:
                self._note(bytes(frame.payload))
            case Kind.FAILED:
                raise from_status(status_pb2.Status.FromString(bytes(frame.payload)))
            case Kind.ERRNO:
                code = decode_number(frame.payload)
                raise OSError(code, os.strerror(code))
            case _:
                raise ProtocolError

    def _send_file(self, number: int) -> None:
        if number >= len(self._files):
            raise ProtocolError
        try:
            descriptor = self._files[number]()
        except OSError as error:
            self._channel.send(Kind.ERRNO, encode_number(error.errno or 0))
            return
        try:
            self._channel.send(Kind.FILE, b"", descriptor)
        finally:
            os.close(descriptor)

    def _note(self, text: bytes) -> None:
        if not _NOTICE.fullmatch(text):
            raise ProtocolError
        self._notices += 1
        if self._notices <= _MAX_NOTICES:
            log.error("unexpected %s in a worker", text.decode())


class _Process:
    """A child process, dead when the block ends."""

    def __init__(self, entry: str) -> None:
        self._entry = entry
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stderr, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._process = subprocess.Popen(
                command(entry),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                # Nobody reads along; what does not fit into the pipe is lost instead of stopping the child.
                stderr=stderr,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(stderr)
        self.socket.settimeout(TICK_S)

    def report_end(self) -> None:
        """Log how the child ended, once it has closed its socket."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            log.error("worker %s closed its socket", self._entry)  # noqa: TRY400 (it has no more to say)
            return
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        log.error("worker %s (pid %d) ended: %s", self._entry, self._process.pid, how)
        with contextlib.suppress(BlockingIOError):
            text = os.read(self._stderr, _MAX_STARTUP_TEXT).decode(errors="replace")
            if text:
                log.error("worker %s could not start: %s", self._entry, text)

    def _close(self) -> None:
        self.socket.close()
        os.close(self._stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._close()


def command(entry: str) -> list[str]:
    """How a child is started: isolated from the environment and the user's packages, writing no bytecode."""
    main = "keystead.cmek.child_main"
    return [sys.executable, "-I", "-B", "-m", main, str(os.getpid()), entry]
