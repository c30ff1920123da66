"""What a customer of the key service was told, and holding a server to it.

A change is written down twice: before it is sent, as what may come to be, and again when it was acknowledged.
So of every key it is known which state it must be found in, or, after a call that was never answered, which
two: as it was before the call, or as it is after the whole of it. Nothing between them will do.

Owns no traffic of a customer's own: `test_restarts` has that.
"""

from __future__ import annotations

import base64
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.cloud.audit.audit_log_pb2 import AuditLog

from keystead.audit.messages import LogEntry
from keystead.kms import messages as kms
from keystead.store import open_store
from tests.live import OWNER, LiveServer
from tests.server.processes import PARENT, Grpc, Rest, one_each

API = "google.cloud.kms.v1.KeyManagementService"
BOB = "user:bob@example.com"
CRYPTER = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
ENABLED, DISABLED, DESTROYING = "ENABLED", "DISABLED", "DESTROY_SCHEDULED"
#: The calls that change a key, as the audit trail names them.
CHANGES = frozenset(
    {
        "CreateCryptoKey", "CreateCryptoKeyVersion", "UpdateCryptoKeyVersion", "DestroyCryptoKeyVersion",
        "RestoreCryptoKeyVersion", "UpdateCryptoKeyPrimaryVersion", "SetIamPolicy",
    }
)  # fmt: skip
_MADE_S = 60.0


@dataclass(frozen=True)
class Key:
    """All that matters of a key. versions: the state of each, from the first on. primary: its number; 0 for
    keys that sign. members: who holds CRYPTER on it."""

    signs: bool = False
    versions: tuple[str, ...] = (ENABLED,)
    primary: int = 1
    members: frozenset[str] = frozenset()

    @property
    def encrypts(self) -> bool:
        """Whether its primary version can be used."""
        return not self.signs and self.versions[self.primary - 1] == ENABLED


@dataclass(frozen=True)
class Change:
    """A call that changes a key: its RPC, the key's name, and what the key is once it was done."""

    rpc: str
    key: str
    after: Key


@dataclass(frozen=True)
class Sealed:
    """A ciphertext that was acknowledged."""

    key: str
    version: int
    plaintext: bytes
    ciphertext: bytes


@dataclass
class Ledger:
    """One customer's keys, all in a ring of his own.

    unsure: changes that were sent and not answered, by key; such a key is left alone until `settle`.
    changed: how often each RPC changed each key. touched: the keys that were changed since the last check.
    unanswered: how many unsure changes were found `done`, and how many `not done`.
    """

    ring: str
    keys: dict[str, Key] = field(default_factory=dict)
    unsure: dict[str, Change] = field(default_factory=dict)
    ciphertexts: list[Sealed] = field(default_factory=list)
    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    touched: set[str] = field(default_factory=set)
    unanswered: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0

    def sent(self, change: Change) -> None:
        """Written down before the call."""
        self.unsure[change.key] = change

    def answered(self, change: Change) -> None:
        """Written down once it was acknowledged."""
        self._happened(self.unsure.pop(change.key))
        self.acknowledged += 1

    def keep(self, sealed: Sealed) -> None:
        """A ciphertext came back."""
        self.ciphertexts.append(sealed)
        self.acknowledged += 1

    def settle(self, found: dict[str, Key]) -> None:
        """Hold what a server has in the ring against this; what was unsure is taken as it was found."""
        for name in {*self.keys, *self.unsure, *found}:
            was, is_now = self.keys.get(name), found.get(name)
            change = self.unsure.pop(name, None)
            if is_now == was:
                self.unanswered["not done"] += change is not None
                continue
            assert change is not None, f"{name} is {is_now}, but was acknowledged as {was}"
            assert is_now == change.after, f"{name} is {is_now} after an unanswered {change} of {was}"
            self.unanswered["done"] += 1
            self._happened(change)

    def _happened(self, change: Change) -> None:
        self.keys[change.key] = change.after
        self.changed[change.rpc, change.key] += 1
        self.touched.add(change.key)


def check(live: LiveServer, ledgers: list[Ledger]) -> None:
    """All of every ledger is there, seen through every process and both doors of the server."""
    rests, channels = one_each(live, Rest), one_each(live, Grpc)
    doors = itertools.cycle([Door(each) for each in (*rests.values(), *channels.values())])
    administrators = itertools.cycle(rests.values())
    for ledger in ledgers:
        ledger.settle(dict(keys_in(administrators, ledger.ring)))
        for sealed in ledger.ciphertexts:
            next(doors).open(sealed, ledger.keys[sealed.key].versions[sealed.version - 1])
        for name in sorted(ledger.touched):
            for rest in rests.values():
                try_out(rest, name, ledger.keys[name])
        ledger.touched.clear()
    for each in (*rests.values(), *channels.values()):
        each.close()


def keys_in(administrators: Iterator[Rest], ring: str) -> Iterator[tuple[str, Key]]:
    """Every key of a ring as the server has it, and its name."""
    for message in listed(next(administrators), f"{ring}/cryptoKeys", "cryptoKeys"):
        rest, name = next(administrators), message["name"]
        versions = versions_of(rest, name)
        policy = asked(rest, "GET", f"{name}:getIamPolicy")
        assert [each["name"] for each in versions] == [
            f"{name}/cryptoKeyVersions/{number}" for number in range(1, len(versions) + 1)
        ]
        members = {member for binding in policy.get("bindings", ()) for member in binding["members"]}
        signs = message["purpose"] == "ASYMMETRIC_SIGN"
        primary = 0 if signs else int(message["primary"]["name"].rpartition("/")[2])
        yield name, Key(signs, tuple(each["state"] for each in versions), primary, frozenset(members))


def versions_of(rest: Rest, key: str) -> list[Any]:
    """The versions of a key, once none of them is still being made: a restart takes that up by itself."""
    deadline = time.monotonic() + _MADE_S
    while True:
        versions = list(listed(rest, f"{key}/cryptoKeyVersions", "cryptoKeyVersions"))
        if all(each["state"] != "PENDING_GENERATION" for each in versions):
            return versions
        assert time.monotonic() < deadline, f"a version of {key} is never made"
        time.sleep(0.05)


def listed(rest: Rest, path: str, field_: str) -> Iterator[Any]:
    """Everything below a parent, page by page."""
    token = ""
    while True:
        page = asked(rest, "GET", f"{path}?pageSize=1000&pageToken={token}")
        yield from page.get(field_, ())
        token = page.get("nextPageToken", "")
        if not token:
            return


def asked(rest: Rest, verb: str, path: str, body: Any = None) -> Any:
    """The answer of Cloud KMS to the owner, which must be a success."""
    status, answer = rest.ask(verb, f"/cloudkms/v1/{path}", body)
    assert status == 200, answer
    return answer


class Door:
    """Decrypt through one connection of either kind."""

    def __init__(self, connection: Rest | Grpc) -> None:
        self._decrypt: Callable[[Sealed], bytes | str] = (
            _by_rest(connection) if isinstance(connection, Rest) else _by_grpc(connection)
        )

    def open(self, sealed: Sealed, state: str) -> None:
        """It opens, or is refused in the words for the state of its version."""
        found = self._decrypt(sealed)
        if state == ENABLED:
            assert found == sealed.plaintext, sealed.key
        else:
            assert isinstance(found, str), f"{sealed.key} opened version {sealed.version}, which is {state}"
            assert f"is not enabled, current state is: {state}" in found


def _by_rest(rest: Rest) -> Callable[[Sealed], bytes | str]:
    def decrypt(sealed: Sealed) -> bytes | str:
        body = {"ciphertext": base64.b64encode(sealed.ciphertext).decode()}
        status, answer = rest.ask("POST", f"/cloudkms/v1/{sealed.key}:decrypt", body)
        if status == 200:
            return base64.b64decode(answer["plaintext"])
        assert answer["error"]["status"] == "FAILED_PRECONDITION", answer
        return str(answer["error"]["message"])

    return decrypt


def _by_grpc(channel: Grpc) -> Callable[[Sealed], bytes | str]:
    def decrypt(sealed: Sealed) -> bytes | str:
        request = kms.DecryptRequest(name=sealed.key, ciphertext=sealed.ciphertext)
        try:
            return bytes(channel.call(f"{API}/Decrypt", request, kms.DecryptResponse).plaintext)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
            return str(error.details())

    return decrypt


def try_out(rest: Rest, name: str, key: Key) -> None:
    """Each version does what its state says it does, for whom the policy says."""
    path = name.removeprefix(PARENT)
    if key.signs:
        for number, state in enumerate(key.versions, 1):
            _try_signing(rest, f"{name}/cryptoKeyVersions/{number}", state)
        return
    for token, allowed in ((OWNER, True), (BOB, BOB in key.members)):
        status, answer = rest.encrypt(path, b"anew", token)
        wanted = 403 if not allowed else 200 if key.encrypts else 400
        assert status == wanted, (name, key, token, answer)
        if status == 200:
            assert answer["name"] == f"{name}/cryptoKeyVersions/{key.primary}"
            assert rest.decrypt(path, answer["ciphertext"]) == b"anew"


def _try_signing(rest: Rest, version: str, state: str) -> None:
    body = {"data": base64.b64encode(b"signed").decode()}
    status, answer = rest.ask("POST", f"/cloudkms/v1/{version}:asymmetricSign", body)
    assert status == (200 if state == ENABLED else 400), (version, state, answer)
    if status == 200:
        public = load_pem_public_key(asked(rest, "GET", f"{version}/publicKey")["pem"].encode())
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(base64.b64decode(answer["signature"]), b"signed", ec.ECDSA(hashes.SHA256()))


def recorded_changes(store_url: str, ledgers: list[Ledger]) -> Counter[tuple[str, str]]:
    """How often the audit trail says that each RPC changed each key in the rings of these ledgers."""
    rings = tuple(f"{ledger.ring}/cryptoKeys/" for ledger in ledgers)
    found: Counter[tuple[str, str]] = Counter()
    store = open_store(store_url, create=False)
    try:
        with store.read() as tx:
            for row in tx.audit.walk():
                log = AuditLog.FromString(LogEntry.FromString(row.body).proto_payload.value)
                if log.method_name in CHANGES and not log.status.code and log.resource_name.startswith(rings):
                    key = log.resource_name.partition("/cryptoKeyVersions/")[0]
                    found[log.method_name, key] += 1
    finally:
        store.close()
    return found
