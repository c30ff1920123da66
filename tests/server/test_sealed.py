"""The seal of a server: opened at the start, retried, opened and closed by an operator, changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud.audit import audit_log_pb2
from google.protobuf import empty_pb2

from keystead.api.call import Call
from keystead.api.clock import SystemClock
from keystead.api.errors import Unavailable
from keystead.api.operations import Task, Work
from keystead.audit.messages import LogEntry
from keystead.audit.operators import OperatorTrail
from keystead.audit.verification import verify_store
from keystead.cmek.lease import Lease
from keystead.crypto.secret import SecretBytes
from keystead.financialservices.service import AML
from keystead.iam.hierarchy import ensure_organization
from keystead.kms.rootkey import ROOT_KEY, RootKey, read_sealed, unseal
from keystead.kms.seals import SealError, SealOptionsError, WrongSecretError
from keystead.kms.seals.choice import SealOptions
from keystead.kms.seals.kms import KmsSeal
from keystead.kms.seals.passphrase import LEAST, PassphraseSeal
from keystead.kms.seals.record import SealedRootKey
from keystead.server import sealing as sealing_module
from keystead.server.sealing import Sealing
from keystead.server.settings import Settings
from keystead.server.wiring import build
from keystead.store.engine import open_store
from tests.hsm import PIN, SoftToken
from tests.server.change_process import PASSPHRASE

FIRST = "projects/p1/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"


class Server:
    """What a server has of its seal, over a store of its own: started anew by `start`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(exist_ok=True)
        self.clock = SystemClock()
        self.store = open_store(f"sqlite:///{data_dir / 'store.db'}")
        self.trail = OperatorTrail(self.clock, lambda tx: ensure_organization(tx, self.clock))
        self.root_key = RootKey()
        self.sealing = self.start()

    def start(self, **options: Any) -> Sealing:
        """A server that starts with these options of a seal; the one before is gone."""
        self.root_key.close()
        self.root_key = RootKey()
        self.sealing = Sealing(
            self.store, self.root_key, self.data_dir, SealOptions(**options), self.trail, pause_s=0
        )
        return self.sealing

    def open(self, secret: bytes = PASSPHRASE, **options: Any) -> None:
        self.sealing.open("tester", SealOptions(**options), SecretBytes(secret))

    def change(self, current: bytes | None = None, secret: bytes | None = None, **options: Any) -> Any:
        return self.sealing.change(
            "tester",
            SealOptions(**options),
            None if secret is None else SecretBytes(secret),
            None if current is None else SecretBytes(current),
        )

    def why(self) -> str:
        """What callers read."""
        with pytest.raises(Unavailable) as refused:
            self.root_key.require_open()
        return refused.value.message

    def acts(self) -> list[str]:
        """What the audit log says was done, in order; an act that failed has an exclamation mark."""
        with self.store.read() as tx:
            entries = [LogEntry.FromString(row.body) for row in tx.audit.walk(1)]
        found = []
        for entry in entries:
            log = audit_log_pb2.AuditLog()
            entry.proto_payload.Unpack(log)
            assert log.authentication_info.principal_subject == "os-user:tester"
            found.append(log.method_name + ("!" if log.status.code else ""))
        return found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """New passphrases cost the least that is accepted."""
    monkeypatch.setattr(PassphraseSeal.__init__, "__kwdefaults__", {"salt": b"", "costs": LEAST})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "data")
    yield made
    made.sealing.stop()
    made.store.close()


def test_a_first_start_makes_and_opens_a_file_seal(server: Server) -> None:
    """Nothing said: a root key, sealed by seal/root.key, open; and every later start opens it alike."""
    server.sealing.start()
    first = server.root_key.use(bytes)
    state = server.sealing.state()
    assert (state.is_open, state.kind, state.seal, state.why) == (True, "file", "file seal/root.key", "")
    server.start().start()
    assert server.root_key.use(bytes) == first
    assert server.acts() == []


def test_a_passphrase_waits_for_somebody(server: Server) -> None:
    """The first start makes nothing; the first passphrase becomes that of the seal, if it is long enough; a
    later start waits for it again."""
    server.start(kind="passphrase").start()
    state = server.sealing.state()
    assert (state.is_open, state.kind, state.needs, state.new) == (False, "passphrase", "passphrase", True)
    assert server.why() == (
        "Keystead is sealed: it waits for its passphrase. "
        f"Open it with: keystead seal open --data-dir {server.data_dir}"
    )
    with pytest.raises(SealError, match="at least 12 are needed"):
        server.open(b"short")
    assert read_sealed(server.store) is None
    server.open()
    assert server.root_key.is_open
    server.start().start()
    server.sealing.retry()
    assert not server.root_key.is_open
    state = server.sealing.state()
    assert (state.needs, state.new, state.why) == ("passphrase", False, "It waits for its passphrase.")
    server.open()
    assert server.root_key.is_open
    assert server.acts() == ["keystead.Seal.Open"] * 2


def test_a_wrong_passphrase_pauses_alone_and_is_recorded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a wrong one is paid for nobody else gets a turn; the audit log has it."""
    server.start(kind="passphrase").start()
    server.open()
    server.start().start()
    pauses: list[tuple[float, bool]] = []

    def pause(seconds: float) -> None:
        free = server.sealing._turn.acquire(blocking=False)
        pauses.append((seconds, free))

    server.sealing._pause_s = 1.0
    monkeypatch.setattr(sealing_module.time, "sleep", pause)
    with pytest.raises(WrongSecretError, match="The passphrase is wrong"):
        server.open(b"incorrect horse battery staple")
    assert pauses == [(1.0, False)]
    assert not server.root_key.is_open
    server.open()
    assert server.acts() == ["keystead.Seal.Open", "keystead.Seal.Open!", "keystead.Seal.Open"]


def test_a_passphrase_file_opens_at_the_start(server: Server, tmp_path: Path) -> None:
    """The file is read at each start; a wrong one is not tried again until it changes, a missing one is
    waited for."""
    file = tmp_path / "passphrase"
    server.start(kind="passphrase", passphrase_file=file).start()
    assert not server.root_key.is_open
    assert "cannot be read" in server.sealing.state().why
    write(file, PASSPHRASE)
    server.sealing.retry()
    assert server.root_key.is_open

    write(file, b"incorrect horse battery staple")
    server.start(passphrase_file=file).start()
    assert server.sealing.state().why == "The passphrase is wrong: it does not open this store."
    server.sealing.retry()
    write(file, PASSPHRASE)
    server.sealing.retry()
    assert server.root_key.is_open


def test_a_passphrase_comes_through_a_pipe(server: Server) -> None:
    """A pipe is read once, also at the very first start, where the seal is made and opened by it."""
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE + b"\n")
    os.close(writing)
    server.start(kind="passphrase", passphrase_file=Path(f"/dev/fd/{reading}")).start()
    assert server.root_key.is_open
    server.sealing.close("tester")
    server.open()
    assert server.root_key.is_open
    os.close(reading)


def test_a_wrong_pin_is_not_tried_again_by_itself(
    server: Server, soft_token: SoftToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens lock after a few wrong PINs: one try for each content of the PIN file."""
    options: dict[str, Any] = {
        "kind": "pkcs11",
        "pkcs11_module": soft_token.library,
        "pkcs11_token": soft_token.label,
        "pin_file": soft_token.pin_file,
    }
    server.start(**options).start()
    assert server.root_key.is_open
    tries = []

    def counted(sealed: SealedRootKey, seal: Any) -> SecretBytes:
        tries.append(sealed.kind)
        return unseal(sealed, seal)

    monkeypatch.setattr(sealing_module, "unseal", counted)
    soft_token.write_pin("not-the-pin")
    server.start().start()
    for _ in range(20):
        server.sealing.retry()
    assert tries == ["pkcs11"]
    assert "refused the PIN" in server.sealing.state().why
    soft_token.write_pin(PIN)
    server.sealing.retry()
    assert server.root_key.is_open


def test_what_fails_is_tried_again_and_logged_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A lost seal file: sealed, with the whole reason for the operator and none of it for callers; back, it
    opens by itself."""
    server.sealing.start()
    file = server.data_dir / "seal" / "root.key"
    file.rename(server.data_dir / "away")
    server.start().start()
    for _ in range(3):
        server.sealing.retry()
    assert f"The seal file {file} cannot be read" in server.sealing.state().why
    assert server.why().startswith("Keystead is sealed: its seal does not open just now. Open it with: ")
    assert len([record for record in caplog.records if "Keystead is sealed" in record.message]) == 1
    (server.data_dir / "away").rename(file)
    server.sealing.retry()
    assert server.root_key.is_open


@pytest.mark.parametrize("options", [{"kind": "kms"}, {"kind": "pkcs11"}, {"kind": "kms", "kms_key": "k"}])
def test_options_that_name_no_seal_are_refused_at_the_start(server: Server, options: dict[str, Any]) -> None:
    """Waiting would not help: a person must say something else."""
    with pytest.raises(SealOptionsError):
        server.start(**options).start()
    assert read_sealed(server.store) is None


def test_another_seal_than_the_stores_is_refused_at_the_start(server: Server) -> None:
    """What the command line says and the store does not bear out must be changed by a person."""
    server.sealing.start()
    for options in ({"kind": "passphrase"}, {"kms_key": "k"}, {"passphrase_file": Path("/x")}):
        with pytest.raises(SealOptionsError):
            server.start(**options).start()


# --- closing -----------------------------------------------------------------------------------------


def test_closing_tells_after_wiping_and_stays(server: Server) -> None:
    """Listeners hear of it once the root key is gone; nothing opens it again but an operator or a restart."""
    server.sealing.start()
    heard = []
    server.sealing.subscribe(
        opened=lambda: heard.append(("opened", server.root_key.is_open)),
        closed=lambda: heard.append(("closed", server.root_key.is_open)),
    )
    server.sealing.close("tester")
    server.sealing.retry()
    assert heard == [("closed", False)]
    assert server.why().startswith("Keystead is sealed: it was sealed by its operator. Open it with: ")
    assert server.sealing.state().why == "It was sealed by its operator."
    server.sealing.open("tester", SealOptions(), None)
    assert heard == [("closed", False), ("opened", True)]
    server.sealing.close("tester")
    server.start().start()
    assert server.root_key.is_open
    assert server.acts() == ["keystead.Seal.Close", "keystead.Seal.Open", "keystead.Seal.Close"]


def test_one_failing_listener_does_not_keep_the_others_from_being_told(server: Server) -> None:
    """Every listener hears of a closing."""
    server.sealing.start()
    heard: list[str] = []

    def fail() -> None:
        raise RuntimeError("not here")

    server.sealing.subscribe(closed=fail)
    server.sealing.subscribe(closed=lambda: heard.append("closed"))
    server.sealing.close("tester")
    assert heard == ["closed"]


def test_closing_overtakes_an_opening(server: Server) -> None:
    """An attempt that is under way when the operator closes does not open it afterwards."""
    server.sealing.start()
    key = (server.data_dir / "seal" / "root.key").read_bytes()
    pipe = server.data_dir / "pipe"
    os.mkfifo(pipe)
    server.start(seal_file=pipe)
    attempt = threading.Thread(target=server.sealing.start)
    attempt.start()
    with pipe.open("wb") as writing:  # waits until the attempt reads
        server.sealing.close("tester")
        writing.write(key)
    attempt.join()
    assert not server.root_key.is_open
    assert server.sealing.state().why == "It was sealed by its operator."


def test_an_attempt_in_the_loop_does_not_close_what_an_operator_opened(server: Server) -> None:
    """Opening, closing and the loop at once, many times: it ends as the last operator left it."""
    server.start(kind="passphrase").start()
    server.open()
    server.start().start()
    done = threading.Event()

    def loop() -> None:
        while not done.is_set():
            server.sealing.retry()

    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        server.open()
        assert server.root_key.is_open
        server.sealing.close("tester")
        assert not server.root_key.is_open
    server.open()
    done.set()
    for thread in threads:
        thread.join()
    assert server.root_key.is_open


def test_what_waits_for_the_first_opening_is_done_once(server: Server) -> None:
    """`when_open` acts at once if it is open, else after the first opening and never again."""
    done: list[str] = []
    server.start(kind="passphrase").start()
    server.sealing.when_open(lambda: done.append("later"))
    assert done == []
    server.open()
    server.sealing.close("tester")
    server.open()
    assert done == ["later"]
    server.sealing.when_open(lambda: done.append("now"))
    assert done == ["later", "now"]


def test_a_closed_platform_holds_no_opened_key(tmp_path: Path) -> None:
    """In a whole server: when `close` returns the epoch has moved, and every lease of a data service is
    wiped."""
    platform = build(Settings(data_dir=tmp_path / "data", dev=True))
    try:
        platform.start()
        kek = SecretBytes.random()
        lease = Lease(kek, SecretBytes.random, max_age_s=3600)
        platform.aml.keychain._leases["projects/p1/locations/l/instances/i"] = lease
        epoch = platform.store.epoch
        platform.sealing.close("tester")
        assert platform.store.epoch > epoch
        assert (kek.wiped, lease.alive) == (True, False)
        assert not platform.root_key.is_open
    finally:
        platform.close()


class Noting(Work):
    """An operation that notes that it ran."""

    kind = "Noting"

    def __init__(self) -> None:
        self.ran = threading.Event()

    def run(self, task: Task) -> None:
        with task.transaction() as tx:
            task.succeed(tx)
        self.ran.set()

    def failed(self, tx: Any, row: Any) -> None:
        """Nothing to take back."""

    def response(self, row: Any) -> None:
        """It has none."""


def test_operations_left_over_wait_for_the_first_opening(tmp_path: Path) -> None:
    """What a crash left unfinished would fail for want of a key while the server is sealed: it is resumed by
    the first opening, and runs once."""
    where = Settings(data_dir=tmp_path / "data", dev=True)
    first = build(where)
    first.operations.stopping.set()  # as in a crash: the row is there, nobody works on it
    first.operations.register(Noting())
    with first.store.write() as tx:
        first.operations.start(
            tx, AML, "Noting", parent="projects/p1/locations/l", target="", metadata=empty_pb2.Empty(),
            call=Call(principal="user:owner@example.com"),
        )  # fmt: skip
    file = where.data_dir / "seal" / "root.key"
    file.rename(tmp_path / "away")
    first.close()

    second = build(where)
    try:
        work = Noting()
        second.operations.register(work)
        second.start()
        assert not work.ran.wait(0.3)
        assert len(second.operations.unfinished()) == 1
        (tmp_path / "away").rename(file)
        second.sealing.open("tester", SealOptions(), None)
        assert work.ran.wait(10)
        second.sealing.close("tester")
        second.sealing.open("tester", SealOptions(), None)
        assert second.operations.unfinished() == []
    finally:
        second.close()


# --- a store that somebody else wrote ----------------------------------------------------------------


def test_an_endpoint_from_the_store_is_not_called_unasked(server: Server) -> None:
    """Whoever can write the store cannot have the server send its token to an address of theirs: a seal that
    this data directory never used waits for an operator, and is known only after it opened."""
    server.sealing.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}/cloudkms"
        seal = KmsSeal("projects/p/locations/l/keyRings/r/cryptoKeys/k", endpoint, token(server))
        planted = SealedRootKey("kms", seal.parameters, b"wrapped")
        with server.store.write() as tx:
            tx.meta.put(ROOT_KEY, planted.encode())
        server.start().start()
        server.sealing.retry()
        with pytest.raises(TimeoutError):
            listener.accept()
        assert "has not used before: key projects/p/" in server.sealing.state().why
        assert endpoint in server.sealing.state().why
        attempt = threading.Thread(target=open_in_vain, args=(server,))
        attempt.start()
        connection, _ = listener.accept()
        connection.close()
        attempt.join()
        server.sealing.retry()
        with pytest.raises(TimeoutError):
            listener.accept()


def open_in_vain(server: Server) -> None:
    with pytest.raises(SealError):
        server.open()


def token(server: Server) -> Path:
    return write(server.data_dir / "token", b"user:owner@example.com")


def write(path: Path, content: bytes) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


# --- changing ----------------------------------------------------------------------------------------


def test_a_change_wraps_the_same_root_key(server: Server, soft_token: SoftToken) -> None:
    """From each kind to the next: the root key stays, the server stays open, the next start needs the new
    seal only, and the old one's wrapping is gone from the store's files."""
    server.sealing.start()
    root_key = server.root_key.use(bytes)
    old_file = server.data_dir / "seal" / "root.key"
    before = stored(server)
    made = server.change(kind="passphrase", secret=PASSPHRASE)
    assert (made.before, made.left) == ("file seal/root.key", str(old_file))
    assert made.after == "passphrase (Argon2id, 3 passes over 64 MiB)"
    assert server.root_key.use(bytes) == root_key
    assert_gone(server, before.wrapped)
    old_file.unlink()

    made = server.change(
        current=PASSPHRASE,
        kind="pkcs11",
        pkcs11_module=soft_token.library,
        pkcs11_token=soft_token.label,
        pin_file=soft_token.pin_file,
    )
    assert (made.left, stored(server).kind) == ("", "pkcs11")
    server.start().start()
    assert server.root_key.use(bytes) == root_key

    server.change(kind="file")
    server.start().start()
    assert server.root_key.use(bytes) == root_key
    assert server.acts() == ["keystead.Seal.Change"] * 3
    verify_store(server.store)


def stored(server: Server) -> SealedRootKey:
    sealed = read_sealed(server.store)
    assert sealed is not None
    return sealed


def assert_gone(server: Server, wrapped: bytes) -> None:
    for path in server.data_dir.glob("store.db*"):
        assert wrapped not in path.read_bytes(), path


def test_a_change_needs_the_present_secret(server: Server) -> None:
    """Open or not: who cannot open the seal as it is cannot change it; the attempt is recorded."""
    server.start(kind="passphrase").start()
    server.open()
    before = stored(server)
    with pytest.raises(WrongSecretError):
        server.change(kind="file", current=b"incorrect horse battery staple")
    with pytest.raises(SealError, match="waits for its passphrase"):
        server.change(kind="file")
    assert stored(server) == before
    assert server.acts() == ["keystead.Seal.Open", "keystead.Seal.Open!"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "file"}, "is there already"),
        ({"kind": "passphrase"}, "waits for its passphrase"),
        ({"kind": "passphrase", "secret": b"short"}, "at least 12"),
        ({"kind": "pkcs11"}, "needs --pkcs11-module"),
        ({"kind": "kms", "kms_key": FIRST.rpartition("/cryptoKeyVersions")[0], "kms_endpoint": "http://localhost:1"},
         "cannot be reached"),
    ],
)  # fmt: skip
def test_a_change_that_fails_changes_nothing(server: Server, options: dict[str, Any], says: str) -> None:
    """The seal stays what it was, open, and nothing is recorded as changed."""
    server.sealing.start()
    before = stored(server)
    if options["kind"] == "kms":
        options = {**options, "kms_token_file": token(server)}
    with pytest.raises(SealError, match=says):
        server.change(**options)
    assert stored(server) == before
    assert server.root_key.is_open
    assert server.acts() == []


def test_there_is_nothing_to_change_before_the_first_start(server: Server) -> None:
    """Without a root key the change says where its seal is chosen."""
    with pytest.raises(SealError, match="keystead serve --seal"):
        server.change(kind="passphrase", secret=PASSPHRASE)


@pytest.mark.parametrize(
    ("moment", "kind"), [("sealed", "file"), ("recorded", "file"), ("committed", "passphrase")]
)
def test_a_kill_during_a_change_leaves_one_seal(server: Server, moment: str, kind: str) -> None:
    """kill -9 before the commit: the old seal opens; after it: the new one. The record is there with it."""
    server.sealing.start()
    root_key = server.root_key.use(bytes)
    change_and_die(server, moment)
    server.start().start()
    assert stored(server).kind == kind
    if kind == "passphrase":
        server.open()
    assert server.root_key.use(bytes) == root_key
    with server.store.read() as tx:
        changes = [row for row in tx.audit.walk(1) if b"Seal.Change" in row.body]
    assert len(changes) == (kind == "passphrase")


def test_a_kill_after_a_change_to_a_token_waits_for_nobody(server: Server, soft_token: SoftToken) -> None:
    """The new seal is known to the data directory before it is committed: the next start opens by itself."""
    server.sealing.start()
    root_key = server.root_key.use(bytes)
    change_and_die(server, "committed", str(soft_token.library), soft_token.label, str(soft_token.pin_file))
    server.start().start()
    assert stored(server).kind == "pkcs11"
    assert server.root_key.use(bytes) == root_key


def change_and_die(server: Server, *arguments: str) -> None:
    command = [sys.executable, "-m", "tests.server.change_process", str(server.data_dir), *arguments]
    killed = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -9, killed.stderr
