"""A child process has what it is given, and never outlives the lease, the work or the server."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2

from keystead.api.errors import Cancelled, FailedPrecondition, Internal, PermissionDenied
from keystead.cmek import child
from keystead.cmek.answers import Answer, KeyUnavailableError
from keystead.cmek.lease import Lease
from keystead.crypto.secret import SecretBytes
from tests.cmek.child_works import CANARY, FRAMES
from tests.cmek.children import ENTRY, ROOT, command, descriptors, eventually, gone

ENDED = "The worker process ended unexpectedly."
REFUSED = KeyUnavailableError("the-key", Answer.DENIED, PermissionDenied("no"))


@pytest.fixture(autouse=True)
def startable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find the modules of tests."""
    monkeypatch.setattr(child, "command", command)


class Key:
    """A customer's key in miniature: gives the KEK until it refuses."""

    def __init__(self) -> None:
        self.kek = SecretBytes.random()
        self.refuses = False
        self.asked = 0

    def ask(self) -> SecretBytes:
        self.asked += 1
        if self.refuses:
            raise REFUSED
        return SecretBytes(self.kek.expose())


@pytest.fixture
def key() -> Iterator[Key]:
    """A key that opens, and is wiped at the end."""
    made = Key()
    yield made
    made.kek.wipe()


def lease_of(key: Key, max_age_s: float = 0.5) -> Lease:
    return Lease(key.ask(), key.ask, max_age_s)


def run(do: str, lease: Lease, check: Callable[[], None] = lambda: None, **options: Any) -> Any:
    job = {"do": do, **options.pop("job", {})}
    return child.run_child(ENTRY, job, lease, check=check, **options)


def test_a_child_is_confined(key: Key) -> None:
    """No core dump, no tracing, no new privileges, no inherited descriptor or variable; killed with its
    parent; and as nobody without groups and capabilities if the server is root."""
    opened = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(opened, True)
    try:
        facts = run("facts", lease_of(key))
    finally:
        os.close(opened)
    assert facts["prepared"] == ["prepared"]
    assert facts["core"] == [0, 0]
    assert facts["dumpable"] == 0
    assert facts["death_signal"] == signal.SIGKILL
    assert facts["umask"] == 0o077
    assert facts["cwd"] == "/"
    assert facts["descriptors"] == [0, 1, 2]
    assert facts["environment"].keys() == {"LC_ALL", "PATH", "OPENBLAS_NUM_THREADS"}
    assert facts["status"]["NoNewPrivs"] == "1"
    if os.geteuid() == 0:
        nobody = "\t".join(["65534"] * 4)
        assert (facts["status"]["Uid"], facts["status"]["Gid"], facts["groups"]) == (nobody, nobody, [])
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(facts["status"][capabilities], 16) == 0
    assert gone(facts["pid"])


def test_the_key_is_in_no_argument_and_no_variable(key: Key) -> None:
    """While a child has the KEK, its command line and environment hold it in no spelling."""
    kek = bytes(key.kek.expose())
    spellings = [kek, kek.hex().encode(), base64.b64encode(kek), base64.urlsafe_b64encode(kek)]
    lease = lease_of(key)

    def look(pid: int) -> None:
        for part in ("cmdline", "environ"):
            try:
                shown = Path(f"/proc/{pid}/{part}").read_bytes()
            except PermissionError:  # not even shown to the user whose process it is
                continue
            assert shown
            assert not any(spelling in shown for spelling in spellings)
        lease.end(REFUSED)

    with pytest.raises(KeyUnavailableError):
        run("hang", lease, progress=look)


def test_a_child_has_the_key_and_the_files_it_is_given(tmp_path: Path, key: Key) -> None:
    """The KEK arrives whole, and files come by number as they were opened; no descriptor is left here."""
    assert run("key", lease_of(key)) == hashlib.sha256(key.kek.expose()).hexdigest()
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    before = descriptors()
    files = [
        lambda: os.open(source, os.O_RDONLY),
        lambda: os.open(target, os.O_WRONLY | os.O_CREAT, 0o600),
    ]
    assert run("copy", lease_of(key), files=files) == 7
    assert target.read_bytes() == b"content"
    assert descriptors() == before
    missing = [lambda: os.open(tmp_path / "missing", os.O_RDONLY)]
    assert run("open_missing", lease_of(key), files=missing) == errno.ENOENT


def test_errors_of_the_work_arrive_as_they_were(key: Key) -> None:
    """An API error keeps its kind, text and details; an error of the system its number."""
    with pytest.raises(FailedPrecondition, match=r"^not now$") as caught:
        run("api_error", lease_of(key))
    info = error_details_pb2.ErrorInfo()
    assert caught.value.details[0].Unpack(info)
    assert (info.reason, info.metadata["count"]) == ("WHY", "3")
    with pytest.raises(OSError, match="No space left") as full:
        run("os_error", lease_of(key), job={"errno": errno.ENOSPC})
    assert full.value.errno == errno.ENOSPC


def test_an_unexpected_error_is_logged_by_type_and_place_only(
    key: Key, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the work is INTERNAL; the log says ValueError and where, and nothing of its text."""
    with pytest.raises(Internal):
        run("bug", lease_of(key))
    assert "unexpected ValueError at cmek/child_works.py:" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(("do", "how"), [("segfault", "SIGSEGV"), ("exit_code", "exit code 3")])
def test_a_child_that_dies_is_internal(key: Key, caplog: pytest.LogCaptureFixture, do: str, how: str) -> None:
    """The caller reads one fixed text; the log says how it ended, and nothing of what it printed."""
    with pytest.raises(Internal, match=ENDED):
        run(do, lease_of(key))
    assert f"ended: {how}" in caplog.text
    assert CANARY not in caplog.text


def test_a_child_that_cannot_start_says_why_in_the_log(key: Key, caplog: pytest.LogCaptureFixture) -> None:
    """What is printed before any data is known reaches the log, cut to a bound."""
    with pytest.raises(Internal, match=ENDED):
        child.run_child("tests.cmek.child_broken", {}, lease_of(key), check=lambda: None)
    assert "could not start: Traceback" in caplog.text
    assert len(caplog.text) < 20_000


@pytest.mark.parametrize("name", FRAMES)
def test_a_child_that_breaks_the_protocol_is_ended(
    key: Key, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Whatever a child sends, the server goes on, and the work has failed."""
    with pytest.raises(Internal, match=ENDED):
        run("raw", lease_of(key), job={"bytes": FRAMES[name].hex()})
    assert "broke the protocol" in caplog.text


@pytest.mark.parametrize("do", ["forged_notice", "open_unknown"])
def test_a_child_can_neither_write_the_log_nor_ask_for_other_files(
    key: Key, caplog: pytest.LogCaptureFixture, do: str
) -> None:
    """A notice of another form, and a file that was not offered, end the work."""
    with pytest.raises(Internal, match=ENDED):
        run(do, lease_of(key))
    assert CANARY not in caplog.text


@pytest.mark.parametrize("how", ["ended", "doubted", "aged", "stopped"])
def test_a_child_ends_with_the_lease(key: Key, how: str) -> None:
    """Within a second after the key refuses, told of or not, the child is gone, even one that does not run
    at all; and the caller has the refusal."""
    lease = lease_of(key)
    pids: list[int] = []
    refused_at = [0.0]

    def take(pid: int) -> None:
        pids.append(pid)
        if how == "stopped":
            os.kill(pid, signal.SIGSTOP)
        refused_at[0] = time.monotonic()
        key.refuses = True
        if how in {"ended", "stopped"}:
            lease.end(REFUSED)
        elif how == "doubted":
            lease.doubt()

    with pytest.raises(KeyUnavailableError) as caught:
        run("hang", lease, progress=take)
    assert caught.value is REFUSED
    assert gone(pids[0])
    assert time.monotonic() - refused_at[0] < 1.0


def test_a_key_in_use_is_asked_for_again(key: Key) -> None:
    """A child that uses the key all the time makes the server ask for it at least every `max_age`, and loses
    it in time when it is refused."""
    asked = key.asked
    timer = threading.Timer(1.0, lambda: setattr(key, "refuses", True))
    with pytest.raises(KeyUnavailableError):
        run("keep_asking", lease_of(key, 0.1), progress=lambda _: timer.start())
    assert key.asked - asked >= 8


def test_a_child_ends_when_the_work_is_called_off(key: Key) -> None:
    """What `check` raises comes out, within a second, and the child is gone."""
    pids: list[int] = []

    def check() -> None:
        if pids:
            raise Cancelled("enough")

    start = time.monotonic()
    with pytest.raises(Cancelled):
        run("hang", lease_of(key), check, progress=pids.append)
    assert gone(pids[0])
    assert time.monotonic() - start < 30


def test_a_stop_is_not_mistaken_for_a_failure(key: Key) -> None:
    """Where the child dies because all is being stopped, the caller hears of the stop."""
    stopping = threading.Event()

    def check() -> None:
        if stopping.is_set():
            raise Cancelled("stopping")

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: gone(pid))
        stopping.set()

    with pytest.raises(Cancelled):
        run("hang", lease_of(key), check, progress=kill)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_does_not_end_a_child(key: Key, number: signal.Signals) -> None:
    """A child is ended by its server only: a signal meant for everybody leaves it at work."""
    survived: list[bool] = []

    def send(pid: int) -> None:
        os.kill(pid, number)
        survived.append(not eventually(lambda: gone(pid), 0.2))

    def check() -> None:
        if survived:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run("hang", lease_of(key), check, progress=send)
    assert survived == [True]


def test_a_child_dies_with_its_server() -> None:
    """SIGKILL of the process that started it: the child is gone within a second."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.cmek.child_parent"], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    with server:
        pid = int(server.stdout.readline())
        assert not gone(pid)
        server.kill()
        assert eventually(lambda: gone(pid))


CONFINED = """
import os, sys
from keystead.cmek import sandbox
{before}
sandbox.confine({parent})
sandbox.give_up_privileges({parent})
print(open("/proc/self/status").read())
"""


def confined(parent: str, before: str = "") -> subprocess.CompletedProcess[str]:
    script = CONFINED.format(before=before, parent=parent)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_a_child_that_lost_its_parent_early_ends() -> None:
    """A parent that ended before the kernel was told to watch it is noticed."""
    done = confined("os.getpid()")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_an_unprivileged_server_has_confined_children_too() -> None:
    """Who is not root stays who they are, under the same limits."""
    if os.geteuid() != 0:
        pytest.skip("changing to another user takes root; every other test here runs unprivileged then")
    keep = "import ctypes; ctypes.CDLL(None).prctl(8, 1)"  # PR_SET_KEEPCAPS: with its capabilities
    done = confined("os.getppid()", f"{keep}; os.setgroups([]); os.setgid(65533); os.setuid(65533)")
    assert done.returncode == 0, done.stderr
    assert "CapPrm:\t0000000000000000\n" in done.stdout
    assert "NoNewPrivs:\t1\n" in done.stdout
    assert "Uid:\t65533\t65533\t65533\t65533\n" in done.stdout


def test_only_short_texts_are_logged(key: Key, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged of work that goes well."""
    caplog.set_level(logging.DEBUG)
    run("key", lease_of(key))
    assert caplog.text == ""
