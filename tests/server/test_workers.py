"""`--workers`: one server in several processes, that nobody who calls it can tell from one in one."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.iam.v1 import iam_policy_pb2, policy_pb2

from keystead.audit.verification import verify_store
from keystead.kms import messages as kms
from keystead.kms.rootkey import read_sealed, unseal
from keystead.kms.seals.choice import SealOptions
from keystead.kms.seals.file import FileSeal
from keystead.server.seal_commands import ask_to_close, ask_to_open
from keystead.server.settings import MAX_WORKERS, Settings, SettingsError
from keystead.server.wiring import build
from keystead.store import open_store
from tests.hsm import SoftToken
from tests.live import LiveServer
from tests.server.processes import PARENT, Grpc, Rest, alive, eventually, one_each, only_root_sees, pids

API = "google.cloud.kms.v1.KeyManagementService"
IAM = "google.iam.v1.IAMPolicy"
CRYPTER = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
BOB = "user:bob@example.com"
RING = "/keyRings/ring"
ROUNDS = 200
GONE_S = 1.0
NUMBERS = itertools.count(1)


def serving(root: Path, *options: str) -> LiveServer:
    """A server in three processes, with a ring."""
    live = LiveServer(root, "--workers", "3", *options)
    live.start()
    try:
        assert len(pids(live)) == 3
        Rest(live).ask("POST", f"/cloudkms/v1/{PARENT}/keyRings?keyRingId=ring", {})
    except BaseException:
        live.stop()
        raise
    return live


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server for the tests that leave its processes alone, once on each engine."""
    options: list[str] = []
    if request.param == "postgresql":
        options = ["--store-url", request.getfixturevalue("pg_server").create_store()]
    live = serving(tmp_path_factory.mktemp(request.param), *options)
    yield live
    assert live.stop() == 0


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The server behind `own`."""
    live = serving(tmp_path_factory.mktemp("own"))
    yield live
    live.stop()


@pytest.fixture
def own(mended: LiveServer) -> LiveServer:
    """A server whose processes a test may kill: whole at the beginning."""
    if not mended.running:
        mended.start()
    eventually(lambda: len(pids(mended)) == 3, "three processes")
    return mended


@pytest.fixture
def key(shared: LiveServer) -> str:
    """The path of a new key below PARENT."""
    return make_key(Rest(shared))


def make_key(rest: Rest, key_id: str = "") -> str:
    """Make a key; its path below PARENT."""
    key_id = key_id or f"key-{next(NUMBERS)}"
    rest.kms("POST", f"{RING}/cryptoKeys?cryptoKeyId={key_id}", {"purpose": "ENCRYPT_DECRYPT"})
    return f"{RING}/cryptoKeys/{key_id}"


def set_state(rest: Rest, key: str, state: str) -> None:
    rest.kms("PATCH", f"{key}/cryptoKeyVersions/1?updateMask=state", {"state": state})


# --- the same server through every process -----------------------------------------------------


def test_every_process_answers_every_rpc_alike(shared: LiveServer, tmp_path: Path) -> None:
    """Any RPC that is served or known, sent empty: code, text and details are those of the main process."""
    platform = build(Settings(data_dir=tmp_path / "table", dev=True))
    rpcs = sorted({*platform.registry.methods, *platform.registry.unimplemented()})
    platform.close()

    def outcome(channel: Grpc, rpc: str) -> tuple[Any, ...]:
        try:
            return ("OK", channel.call(rpc, b""))
        except grpc.RpcError as error:
            return (error.code(), error.details(), dict(error.trailing_metadata()))

    channels = one_each(shared, Grpc)
    assert len(rpcs) > 80
    for rpc in rpcs:
        main = outcome(channels[shared.pid], rpc)
        for channel in channels.values():
            assert outcome(channel, rpc) == main, rpc


def test_keys_are_used_and_administered_through_every_process(shared: LiveServer) -> None:
    """Each process makes keys and versions, and all of them encrypt, decrypt and list what any made."""
    doors = one_each(shared, Rest)
    for pid, rest in doors.items():
        key = make_key(rest, f"made-by-{pid}")
        rest.kms("POST", f"{key}/cryptoKeyVersions", {})
        rest.kms("POST", f"{key}:updatePrimaryVersion", {"cryptoKeyVersionId": "2"})
        for other in doors.values():
            assert other.kms("GET", key)["primary"]["name"].endswith("/cryptoKeyVersions/2")
            status, sealed = other.encrypt(key, b"of any process")
            assert status == 200
            assert sealed["name"].endswith("/2")
            for third in doors.values():
                assert third.decrypt(key, sealed["ciphertext"]) == b"of any process"
    listed = {each["name"] for each in rest.kms("GET", f"{RING}/cryptoKeys?pageSize=1000")["cryptoKeys"]}
    assert {f"{PARENT}{RING}/cryptoKeys/made-by-{pid}" for pid in doors} <= listed


def test_grpc_and_rest_of_every_process_are_one_service(shared: LiveServer, key: str) -> None:
    """What one door of one process seals, the other door of each opens; errors carry their details."""
    rests, channels = one_each(shared, Rest), one_each(shared, Grpc)
    name = f"{PARENT}{key}"
    for pid, channel in channels.items():
        request = kms.EncryptRequest(name=name, plaintext=b"both", additional_authenticated_data=b"a")
        sealed = channel.call(f"{API}/Encrypt", request, kms.EncryptResponse)
        for rest in rests.values():
            body = {
                "ciphertext": base64.b64encode(sealed.ciphertext).decode(),
                "additionalAuthenticatedData": base64.b64encode(b"a").decode(),
            }
            assert base64.b64decode(rest.kms("POST", f"{key}:decrypt", body)["plaintext"]) == b"both"
        missing = kms.EncryptRequest(name=f"{name}-{pid}", plaintext=b"x")
        with pytest.raises(grpc.RpcError) as caught:
            channel.call(f"{API}/Encrypt", missing, token=BOB)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "grpc-status-details-bin" in dict(caught.value.trailing_metadata())


def test_a_worker_answers_hot_calls_by_itself(own: LiveServer) -> None:
    """While the main process is stopped, workers encrypt and decrypt, also under a key that they have to read
    first; health, which is the whole server's, is not well."""
    old, new = make_key(Rest(own)), make_key(Rest(own))
    doors = one_each(own, Rest)
    for rest in doors.values():
        assert rest.encrypt(old)[0] == 200
    os.kill(own.pid, signal.SIGSTOP)
    try:
        for pid, rest in doors.items():
            if pid != own.pid:
                for key in (old, new, old):
                    status, sealed = rest.encrypt(key, b"alone")
                    assert status == 200
                    assert rest.decrypt(key, sealed["ciphertext"]) == b"alone"
                assert rest.ask("GET", "/readyz") == (503, {"status": "unavailable"})
    finally:
        os.kill(own.pid, signal.SIGCONT)
    for rest in doors.values():
        assert rest.ask("GET", "/readyz")[0] == 200


def test_keys_in_a_token_are_used_through_every_process(soft_token: SoftToken, tmp_path: Path) -> None:
    """Each process encrypts, decrypts and signs with them; only the main process speaks to the token."""
    live = serving(
        tmp_path / "server",
        *("--hsm-module", str(soft_token.library)),
        *("--hsm-token", soft_token.label),
        *("--hsm-pin-file", str(soft_token.pin_file)),
    )
    try:
        doors = one_each(live, Rest)
        main = doors[live.pid]
        for key_id, purpose, algorithm in (
            ("sealing", "ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION"),
            ("signing", "ASYMMETRIC_SIGN", "EC_SIGN_P256_SHA256"),
        ):
            template = {"protectionLevel": "HSM", "algorithm": algorithm}
            body = {"purpose": purpose, "versionTemplate": template}
            main.kms("POST", f"{RING}/cryptoKeys?cryptoKeyId={key_id}", body)
            version = f"{RING}/cryptoKeys/{key_id}/cryptoKeyVersions/1"
            eventually(lambda: main.kms("GET", version)["state"] == "ENABLED", "the key")  # noqa: B023
        sealing, signing = f"{RING}/cryptoKeys/sealing", f"{RING}/cryptoKeys/signing/cryptoKeyVersions/1"
        digest = {"digest": {"sha256": base64.b64encode(bytes(32)).decode()}}
        for rest in doors.values():
            status, sealed = rest.encrypt(sealing, b"in the token")
            assert status == 200
            assert [each.decrypt(sealing, sealed["ciphertext"]) for each in doors.values()] == [
                b"in the token"
            ] * 3
            assert rest.kms("POST", f"{signing}:asymmetricSign", digest)["protectionLevel"] == "HSM"
            assert "BEGIN PUBLIC KEY" in rest.kms("GET", f"{signing}/publicKey")["pem"]
        with_token = [
            pid for pid in doors if soft_token.library.name in Path(f"/proc/{pid}/maps").read_text()
        ]
        assert with_token == [live.pid]
    finally:
        live.stop()


def test_health_is_that_of_the_server(shared: LiveServer) -> None:
    """Both paths answer alike everywhere."""
    for rest in one_each(shared, Rest).values():
        assert rest.ask("GET", "/healthz") == (200, {"status": "ok"})
        assert rest.ask("GET", "/readyz") == (200, {"status": "ok", "checks": {"store": "ok", "seal": "ok"}})


# --- what is taken away is gone everywhere -----------------------------------------------------


@pytest.mark.slow
def test_a_disabled_version_is_refused_by_the_next_call_everywhere(shared: LiveServer, key: str) -> None:
    """Disabled through one process, the very next Encrypt through each of them is refused; enabled, it works:
    two hundred times, no stale answer."""
    doors = list(one_each(shared, Rest).values())
    for round_ in range(ROUNDS):
        for rest in doors:
            assert rest.encrypt(key)[0] == 200, round_
        set_state(doors[round_ % len(doors)], key, "DISABLED")
        for rest in doors:
            status, answer = rest.encrypt(key)
            assert status == 400, round_
            assert answer["error"]["details"][0]["violations"][0]["type"] == "KEY_DISABLED"
        set_state(doors[(round_ + 1) % len(doors)], key, "ENABLED")


@pytest.mark.slow
def test_a_revoked_binding_is_refused_by_the_next_call_everywhere(shared: LiveServer, key: str) -> None:
    """A grant taken back through one process holds nowhere any more from its answer on, over gRPC."""
    channels = list(one_each(shared, Grpc).values())
    request = kms.EncryptRequest(name=f"{PARENT}{key}", plaintext=b"x")

    def let_use(channel: Grpc, *members: str) -> None:
        policy = policy_pb2.Policy()
        if members:
            policy.bindings.add(role=CRYPTER, members=members)
        wanted = iam_policy_pb2.SetIamPolicyRequest(resource=request.name, policy=policy)
        channel.call(f"{IAM}/SetIamPolicy", wanted)

    for round_ in range(ROUNDS):
        let_use(channels[round_ % len(channels)], BOB)
        for channel in channels:
            channel.call(f"{API}/Encrypt", request, token=BOB)
        let_use(channels[(round_ + 1) % len(channels)])
        for channel in channels:
            with pytest.raises(grpc.RpcError) as caught:
                channel.call(f"{API}/Encrypt", request, token=BOB)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, round_


def test_what_must_be_recorded_is_recorded_once(own: LiveServer) -> None:
    """A denial, and with Data Access logs a use, is one record whoever was asked; the chain holds."""
    doors = one_each(own, Rest)
    key = make_key(doors[own.pid])
    for rest in doors.values():
        assert rest.encrypt(key, token=BOB)[0] == 403
    record_uses(doors[own.pid], "DATA_READ")
    try:
        sealed = [rest.encrypt(key)[1]["ciphertext"] for rest in doors.values()]
        assert {rest.decrypt(key, each) for each in sealed for rest in doors.values()} == {b"plain"}
    finally:
        record_uses(doors[own.pid])
    store = open_store(f"sqlite:///{own.data_dir / 'store.db'}")
    try:
        verify_store(store)
        with store.read() as tx:
            records = [row.body for row in tx.audit.walk(1) if f"{key}".encode() in row.body]
    finally:
        store.close()
    denials = [each for each in records if b"bob@example.com" in each]
    assert len(denials) == 3
    assert sum(b"\x07Encrypt" in each for each in records) == len(denials) + len(sealed)
    assert sum(b"\x07Decrypt" in each for each in records) == len(sealed) * len(doors)


def record_uses(rest: Rest, *kinds: str) -> None:
    """Have these kinds of Data Access of the project recorded, and no others."""
    configs = [{"service": "allServices", "auditLogConfigs": [{"logType": kind} for kind in kinds]}]
    body = {"policy": {"auditConfigs": configs if kinds else []}, "updateMask": "auditConfigs"}
    assert rest.ask("POST", "/cloudresourcemanager/v3/projects/p1:setIamPolicy", body)[0] == 200


# --- processes that end ------------------------------------------------------------------------


@dataclass
class Customer(threading.Thread):
    """Calls without pause, each on a connection of its own, again where there was no answer; `wrong` holds
    the answers that should not be."""

    live: LiveServer
    key: str
    number: int
    done: threading.Event
    answered: int = 0
    again: int = 0
    made: list[str] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        random_ = random.Random(self.number)
        while not self.done.is_set():
            try:
                rest = Rest(self.live)
                for _ in range(random_.randrange(1, 20)):
                    self._one(rest, random_.randbytes(20))
                rest.close()
            except (OSError, http.client.HTTPException):
                self.again += 1
            except AssertionError as error:
                self.wrong.append(error)

    def _one(self, rest: Rest, plaintext: bytes) -> None:
        status, sealed = rest.encrypt(self.key, plaintext)
        if status != 200:
            self.wrong.append(sealed)
        elif rest.decrypt(self.key, sealed["ciphertext"]) != plaintext:
            self.wrong.append("another plaintext")
        if self.answered % 10 == 0:
            self.made.append(make_key(rest))
        self.answered += 1


@contextlib.contextmanager
def customers(live: LiveServer, key: str, count: int = 4) -> Iterator[list[Customer]]:
    """Customers at work until the end of the block."""
    done = threading.Event()
    threads = [Customer(live, key, number, done) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        done.set()
        for thread in threads:
            thread.join(60)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_another_try(own: LiveServer) -> None:
    """Workers die by SIGKILL under load: no answer is wrong, nothing acknowledged is lost, the others serve,
    and new ones take their place."""
    key, log_size = make_key(Rest(own)), len(own.log.read_text())
    with customers(own, key) as at_work:
        for _ in range(3):
            before = pids(own)
            answered = sum(each.answered for each in at_work)
            eventually(lambda: sum(c.answered for c in at_work) > answered + 40, "calls")  # noqa: B023
            os.kill(before[1], signal.SIGKILL)
            answered = sum(each.answered for each in at_work)
            eventually(lambda: sum(c.answered for c in at_work) > answered + 40, "calls meanwhile")  # noqa: B023
            eventually(
                lambda: len(pids(own)) == 3 and before[1] not in pids(own),  # noqa: B023
                "another worker",
            )
    assert [each.wrong for each in at_work] == [[]] * len(at_work)
    doors = one_each(own, Rest)
    assert len(doors) == 3
    for each in at_work:
        for made in each.made:
            assert doors[own.pid].ask("GET", f"/cloudkms/v1/{PARENT}{made}")[0] == 200
    assert own.log.read_text()[log_size:].count("ended: SIGKILL; another is started") == 3


def test_when_the_main_process_is_killed_all_are_gone(own: LiveServer) -> None:
    """Within a second no worker is left, and the data directory is served again with all that was in it."""
    key = make_key(Rest(own))
    _, sealed = Rest(own).encrypt(key, b"before")
    workers = pids(own)[1:]
    own.kill()
    eventually(lambda: not any(alive(pid) for pid in workers), "no worker is left", GONE_S)
    own.start()
    for rest in one_each(own, Rest).values():
        assert rest.decrypt(key, sealed["ciphertext"]) == b"before"


def test_sigterm_ends_all_in_order(own: LiveServer) -> None:
    """The server ends with status 0 while it is used, its workers before it; no answer is wrong."""
    key, log_size = make_key(Rest(own)), len(own.log.read_text())
    workers = pids(own)[1:]
    with customers(own, key) as at_work:
        eventually(lambda: all(each.answered > 5 for each in at_work), "calls")
        assert own.stop() == 0
        assert not any(alive(pid) for pid in workers)
    assert [each.wrong for each in at_work] == [[]] * len(at_work)
    assert "another is started" not in own.log.read_text()[log_size:]


def test_a_worker_that_is_told_to_end_is_replaced(own: LiveServer) -> None:
    """SIGTERM to a worker is no end of the server's."""
    before = pids(own)
    os.kill(before[1], signal.SIGTERM)
    eventually(lambda: len(pids(own)) == 3 and before[1] not in pids(own), "another worker")
    assert len(one_each(own, Rest)) == 3


# --- secrets, seals, ports ---------------------------------------------------------------------


def root_key_of(live: LiveServer) -> bytes:
    """The root key of a server under its file seal."""
    store = open_store(f"sqlite:///{live.data_dir / 'store.db'}")
    try:
        sealed = read_sealed(store)
        assert sealed is not None
        with unseal(sealed, FileSeal(live.data_dir / "seal" / "root.key", create=False)) as key:
            return bytes(key.expose())
    finally:
        store.close()


def copies(secret: bytes, pid: int) -> int:
    """How often a secret is in the memory that a process can write."""
    found = 0
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            where, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(text, 16) for text in where.split("-"))
                with contextlib.suppress(OSError):
                    memory.seek(start)
                    found += memory.read(end - start).count(secret)
    return found


def test_when_the_seal_is_closed_no_process_has_a_key(own: LiveServer) -> None:
    """Closed: the root key is nowhere in their memory, every process refuses what needs a key, in the same
    words, and goes on with all else. Opened: every one works."""
    key = make_key(Rest(own))
    doors = one_each(own, Rest)
    sealed = {pid: rest.encrypt(key)[1]["ciphertext"] for pid, rest in doors.items()}
    root_key = root_key_of(own)
    assert [copies(root_key, pid) > 0 for pid in doors] == [True] * 3
    ask_to_close(own.data_dir)
    assert [copies(root_key, pid) for pid in doors] == [0] * 3
    answers = [rest.encrypt(key) for rest in doors.values()]
    assert answers[0][0] == 503
    assert "Keystead is sealed: it was sealed by its operator." in answers[0][1]["error"]["message"]
    assert answers == [answers[0]] * 3
    for rest in doors.values():
        assert rest.kms("GET", key)["purpose"] == "ENCRYPT_DECRYPT"
        assert rest.ask("GET", "/readyz")[1]["checks"]["seal"] == "failed"
    ask_to_open(own.data_dir, SealOptions(), {})
    for pid, rest in doors.items():
        assert rest.encrypt(key)[0] == 200
        assert rest.decrypt(key, sealed[pid]) == b"plain"


def test_a_worker_that_is_started_while_sealed_gets_the_key_later(own: LiveServer) -> None:
    """It leaves to the main process what needs a key, and answers once it was given the root key."""
    key = make_key(Rest(own))
    before = pids(own)
    ask_to_close(own.data_dir)
    os.kill(before[1], signal.SIGKILL)
    eventually(lambda: len(pids(own)) == 3 and before[1] not in pids(own), "another worker")
    doors = eventually(lambda: len(found := one_each(own, Rest)) == 3 and found, "a door to each")
    assert [rest.encrypt(key)[0] for rest in doors.values()] == [503] * 3
    ask_to_open(own.data_dir, SealOptions(), {})
    assert [rest.encrypt(key)[0] for rest in doors.values()] == [200] * 3


def test_a_worker_is_told_its_secrets_by_nobody_else(shared: LiveServer) -> None:
    """Arguments hold no setting, no core is dumped, no privilege gained, and of the main process's files a
    worker has the store's, its sockets' and the epoch's, not the lock's."""
    only_root_sees()
    for pid in pids(shared)[1:]:
        process = psutil.Process(pid)
        main, *numbers = process.cmdline()[3:]
        assert main == "keystead.server.worker_main"
        assert all(number.isdigit() for number in numbers)
        status = Path(f"/proc/{pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert not [each.path for each in process.open_files() if each.path.endswith("lock")]


@pytest.mark.parametrize("workers", [-1, 0, MAX_WORKERS + 1])
def test_the_number_of_workers_is_checked(tmp_path: Path, workers: int) -> None:
    """None at all, or more than anybody has cores, is refused, and the text says what to give."""
    with pytest.raises(SettingsError, match=rf"--workers {workers} is out of range. Give 1 to"):
        Settings(data_dir=tmp_path, workers=workers)


def test_one_process_is_the_default(tmp_path: Path) -> None:
    """Without the option nothing is started and no port is shared."""
    live = LiveServer(tmp_path)
    live.start()
    try:
        assert pids(live) == [live.pid]
        assert Rest(live).ask("GET", "/readyz")[1]["status"] == "ok"
    finally:
        live.stop()
