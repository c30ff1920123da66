"""What a worker process may answer by itself, and for how long it keeps what it answers with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from keystead.api.call import Call, NeedsMain, WouldBlock
from keystead.api.errors import FailedPrecondition
from keystead.crypto.secret import SecretBytes
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.rootkey import RootKey
from keystead.server.settings import Settings
from keystead.server.wiring import Hot, build_worker
from keystead.server.worker import LentRootKey, StaleKeys, TokenOfMain
from keystead.store.engine import Follower, open_follower
from keystead.store.epoch import EpochReader
from tests.kms.keyroom import Keyroom, Token
from tests.kms.test_use import SAMPLES, USES, Use
from tests.platform import CRYPTER, OWNER

USER = "user:service@example.com"
ENCRYPTION = Use("Encrypt", ("ENCRYPT_DECRYPT",), "useToEncrypt", {"plaintext": b"plain"})
uses = pytest.mark.parametrize("use", [ENCRYPTION, *USES], ids=lambda use: use.rpc)


@dataclass
class Scene:
    """A main process's platform, and what a worker beside it is made of."""

    keyroom: Keyroom
    store: Follower
    root_key: LentRootKey
    hot: Hot

    def call(
        self, rpc: str, name: str, *, inline: bool = False, principal: str = OWNER, **fields: Any
    ) -> Any:
        """A call as the worker tries it: on the event loop, or else in a thread."""
        method = self.hot.registry.methods[f"google.cloud.kms.v1.KeyManagementService/{rpc}"]
        run = self.hot.dispatcher.inline if inline else self.hot.dispatcher.unwritten
        return run(method, self.keyroom.request(rpc, name, **fields), Call(principal))

    def lend(self) -> None:
        """What KEY does."""
        self.root_key.put(self.keyroom.platform.root_key.use(SecretBytes))

    def take_back(self) -> None:
        """What WIPE does."""
        self.root_key.close()
        self.hot.cache.clear()
        self.keyroom.platform.store.move_epoch()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("worker")
    keyroom = Keyroom(directory, Token())
    platform = keyroom.platform
    store = open_follower(f"sqlite:///{directory / 'store.db'}", EpochReader(platform.store.share_epoch()))
    root_key = LentRootKey()
    settings = Settings(data_dir=Path(directory), dev=True)
    backends = [SoftwareBackend(root_key), TokenOfMain()]
    made = Scene(keyroom, store, root_key, build_worker(settings, platform.clock, store, backends))
    made.lend()
    yield made
    made.take_back()
    store.close()
    platform.close()


def test_a_worker_declares_what_the_server_serves(scene: Scene) -> None:
    """Every RPC of the main process has its declaration in a worker, with the same path and types."""
    main, worker = scene.keyroom.platform.registry.methods, scene.hot.registry.methods
    assert main.keys() <= worker.keys()
    for rpc, method in main.items():
        assert worker[rpc].spec.http == method.spec.http
        assert worker[rpc].request_type is method.request_type


@uses
def test_a_software_key_is_used_here(scene: Scene, use: Use) -> None:
    """Read once in a thread, then answered from memory on the event loop, or in a thread where it is slow;
    what the data is refused for, it is refused for here."""
    version = scene.keyroom.version(SAMPLES[use.purposes[0]])
    for inline in (False, True):
        try:
            assert scene.call(use.rpc, version, inline=inline, **use.fields)
        except WouldBlock as error:
            assert inline
            assert not isinstance(error, NeedsMain)
        except Exception as error:
            assert getattr(error, "status", "") == "INVALID_ARGUMENT"


@uses
def test_a_key_in_a_token_is_used_by_the_main_process(scene: Scene, use: Use) -> None:
    """The worker has no session with it. What needs no key, a public one or a refusal, is answered here."""
    version = scene.keyroom.fresh(SAMPLES[use.purposes[0]], "HSM")
    if use.rpc == "GetPublicKey":
        assert scene.call(use.rpc, version).pem
    else:
        with pytest.raises(NeedsMain):
            scene.call(use.rpc, version, **use.fields)
        with pytest.raises(WouldBlock):
            scene.call(use.rpc, version, inline=True, **use.fields)
    scene.keyroom.put_in_state(version, "DISABLED")
    with pytest.raises(FailedPrecondition, match="is not enabled"):
        scene.call(use.rpc, version, **use.fields)


def test_without_the_root_key_a_call_is_for_the_main_process(scene: Scene) -> None:
    """Sealed, it neither answers nor refuses: the main process knows why. Lent again, it answers again."""
    version = scene.keyroom.version("GOOGLE_SYMMETRIC_ENCRYPTION")
    assert scene.call("Encrypt", version, plaintext=b"x")
    scene.take_back()
    with pytest.raises(NeedsMain):
        scene.call("Encrypt", version, plaintext=b"x")
    with pytest.raises(WouldBlock):
        scene.call("Encrypt", version, inline=True, plaintext=b"x")
    scene.lend()
    assert scene.call("Encrypt", version, plaintext=b"x")


def test_a_key_that_is_opened_while_the_seal_closes_is_not_used(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that had the root key in its hands when that was taken back may end; none after it finds what it
    opened."""
    key = scene.keyroom.fresh("GOOGLE_SYMMETRIC_ENCRYPTION").rsplit("/", 2)[0]
    unwrapped, taken_back = threading.Event(), threading.Event()
    unwrap = RootKey.unwrap

    def slow(self: RootKey, version: str, wrapped: bytes) -> SecretBytes:
        material = unwrap(self, version, wrapped)
        unwrapped.set()
        taken_back.wait(10)
        return material

    monkeypatch.setattr(RootKey, "unwrap", slow)
    with ThreadPoolExecutor() as threads:
        running = threads.submit(scene.call, "Encrypt", key, plaintext=b"x")
        assert unwrapped.wait(10)
        scene.take_back()
        taken_back.set()
        assert running.result(10).ciphertext
    for inline in (True, False):
        with pytest.raises(WouldBlock):
            scene.call("Encrypt", key, inline=inline, plaintext=b"x")
    assert not any(kept.versions for kept in scene.hot.cache._cached[1].values())
    monkeypatch.undo()
    scene.lend()
    assert scene.call("Encrypt", key, plaintext=b"x")


def test_a_denial_is_for_the_main_process(scene: Scene) -> None:
    """On the event loop as in a thread; granted, the worker answers, and revoked it does not from then on."""
    platform, version = scene.keyroom.platform, scene.keyroom.version("GOOGLE_SYMMETRIC_ENCRYPTION")
    key = version.rsplit("/", 2)[0]
    for _ in range(3):
        with pytest.raises(NeedsMain):
            scene.call("Encrypt", key, principal=USER, plaintext=b"x")
        with pytest.raises(NeedsMain):
            scene.call("Encrypt", key, principal=USER, inline=True, plaintext=b"x")
        platform.grant(key, USER, CRYPTER)
        assert scene.call("Encrypt", key, principal=USER, plaintext=b"x")
        assert scene.call("Encrypt", key, principal=USER, inline=True, plaintext=b"x")
        platform.revoke(key, USER, CRYPTER)


def test_opened_keys_of_an_epoch_that_is_over_leave_memory(scene: Scene) -> None:
    """Not only at the next call: one turn of the timer after anything changed, nothing opened before is kept;
    while nothing changes everything is."""
    key = scene.keyroom.version("GOOGLE_SYMMETRIC_ENCRYPTION").rsplit("/", 2)[0]
    stale = StaleKeys(scene.store, scene.hot.cache)
    scene.call("Encrypt", key, plaintext=b"x")
    stale.drop()
    opened = scene.hot.cache.key(key, inline=True)
    assert opened.versions[1].key is not None
    scene.keyroom.put_in_state(scene.keyroom.fresh("HMAC_SHA256"), "DISABLED")
    assert scene.hot.cache._cached[1]
    stale.drop()
    assert not scene.hot.cache._cached[1]
