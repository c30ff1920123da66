"""Processes of a server that are killed while it is used: what was acknowledged holds, nothing is half done.

Customers change keys through the official clients over both doors, and write down what they are told. At a
random moment a worker, or the whole server, dies by SIGKILL. Once it is back every key must be as it was
acknowledged or, where a call was never answered, as before or after the whole of that call (`ledger`).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

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

#: How often a process is killed: half of the times a worker, half of the times the whole server.
ROUNDS = 50
ROUNDS_ON_POSTGRESQL = 10
#: Every so many kills of the whole server, it is killed once more while it starts.
STARTS_KILLED = 5
CUSTOMERS = 4
#: Changes and ciphertexts of one customer in one round. After these he only uses what he has.
QUOTA = 12
#: Calls over one connection, at most: the next connection may lead to another process.
CALLS = 15
WORKER, SERVER = "worker", "server"
_CALL_S = 60.0
_JOIN_S = 120.0
_STARTING_S = 2.0

Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
P256 = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P256_SHA256
Send = Callable[[], Any]
#: How a process that died looks to a client: there was no answer, and it may try again.
GONE = (
    exceptions.ServiceUnavailable,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
)


class Customer(threading.Thread):
    """Uses a server until told to stop. `failure` is what he should not have been told."""

    def __init__(self, live: LiveServer, ledger: Ledger, transport: str, seed: str) -> None:
        super().__init__(daemon=True)
        self.failure: BaseException | None = None
        self.acknowledged = 0
        self.stop = threading.Event()
        self._live = live
        self._ledger = ledger
        self._transport = transport
        self._seed = seed
        self._random = random.Random(seed)
        self._made = 0
        self._kms: Any = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                try:
                    self._over_one_connection()
                except GONE:
                    time.sleep(0.02)
        except BaseException as error:
            self.failure = error

    def _over_one_connection(self) -> None:
        self._kms = kms_client(self._live, self._transport)
        try:
            self._call(self._kms.get_key_ring, name=self._ledger.ring)
            for _ in range(self._random.randint(1, CALLS)):
                if self.stop.is_set():
                    return
                self._act()
        finally:
            self._kms.transport.close()

    def _call(self, rpc: Callable[..., Any], **request: Any) -> Any:
        return rpc(request=request, retry=None, timeout=_CALL_S)

    def _act(self) -> None:
        """One thing, by chance, with one key, by chance."""
        settled = [name for name in self._ledger.keys if name not in self._ledger.unsure]
        changing = self.acknowledged < QUOTA
        if changing and (not settled or self._random.random() < 0.2):
            self._change(self._new_key(signs=self._random.random() < 0.3))
        elif settled:
            name = self._random.choice(settled)
            key = self._ledger.keys[name]
            if changing and self._random.random() < 0.6:
                changes = (
                    self._new_version, self._new_state, self._new_primary, self._new_end, self._new_policy,
                )  # fmt: skip
                self._change(self._random.choice(changes)(name, key))
            elif not key.signs:
                self._encrypt(name, key, keep=changing)

    # --- changes: what is sent, and what the key is then --------------------------------------------

    def _change(self, planned: tuple[Change, Send] | None) -> None:
        if planned is None:  # nothing of the kind can be done with this key
            return
        change, send = planned
        self._ledger.sent(change)
        send()
        self._ledger.answered(change)
        self.acknowledged += 1
        if not change.after.signs and self._random.random() < 0.5:
            self._encrypt(change.key, change.after, keep=False)

    def _new_key(self, *, signs: bool) -> tuple[Change, Send]:
        self._made += 1
        key_id = f"key-{self._seed}-{self._made}"
        wanted: dict[str, Any] = {"purpose": Purpose.ENCRYPT_DECRYPT}
        if signs:
            wanted = {"purpose": Purpose.ASYMMETRIC_SIGN, "version_template": {"algorithm": P256}}
        made = Key(signs=signs, primary=0 if signs else 1)
        change = Change("CreateCryptoKey", f"{self._ledger.ring}/cryptoKeys/{key_id}", made)
        return change, lambda: self._call(
            self._kms.create_crypto_key, parent=self._ledger.ring, crypto_key_id=key_id, crypto_key=wanted
        )

    def _new_version(self, name: str, key: Key) -> tuple[Change, Send]:
        change = Change("CreateCryptoKeyVersion", name, replace(key, versions=(*key.versions, ENABLED)))
        return change, lambda: self._call(
            self._kms.create_crypto_key_version, parent=name, crypto_key_version={}
        )

    def _new_state(self, name: str, key: Key) -> tuple[Change, Send] | None:
        """Disable or enable a version."""
        number = self._number(key, lambda _, state: state != DESTROYING)
        if number is None:
            return None
        state = DISABLED if key.versions[number - 1] == ENABLED else ENABLED
        change = Change("UpdateCryptoKeyVersion", name, with_state(key, number, state))
        version = {"name": version_of(name, number), "state": State[state]}
        return change, lambda: self._call(
            self._kms.update_crypto_key_version, crypto_key_version=version, update_mask={"paths": ["state"]}
        )

    def _new_primary(self, name: str, key: Key) -> tuple[Change, Send] | None:
        number = self._number(key, lambda each, state: state == ENABLED and each != key.primary)
        if number is None:
            return None
        change = Change("UpdateCryptoKeyPrimaryVersion", name, replace(key, primary=number))
        return change, lambda: self._call(
            self._kms.update_crypto_key_primary_version, name=name, crypto_key_version_id=str(number)
        )

    def _new_end(self, name: str, key: Key) -> tuple[Change, Send] | None:
        """Have a version destroyed later, or take that back."""
        number = self._number(key, lambda each, _: each != key.primary)
        if number is None:
            return None
        version = version_of(name, number)
        if key.versions[number - 1] == DESTROYING:
            change = Change("RestoreCryptoKeyVersion", name, with_state(key, number, DISABLED))
            return change, lambda: self._call(self._kms.restore_crypto_key_version, name=version)
        change = Change("DestroyCryptoKeyVersion", name, with_state(key, number, DESTROYING))
        return change, lambda: self._call(self._kms.destroy_crypto_key_version, name=version)

    def _new_policy(self, name: str, key: Key) -> tuple[Change, Send]:
        members = frozenset({f"user:u{self._random.randrange(10)}@example.com"})
        if BOB not in key.members:
            members |= {BOB}
        policy = policy_pb2.Policy(bindings=[policy_pb2.Binding(role=CRYPTER, members=sorted(members))])
        change = Change("SetIamPolicy", name, replace(key, members=members))
        request = iam_policy_pb2.SetIamPolicyRequest(resource=name, policy=policy)
        return change, lambda: self._kms.set_iam_policy(request=request, retry=None, timeout=_CALL_S)

    def _number(self, key: Key, fit: Callable[[int, str], bool]) -> int | None:
        """A version of a key that encrypts, by chance among those that fit; None where none does."""
        numbers = [number for number, state in enumerate(key.versions, 1) if fit(number, state)]
        return self._random.choice(numbers) if numbers and not key.signs else None

    # --- use ------------------------------------------------------------------------------------------

    def _encrypt(self, name: str, key: Key, *, keep: bool) -> None:
        """Encrypt and decrypt, or be refused, as the last acknowledged change wants it."""
        plaintext = self._random.randbytes(self._random.randint(1, 200))
        if not key.encrypts:
            with pytest.raises((exceptions.FailedPrecondition, exceptions.BadRequest)):
                self._call(self._kms.encrypt, name=name, plaintext=plaintext)
            return
        sealed = self._call(self._kms.encrypt, name=name, plaintext=plaintext)
        assert sealed.name == version_of(name, key.primary)
        if keep:
            self._ledger.keep(Sealed(name, key.primary, plaintext, sealed.ciphertext))
            self.acknowledged += 1
        assert self._call(self._kms.decrypt, name=name, ciphertext=sealed.ciphertext).plaintext == plaintext


def version_of(key: str, number: int) -> str:
    return f"{key}/cryptoKeyVersions/{number}"


def with_state(key: Key, number: int, state: str) -> Key:
    return replace(key, versions=(*key.versions[: number - 1], state, *key.versions[number:]))


@contextmanager
def customers(live: LiveServer, ledgers: list[Ledger], seed: str) -> Iterator[Callable[[], int]]:
    """All customers at work until the end of the block; what it gives counts what they were told so far."""
    at_work = [
        Customer(live, ledger, TRANSPORTS[number % len(TRANSPORTS)], f"{seed}-{number}")
        for number, ledger in enumerate(ledgers)
    ]

    def acknowledged() -> int:
        for each in at_work:
            if each.failure is not None:
                raise each.failure
        return sum(each.acknowledged for each in at_work)

    for each in at_work:
        each.start()
    try:
        yield acknowledged
    finally:
        for each in at_work:
            each.stop.set()
        for each in at_work:
            each.join(_JOIN_S)
            assert not each.is_alive(), "a customer waits for an answer that never comes"
    acknowledged()


class Fate:
    """Who is killed when."""

    def __init__(self, live: LiveServer, ledgers: list[Ledger], rounds: int) -> None:
        self._live = live
        self._ledgers = ledgers
        self._random = random.Random(rounds)
        self._victims = [WORKER] * (rounds // 2) + [SERVER] * (rounds - rounds // 2)
        self._random.shuffle(self._victims)

    def rounds(self) -> Iterator[str]:
        """Each time, a process was killed under load and the server is whole again; who it was."""
        servers = 0
        for round_, victim in enumerate(self._victims):
            with customers(self._live, self._ledgers, f"{round_}") as acknowledged:
                enough = self._random.randint(1, CUSTOMERS * QUOTA * 3 // 4)
                eventually(lambda: acknowledged() >= enough, "acknowledgements", _JOIN_S)  # noqa: B023
                time.sleep(self._random.uniform(0, 0.03))
                if victim == WORKER:
                    self._kill_worker()
                else:
                    self._kill_server()
            if victim == SERVER:
                servers += 1
                if servers % STARTS_KILLED == 0:
                    self._kill_start()
                self._live.start()
            yield victim

    def _kill_worker(self) -> None:
        """And let the customers go on until another has taken its place."""
        _, worker = before = pids(self._live)
        os.kill(worker, signal.SIGKILL)
        eventually(
            lambda: len(pids(self._live)) == len(before) and worker not in pids(self._live), "another worker"
        )
        time.sleep(self._random.uniform(0, 0.3))

    def _kill_server(self) -> None:
        workers = pids(self._live)[1:]
        self._live.kill()
        eventually(lambda: not any(alive(pid) for pid in workers), "no worker is left")

    def _kill_start(self) -> None:
        with self._live.log.open("ab") as log:
            process = subprocess.Popen(self._live.command("--dev"), stdout=log, stderr=log)
        time.sleep(self._random.uniform(0, _STARTING_S))
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("engine", "rounds"), [("sqlite", ROUNDS), ("postgresql", ROUNDS_ON_POSTGRESQL)], ids=str
)
def test_what_was_acknowledged_survives_sigkill(
    engine: str,
    rounds: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After each kill under load: every acknowledged key, version, state, primary and policy is there, every
    ciphertext opens while its version is enabled and is refused otherwise, a call without an answer was done
    whole or not at all, and the audit chain verifies. At the end the trail tells of each change once."""
    url = "" if engine == "sqlite" else request.getfixturevalue("pg_server").create_store()
    store = ["--store-url", url] if url else []
    live = LiveServer(tmp_path, "--workers", "2", *store)
    keystead = Keystead(monkeypatch, capsys)
    live.start()
    try:
        ledgers = [Ledger(ring) for ring in make_rings(live)]
        began, killed = time.monotonic(), Counter[str]()
        for victim in Fate(live, ledgers, rounds).rounds():
            check(live, ledgers)
            verified = keystead("audit", "verify", "--data-dir", live.data_dir, *store)
            assert verified.status == 0, verified.text
            killed[victim] += 1
        assert live.stop() == 0
    finally:
        live.stop()
    changed = sum((ledger.changed for ledger in ledgers), Counter[tuple[str, str]]())
    assert recorded_changes(url or f"sqlite:///{live.data_dir / 'store.db'}", ledgers) == changed
    assert killed == {WORKER: rounds // 2, SERVER: rounds - rounds // 2}
    unanswered = sum((ledger.unanswered for ledger in ledgers), Counter[str]())
    assert unanswered.total() > 0, "no kill ever hit a change"
    with capsys.disabled():
        acknowledged = sum(ledger.acknowledged for ledger in ledgers)
        took = time.monotonic() - began
        print(f"\n{engine}: {dict(killed)}, {acknowledged} acknowledged, {dict(unanswered)}, {took:.0f} s")


def make_rings(live: LiveServer) -> list[str]:
    """A key ring for each customer."""
    kms = kms_client(live, "rest")
    return [
        kms.create_key_ring(request={"parent": PARENT, "key_ring_id": f"ring-{number}", "key_ring": {}}).name
        for number in range(CUSTOMERS)
    ]
