"""What the key service adds to a cryptographic call: every algorithm against the library that does the work.

Sign, decrypt, MAC, decapsulate and encrypt: of software keys against the same key in the `cryptography`
library, of keys in a SoftHSM2 token against python-pkcs11 on the same object. Ours is the call as a listener
makes it, from an event loop through the dispatcher: authorization, audit decision, checksums, the thread that
slow calls get. Both run in this process in turns, and CPU time per call is compared, by the medians of many
short samples. Some software algorithms are called over REST besides, of a server in a process of its own,
whose CPU is counted.

The work itself takes from microseconds to milliseconds, so a ratio says little of the fast ones: `added` does.
No target is set. Calls whose work takes more than 200 us, and that cost more than twice that, are flagged.

Run: `python bench/signing.py [--rounds 15] [--rest-seconds 0.7]`. It first makes the keys: half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import requests
from _load import OWNER, RestConnection, flat_out, rest_request
from _measure import ServerProcess, running
from _raw_calls import DATA, in_software, in_token, payload_of, sealed_to
from google.protobuf import json_format
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the tests' token, and their keys of every algorithm

import pkcs11
from tests.hsm import LIBRARY, SoftToken, make_token
from tests.kms.keyroom import Keyroom, checked

from keystead.api.call import Call
from keystead.kms.algorithms import ALGORITHMS, BY_NAME, Algorithm, Family
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.hsm.keys import KINDS
from keystead.kms.backends.hsm.objects import ObjectRef

SOFTWARE, HSM = "SOFTWARE", "HSM"
LEVELS = {SOFTWARE: 1, HSM: 2}
FLAG_RATIO, FLAG_US = 2.0, 200.0
SAMPLE_S = 0.01
MOST_CALLS = 200  # of one sample
REST_LANES = 4
REST_ROUNDS = 3
PARENT = "projects/bench/locations/global"
RING = f"{PARENT}/keyRings/ring"
_MADE_S = 60.0
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
    with tempfile.TemporaryDirectory() as scratch, Progress(transient=True) as progress:
        with keys(Path(scratch)) as room:
            found = list(rows(room, lambda what: progress.track(what, description="keys")))
            for row in progress.track(found, description="calls"):
                asyncio.run(measure(room, row, options.rounds))
            with server(Path(scratch)) as live:
                some = [row for row in found if row.level == SOFTWARE and row.algorithm.name in OVER_REST]
                for row in progress.track(some, description="REST"):
                    asyncio.run(measure_rest(live, row, options.rest_seconds))
    show(found)
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


@contextmanager
def keys(scratch: Path) -> Iterator[Keyroom]:
    """A platform with keys in software and, where SoftHSM2 is installed, in a token."""
    if LIBRARY is None:
        print("SoftHSM2 is not installed: software keys only (Debian: apt-get install softhsm2)")
        yield Keyroom(scratch)
        return
    backend = HsmBackend(new_token(scratch).config())
    room = Keyroom(scratch, backend)
    yield room
    room.platform.close()
    backend.close()


def new_token(scratch: Path) -> SoftToken:
    """An empty SoftHSM2 token in a directory of its own."""
    tokens, configuration = scratch / "tokens", scratch / "softhsm2.conf"
    tokens.mkdir()
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    return make_token(tokens, scratch / "pin")


def rows(room: Keyroom, track: Callable[[Sequence[Any]], Iterator[Any]]) -> Iterator[Row]:
    """Every algorithm that a back end offers, with a key of it."""
    backends = {level: room.platform.keys.material.backend(number) for level, number in LEVELS.items()}
    if LIBRARY is None:
        del backends[HSM]
    wanted = [
        (algorithm, level)
        for level, backend in backends.items()
        for algorithm in ALGORITHMS.values()
        if algorithm.name in backend.algorithms and algorithm.purpose in RPCS
    ]
    for algorithm, level in track(wanted):
        version = room.version(algorithm.name, level)
        sealed = b""
        if algorithm.family in PUBLIC_FORMATS:
            answer = room.call("GetPublicKey", version, public_key_format=PUBLIC_FORMATS[algorithm.family])
            sealed = sealed_to(algorithm, answer.public_key.data)
        if level == SOFTWARE:
            alone = in_software(algorithm, room.secret(version), sealed)
        else:
            alone = in_token(algorithm, *object_of(room, version, algorithm), sealed)
        request = room.request(RPCS[algorithm.purpose], version, **fields_of(algorithm, sealed))
        yield Row(algorithm, level, request, alone)


def fields_of(algorithm: Algorithm, sealed: bytes) -> dict[str, Any]:
    """The input of a method, with its checksum, as clients send it."""
    if sealed:
        return checked(ciphertext=sealed)
    if algorithm.purpose in {"MAC", "ASYMMETRIC_SIGN"}:
        payload = payload_of(algorithm)
        if not algorithm.digest:
            return checked(data=payload)
        return {"digest": {algorithm.digest: payload}, "digest_crc32c": checked(x=payload)["x_crc32c"]}
    return checked(plaintext=DATA)


def object_of(room: Keyroom, version: str, algorithm: Algorithm) -> tuple[Any, Any]:
    """A session of our own with the token, which serves as it is logged in, and the object of a version."""
    with room.platform.store.read() as tx:
        stored = tx.material.get(version) or b""
    token = room.platform.keys.material.backend(LEVELS[HSM])
    label = token._token._config.token
    session = pkcs11.lib(str(LIBRARY.resolve())).get_token(token_label=label).open(rw=True)
    wanted = {**ObjectRef.decode(version, stored).attributes}
    wanted[pkcs11.Attribute.CLASS] = KINDS[algorithm.family].held
    (key,) = session.get_objects(wanted)
    return session, key
