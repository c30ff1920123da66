"""Processes of a server that are killed while it is used: what was acknowledged holds, and nothing is half done.

Customers change keys through the official clients over both doors, and write down what they are told. At a
random moment a worker or the whole server dies by SIGKILL. Once it is back, every key must be as it was
acknowledged, or, where a call was never answered, as before or after the whole of it (`ledger`).
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from google.api_core import exceptions
from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2

from tests.cli.commands import Keystead
from tests.clients.ledger import (
    BOB,
    CRYPTER,
    DESTROYING,
    DISABLED,
    ENABLED,
    Change,
    Key,
    Ledger,
    Sealed,
    check,
    recorded_changes,
)
from tests.clients.pyclients import TRANSPORTS, kms_client
from tests.live import LiveServer
from tests.server.processes import PARENT, alive, eventually, pids

#: How often a process is killed: every other time a worker, every other time the whole server.
ROUNDS = 50
ROUNDS_ON_POSTGRESQL = 10
WORKERS = 2
CUSTOMERS = 4
#: Changes and ciphertexts of one customer in one round; after these he only uses what he has.
QUOTA = 12
#: Calls over one connection, at most: the next may lead to another process.
CALLS = 15
_CALL_S = 60.0
_JOIN_S = 120.0
_STARTING_S = 1.5

Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
P256 = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P256_SHA256
#: How a process that dies looks to a client: there is no answer, and it may try again.
GONE = (
    exceptions.ServiceUnavailable,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
)


class Customer(threading.Thread):
    """Uses a server until told to stop, writing down what he is told. `failure` is what he should not have
    been told; `cut_off` counts the calls that no one answered."""

    def __init__(self, live: LiveServer, ledger: Ledger, transport: str, seed: str) -> None:
        super().__init__(daemon=True)
        self.failure: BaseException | None = None
        self.cut_off = 0
        self.acknowledged = 0
        self.stop = threading.Event()
        self._live = live
        self._ledger = ledger
        self._transport = transport
        self._random = random.Random(seed)
        self._kms: Any = None
        self._seed = seed

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                try:
                    self._over_one_connection()
                except GONE:
                    self.cut_off += 1
                    time.sleep(0.02)
        except BaseException as error:
            self.failure = error

    def _over_one_connection(self) -> None:
        self._kms = kms_client(self._live, self._transport)
        try:
            self._kms.get_key_ring(name=self._ledger.ring, retry=None, timeout=_CALL_S)
            for _ in range(self._random.randint(1, CALLS)):
                if self.stop.is_set():
                    return
                before = self._ledger.acknowledged
                self._act(changing=self.acknowledged < QUOTA)
                self.acknowledged += self._ledger.acknowledged - before
        finally:
            self._kms.transport.close()

    def _act(self, *, changing: bool) -> None:
        """One thing that can be done now, by chance."""
        acts: list[tuple[int, Callable[[], None]]] = []
        settled = [name for name in self._ledger.keys if name not in self._ledger.unsure]
        if changing:
            acts += [(3, lambda: self._create_key(signs=False)), (1, lambda: self._create_key(signs=True))]
        if settled:
            name = self._random.choice(settled)
            key = self._ledger.keys[name]
            acts += [(weight, lambda: act(name, key)) for weight, act in self._uses(key)]
            if changing:
                acts += self._changes(name, key)
        if acts:
            weights, choices = zip(*acts, strict=True)
            self._random.choices(choices, weights)[0]()

    # --- changes -----------------------------------------------------------------------------------
