"""`keystead seal`: what it says and does, with a server that runs and with none."""

from __future__ import annotations

import base64
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions

from tests.cli.commands import Keystead, Ran
from tests.clients.pyclients import TRANSPORTS, kms_client
from tests.live import OWNER, LiveServer, live_server

LOCATION = "projects/p1/locations/global"
KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
AUTH = {"authorization": f"Bearer {OWNER}"}
PASSPHRASE = "correct horse battery staple"
WAIT_S = 60.0


@pytest.fixture
def secret_file(tmp_path: Path) -> Callable[[str], Path]:
    """Makes files that hold a secret."""

    def make(content: str, name: str = "secret") -> Path:
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_text(f"{content}\n")
        return path

    return make


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveServer]:
    """A server whose first start is to be sealed by a passphrase; not started yet."""
    made = LiveServer(tmp_path, "--seal", "passphrase")
    yield made
    made.stop()


def ready(live: LiveServer) -> tuple[int, str]:
    """Status of /readyz, and what it says of the seal."""
    answer = requests.get(f"{live.url}/readyz", timeout=10)
    return answer.status_code, answer.json()["checks"]["seal"]


def encrypt(live: LiveServer, plaintext: bytes = b"kept") -> requests.Response:
    body = {"plaintext": base64.b64encode(plaintext).decode()}
    return requests.post(f"{live.url}/cloudkms/v1/{KEY}:encrypt", json=body, headers=AUTH, timeout=10)


def decrypt(live: LiveServer, ciphertext: str) -> bytes:
    body = {"ciphertext": ciphertext}
    answer = requests.post(f"{live.url}/cloudkms/v1/{KEY}:decrypt", json=body, headers=AUTH, timeout=10)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["plaintext"])


def make_ring(live: LiveServer) -> None:
    kms_client(live, "rest").create_key_ring(
        request={"parent": LOCATION, "key_ring_id": "ring", "key_ring": {}}
    )


def make_key(live: LiveServer) -> None:
    request = {"parent": f"{LOCATION}/keyRings/ring", "crypto_key_id": "key", "crypto_key": {"purpose": 1}}
    kms_client(live, "rest").create_crypto_key(request=request)


def set_state(live: LiveServer, key: str, state: str) -> None:
    version = {"name": f"{key}/cryptoKeyVersions/1", "state": state}
    request = {"crypto_key_version": version, "update_mask": {"paths": ["state"]}}
    kms_client(live, "rest").update_crypto_key_version(request=request)


def test_from_sealed_to_open_to_another_seal(
    keystead: Keystead, live: LiveServer, secret_file: Callable[[str], Path]
) -> None:
    """A server sealed by a passphrase starts, says that it is sealed wherever it is asked, serves what needs
    no key; opened it serves all; its seal changed, a restart opens by itself; closed it is sealed."""
    passphrase = secret_file(PASSPHRASE)
    live.start()
    seal: Callable[..., Ran] = lambda *words: keystead("seal", *words, "--data-dir", live.data_dir)  # noqa: E731
    todo = f"Open it with: keystead seal open --data-dir {live.data_dir}"

    assert ready(live) == (503, "failed")
    assert requests.get(f"{live.url}/healthz", timeout=10).status_code == 200
    make_ring(live)
    request = {"cryptoKeyId": "key"}
    answer = requests.post(
        f"{live.url}/cloudkms/v1/{LOCATION}/keyRings/ring/cryptoKeys",
        params=request, json={"purpose": "ENCRYPT_DECRYPT"}, headers=AUTH, timeout=10,
    )  # fmt: skip
    assert (answer.status_code, answer.json()["error"]["status"]) == (503, "UNAVAILABLE")
    assert answer.json()["error"]["message"] == f"Keystead is sealed: it waits for its passphrase. {todo}"
    ran = keystead("doctor", "--data-dir", live.data_dir)
    assert ran.status == 1
    assert f"sealed seal of the root key It waits for its passphrase. {todo}" in ran.text

    ran = seal("open", "--passphrase-file", passphrase)
    assert (ran.status, ran.text) == (0, "seal passphrase (Argon2id, 3 passes over 256 MiB) server open")
    assert ready(live) == (200, "ok")
    make_key(live)
    ciphertext = encrypt(live).json()["ciphertext"]
    assert keystead("doctor", "--data-dir", live.data_dir).status == 0

    ran = seal("change", "--to", "file", "--current", passphrase)
    assert ran.status == 0
    assert "was passphrase (Argon2id, 3 passes over 256 MiB) is file seal/root.key" in ran.text
    assert decrypt(live, ciphertext) == b"kept"
    assert live.stop() == 0
    again = LiveServer(live.root)
    again.start()
    try:
        assert ready(again) == (200, "ok")
        assert decrypt(again, ciphertext) == b"kept"
        assert "server sealed: It was sealed by its operator." in seal("close").text
        answer = encrypt(again)
        assert (answer.status_code, ready(again)) == (503, (503, "failed"))
        assert f"Keystead is sealed: it was sealed by its operator. {todo}" in answer.text
        assert "server open" in seal("open").text
        assert decrypt(again, ciphertext) == b"kept"
    finally:
        assert again.stop() == 0
    for path in live.root.rglob("*"):
        assert path == passphrase or not path.is_file() or PASSPHRASE.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_key_of_another_keystead_opens_by_itself_when_it_is_enabled(
    keystead: Keystead, tmp_path: Path, secret_file: Callable[[str], Path]
) -> None:
    """Sealed by a key of another server, which is disabled: the server starts, is sealed and says why; once
    the key is enabled again it opens without anybody."""
    token = secret_file(OWNER)
    with live_server(tmp_path / "other") as other:
        make_ring(other)
        make_key(other)
        options = (
            "--kms-key",
            KEY,
            "--kms-endpoint",
            f"{other.url}/cloudkms",
            "--kms-token-file",
            str(token),
        )
        live = LiveServer(tmp_path / "mine", "--seal", "kms", *options)
        live.start()
        try:
            make_ring(live)
            make_key(live)
            ciphertext = encrypt(live).json()["ciphertext"]
            set_state(other, KEY, "DISABLED")
            assert live.stop() == 0
            live = LiveServer(tmp_path / "mine")
            live.start()
            assert ready(live) == (503, "failed")
            assert encrypt(live).status_code == 503
            ran = keystead("seal", "status", "--data-dir", live.data_dir)
            assert f"seal key {KEY} of {other.url}/cloudkms" in ran.text
            assert "is not enabled, current state is: DISABLED. Enable the key again" in ran.text
            assert "DISABLED" in keystead("doctor", "--data-dir", live.data_dir).text
            set_state(other, KEY, "ENABLED")
            deadline = time.monotonic() + WAIT_S
            while ready(live)[0] != 200:
                assert time.monotonic() < deadline, "it did not open by itself"
                time.sleep(0.1)
            assert decrypt(live, ciphertext) == b"kept"
        finally:
            live.stop()


def test_a_key_under_the_root_key_does_not_seal_it(
    keystead: Keystead, tmp_path: Path, secret_file: Callable[[str], Path]
) -> None:
    """A root key sealed by a key of its own server could never be opened: refused, named as it may be."""
    with live_server(tmp_path) as live:
        make_ring(live)
        make_key(live)
        project = kms_client(live, "rest").get_crypto_key(request={"name": KEY}).name
        assert project == KEY
        for key in (KEY, KEY.replace("projects/p1", f"projects/{number_of(live)}")):
            ran = keystead(
                "seal", "change", "--to", "kms", "--kms-key", key, "--data-dir", live.data_dir,
                "--kms-endpoint", f"{live.url}/cloudkms", "--kms-token-file", secret_file(OWNER),
            )  # fmt: skip
            assert ran.status == 1
            assert "is a key of this Keystead too" in ran.err
        assert "seal file seal/root.key" in keystead("seal", "status", "--data-dir", live.data_dir).text


def number_of(live: LiveServer) -> str:
    answer = requests.get(f"{live.url}/cloudresourcemanager/v1/projects/p1", headers=AUTH, timeout=10)
    return str(answer.json()["projectNumber"])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_closing_ends_every_call_that_needs_a_key(keystead: Keystead, tmp_path: Path, transport: str) -> None:
    """Under load on both transports: once `seal close` has returned no call encrypts; opened again all do."""
    with live_server(tmp_path) as live:
        make_ring(live)
        make_key(live)
        # What begins and ends within one turn of "closed" must be refused, within one of "open" answered.
        turn, done = ["open 0"], threading.Event()
        wrong: list[str] = []
        answered: list[str] = []

        def load() -> None:
            client = kms_client(live, transport)
            while not done.is_set():
                began = turn[0]
                try:
                    client.encrypt(request={"name": KEY, "plaintext": b"x"}, retry=None)
                    unfit = "closed"
                    answered.append(began)
                except exceptions.ServiceUnavailable:
                    unfit = "open"
                if began == turn[0] and began.startswith(unfit):
                    wrong.append(began)

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(3):
            turn[0] = "being closed"
            assert keystead("seal", "close", "--data-dir", live.data_dir).status == 0
            turn[0] = f"closed {number}"
            time.sleep(0.3)
            turn[0] = "being opened"
            assert keystead("seal", "open", "--data-dir", live.data_dir).status == 0
            turn[0] = f"open {number + 1}"
            until(lambda: answered.count(turn[0]) >= 10)
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []


# --- without a server --------------------------------------------------------------------------------


def test_the_store_is_changed_directly_where_no_server_runs(
    keystead: Keystead, data_dir: Path, secret_file: Callable[..., Path]
) -> None:
    """status and change work on the store; open and close need a server and say so."""
    seal: Callable[..., Ran] = lambda *words: keystead("seal", *words, "--data-dir", data_dir)  # noqa: E731
    assert seal("status").out == "seal    file seal/root.key\nserver  not running\n"
    passphrase = secret_file(PASSPHRASE)
    ran = seal("change", "--to", "passphrase", "--passphrase-file", passphrase)
    assert ran.status == 0
    assert f"{data_dir / 'seal' / 'root.key'} was not deleted" in ran.text
    assert "seal passphrase (Argon2id" in seal("status").text
    ran = keystead("doctor", "--data-dir", data_dir)
    assert ran.status == 0
    assert "the server starts sealed and waits for the passphrase: keystead seal open" in ran.text
    wrong = secret_file("incorrect horse battery staple", "wrong")
    ran = seal("change", "--to", "file", "--seal-file", data_dir / "seal" / "new.key", "--current", wrong)
    assert (ran.status, ran.err) == (1, "error: The passphrase is wrong: it does not open this store.\n")
    assert not (data_dir / "seal" / "new.key").exists()
    ran = seal(
        "change", "--to", "file", "--seal-file", data_dir / "seal" / "new.key", "--current", passphrase
    )
    assert ran.status == 0
    assert "opened by file seal/new.key" in keystead("doctor", "--data-dir", data_dir).text
    assert keystead("audit", "verify", "--data-dir", data_dir).status == 0
    for word in ("open", "close"):
        ran = seal(word)
        assert ran.status == 1
        assert f"No server is running on {data_dir}. Start it with: keystead serve" in ran.text


def test_a_change_beside_a_server_that_holds_the_store_is_refused(
    keystead: Keystead, tmp_path: Path, secret_file: Callable[[str], Path]
) -> None:
    """Where the control socket is gone but the server is not, the store's lock still keeps others out."""
    with live_server(tmp_path) as live:
        (live.data_dir / "run" / "control.sock").unlink()
        ran = keystead(
            "seal", "change", "--to", "passphrase", "--passphrase-file", secret_file(PASSPHRASE),
            "--data-dir", live.data_dir,
        )  # fmt: skip
        assert ran.status == 1
        assert f"Another Keystead server (pid {live.pid}) is using" in ran.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--to", "passphrase"), "cannot be asked for: there is no terminal"),
        (("--to", "passphrase", "--seal-file", "x"), "--seal-file belongs to a seal of kind file"),
        (
            ("--to", "file", "--passphrase-file", "x"),
            "--passphrase-file belongs to a seal of kind passphrase",
        ),
        (("--to", "file"), "is there already, and a new seal gets a new file"),
        (("--to", "kms"), "--kms-key is missing"),
        (("--to", "kms", "--kms-key", "x"), "does not name a key"),
        (("--to", "pkcs11", "--pin-file", "x"), "needs --pkcs11-module"),
    ],
)
def test_a_change_that_cannot_be_is_refused_in_words(
    keystead: Keystead, data_dir: Path, words: tuple[str, ...], says: str
) -> None:
    """One line that says what to give instead; the seal stays what it was."""
    ran = keystead("seal", "change", *words, "--data-dir", data_dir)
    assert ran.status == 1
    assert says in ran.err
    assert "seal file seal/root.key" in keystead("seal", "status", "--data-dir", data_dir).text


def test_nothing_there_is_told(keystead: Keystead, tmp_path: Path) -> None:
    """A data directory without a store is not made by looking at it."""
    ran = keystead("seal", "status", "--data-dir", tmp_path / "data")
    assert ran.status == 1
    assert "There is no store" in ran.err
    assert not (tmp_path / "data").exists()


# --- at a terminal -----------------------------------------------------------------------------------


def at_terminal(command: list[str], *typed: str) -> str:
    """What a command prints at a terminal of its own, where each line is typed when something is asked."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        printed = b""
        waiting = list(typed)
        while True:
            try:
                some = os.read(ours, 1000)
            except OSError:  # the terminal is gone with its last process
                break
            printed += some
            if waiting and printed.endswith(b": "):
                os.write(ours, f"{waiting.pop(0)}\n".encode())
        process.wait(timeout=WAIT_S)
    os.close(ours)
    assert waiting == []
    return printed.decode()


@pytest.mark.slow
def test_a_passphrase_is_asked_for_unseen(live: LiveServer) -> None:
    """A new one twice, until both are the same and long enough; an old one once. Nothing typed is shown."""
    live.start()
    command = [sys.executable, "-m", "keystead", "seal", "open", "--data-dir", str(live.data_dir)]
    printed = at_terminal(command, "short", "short", PASSPHRASE, "something else", PASSPHRASE, PASSPHRASE)
    assert "at least 12 are needed" in printed
    assert "server  open" in printed
    assert PASSPHRASE not in printed
    assert "short" not in printed.replace("is short", "")
    assert live.stop() == 0
    live.start()
    assert "The passphrase is wrong" in at_terminal(command, "incorrect horse battery staple")
    assert "server  open" in at_terminal(command, PASSPHRASE)
    command[4:5] = ["change", "--to", "passphrase"]
    assert "is      passphrase" in at_terminal(command, PASSPHRASE, f"{PASSPHRASE}!", f"{PASSPHRASE}!")


def test_serve_does_not_wait_at_a_terminal(tmp_path: Path) -> None:
    """`serve --passphrase-file -` reads a pipe; at a terminal it says what to do instead."""
    command = [sys.executable, "-m", "keystead", "serve", "--dev", "--data-dir", str(tmp_path / "data")]
    printed = at_terminal([*command, "--seal", "passphrase", "--passphrase-file", "-"])
    assert "Standard input is a terminal." in printed
    assert not (tmp_path / "data").exists()


def test_serve_takes_a_passphrase_from_standard_input(live: LiveServer, keystead: Keystead) -> None:
    """A service manager hands it over by a pipe, at the first start and at later ones."""
    for _ in range(2):
        command = live.command("--dev", "--passphrase-file", "-")
        with (
            live.log.open("ab") as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log) as process,
        ):
            try:
                assert process.stdin is not None
                process.stdin.write(f"{PASSPHRASE}\n".encode())
                process.stdin.close()
                until(lambda: "server open" in keystead("seal", "status", "--data-dir", live.data_dir).text)
            finally:
                process.terminate()


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
