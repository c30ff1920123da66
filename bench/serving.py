"""What an Encrypt call costs a running server beside an answer that does nothing, over REST and gRPC.

REST: a 32-byte Encrypt against an empty bare ASGI application on the same uvicorn, answering as many bytes.
gRPC: the same call against an empty grpc.aio handler with the same messages. Both are offered the same calls
a second, and server CPU per call is compared; authorization, audit decision, checksums and encryption are all
in our number.

Run: `python bench/serving.py [--rounds 9] [--rest-calls 6000] [--grpc-calls 4800]`. Exit status 1 if a
target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import grpc
import orjson
import requests
import uvicorn
import uvloop
from _load import OWNER, GrpcConnection, RestConnection, paced, rest_request
from _measure import Contestant, ServerProcess, compare, running, verdict
from google.cloud.kms_v1.types import service

REST_TARGET = 2.5
GRPC_TARGET = 1.25
CONNECTIONS = 16
REST_RATE = 3000.0  # calls a second, offered to both: about half of what ours can do
GRPC_RATE = 1500.0
PARENT = "projects/bench/locations/global"
KEY = f"{PARENT}/keyRings/ring/cryptoKeys/key"
ENCRYPT = "google.cloud.kms.v1.KeyManagementService/Encrypt"
PLAINTEXT = bytes(range(32))
EncryptRequest = service.EncryptRequest.pb()
EncryptResponse = service.EncryptResponse.pb()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rest-calls", type=int, default=6000)
    parser.add_argument("--grpc-calls", type=int, default=4800)
    parser.add_argument("--empty", nargs=2, metavar=("DOOR", "PORTS_FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--answer", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.empty:
        door, ports_file = options.empty
        uvloop.run(EMPTY[door](Path(ports_file), bytes.fromhex(options.answer)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        return 0 if bench(Path(scratch), options) else 1


def bench(scratch: Path, options: argparse.Namespace) -> bool:
    """Both comparisons; whether both are within their targets."""
    data = scratch / "data"
    keystead = Path(sys.executable).parent / "keystead"
    command = [str(keystead), "serve", "--dev", "--data-dir", str(data), "--port", "0", "--grpc-port", "0"]
    with running(command, data / "run" / "server.json") as ours:
        make_key(ours.ports["rest"])
        good = [
            compare_rest(scratch, ours, options.rest_calls, options.rounds),
            compare_grpc(scratch, ours, options.grpc_calls, options.rounds),
        ]
    return all(good)


def make_key(port: int) -> None:
    """The key that is encrypted under."""
    base = f"http://127.0.0.1:{port}/cloudkms/v1/{PARENT}/keyRings"
    headers = {"authorization": f"Bearer {OWNER}"}
    requests.post(f"{base}?keyRingId=ring", json={}, headers=headers, timeout=30).raise_for_status()
    body = {"purpose": "ENCRYPT_DECRYPT"}
    answer = requests.post(f"{base}/ring/cryptoKeys?cryptoKeyId=key", json=body, headers=headers, timeout=30)
    answer.raise_for_status()


# --- REST -------------------------------------------------------------------------------------


def compare_rest(scratch: Path, ours: ServerProcess, calls: int, rounds: int) -> bool:
    port = ours.ports["rest"]
    url = f"http://127.0.0.1:{port}/cloudkms/v1/{KEY}:encrypt"
    checksum = str(google_crc32c.value(PLAINTEXT))
    body = orjson.dumps({"plaintext": base64.b64encode(PLAINTEXT).decode(), "plaintextCrc32c": checksum})
    headers = {"authorization": f"Bearer {OWNER}", "content-type": "application/json"}
    answer = requests.post(url, data=body, headers=headers, timeout=30)
    answer.raise_for_status()
    with empty_server("rest", scratch, answer.content) as empty:
        ratio = compare(
            Contestant("Encrypt over REST", ours, rest_load(port, body)),
            Contestant("empty ASGI answer", empty, rest_load(empty.ports["port"], body)),
            calls=calls,
            rounds=rounds,
        )
    return verdict("rest_encrypt_cpu_ratio", ratio, REST_TARGET)


def rest_load(port: int, body: bytes) -> Callable[[int], None]:
    """A driver of keep-alive connections that each send the same request again and again."""
    request = rest_request(port, f"/cloudkms/v1/{KEY}:encrypt", body)

    async def drive(calls: int) -> None:
        connections = [await RestConnection.open(port) for _ in range(CONNECTIONS)]
        await paced([partial(each.ask, request) for each in connections], calls, REST_RATE)
        for each in connections:
            await each.close()

    return lambda calls: uvloop.run(drive(calls))


async def empty_rest(ports_file: Path, answer: bytes) -> None:
    """uvicorn with an application that answers the same bytes to everything."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    body = {"type": "http.response.body", "body": answer}

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(start)
        await send(body)

    config = uvicorn.Config(
        app, port=0, loop="uvloop", http="httptools", ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, timeout_keep_alive=75,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    ports_file.write_text(json.dumps({"port": server.servers[0].sockets[0].getsockname()[1]}))
    await serving


# --- gRPC -------------------------------------------------------------------------------------


def compare_grpc(scratch: Path, ours: ServerProcess, calls: int, rounds: int) -> bool:
    message = EncryptRequest(name=KEY, plaintext=PLAINTEXT)
    message.plaintext_crc32c.value = google_crc32c.value(PLAINTEXT)
    request = message.SerializeToString()
    port = ours.ports["grpc"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        metadata = (("authorization", f"Bearer {OWNER}"),)
        answer = channel.unary_unary(f"/{ENCRYPT}")(request, metadata=metadata, timeout=30)
    with empty_server("grpc", scratch, answer) as empty:
        ratio = compare(
            Contestant("Encrypt over gRPC", ours, grpc_load(port, request)),
            Contestant("empty grpc.aio handler", empty, grpc_load(empty.ports["port"], request)),
            calls=calls,
            rounds=rounds,
        )
    return verdict("grpc_encrypt_cpu_ratio", ratio, GRPC_TARGET)


def grpc_load(port: int, request: bytes) -> Callable[[int], None]:
    """A driver of one channel with many calls in flight."""

    async def drive(calls: int) -> None:
        connection = await GrpcConnection.open(port)
        await paced([partial(connection.invoke(ENCRYPT), request)] * CONNECTIONS, calls, GRPC_RATE)
        await connection.close()

    return lambda calls: asyncio.run(drive(calls))


async def empty_grpc(ports_file: Path, answer: bytes) -> None:
    """A grpc.aio server whose one handler returns a message that was made before."""
    response = EncryptResponse.FromString(answer)

    async def handler(_request: Any, _context: Any) -> Any:
        return response

    name, _, rpc = ENCRYPT.partition("/")
    behavior = grpc.unary_unary_rpc_method_handler(
        handler,
        request_deserializer=EncryptRequest.FromString,
        response_serializer=EncryptResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {rpc: behavior}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ports_file.write_text(json.dumps({"port": port}))
    await server.wait_for_termination()


EMPTY: dict[str, Callable[[Path, bytes], Awaitable[None]]] = {"rest": empty_rest, "grpc": empty_grpc}


def empty_server(door: str, scratch: Path, answer: bytes) -> Any:
    """The other contestant, in a process of its own."""
    ports_file = scratch / f"{door}.json"
    command = [sys.executable, __file__, "--empty", door, str(ports_file), "--answer", answer.hex()]
    return running(command, ports_file)


if __name__ == "__main__":
    sys.exit(main())
