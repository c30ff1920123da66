"""The processes of one live server, and a connection to each of them.

The kernel decides which process a connection goes to, and no answer tells. So connections are made until
every process has one, and who has which is looked up in /proc.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
from collections.abc import Callable
from typing import Any

import grpc
import psutil
import pytest

from tests.live import OWNER, LiveServer

START_S = 60.0
WAIT_S = 30.0
PARENT = "projects/p1/locations/global"


class Rest:
    """One keep-alive connection."""

    def __init__(self, live: LiveServer) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", live.rest_port, timeout=WAIT_S)
        self._connection.connect()
        self.port = int(self._connection.sock.getsockname()[1])

    def greet(self) -> None:
        """Have the connection accepted."""
        self.ask("GET", "/healthz")

    def ask(self, verb: str, path: str, body: Any = None, token: str = OWNER) -> tuple[int, Any]:
        """HTTP status and JSON of one request. Raises OSError and HTTPException where there is no answer."""
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._connection.request(verb, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def kms(self, verb: str, path: str, body: Any = None, token: str = OWNER) -> Any:
        """The answer of Cloud KMS below PARENT, which must be a success."""
        status, answer = self.ask(verb, f"/cloudkms/v1/{PARENT}{path}", body, token)
        assert status == 200, answer
        return answer

    def encrypt(self, key: str, plaintext: bytes = b"plain", token: str = OWNER) -> tuple[int, Any]:
        """Status and answer of Encrypt by the key with this path below PARENT."""
        body = {"plaintext": base64.b64encode(plaintext).decode()}
        return self.ask("POST", f"/cloudkms/v1/{PARENT}{key}:encrypt", body, token)

    def decrypt(self, key: str, ciphertext: str) -> bytes:
        """The plaintext of an answer's ciphertext."""
        answer = self.kms("POST", f"{key}:decrypt", {"ciphertext": ciphertext})
        return base64.b64decode(answer["plaintext"])

    def close(self) -> None:
        self._connection.close()


class Grpc:
    """One channel with a connection of its own."""

    def __init__(self, live: LiveServer) -> None:
        before = _own_ports(live.grpc_port)
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(live.grpc_target, options=options)
        grpc.channel_ready_future(self._channel).result(WAIT_S)
        (self.port,) = _own_ports(live.grpc_port) - before

    def greet(self) -> None:
        """It is accepted: gRPC has shaken hands."""

    def call(self, rpc: str, request: Any, answer: Any = None, token: str = OWNER) -> Any:
        """The answer of an RPC, parsed if its type is given. Raises grpc.RpcError."""
        invoke = self._channel.unary_unary(f"/{rpc}")
        data = request if isinstance(request, bytes) else request.SerializeToString()
        raw = invoke(data, metadata=(("authorization", f"Bearer {token}"),), timeout=WAIT_S)
        return raw if answer is None else answer.FromString(raw)

    def close(self) -> None:
        self._channel.close()


def pids(live: LiveServer) -> list[int]:
    """The main process and its workers."""
    return [live.pid, *(child.pid for child in psutil.Process(live.pid).children())]


def only_root_sees() -> None:
    """Skip a test that looks into workers: they let nobody trace them, which only root is exempt from."""
    if os.geteuid() != 0:
        pytest.skip("only root can look into worker processes")


def one_each(live: LiveServer, kind: Callable[[LiveServer], Any]) -> dict[int, Any]:
    """A connection (`Rest` or `Grpc`) to every process, by pid. Skips the test where nobody can tell."""
    only_root_sees()
    found: dict[int, Any] = {}
    wanted = pids(live)
    end = time.monotonic() + START_S
    while len(found) < len(wanted):
        assert time.monotonic() < end, f"of {wanted} only {list(found)} ever answered"
        connection = kind(live)
        connection.greet()
        owner = next(pid for pid in wanted if connection.port in _peer_ports(pid))
        if owner in found:
            connection.close()
            time.sleep(0.01)  # a worker that was just started may not listen yet
        else:
            found[owner] = connection
    return found


def eventually(condition: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _peer_ports(pid: int) -> set[int]:
    return {each.raddr.port for each in psutil.Process(pid).net_connections("tcp") if each.raddr}


def _own_ports(server_port: int) -> set[int]:
    return {
        each.laddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == server_port
    }
