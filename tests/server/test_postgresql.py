"""The whole server on PostgreSQL: wired as `keystead serve` wires it, its rows in a real database.

What each room promises on either engine its own tests say; here all of them work on one PostgreSQL together:
keys, grants, protected data, the audit log, and the database handed from one server to the next.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from psycopg import sql
from sqlalchemy import make_url

from keystead.api.call import Call
from keystead.api.clock import Clock, ManualClock
from keystead.api.errors import ApiError, FailedPrecondition, PermissionDenied, Unavailable
from keystead.api.operations import error_of
from keystead.audit.verification import verify_store
from keystead.financialservices import messages as aml
from keystead.financialservices.generator import generate
from keystead.iam.official import GenerateServiceIdentityRequest, ServiceIdentity
from keystead.kms import messages as kms
from keystead.server.settings import Settings
from keystead.server.wiring import Platform, build
from tests.live import LiveServer
from tests.stores import PostgresForTests

OWNER = "user:owner@example.com"
BOB = "user:bob@example.com"
PROJECT = "projects/p1"
LOCATION = f"{PROJECT}/locations/europe-west4"
RING = f"{LOCATION}/keyRings/ring"
KEY = f"{RING}/cryptoKeys/key"
INSTANCE = f"{LOCATION}/instances/bank"
DATASET = f"{INSTANCE}/datasets/january"
CRYPTER = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
TABLES = ("party", "account_party_link", "transaction", "risk_case_event")
TRANSACTIONS = 500
THREADS, KEYS_EACH = 4, 5
MARKERS = ("postgresql-canary-5f1e", "postgresql-canary-b07a")


class Server:
    """A running server, listeners aside, and short ways to call it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def call(self, rpc: str, request: Any, principal: str = OWNER) -> Any:
        """A call of the one RPC of this short name, or of its full name."""
        (found,) = (name for name in self.platform.registry.methods if f"/{name}".endswith(f"/{rpc}"))
        return self.platform.dispatcher.call(found, request, Call(principal=principal))

    def key(self, key_id: str = "key") -> str:
        """A key in RING; its name."""
        request = kms.CreateCryptoKeyRequest(
            parent=RING, crypto_key_id=key_id, crypto_key={"purpose": "ENCRYPT_DECRYPT"}
        )
        return str(self.call("CreateCryptoKey", request).name)

    def encrypt(self, key: str, plaintext: bytes, principal: str = OWNER) -> bytes:
        request = kms.EncryptRequest(name=key, plaintext=plaintext)
        return bytes(self.call("Encrypt", request, principal).ciphertext)

    def decrypt(self, key: str, ciphertext: bytes, principal: str = OWNER) -> bytes:
        request = kms.DecryptRequest(name=key, ciphertext=ciphertext)
        return bytes(self.call("Decrypt", request, principal).plaintext)

    def set_state(self, version: int, state: str) -> None:
        """Enable or disable a version of KEY."""
        request = kms.UpdateCryptoKeyVersionRequest(
            crypto_key_version={"name": f"{KEY}/cryptoKeyVersions/{version}", "state": state},
            update_mask={"paths": ["state"]},
        )
        self.call("UpdateCryptoKeyVersion", request)

    def rotate(self) -> str:
        """A new primary version of KEY, which the guard has taken up; its name."""
        made = self.call("CreateCryptoKeyVersion", kms.CreateCryptoKeyVersionRequest(parent=KEY))
        number = made.name.rsplit("/", 1)[1]
        request = kms.UpdateCryptoKeyPrimaryVersionRequest(name=KEY, crypto_key_version_id=number)
        self.call("UpdateCryptoKeyPrimaryVersion", request)
        assert self.platform.guard.settle(30)
        return str(made.name)

    def destroy(self, version: int) -> None:
        """Schedule the destruction of a version of KEY."""
        name = f"{KEY}/cryptoKeyVersions/{version}"
        self.call("DestroyCryptoKeyVersion", kms.DestroyCryptoKeyVersionRequest(name=name))

    def let_use(self, *members: str) -> None:
        """Let exactly these members use KEY."""
        policy = policy_pb2.Policy()
        if members:
            policy.bindings.add(role=CRYPTER, members=members)
        request = iam_policy_pb2.SetIamPolicyRequest(resource=KEY, policy=policy)
        self.call("google.iam.v1.IAMPolicy/SetIamPolicy", request)

    def agent(self) -> str:
        """The service agent of AML AI, made if need be, as an IAM member."""
        parent = f"{PROJECT}/services/financialservices.googleapis.com"
        done = self.call("GenerateServiceIdentity", GenerateServiceIdentityRequest(parent=parent))
        identity = ServiceIdentity()
        assert done.response.Unpack(identity)
        return f"serviceAccount:{identity.email}"

    def end(self, operation: Any) -> None:
        """Wait until an operation has ended; raises its error."""
        self.platform.operations.wait(operation.name, 60)
        ended = self.call(
            "google.longrunning.Operations/GetOperation",
            operations_pb2.GetOperationRequest(name=operation.name),
        )
        assert ended.done
        if (error := error_of(ended)) is not None:
            raise error

    def protect(self) -> None:
        """RING, KEY, INSTANCE and DATASET, of the tables that `inputs` made."""
        self.call("CreateKeyRing", kms.CreateKeyRingRequest(parent=LOCATION, key_ring_id="ring"))
        self.key()
        self.let_use(self.agent())
        instance = aml.CreateInstanceRequest(parent=LOCATION, instance_id="bank", instance={"kms_key": KEY})
        self.end(self.call("CreateInstance", instance))
        dataset = aml.Dataset(
            table_specs={table: f"bq://inputs.bank.{table}" for table in TABLES},
            date_range={"start_time": {"seconds": 1}, "end_time": {"seconds": 4_000_000_000}},
            labels={MARKERS[0]: "label"},
        )
        request = aml.CreateDatasetRequest(parent=INSTANCE, dataset_id="january", dataset=dataset)
        self.end(self.call("CreateDataset", request))

    def rows(self) -> dict[str, int]:
        """How many rows each table of DATASET has, read from its sealed files."""
        summary = self.call("SummarizeDataset", aml.GetDatasetRequest(name=DATASET))
        return {table: int(summary[table]["rows"]) for table in TABLES}


@contextmanager
def serving(url: str, directory: Path, clock: Clock | None = None, name: str = "data") -> Iterator[Server]:
    """A server on the database, over whatever both hold; stopped at the end."""
    tables = directory / "tables"
    tables.mkdir(exist_ok=True)
    platform = build(Settings(directory / name, dev=True, store_url=url, tables_dir=tables), clock)
    try:
        platform.start()
        yield Server(platform)
    finally:
        platform.close()


@pytest.fixture
def inputs(tmp_path: Path) -> None:
    """The customer's tables, with MARKERS in them."""
    generate(tmp_path / "tables" / "inputs" / "bank", seed=3, transactions=TRANSACTIONS, markers=MARKERS)


def refusal(act: Callable[[], Any]) -> ApiError:
    """The error that a call ends with."""
    with pytest.raises(ApiError) as caught:
        act()
    return caught.value


def test_a_key_lives_through_its_states(pg_url: str, tmp_path: Path) -> None:
    """It encrypts and decrypts, is disabled and enabled, rotated, and its destroyed version is gone."""
    clock = ManualClock()
    with serving(pg_url, tmp_path, clock) as server:
        server.call("CreateKeyRing", kms.CreateKeyRingRequest(parent=LOCATION, key_ring_id="ring"))
        assert server.key() == KEY
        first = server.encrypt(KEY, b"one")
        server.set_state(1, "DISABLED")
        for use in (lambda: server.encrypt(KEY, b"x"), lambda: server.decrypt(KEY, first)):
            assert "current state is: DISABLED." in refusal(use).message
        server.set_state(1, "ENABLED")
        server.rotate()
        second = server.encrypt(KEY, b"two")
        assert (server.decrypt(KEY, first), server.decrypt(KEY, second)) == (b"one", b"two")
        server.destroy(1)
        clock.advance(dt.timedelta(days=31))
        server.platform.keys.schedule.run_due(clock.now())
        assert "current state is: DESTROYED." in refusal(lambda: server.decrypt(KEY, first)).message
        assert server.decrypt(KEY, second) == b"two"
        verify_store(server.platform.store)


def test_a_grant_is_obeyed_from_the_moment_it_is_given_and_taken(pg_url: str, tmp_path: Path) -> None:
    """Without a grant a caller is denied, with it served, and denied again in the very next call."""
    with serving(pg_url, tmp_path) as server:
        server.call("CreateKeyRing", kms.CreateKeyRingRequest(parent=LOCATION, key_ring_id="ring"))
        server.key()
        assert isinstance(refusal(lambda: server.encrypt(KEY, b"x", BOB)), PermissionDenied)
        server.let_use(BOB)
        assert server.decrypt(KEY, server.encrypt(KEY, b"x", BOB), BOB) == b"x"
        server.let_use()
        assert isinstance(refusal(lambda: server.encrypt(KEY, b"x", BOB)), PermissionDenied)


@pytest.mark.usefixtures("inputs")
def test_protected_data_is_out_of_reach_without_its_key_and_whole_after_a_restart(
    pg_url: str, tmp_path: Path
) -> None:
    """Disabled or revoked, nothing is read; rotated, the new version wraps the instance's key; another
    server over the same database finds everything, and the audit log without a gap."""
    with serving(pg_url, tmp_path) as server:
        server.protect()
        before = server.rows()
        server.set_state(1, "DISABLED")
        assert "current state is: DISABLED." in refusal(server.rows).message
        server.set_state(1, "ENABLED")
        assert server.rows() == before
        server.let_use()
        assert "lacks permissions to KMS key" in refusal(server.rows).message
        server.let_use(server.agent())
        second = server.rotate()
        (protected,) = server.platform.protected.under(KEY)
        assert protected.key_version == second
        server.destroy(1)
        assert server.rows() == before
        ciphertext = server.encrypt(KEY, b"kept")
        head = verify_store(server.platform.store).head

    with serving(pg_url, tmp_path) as server:
        assert verify_store(server.platform.store, head=head).head == head
        assert server.rows() == before
        assert before["transaction"] == TRANSACTIONS
        assert server.decrypt(KEY, ciphertext) == b"kept"
        assert server.call("GetDataset", aml.GetDatasetRequest(name=DATASET)).labels == {MARKERS[0]: "label"}
        server.end(server.call("DeleteInstance", aml.DeleteInstanceRequest(name=INSTANCE)))
        assert list(server.platform.protected.under(KEY)) == []
        server.destroy(2)
        assert verify_store(server.platform.store, head=head).head_seq == head.seq + 1


@pytest.mark.usefixtures("inputs")
def test_the_database_holds_no_customer_data_in_clear(
    pg_url: str, pg_server: PostgresForTests, tmp_path: Path
) -> None:
    """Markers that went in as data and as labels are in no file of the database server, nor in its log of
    writes; the resource's name, which is metadata, is."""
    with serving(pg_url, tmp_path) as server:
        server.protect()
        server.rows()
    pg_server.execute(sql.SQL("CHECKPOINT"))
    with psycopg.connect(make_url(pg_url).set(drivername="postgresql").render_as_string(False)) as connection:
        (where,) = connection.execute("SHOW data_directory").fetchone() or ("",)
    needles = (DATASET, *MARKERS)
    found = {
        needle
        for path in Path(where).rglob("*")
        if path.is_file()
        for content in [path.read_bytes()]
        for needle in needles
        if needle.encode() in content
    }
    assert found == {DATASET}


def test_one_database_has_one_server(pg_url: str, tmp_path: Path) -> None:
    """A second server on the same database, with a data directory of its own, is refused while the first
    runs; afterwards it is sealed, for without the first one's seal it can open nothing."""
    with serving(pg_url, tmp_path) as server:
        server.call("CreateKeyRing", kms.CreateKeyRingRequest(parent=LOCATION, key_ring_id="ring"))
        server.key()
        ciphertext = server.encrypt(KEY, b"x")
        with pytest.raises(FailedPrecondition, match=r"Another Keystead server .* is using the store"):
            build(Settings(tmp_path / "second", dev=True, store_url=pg_url))
        assert server.decrypt(KEY, ciphertext) == b"x"
    second = build(Settings(tmp_path / "second", dev=True, store_url=pg_url))
    try:
        with pytest.raises(Unavailable, match="Keystead is sealed: its seal does not open just now"):
            Server(second).decrypt(KEY, ciphertext)
    finally:
        second.close()
    assert not (tmp_path / "second" / "seal").exists()
    with serving(pg_url, tmp_path) as server:
        assert server.decrypt(KEY, ciphertext) == b"x"


def test_calls_at_once_leave_one_unbroken_log(pg_url: str, tmp_path: Path) -> None:
    """Threads that make and use keys beside each other all succeed, and every key made is recorded."""
    failures: list[BaseException] = []

    def customer(server: Server, number: int) -> None:
        try:
            for key_number in range(KEYS_EACH):
                key = server.key(f"key-{number}-{key_number}")
                assert server.decrypt(key, server.encrypt(key, b"x")) == b"x"
        except BaseException as error:
            failures.append(error)

    with serving(pg_url, tmp_path) as server:
        server.call("CreateKeyRing", kms.CreateKeyRingRequest(parent=LOCATION, key_ring_id="ring"))
        before = verify_store(server.platform.store).head_seq
        threads = [threading.Thread(target=customer, args=(server, number)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        listed = server.call("ListCryptoKeys", kms.ListCryptoKeysRequest(parent=RING))
        assert listed.total_size == THREADS * KEYS_EACH
        assert verify_store(server.platform.store).head_seq == before + THREADS * KEYS_EACH


def test_a_server_that_loses_its_lock_stops(pg_url: str, tmp_path: Path) -> None:
    """When the database ends a server's session, and with it the lock, the server ends: another may serve the
    store now, and what this one remembers would no longer follow it."""
    live = LiveServer(tmp_path, "--store-url", pg_url)
    live.start()
    try:
        plain = make_url(pg_url).set(drivername="postgresql").render_as_string(False)
        with psycopg.connect(plain, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        assert live.ended() == 0
    finally:
        live.stop()
    assert "the lock on the store was lost" in live.log.read_text()
