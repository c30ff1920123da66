"""The four seals: one contract for all, and what each says when it cannot be opened."""

from __future__ import annotations

import base64
import ctypes
import dataclasses
import json
import logging
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pkcs11
import pytest
import requests
from google.cloud import kms_v1
from hypothesis import given, settings
from hypothesis import strategies as st

from keystead.crypto.secret import SecretBytes
from keystead.kms.backends.hsm.module import module_at
from keystead.kms.rootkey import RootKey, read_sealed, unseal
from keystead.kms.seals import OtherSealError, Seal, SealError, SecretNeededError, WrongSecretError
from keystead.kms.seals.choice import SealOptions, describe, needed_secret, new_seal, stored_seal
from keystead.kms.seals.file import FileSeal
from keystead.kms.seals.kms import KmsSeal
from keystead.kms.seals.known import KnownSeals
from keystead.kms.seals.passphrase import LEAST, Costs, PassphraseSeal
from keystead.kms.seals.pkcs11 import Pkcs11Seal
from keystead.kms.seals.private_files import MAX_BYTES, read_line
from keystead.kms.seals.record import SealedRootKey, seal_with
from keystead.store.engine import Store
from tests.clients.pyclients import kms_client
from tests.crypto import independent
from tests.hsm import PIN, SoftToken
from tests.live import OWNER, LiveServer, live_server

PASSPHRASE = b"correct horse battery staple"
KINDS = ("file", "passphrase", "pkcs11", "kms")
VALUES = st.text(max_size=40) | st.integers(-(2**63), 2**63)
PARAMETERS = st.dictionaries(st.text(max_size=20), VALUES, max_size=6)


@dataclasses.dataclass(frozen=True)
class KeyService:
    """Another Keystead with a key that seals."""

    live: LiveServer
    key: str

    @property
    def endpoint(self) -> str:
        return f"{self.live.url}/cloudkms"

    def set_state(self, state: str) -> None:
        version = {"name": f"{self.key}/cryptoKeyVersions/1", "state": state}
        request = {"crypto_key_version": version, "update_mask": {"paths": ["state"]}}
        kms_client(self.live, "rest").update_crypto_key_version(request=request)


@pytest.fixture(scope="module")
def key_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyService]:
    """Started once; every test leaves its key enabled."""
    with live_server(tmp_path_factory.mktemp("key-service")) as live:
        client = kms_client(live, "rest")
        parent = "projects/seals/locations/global"
        client.create_key_ring(request={"parent": parent, "key_ring_id": "ring", "key_ring": {}})
        purpose = kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT
        made = client.create_crypto_key(
            request={
                "parent": f"{parent}/keyRings/ring",
                "crypto_key_id": "seal",
                "crypto_key": {"purpose": purpose},
            }
        )
        yield KeyService(live, made.name)


@dataclasses.dataclass
class Scene:
    """A data directory and what an operator would choose in it. `secret` is what somebody types."""

    data_dir: Path
    options: SealOptions
    secret: SecretBytes | None = None

    def seal(self, root_key: SecretBytes) -> SealedRootKey:
        """The root key sealed, as it comes back from the store."""
        seal: Seal = new_seal(self.options, self.data_dir, self.secret)
        if isinstance(seal, PassphraseSeal) and self.secret is not None:
            seal = PassphraseSeal(self.secret, costs=LEAST)  # quicker
        return SealedRootKey.decode(seal_with(seal, root_key).encode())

    def open(self, sealed: SealedRootKey, secret: SecretBytes | None = None) -> SecretBytes:
        """The root key, found by nothing but what is stored and the secret."""
        return unseal(
            sealed, stored_seal(sealed, self.data_dir, secret=self.secret if secret is None else secret)
        )


def private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """One of each kind."""
    return make_scene(request.param, request, tmp_path)


def make_scene(kind: str, request: pytest.FixtureRequest, data_dir: Path) -> Scene:
    if kind == "file":
        return Scene(data_dir, SealOptions("file"))
    if kind == "passphrase":
        return Scene(data_dir, SealOptions("passphrase"), SecretBytes(PASSPHRASE))
    if kind == "pkcs11":
        token: SoftToken = request.getfixturevalue("soft_token")
        options = SealOptions(
            "pkcs11", pkcs11_module=token.library, pkcs11_token=token.label, pin_file=token.pin_file
        )
        return Scene(data_dir, options)
    service: KeyService = request.getfixturevalue("key_service")
    token_file = private(data_dir / "token", f"{OWNER}\n".encode())
    options = SealOptions(
        "kms", kms_key=service.key, kms_endpoint=service.endpoint, kms_token_file=token_file
    )
    return Scene(data_dir, options)


# --- the contract ------------------------------------------------------------------------------------


def test_what_a_seal_closes_it_opens(scene: Scene) -> None:
    """The stored record and the secret are enough; nothing of the key is in the record."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        assert sealed.kind == scene.options.kind
        assert bytes(root_key.expose()) not in sealed.encode()
        with scene.open(sealed) as opened:
            assert opened == root_key


def test_each_sealing_is_another(scene: Scene) -> None:
    """The same root key sealed twice gives two records, and each opens."""
    with SecretBytes.random() as root_key:
        first, second = scene.seal(root_key), scene.seal(root_key)
        assert first.wrapped != second.wrapped
        for sealed in (first, second):
            with scene.open(sealed) as opened:
                assert opened == root_key


def test_no_changed_bit_opens(scene: Scene) -> None:
    """Any changed byte of the wrapped key, a cut one and a longer one are refused in words."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    size = len(sealed.wrapped)
    for at in sorted({0, 1, 13, size // 2, size - 17, size - 1}):
        changed = bytearray(sealed.wrapped)
        changed[at] ^= 1
        refuse(scene, dataclasses.replace(sealed, wrapped=bytes(changed)))
    for wrapped in (sealed.wrapped[:-1], sealed.wrapped + b"\0", sealed.wrapped[:5]):
        refuse(scene, dataclasses.replace(sealed, wrapped=wrapped))


def test_no_changed_parameter_opens(scene: Scene, key_service: KeyService) -> None:
    """Each parameter, changed to something that leads to the same secret where that is possible, is refused:
    what is stored beside the wrapped key is bound to it."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    data_dir = scene.data_dir
    same: dict[str, Callable[[], str | int]] = {
        "path": lambda: shutil.copy2(data_dir / "seal" / "root.key", data_dir / "copy") and "copy",
        "memory_kib": lambda: int(sealed.parameters["memory_kib"]) + 1024,
        "iterations": lambda: int(sealed.parameters["iterations"]) + 1,
        "lanes": lambda: int(sealed.parameters["lanes"]) + 1,
        "salt": lambda: "00" * 16,
        "module": lambda: str(Path(str(sealed.parameters["module"])).resolve().parent / "libsofthsm2.so"),
        "pin_file": lambda: shutil.copy2(str(scene.options.pin_file), data_dir / "copy") and "copy",
        "endpoint": lambda: key_service.endpoint.replace("127.0.0.1", "localhost"),
        "token_file": lambda: shutil.copy2(data_dir / "token", data_dir / "copy") and "copy",
    }
    for name, value in sealed.parameters.items():
        other = same[name]() if name in same else f"{value}-other"
        assert other != value, name
        refuse(scene, dataclasses.replace(sealed, parameters={**sealed.parameters, name: other}))
    refuse(scene, dataclasses.replace(sealed, parameters={**sealed.parameters, "extra": "1"}))


def test_no_other_kind_opens(scene: Scene) -> None:
    """A record that is called another kind, or comes from another kind, is refused."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    for kind in (*KINDS, "other"):
        if kind != sealed.kind:
            refuse(scene, dataclasses.replace(sealed, kind=kind))
    with pytest.raises(SealError, match=f"is sealed by '{sealed.kind}', but the server was started with"):
        unseal(sealed, Elsewhere())


class Elsewhere(FileSeal):
    kind = "elsewhere"

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"), create=False)


def refuse(scene: Scene, sealed: SealedRootKey) -> None:
    with pytest.raises(SealError) as refused:
        scene.open(SealedRootKey.decode(sealed.encode()))
    text = str(refused.value)
    assert text.endswith("."), text
    assert PASSPHRASE.decode() not in text
    assert PIN not in text


def test_it_is_described_without_secrets(scene: Scene) -> None:
    """An operator reads which seal it is; no passphrase, PIN or token stands there, nor in the record."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    for secret in (PASSPHRASE, PIN.encode(), OWNER.encode()):
        assert secret not in sealed.encode()
        assert secret.decode() not in describe(sealed)
    assert repr(sealed.wrapped) not in repr(sealed)


def test_what_is_stored_reads_as_documented(scene: Scene) -> None:
    """An implementation of docs/formats.md that shares no code with the product takes a record apart, and
    opens one of a file or a passphrase."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        record = independent.read_root_key(sealed.encode())
        assert (record.kind, record.parameters) == (sealed.kind, sealed.parameters)
        if sealed.kind == "file":
            key = (scene.data_dir / "seal" / "root.key").read_bytes()
        elif sealed.kind == "passphrase":
            key = independent.passphrase_key(record, PASSPHRASE)
        else:
            return
        assert independent.unwrap_key(key, record.bound, record.wrapped) == bytes(root_key.expose())


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


# --- what is stored, and what was said ---------------------------------------------------------------


@settings(deadline=None)
@given(st.sampled_from(KINDS), PARAMETERS, st.binary(min_size=1, max_size=200))
def test_a_record_comes_back_as_it_was(kind: str, parameters: dict[str, str | int], wrapped: bytes) -> None:
    """Whatever the parameters, in whatever order: one spelling, read back alike, and bound alike."""
    record = SealedRootKey(kind, parameters, wrapped)
    turned = dict(reversed(parameters.items()))
    assert SealedRootKey(kind, turned, wrapped).encode() == record.encode()
    again = SealedRootKey.decode(record.encode())
    assert (again, again.aad) == (record, record.aad)


@settings(deadline=None)
@given(PARAMETERS, PARAMETERS, st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_two_records_are_bound_alike_only_if_they_are(
    one: dict[str, str | int], other: dict[str, str | int], kind: str, another: str
) -> None:
    """The associated data is the same for the same kind and parameters, and for no others."""
    same = (kind, one) == (another, other)
    assert (SealedRootKey(kind, one, b"w").aad == SealedRootKey(another, other, b"w").aad) == same


@settings(deadline=None)
@given(st.data())
def test_no_other_bytes_are_a_record(data: st.DataObject) -> None:
    """Cut, changed or made-up bytes are refused as damaged, or read as a record of exactly these bytes."""
    record = SealedRootKey("kms", {"key": "k", "n": 1}, b"wrapped").encode()
    changed = bytearray(record)
    changed[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    for stored in (bytes(changed), cut, data.draw(st.binary(max_size=80)), b"\x02" + data.draw(st.binary())):
        try:
            read = SealedRootKey.decode(stored)
        except SealError as error:
            assert "damaged" in str(error)
        else:
            assert read.encode() == stored


@pytest.mark.parametrize(
    "parameters",
    [b"", b"{", b"[]", b"1", b'{"a":1.5}', b'{"a":true}', b'{"a":null}', b'{"a":[1]}', b'{"b":1,"a":1}',
     b'{"a": 1}', b'{"a":1,"a":2}', b'{"a":"\xc3\xa9"}', b'{"a":' + b"9" * 5000 + b"}", b"[" * 5000,
     b'{"a":"' + b"x" * 5000 + b'"}'],
)  # fmt: skip
def test_parameters_have_one_spelling(parameters: bytes) -> None:
    """JSON that is no flat object of texts and whole numbers, or that is spelled otherwise, is refused."""
    stored = b"\x02\x04file" + len(parameters).to_bytes(2, "big") + parameters + b"wrapped"
    with pytest.raises(SealError, match="damaged"):
        SealedRootKey.decode(stored)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("file", SealOptions(passphrase_file=Path("/x"))),
        ("file", SealOptions(kms_key="k")),
        ("passphrase", SealOptions(seal_file=Path("/x"))),
        ("passphrase", SealOptions("file")),
        ("pkcs11", SealOptions(pkcs11_token="another")),
        ("pkcs11", SealOptions(pkcs11_key="another")),
        ("kms", SealOptions(kms_key="another")),
        ("kms", SealOptions(pin_file=Path("/x"))),
    ],
)
def test_what_was_said_must_fit_what_is_stored(kind: str, options: SealOptions) -> None:
    """An option that belongs to another seal, or names another token or key, is no slip to be ignored."""
    parameters: dict[str, str | int] = {"token": "t", "key": "k", "module": "/m"} if kind == "pkcs11" else {}
    with pytest.raises(OtherSealError):
        stored_seal(SealedRootKey(kind, parameters, b"w"), Path("/data"), options, SecretBytes(b"x"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (SealOptions("pkcs11"), "needs --pkcs11-module"),
        (SealOptions("kms"), "--kms-key is missing"),
        (SealOptions("passphrase"), "waits for its passphrase"),
        (SealOptions("smoke"), "There is no seal of kind 'smoke'"),
        (SealOptions("file", kms_key="k"), "--kms-key belongs to a seal of kind kms"),
    ],
)
def test_a_new_seal_says_what_is_missing(options: SealOptions, says: str) -> None:
    """Each kind names the options that it needs."""
    with pytest.raises(SealError, match=says):
        new_seal(options, Path("/data"))


def test_a_seal_that_reaches_out_is_known_only_once_it_was_used(tmp_path: Path) -> None:
    """What the store says of a token or another service is followed only where this data directory used it
    before; a file and a passphrase need no leave."""
    known = KnownSeals(tmp_path)
    records = [SealedRootKey(kind, {"key": "k"}, b"w") for kind in KINDS]
    assert [known.knows(record) for record in records] == [True, True, False, False]
    known.add(records[3])
    other = SealedRootKey("kms", {"key": "k", "endpoint": "https://evil.example.com"}, b"w")
    assert [known.knows(record) for record in (records[2], records[3], other)] == [False, True, False]
    known.add(records[2])
    assert known.knows(records[2]) and known.knows(records[3])
    known.only(records[2])
    assert known.knows(records[2]) and not known.knows(records[3])
    known.only(records[0])
    assert not known.knows(records[2])


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
