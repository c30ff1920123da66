"""The socket between the server and one child process: messages in frames, open files, and the KEK.

SECURITY: this is the only way by which a child gets a key or a file. The socket is a pair without a name that
the child inherits as descriptor 0; nothing of it is in an argument, the environment or a file. The KEK goes
from a buffer that its sender wipes into one that becomes a `SecretBytes`. A child reads what customers
supply, so its end is not trusted: the server takes frames of bounded size only, and no descriptors.

    frame    1 byte kind | 4 bytes length, big endian | payload      (a FILE carries one descriptor)

    server -> child                             child -> server
    JOB       JSON                              KEY       asks for the KEK
    KEY       the KEK                           FILE      4 bytes: asks for the file of that number
    FILE      the descriptor                    PROGRESS  JSON
    ERRNO     4 bytes: it cannot be opened      NOTICE    for the log: type and place of an exception
                                                RESULT    JSON: done
                                                FAILED    google.rpc.Status: ended by an API error
                                                ERRNO     4 bytes: ended by an error of the system

The server's own worker processes (`server.workers`) have such a socket too. There JOB is the settings, KEY
the root key, WIPE takes it away, and DONE is what a worker says to each of them: 1 byte, the kind.
"""

from __future__ import annotations

import array
import enum
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from keystead.crypto.secret import BytesLike

MAX_JOB: Final = 64 << 20
MAX_ANSWER: Final = 1 << 20
_HEADER: Final = struct.Struct(">BI")
_NUMBER: Final = struct.Struct(">I")
_RIGHTS: Final = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
_RIGHTS_SIZE: Final = socket.CMSG_LEN(array.array("i").itemsize)

T = TypeVar("T")


class Kind(enum.IntEnum):
    """What a frame is."""

    JOB = 1
    KEY = 2
    FILE = 3
    ERRNO = 4
    PROGRESS = 5
    NOTICE = 6
    RESULT = 7
    FAILED = 8
    WIPE = 9
    DONE = 10


class ChannelClosedError(Exception):
    """The other side is gone."""


class ProtocolError(Exception):
    """The other side sent what it may not."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `descriptor` belongs to the receiver, who closes it."""

    kind: Kind
    payload: bytearray
    descriptor: int | None = None


class Channel:
    """One end of the socket. It does not close it.

    tick: called whenever the socket's timeout passed while waiting; what it raises ends the wait. A socket
    without a timeout waits as long as it takes.
    """

    def __init__(self, sock: socket.socket, tick: Callable[[], None] = lambda: None) -> None:
        self._sock = sock
        self._tick = tick

    def send(self, kind: Kind, payload: BytesLike = b"", descriptor: int | None = None) -> None:
        """Send a frame; `descriptor` stays open here. Raises ChannelClosedError."""
        header = _HEADER.pack(kind, len(payload))
        ancillary = [] if descriptor is None else [(*_RIGHTS, array.array("i", [descriptor]))]
        sent = self._patiently(self._sock.sendmsg, [header], ancillary)
        for part in (memoryview(header)[sent:], memoryview(payload)):
            rest = part
            while len(rest):
                rest = rest[self._patiently(self._sock.send, rest) :]

    def receive(self, limit: int, *, descriptors: bool = False) -> Frame:
        """The next frame. Raises ChannelClosedError; ProtocolError for a frame longer than `limit`.

        Without `descriptors` the kernel discards any that were sent.
        """
        received: list[int] = []
        header = bytearray(_HEADER.size)
        self._fill(memoryview(header), received if descriptors else None)
        kind, length = _HEADER.unpack(header)
        if length > limit or kind not in Kind.__members__.values():
            raise ProtocolError
        payload = bytearray(length)
        self._fill(memoryview(payload), None)
        return Frame(Kind(kind), payload, received[0] if received else None)

    def _fill(self, view: memoryview, descriptors: list[int] | None) -> None:
        while len(view):
            count = self._patiently(self._receive_some, view, descriptors)
            if not count:
                raise ChannelClosedError
            view = view[count:]

    def _receive_some(self, view: memoryview, descriptors: list[int] | None) -> int:
        if descriptors is None:
            return self._sock.recv_into(view)
        count, ancillary, _, _ = self._sock.recvmsg_into([view], _RIGHTS_SIZE, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if (level, kind) == _RIGHTS:
                descriptors += array.array("i", data)
        return count

    def _patiently(self, act: Callable[..., T], *arguments: Any) -> T:
        while True:
            try:
                return act(*arguments)
            except TimeoutError:
                self._tick()
            except ConnectionError:
                raise ChannelClosedError from None


def encode_number(value: int) -> bytes:
    """The payload of FILE and ERRNO."""
    return _NUMBER.pack(value)


def decode_number(payload: BytesLike) -> int:
    """What `encode_number` made. Raises ProtocolError."""
    if len(payload) != _NUMBER.size:
        raise ProtocolError
    return int(_NUMBER.unpack(payload)[0])
