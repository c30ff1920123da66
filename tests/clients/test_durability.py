"""A server that is killed while it is used: what was acknowledged is there afterwards."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import kms_v1

from tests.clients.pyclients import kms_client
from tests.live import LiveServer, live_server

LOCATION = "projects/p1/locations/europe-west4"
ROUNDS = 5
ACKNOWLEDGED_PER_ROUND = 12
_WAIT_S = 60.0
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState


@dataclass
class Ledger:
    """What a client was told is done. `unsure` names the versions of a call that was never answered."""

    keys: set[str] = field(default_factory=set)
    versions: dict[str, State] = field(default_factory=dict)
    ciphertexts: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    acknowledged: int = 0


class Customer(threading.Thread):
    """Uses a server until it is gone, writing down every acknowledgement."""

    def __init__(self, live: LiveServer, ring: str, ledger: Ledger, round_: int) -> None:
        super().__init__(daemon=True)
        self.failure: BaseException | None = None
        self._kms = kms_client(live, "rest")
        self._ring = ring
        self._ledger = ledger
        self._round = round_
        self._random = random.Random(round_)

    def run(self) -> None:
        try:
            for number in range(1000):
                self._one(f"key-{self._round}-{number}")
        except (exceptions.GoogleAPICallError, ConnectionError, OSError) as error:
            self.failure = error

    def _one(self, key_id: str) -> None:
        """Make a key, encrypt under it, add a version to some key, disable or enable another."""
        ledger = self._ledger
        request = {
            "parent": self._ring,
            "crypto_key_id": key_id,
            "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT},
        }
        key = self._kms.create_crypto_key(request=request, retry=None, timeout=20).name
        ledger.keys.add(key)
        ledger.versions[f"{key}/cryptoKeyVersions/1"] = State.ENABLED
        ledger.acknowledged += 1

        plaintext = key_id.encode()
        sealed = self._kms.encrypt(request={"name": key, "plaintext": plaintext}, retry=None, timeout=20)
        ledger.ciphertexts.append((sealed.name, plaintext, sealed.ciphertext))
        ledger.acknowledged += 1

        parent = self._random.choice(sorted(ledger.keys))
        made = self._kms.create_crypto_key_version(
            request={"parent": parent, "crypto_key_version": {}}, retry=None, timeout=20
        )
        ledger.versions[made.name] = State.ENABLED
        ledger.acknowledged += 1

        name = self._random.choice(sorted(ledger.versions))
        state = State.DISABLED if ledger.versions[name] == State.ENABLED else State.ENABLED
        change = {"crypto_key_version": {"name": name, "state": state}, "update_mask": {"paths": ["state"]}}
        ledger.unsure.add(name)
        self._kms.update_crypto_key_version(request=change, retry=None, timeout=20)
        ledger.versions[name] = state
        ledger.unsure.discard(name)
        ledger.acknowledged += 1


def check(kms: Any, ring: str, ledger: Ledger) -> None:
    """Every key, version and state of the ledger is there, and every ciphertext opens."""
    keys = {key.name for key in kms.list_crypto_keys(request={"parent": ring, "page_size": 1000})}
    assert ledger.keys <= keys
    found = {
        version.name: version.state
        for key in sorted(ledger.keys)
        for version in kms.list_crypto_key_versions(request={"parent": key})
    }
    for name, state in ledger.versions.items():
        assert name in found
        if name in ledger.unsure:  # the answer was lost: either state is right, and is taken from now on
            ledger.versions[name] = found[name]
            ledger.unsure.discard(name)
        else:
            assert found[name] == state, name
    for name, plaintext, ciphertext in ledger.ciphertexts:
        assert opened(kms, name, ciphertext, ledger.versions[name]) == plaintext


def opened(kms: Any, version: str, ciphertext: bytes, state: State) -> bytes:
    """The plaintext. A version that was disabled must refuse first; it is enabled for the look only."""
    key = version.split("/cryptoKeyVersions/", maxsplit=1)[0]
    request = {"name": key, "ciphertext": ciphertext}
    if state == State.ENABLED:
        return bytes(kms.decrypt(request=request).plaintext)
    with pytest.raises(exceptions.BadRequest, match="is not enabled, current state is: DISABLED"):
        kms.decrypt(request=request)
    for wanted in (State.ENABLED, State.DISABLED):
        change = {
            "crypto_key_version": {"name": version, "state": wanted},
            "update_mask": {"paths": ["state"]},
        }
        kms.update_crypto_key_version(request=change)
        if wanted == State.ENABLED:
            plaintext = bytes(kms.decrypt(request=request).plaintext)
    return plaintext


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_sigkill(tmp_path: Path) -> None:
    """Five kills under load: after each, every acknowledged key, version, state and ciphertext holds."""
    ledger = Ledger()
    with live_server(tmp_path) as live:
        ring = kms_client(live, "rest").create_key_ring(
            request={"parent": LOCATION, "key_ring_id": "ring", "key_ring": {}}
        )
        for round_ in range(ROUNDS):
            before = ledger.acknowledged
            customer = Customer(live, ring.name, ledger, round_)
            customer.start()
            deadline = time.monotonic() + _WAIT_S
            while ledger.acknowledged < before + ACKNOWLEDGED_PER_ROUND + round_:
                assert customer.is_alive(), f"the customer ended early: {customer.failure!r}"
                assert time.monotonic() < deadline, "the server is too slow to be tested"
                time.sleep(0.003)
            live.kill()
            customer.join(timeout=_WAIT_S)
            assert not customer.is_alive()
            assert customer.failure is not None, "the customer never noticed the kill"

            live.start()
            check(kms_client(live, "rest"), ring.name, ledger)
    assert ledger.acknowledged >= ROUNDS * ACKNOWLEDGED_PER_ROUND
