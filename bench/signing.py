"""What the key service adds to a cryptographic call: every algorithm against the library that does the work.

Sign, decrypt, MAC, decapsulate and encrypt: of software keys against the same key in the `cryptography`
library, of keys in a SoftHSM2 token against python-pkcs11 on the same object. Ours is the call as a listener
makes it, from an event loop through the dispatcher: authorization, audit decision, checksums, the thread that
slow calls get. Both run in this process in turns, and CPU time per call is compared, by the medians of many
short samples. Some software algorithms are called over REST besides, of a server in a process of its own,
whose CPU is counted.

The work takes from microseconds to milliseconds, so a ratio says little of the fast ones: `added` does. No
target is set. Calls whose work takes more than 200 us, and that cost more than twice as much, are flagged.

Run: `python bench/signing.py [--rounds 15] [--rest-seconds 0.7]`. It first makes the keys: half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import orjson
import pkcs11
import requests
import uvloop
from _load import OWNER, RestConnection, flat_out, rest_request
from _measure import ServerProcess, running
from _raw_calls import DATA, in_software, in_token, payload_of, sealed_to
from google.protobuf import json_format
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1]))

from keystead.api.call import Call
from keystead.kms.algorithms import ALGORITHMS, Algorithm, Family
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.hsm.keys import KINDS
from keystead.kms.backends.hsm.objects import ObjectRef
from tests.hsm import LIBRARY, SoftToken, make_token
from tests.kms.keyroom import Keyroom, checked

SOFTWARE, HSM = "SOFTWARE", "HSM"
LEVELS = {SOFTWARE: 1, HSM: 2}
FLAG_RATIO, FLAG_US = 2.0, 200.0
SAMPLE_S = 0.01
MOST_CALLS = 200  # of one sample
REST_LANES = 4
REST_ROUNDS = 3
PARENT = "projects/bench/locations/global"
RING = f"{PARENT}/keyRings/ring"
MADE_S = 60.0
KMS = "google.cloud.kms.v1.KeyManagementService"
RPCS = {
    "ENCRYPT_DECRYPT": "Encrypt",
    "RAW_ENCRYPT_DECRYPT": "RawEncrypt",
    "ASYMMETRIC_SIGN": "AsymmetricSign",
    "ASYMMETRIC_DECRYPT": "AsymmetricDecrypt",
    "MAC": "MacSign",
    "KEY_ENCAPSULATION": "Decapsulate",
}
PUBLIC_FORMATS = {Family.RSA_OAEP: "DER", Family.ML_KEM: "NIST_PQC", Family.XWING: "XWING_RAW_BYTES"}
OVER_REST = (
    "AES_256_GCM", "RSA_SIGN_PSS_2048_SHA256", "EC_SIGN_P256_SHA256", "EC_SIGN_ED25519", "PQ_SIGN_ML_DSA_65",
    "RSA_DECRYPT_OAEP_2048_SHA256", "HMAC_SHA256", "ML_KEM_768",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rest-seconds", type=float, default=0.7)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Progress(transient=True) as progress,
        keys(Path(scratch)) as made,
    ):
        rows = [row_of(made, *each) for each in progress.track(made.offered(), description="keys")]
        for row in progress.track(rows, description="calls"):
            asyncio.run(measure(made.room, row, options.rounds))
        some = [row for row in rows if row.level == SOFTWARE and row.algorithm.name in OVER_REST]
        with server(Path(scratch) / "server") as live:
            for row in progress.track(some, description="REST"):
                uvloop.run(measure_rest(live, made.room, row, options.rest_seconds))
    show(rows)
    return 0


# --- keys ---------------------------------------------------------------------------------------------


@dataclass
class Row:
    """One method by a key of one algorithm: the request, and the same work `alone`. Samples are microseconds
    of CPU per call."""

    algorithm: Algorithm
    level: str
    request: Any
    alone: Callable[[], Any]
    alone_us: list[float] = field(default_factory=list)
    ours_us: list[float] = field(default_factory=list)
    rest_us: list[float] = field(default_factory=list)

    @property
    def rpc(self) -> str:
        return RPCS[self.algorithm.purpose]


@dataclass(frozen=True)
class Keys:
    """A platform with keys in software and, if there is one, in a token."""

    room: Keyroom
    token: SoftToken | None

    def offered(self) -> list[tuple[Algorithm, str]]:
        """Every algorithm with a method that is measured here, by protection level."""
        material = self.room.platform.keys.material
        return [
            (algorithm, level)
            for level in ((SOFTWARE, HSM) if self.token else (SOFTWARE,))
            for purpose in RPCS
            for algorithm in ALGORITHMS.values()
            if algorithm.purpose == purpose and algorithm.name in material.backend(LEVELS[level]).algorithms
        ]

    @cached_property
    def session(self) -> Any:
        """Our own session with the token. The back end's login counts for the whole process."""
        assert self.token is not None
        library = pkcs11.lib(str(self.token.library.resolve()))
        return library.get_token(token_label=self.token.label).open(rw=True)

    def object(self, version: str, algorithm: Algorithm) -> Any:
        """The key of a version in the token."""
        with self.room.platform.store.read() as tx:
            ref = ObjectRef.decode(version, tx.material.get(version) or b"")
        held = {pkcs11.Attribute.CLASS: KINDS[algorithm.family].held}
        (key,) = self.session.get_objects(ref.attributes | held)
        return key


@contextmanager
def keys(scratch: Path) -> Iterator[Keys]:
    """An empty platform, with a token where SoftHSM2 is installed."""
    if LIBRARY is None:
        print("SoftHSM2 is not installed, so only software is measured (Debian: apt-get install softhsm2)")
    token = new_token(scratch) if LIBRARY else None
    backend = HsmBackend(token.config()) if token else None
    room = Keyroom(scratch, backend)
    try:
        yield Keys(room, token)
    finally:
        room.platform.close()
        if backend is not None:
            backend.close()


def new_token(scratch: Path) -> SoftToken:
    """An empty token in a directory of its own."""
    tokens, configuration = scratch / "tokens", scratch / "softhsm2.conf"
    tokens.mkdir()
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    return make_token(tokens, scratch / "pin")


def row_of(made: Keys, algorithm: Algorithm, level: str) -> Row:
    """The method of an algorithm, with a new key."""
    room, sealed = made.room, b""
    version = room.version(algorithm.name, level)
    if algorithm.family in PUBLIC_FORMATS:
        answer = room.call("GetPublicKey", version, public_key_format=PUBLIC_FORMATS[algorithm.family])
        sealed = sealed_to(algorithm, answer.public_key.data)
    if level == SOFTWARE:
        alone = in_software(algorithm, room.secret(version), sealed)
    else:
        alone = in_token(algorithm, made.session, made.object(version, algorithm), sealed)
    return Row(algorithm, level, request_of(room, algorithm, version, sealed), alone)


def request_of(room: Keyroom, algorithm: Algorithm, version: str, sealed: bytes) -> Any:
    """The request of the algorithm's method, with a checksum of its input, as clients send it."""
    if sealed:
        fields = checked(ciphertext=sealed)
    elif algorithm.digest:
        checksum = checked(digest=payload_of(algorithm))["digest_crc32c"]
        fields = {"digest": {algorithm.digest: payload_of(algorithm)}, "digest_crc32c": checksum}
    elif algorithm.purpose in {"MAC", "ASYMMETRIC_SIGN"}:
        fields = checked(data=DATA)
    else:
        fields = checked(plaintext=DATA)
    return room.request(RPCS[algorithm.purpose], version, **fields)


# --- measuring ----------------------------------------------------------------------------------------


async def measure(room: Keyroom, row: Row, rounds: int) -> None:
    """Both contestants in turns, after a call of each to warm up."""
    dispatcher = room.platform.dispatcher
    method = room.platform.registry.methods[f"{KMS}/{row.rpc}"]

    async def ours(calls: int) -> None:
        for _ in range(calls):
            await dispatcher.dispatch(method, row.request, Call(principal=OWNER))

    async def alone(calls: int) -> None:
        for _ in range(calls):
            row.alone()

    await ours(1)
    once = min([await cpu_us(ours, 1) for _ in range(3)])
    calls = min(max(math.ceil(SAMPLE_S * 1e6 / once), 1), MOST_CALLS)
    for turn in range(rounds):
        sides = ((ours, row.ours_us), (alone, row.alone_us))
        for work, samples in sides if turn % 2 else reversed(sides):
            samples.append(await cpu_us(work, calls))


async def cpu_us(work: Callable[[int], Awaitable[None]], calls: int) -> float:
    """Microseconds of this process's CPU per call, all threads."""
    before = time.process_time()
    await work(calls)
    return (time.process_time() - before) / calls * 1e6


async def measure_rest(live: ServerProcess, room: Keyroom, row: Row, seconds: float) -> None:
    """The server's CPU per call, with a few calls in flight."""
    port = live.ports["rest"]
    version, sealed = key_of_server(live, row.algorithm)
    message = request_of(room, row.algorithm, version, sealed)
    body = json_format.MessageToDict(message)
    del body["name"]
    path = f"/cloudkms/v1/{version}:{row.rpc[0].lower()}{row.rpc[1:]}"
    request = rest_request(port, path, orjson.dumps(body))
    connections = [await RestConnection.open(port) for _ in range(REST_LANES)]
    lanes = [partial(each.ask, request) for each in connections]
    await flat_out(lanes, seconds / 4)
    for _ in range(REST_ROUNDS):
        before = live.cpu_seconds()
        calls = await flat_out(lanes, seconds)
        row.rest_us.append((live.cpu_seconds() - before) / calls * 1e6)
    for connection in connections:
        await connection.close()


@contextmanager
def server(data: Path) -> Iterator[ServerProcess]:
    keystead = [str(Path(sys.executable).parent / "keystead"), "serve", "--dev", "--data-dir", str(data)]
    command = [*keystead, "--port", "0", "--grpc-port", "0"]
    with running(command, data / "run" / "server.json", seconds=120) as live:
        ask(live, "POST", f"{PARENT}/keyRings?keyRingId=ring", {})
        yield live


def ask(live: ServerProcess, verb: str, path: str, body: Any = None) -> Any:
    """One call over REST, before what is measured."""
    url = f"http://127.0.0.1:{live.ports['rest']}/cloudkms/v1/{path}"
    headers = {"authorization": f"Bearer {OWNER}"}
    answer = requests.request(verb, url, json=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.json()


def key_of_server(live: ServerProcess, algorithm: Algorithm) -> tuple[str, bytes]:
    """The version of a new key, and something that it opens, if that is what it is for."""
    wanted = {"purpose": algorithm.purpose, "versionTemplate": {"algorithm": algorithm.name}}
    key_id = algorithm.name.lower()
    version = f"{RING}/cryptoKeys/{key_id}/cryptoKeyVersions/1"
    ask(live, "POST", f"{RING}/cryptoKeys?cryptoKeyId={key_id}", wanted)
    deadline = time.monotonic() + MADE_S
    while ask(live, "GET", version)["state"] != "ENABLED":
        if time.monotonic() > deadline:
            raise RuntimeError(f"{version} is never made")
        time.sleep(0.05)
    if algorithm.family not in PUBLIC_FORMATS:
        return version, b""
    asked = f"{version}/publicKey?publicKeyFormat={PUBLIC_FORMATS[algorithm.family]}"
    public = base64.b64decode(ask(live, "GET", asked)["publicKey"]["data"])
    return version, sealed_to(algorithm, public)


# --- what came out ------------------------------------------------------------------------------------


def show(rows: Sequence[Row]) -> None:
    """The table, and what is flagged."""
    table = Table(title="microseconds of CPU per call")
    for head in ("algorithm", "level", "method"):
        table.add_column(head, no_wrap=True)
    for head in ("alone", "ours", "(from - to)", "added", "ratio", "REST", "ratio", ""):
        table.add_column(head, justify="right", no_wrap=True)
    flagged = []
    for at, row in enumerate(rows):
        alone, ours = statistics.median(row.alone_us), statistics.median(row.ours_us)
        mark = ""
        if alone > FLAG_US and ours > FLAG_RATIO * alone:
            mark = "!"
            flagged.append(f"{row.algorithm.name} {row.level}")
        rest = ["", ""]
        if row.rest_us:
            cost = statistics.median(row.rest_us)
            rest = [f"{cost:.1f}", f"{cost / alone:.2f}"]
        spread = f"({min(row.ours_us):.1f} - {max(row.ours_us):.1f})"
        numbers = (f"{alone:.1f}", f"{ours:.1f}", spread, f"{ours - alone:.1f}", f"{ours / alone:.2f}")
        last = at + 1 == len(rows) or rows[at + 1].rpc != row.rpc
        table.add_row(row.algorithm.name, row.level, row.rpc, *numbers, *rest, mark, end_section=last)
    Console(width=150).print(table)
    print(f"more than {FLAG_RATIO:g} times work of over {FLAG_US:g} us: {', '.join(flagged) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
