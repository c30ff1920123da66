"""Each seal by itself: what it says when it cannot be opened, and what only it can do wrong."""

from __future__ import annotations

import base64
import ctypes
import dataclasses
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pkcs11
import pytest
import requests

from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.hsm.module import module_at
from keystead.kms.rootkey import RootKey, read_sealed, unseal
from keystead.kms.seals import SealError, SecretNeededError, WrongSecretError
from keystead.kms.seals.choice import SealOptions, needed_secret, stored_seal
from keystead.kms.seals.file import FileSeal
from keystead.kms.seals.kms import KmsSeal
from keystead.kms.seals.passphrase import LEAST, Costs, PassphraseSeal
from keystead.kms.seals.pkcs11 import Pkcs11Seal
from keystead.kms.seals.private_files import MAX_BYTES, read_line
from keystead.store.engine import Store
from tests.hsm import PIN, SoftToken
from tests.kms.sealroom import PASSPHRASE, KeyService, Scene, make_scene, private, refuse
from tests.live import OWNER

# --- wrong secrets -----------------------------------------------------------------------------------


def test_a_wrong_passphrase_is_told(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """It is a WrongSecretError, and none at all is a SecretNeededError that says what is needed."""
    scene = make_scene("passphrase", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    for wrong in (PASSPHRASE[:-1], PASSPHRASE + b" ", b""):
        with pytest.raises(WrongSecretError, match="The passphrase is wrong"):
            scene.open(sealed, SecretBytes(wrong))
    scene.secret = None
    with pytest.raises(SecretNeededError, match="waits for its passphrase") as needed:
        scene.open(sealed)
    assert needed.value.secret == needed_secret(sealed, tmp_path, SealOptions()) == "passphrase"


@pytest.mark.parametrize("short", [b"", b"elevenchars", "zwölf zwölf".encode()])
def test_a_short_passphrase_seals_nothing(short: bytes) -> None:
    """Fewer than 12 characters, counted as characters and not as bytes, are refused with the reason."""
    with pytest.raises(SealError, match="at least 12 are needed"):
        PassphraseSeal(SecretBytes(short))
    PassphraseSeal(SecretBytes("zwölf zwölf!".encode()))


@pytest.mark.parametrize(
    "costs",
    [
        Costs(2, LEAST.memory_kib, 4),
        Costs(3, LEAST.memory_kib - 1, 4),
        Costs(3, LEAST.memory_kib, 1),
        Costs(1000, LEAST.memory_kib, 4),
        Costs(3, 1 << 23, 4),
    ],
)
def test_costs_that_are_too_low_or_absurd_are_refused(costs: Costs) -> None:
    """Whoever writes the store can neither have the key sealed cheaply nor have this host run out of memory:
    refused before anything is derived."""
    with pytest.raises(SealError, match="costs that are not accepted"):
        PassphraseSeal(SecretBytes(PASSPHRASE), salt=bytes(16), costs=costs)


def test_a_wrong_pin_is_told_and_the_right_one_opens(
    tmp_path: Path, request: pytest.FixtureRequest, soft_token: SoftToken
) -> None:
    """A wrong PIN is a WrongSecretError; with the right one in the file it opens again."""
    scene = make_scene("pkcs11", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        soft_token.write_pin("not-the-pin")
        with pytest.raises(WrongSecretError, match="refused the PIN"):
            scene.open(sealed)
        soft_token.write_pin(PIN)
        with scene.open(sealed) as opened:
            assert opened == root_key


def test_a_pin_that_somebody_gives_is_stored_nowhere(
    tmp_path: Path, request: pytest.FixtureRequest, soft_token: SoftToken
) -> None:
    """Without a PIN file the seal waits for its PIN."""
    scene = make_scene("pkcs11", request, tmp_path)
    scene.options = dataclasses.replace(scene.options, pin_file=None)
    scene.secret = SecretBytes(PIN.encode())
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        assert "pin_file" not in sealed.parameters
        with scene.open(sealed) as opened:
            assert opened == root_key
    scene.secret = None
    with pytest.raises(SecretNeededError, match="waits for its PIN"):
        scene.open(sealed)


@pytest.mark.parametrize(
    ("token", "says"),
    [("user:nobody@example.com", "denied on resource"), ("", "is empty"), ("nonsense", "Grant")],
)
def test_a_token_that_is_not_allowed_is_told(
    tmp_path: Path, request: pytest.FixtureRequest, token: str, says: str
) -> None:
    """The answer of the key service stands in the error, with what to do; the token does not."""
    scene = make_scene("kms", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    private(tmp_path / "token", token.encode())
    with pytest.raises(SealError) as refused:
        scene.open(sealed)
    assert says in str(refused.value)
    assert not token or token not in str(refused.value)


# --- tokens ------------------------------------------------------------------------------------------


def token_of(scene: Scene) -> pkcs11.Token:
    """The token itself, behind the seal's back."""
    assert scene.options.pkcs11_module is not None
    library = module_at(scene.options.pkcs11_module).restart()
    return library.get_token(token_label=scene.options.pkcs11_token)


def test_the_tokens_key_never_leaves_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The key is made in the token: AES-256, sensitive, never extractable; a second sealing uses it again."""
    scene = make_scene("pkcs11", request, tmp_path)
    with SecretBytes.random() as root_key:
        scene.seal(root_key)
        scene.seal(root_key)
    with token_of(scene).open(user_pin=PIN) as session:
        (key,) = session.get_objects({pkcs11.Attribute.LABEL: "keystead-root"})
        assert key[pkcs11.Attribute.VALUE_LEN] == 32
        assert key[pkcs11.Attribute.NEVER_EXTRACTABLE]
        assert key[pkcs11.Attribute.ALWAYS_SENSITIVE]
        assert not key[pkcs11.Attribute.WRAP]
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


@pytest.mark.parametrize("fault", ["extractable", "short", "two"])
def test_a_key_that_could_leave_the_token_does_not_seal(
    tmp_path: Path, request: pytest.FixtureRequest, fault: str
) -> None:
    """A key of that label that is extractable, of another size, or one of two, is refused."""
    scene = make_scene("pkcs11", request, tmp_path)
    template = {pkcs11.Attribute.EXTRACTABLE: fault == "extractable", pkcs11.Attribute.SENSITIVE: True}
    with token_of(scene).open(rw=True, user_pin=PIN) as session:
        for _ in range(2 if fault == "two" else 1):
            session.generate_key(
                pkcs11.KeyType.AES,
                128 if fault == "short" else 256,
                label="keystead-root",
                store=True,
                template=template,
            )
    with SecretBytes.random() as root_key, pytest.raises(SealError) as refused:
        scene.seal(root_key)
    assert ("2 secret keys labelled" if fault == "two" else "cannot leave the token") in str(refused.value)


def test_a_token_that_is_away_is_told(
    tmp_path: Path, request: pytest.FixtureRequest, soft_token: SoftToken
) -> None:
    """Away, it is named; back, it opens again."""
    scene = make_scene("pkcs11", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        soft_token.take_away()
        try:
            with pytest.raises(SealError, match=soft_token.label):
                scene.open(sealed)
        finally:
            soft_token.put_back()
        with scene.open(sealed) as opened:
            assert opened == root_key


def test_no_session_is_left_behind(
    tmp_path: Path, request: pytest.FixtureRequest, soft_token: SoftToken
) -> None:
    """After sealing and opening, well or not, this process has no session with the token."""
    scene = make_scene("pkcs11", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    scene.open(sealed).wipe()
    refuse(scene, dataclasses.replace(sealed, wrapped=bytes(60)))
    library, info = ctypes.CDLL(str(soft_token.library)), (ctypes.c_ulong * 4)()
    handles = (ctypes.c_ulong(handle) for handle in range(1, 1000))
    assert all(library.C_GetSessionInfo(handle, ctypes.byref(info)) != 0 for handle in handles)


def test_keys_in_the_same_token_go_on_serving(
    tmp_path: Path, request: pytest.FixtureRequest, soft_token: SoftToken
) -> None:
    """The back end keeps its session while the seal logs in and out, in threads of their own, beside it."""
    scene = make_scene("pkcs11", request, tmp_path)
    backend = HsmBackend(soft_token.config())
    algorithm = BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"]
    name = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
    key: Any = backend.load(name, algorithm, backend.generate(name, algorithm).stored)
    message = key.seal(b"kept", b"")
    root_key = SecretBytes.random()
    sealed = scene.seal(root_key)
    failures: list[BaseException] = []

    def repeat(act: Callable[[], bool]) -> None:
        try:
            assert all(act() for _ in range(10))
        except BaseException as error:  # what it is, is asserted on below
            failures.append(error)

    acts: list[Callable[[], bool]] = [
        lambda: key.open(message, b"") == b"kept",
        lambda: scene.open(sealed) == root_key,
        lambda: bool(key.seal(b"more", b"")),
        lambda: scene.open(sealed) == root_key,
    ]
    threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert key.open(message, b"") == b"kept"


def test_the_module_can_lie_elsewhere(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Another path of the library, said by an operator, opens what was sealed through the first."""
    scene = make_scene("pkcs11", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        assert scene.options.pkcs11_module is not None
        link = tmp_path / "libsofthsm2.so"
        link.symlink_to(scene.options.pkcs11_module)
        seal = stored_seal(sealed, tmp_path, SealOptions(pkcs11_module=link))
        assert isinstance(seal, Pkcs11Seal)
        with unseal(sealed, seal) as opened:
            assert opened == root_key


# --- key services ------------------------------------------------------------------------------------


def test_a_disabled_key_does_not_open(
    tmp_path: Path, request: pytest.FixtureRequest, key_service: KeyService
) -> None:
    """Disabled, it says so and what to do; enabled again, it opens."""
    scene = make_scene("kms", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        key_service.set_state("DISABLED")
        try:
            with pytest.raises(SealError, match="Enable the key again"):
                scene.open(sealed)
        finally:
            key_service.set_state("ENABLED")
        with scene.open(sealed) as opened:
            assert opened == root_key


def test_a_key_service_that_does_not_answer_is_told(
    tmp_path: Path, request: pytest.FixtureRequest, free_port: int
) -> None:
    """Nothing listens there: the endpoint is named, within seconds."""
    scene = make_scene("kms", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    elsewhere = SealOptions(kms_endpoint=f"http://127.0.0.1:{free_port}/cloudkms")
    with pytest.raises(SealError, match=f"127.0.0.1:{free_port}/cloudkms, which seals this store, cannot be"):
        unseal(sealed, stored_seal(sealed, tmp_path, elsewhere))


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Tampering(ThreadingHTTPServer):
    """Stands between seal and key service, and changes answers by `change`."""

    def __init__(self, service: KeyService, change: Callable[[dict[str, Any]], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                passed = {name: self.headers[name] for name in ("authorization", "content-type")}
                answer = requests.post(f"{service.live.url}{self.path}", body, headers=passed, timeout=10)
                content = answer.json()
                change(content)
                encoded = json.dumps(content).encode()
                self.send_response(answer.status_code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, *_: object) -> None:
                """Nothing on standard error."""

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cloudkms"

    def __exit__(self, *arguments: object) -> None:
        self.shutdown()
        super().__exit__(*arguments)


def flip(field: str) -> Callable[[dict[str, Any]], None]:
    """Change one bit of a field of bytes."""

    def change(answer: dict[str, Any]) -> None:
        data = bytearray(base64.b64decode(answer[field]))
        data[len(data) // 2] ^= 1
        answer[field] = base64.b64encode(data).decode()

    return change


def put(field: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda answer: answer.update({field: value})


@pytest.mark.parametrize(
    "change",
    [flip("ciphertext"), put("ciphertextCrc32c", "1"), put("verifiedPlaintextCrc32c", False),
     put("verifiedAdditionalAuthenticatedDataCrc32c", False), put("name", "projects/p/other/key")],
)  # fmt: skip
def test_an_answer_damaged_on_its_way_seals_nothing(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    key_service: KeyService,
    change: Callable[[dict[str, Any]], None],
) -> None:
    """A ciphertext whose checksum does not fit, or a request that the service did not verify, is refused."""
    scene = make_scene("kms", request, tmp_path)
    with Tampering(key_service, change) as between, SecretBytes.random() as root_key:
        scene.options = dataclasses.replace(scene.options, kms_endpoint=between.endpoint)
        with pytest.raises(SealError, match="was damaged on its way"):
            scene.seal(root_key)


@pytest.mark.parametrize("change", [flip("plaintext"), put("plaintextCrc32c", "1")])
def test_a_root_key_damaged_on_its_way_does_not_open(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    key_service: KeyService,
    change: Callable[[dict[str, Any]], None],
) -> None:
    """A root key with a flipped bit would make every key wrong: its checksum is verified."""
    scene = make_scene("kms", request, tmp_path)
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    with Tampering(key_service, change) as between:
        elsewhere = stored_seal(sealed, tmp_path, SealOptions(kms_endpoint=between.endpoint))
        with pytest.raises(SealError, match="was damaged on its way"):
            unseal(sealed, elsewhere)


@pytest.mark.parametrize(
    "endpoint",
    ["http://kms.example.com/cloudkms", "http://10.0.0.1/", "ftp://127.0.0.1", "kms.example.com", "https://",
     "https://user:password@kms.example.com/", "https://kms.example.com/?x=y"],
)  # fmt: skip
def test_the_root_key_does_not_travel_in_clear(endpoint: str) -> None:
    """Plain HTTP is for loopback; what is no place to ask is refused, before anything is sent."""
    with pytest.raises(SealError):
        KmsSeal("projects/p/locations/l/keyRings/r/cryptoKeys/k", endpoint)


@pytest.mark.parametrize(
    "key", ["", "k", "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"]
)
def test_only_a_keys_name_names_a_key(key: str) -> None:
    """A version, or anything else, is refused."""
    with pytest.raises(SealError, match="does not name a key"):
        KmsSeal(key)


class Everything(logging.Handler):
    """Keeps all that is logged, with its extra fields."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.written = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.written += repr(record.__dict__)


def test_debug_logs_of_the_client_library_do_not_hold_the_root_key(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the libraries at DEBUG, which write requests and answers, nothing that is logged holds the root
    key, in base64 or as it is, or the token."""
    scene = make_scene("kms", request, tmp_path)
    handler, loggers = (
        Everything(),
        [logging.getLogger(name) for name in ("google", "google.auth", "urllib3")],
    )
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        with SecretBytes.random() as root_key:
            scene.open(scene.seal(root_key)).wipe()
            assert base64.b64encode(root_key.expose()).decode() not in handler.written
            assert repr(bytes(root_key.expose()))[2:-1] not in handler.written
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    assert "/cloudkms/v1/projects/seals" in handler.written, "nothing was logged at all"
    assert f"Bearer {OWNER}" not in handler.written


# --- files -------------------------------------------------------------------------------------------


@pytest.fixture
def seal_file(tmp_path: Path) -> Path:
    return tmp_path / "seal" / "root.key"


def test_the_seal_file_is_made_once_and_private(sqlite_store: Store, seal_file: Path) -> None:
    """32 random bytes, readable by the owner only, in a directory of the owner's only; never made anew."""
    RootKey.open(sqlite_store, FileSeal(seal_file, create=True)).close()
    content = seal_file.read_bytes()
    assert len(content) == 32
    assert stat.S_IMODE(seal_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(seal_file.parent.stat().st_mode) == 0o700
    RootKey.open(sqlite_store, FileSeal(seal_file, create=True)).close()
    assert seal_file.read_bytes() == content
    assert [path.name for path in seal_file.parent.iterdir()] == ["root.key"]


def test_a_lost_seal_file_is_not_replaced(sqlite_store: Store, seal_file: Path) -> None:
    """For a store that was sealed before, no new file is made, whatever the server was told."""
    RootKey.open(sqlite_store, FileSeal(seal_file, create=True)).close()
    seal_file.unlink()
    for create in (True, False):
        with pytest.raises(SealError, match="restore it from your backup"):
            RootKey.open(sqlite_store, FileSeal(seal_file, create=create))
        assert not seal_file.exists()


def other_file(path: Path) -> None:
    path.write_bytes(os.urandom(32))


def open_to_others(path: Path) -> None:
    path.chmod(0o640)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:31])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def bloated(path: Path) -> None:
    path.write_bytes(bytes(MAX_BYTES + 1))


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (other_file, "does not open this store. Put back the one that does."),
        (open_to_others, "is open to others. Run: chmod 600 "),
        (cut_off, "is damaged: 32 bytes were expected."),
        (emptied, "is damaged: 32 bytes were expected."),
        (bloated, "is damaged: it has more than"),
        (a_directory, "cannot be read (Is a directory)"),
    ],
)
def test_a_seal_file_that_does_not_serve_is_refused_with_what_to_do(
    sqlite_store: Store, seal_file: Path, harm: Callable[[Path], None], says: str
) -> None:
    """The text names the file and the remedy, and nothing of what is in it."""
    RootKey.open(sqlite_store, FileSeal(seal_file, create=True)).close()
    secret = seal_file.read_bytes()
    harm(seal_file)
    with pytest.raises(SealError) as refused:
        RootKey.open(sqlite_store, FileSeal(seal_file, create=True))
    assert says in str(refused.value)
    assert str(seal_file) in str(refused.value)
    assert secret.hex() not in repr(refused.value)


def test_a_seal_file_that_cannot_be_made_is_told(sqlite_store: Store, tmp_path: Path) -> None:
    """A file in the way of its directory: the text says what to do, and there is no root key."""
    (tmp_path / "seal").write_text("")
    with pytest.raises(SealError, match="cannot be made"):
        RootKey.open(sqlite_store, FileSeal(tmp_path / "seal" / "root.key", create=True))
    assert read_sealed(sqlite_store) is None


def test_a_data_directory_may_move_with_its_seal(tmp_path: Path) -> None:
    """What lies below the data directory is found there wherever that is; what lies elsewhere stays there,
    unless an operator says where it is now."""
    before, after, elsewhere = tmp_path / "before", tmp_path / "after", tmp_path / "elsewhere.key"
    with SecretBytes.random() as root_key:
        inside = Scene(before, SealOptions("file")).seal(root_key)
        outside = Scene(before, SealOptions("file", seal_file=elsewhere)).seal(root_key)
        before.rename(after)
        for sealed in (inside, outside):
            with Scene(after, SealOptions()).open(sealed) as opened:
                assert opened == root_key
        elsewhere.rename(tmp_path / "moved.key")
        with pytest.raises(SealError, match="cannot be read"):
            Scene(after, SealOptions()).open(outside)
        moved = stored_seal(outside, after, SealOptions(seal_file=tmp_path / "moved.key"))
        with unseal(outside, moved) as opened:
            assert opened == root_key


def test_secret_files_are_read_to_the_line_end(tmp_path: Path) -> None:
    """One line end is not part of a secret; a loose mode, nothing in it and no file at all are refused."""
    for content, secret in ((b"word\n", b"word"), (b"word\r\n", b"word"), (b"word\n\n", b"word\n")):
        with read_line(private(tmp_path / "file", content), "The file") as read:
            assert bytes(read.expose()) == secret
    (tmp_path / "file").chmod(0o604)
    with pytest.raises(SealError, match="is open to others"):
        read_line(tmp_path / "file", "The file")
    for content in (b"", b"\n"):
        with pytest.raises(SealError, match="is empty"):
            read_line(private(tmp_path / "file", content), "The file")
    with pytest.raises(SealError, match="Name the file that holds it"):
        read_line(tmp_path / "gone", "The file")


def test_a_secret_is_read_from_a_pipe(tmp_path: Path) -> None:
    """Shells hand over secrets by pipes, whose mode means nothing and which come in pieces."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        for piece in (b"correct ", b"horse\n"):
            pipe.write(piece)
    with read_line(Path(f"/dev/fd/{reading}"), "The file") as read:
        assert bytes(read.expose()) == b"correct horse"
    os.close(reading)
