"""The control socket: how an operator on the same machine speaks to a running server.

SECURITY: a Unix socket that only the server's own user (and root) can reach: mode 0600 in a directory of mode
0700, and the kernel tells whose process is at the other end. It is the only way by which a passphrase or PIN
gets to a running server; they travel as bytes after the request and are read into secrets.

    request   one line of JSON {"do": ..., "secrets": {name: length}, ...}, then the secrets in that order
    answer    one line of JSON, {"ok": {...}} or {"error": text}

One request per connection. It knows no command: the handler does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keystead.api.errors import ApiError, Unavailable
from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import SealError

log = logging.getLogger(__name__)

PATH = Path("run") / "control.sock"
ANSWER_S = 120.0
_REQUEST_S = 10.0
_MAX_LINE = 64 * 1024
_MAX_SECRET = 64 * 1024
_MAX_SECRETS = 4
_MAX_CONNECTIONS = 8
_PEER = struct.Struct("3i")  # pid, uid, gid: struct ucred

Secrets = dict[str, SecretBytes]
Handler = Callable[[str, dict[str, Any], Secrets], dict[str, Any]]
"""Operator, request, secrets, to what is answered. Raises SealError and ApiError."""


class NotRunningError(Exception):
    """No server listens in this data directory."""


class _BadRequestError(Exception):
    """The other side did not follow the protocol."""


class ControlSocket:
    """Listens in a data directory, which this server has locked, and answers by `handler`."""

    def __init__(self, data_dir: Path, handler: Handler) -> None:
        self._path = data_dir / PATH
        self._handler = handler
        self._places = threading.Semaphore(_MAX_CONNECTIONS)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin to listen, in threads of its own."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._path.parent.chmod(0o700)
        self._path.unlink(missing_ok=True)  # of a server that was killed
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(listener.fileno(), 0o600)  # the mode with which `bind` makes the file
        with _short(self._path) as path:
            listener.bind(path)
        listener.listen(_MAX_CONNECTIONS)
        self._socket = listener
        threading.Thread(target=self._accept, args=(listener,), name="control", daemon=True).start()

    def stop(self) -> None:
        """Stop listening; what is being answered is."""
        if self._socket is not None:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
            self._socket.close()
            self._socket = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="control", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(_REQUEST_S)
                uid = _peer(connection)
                if uid not in {0, os.geteuid()}:
                    log.warning("user %d tried the control socket", uid)
                    return
                request, secrets = _receive(connection)
                answer = self._answer(_name(uid), request, secrets)
                connection.sendall(json.dumps(answer).encode() + b"\n")
        except (OSError, _BadRequestError) as error:
            log.warning("a request on the control socket failed: %s", type(error).__name__)
        finally:
            self._places.release()

    def _answer(self, operator: str, request: dict[str, Any], secrets: Secrets) -> dict[str, Any]:
        try:
            return {"ok": self._handler(operator, request, secrets)}
        except SealError as error:
            return {"error": str(error)}
        except ApiError as error:
            return {"error": error.message}
        except Exception as error:
            log.exception("a request on the control socket failed")
            return {"error": f"The server failed ({type(error).__name__}). Its log says more."}
        finally:
            for secret in secrets.values():
                secret.wipe()


def ask(data_dir: Path, request: Mapping[str, Any], secrets: Secrets | None = None) -> dict[str, Any]:
    """Have the server of a data directory do something, and return what it answers.

    Raises NotRunningError where there is none, SealError with what it refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with _short(data_dir / PATH) as path:
                connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunningError from None
        except PermissionError:
            raise SealError(
                f"{data_dir / PATH} belongs to another user. Run this as the user of the server."
            ) from None
        connection.settimeout(ANSWER_S)
        try:
            return _converse(connection, request, secrets or {})
        except (OSError, ValueError):
            raise Unavailable("The server did not answer. Its log may say why.") from None


def _converse(connection: socket.socket, request: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
    lengths = {name: len(secret) for name, secret in secrets.items()}
    connection.sendall(json.dumps({**request, "secrets": lengths}).encode() + b"\n")
    for secret in secrets.values():
        secret.use(connection.sendall)
    with connection.makefile("rb") as answers:
        answer = json.loads(answers.readline(_MAX_LINE))
    if "error" in answer:
        raise SealError(str(answer["error"]))
    found: dict[str, Any] = answer["ok"]
    return found


def _receive(connection: socket.socket) -> tuple[dict[str, Any], Secrets]:
    line = bytearray()
    while not line.endswith(b"\n"):
        # Byte by byte: what follows the line are secrets, which must not land in a buffer of ours.
        byte = connection.recv(1)
        if not byte or len(line) > _MAX_LINE:
            raise _BadRequestError
        line += byte
    try:
        request = json.loads(line)
        lengths = request.pop("secrets")
        lengths = {str(name): int(length) for name, length in lengths.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _BadRequestError from None
    if len(lengths) > _MAX_SECRETS or not all(0 <= length <= _MAX_SECRET for length in lengths.values()):
        raise _BadRequestError
    return request, {name: _secret(connection, length) for name, length in lengths.items()}


def _secret(connection: socket.socket, length: int) -> SecretBytes:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise _BadRequestError
        view = view[count:]
    return SecretBytes.adopt(buffer)


def _peer(connection: socket.socket) -> int:
    """The user id of the process at the other end, from the kernel."""
    _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The path of a socket as the kernel takes it, which is at most 107 bytes: by its open directory."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
