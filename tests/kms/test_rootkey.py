"""The root key: sealed or open, made once, changed by a compare and set; and the material that it wraps."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from keystead.api.errors import Aborted, Internal, Unavailable
from keystead.crypto.aad import encode_aad
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.hsm.operations import TokenSymmetric
from keystead.kms.material import Material
from keystead.kms.messages import CreateCryptoKeyRequest, CryptoKeyVersion, GetCryptoKeyVersionRequest
from keystead.kms.rootkey import ROOT_KEY, RootKey, create_sealed, read_sealed, replace_sealed, unseal
from keystead.kms.seals import SealError
from keystead.kms.seals.file import FileSeal
from keystead.kms.seals.record import seal_with
from keystead.kms.service import VERSIONS
from keystead.store.engine import Store
from tests.hsm import SoftToken
from tests.platform import LOCATION, Platform, running

KEY = f"{LOCATION}/keyRings/ring/cryptoKeys/key"
FIRST = f"{KEY}/cryptoKeyVersions/1"
SECOND = f"{KEY}/cryptoKeyVersions/2"


@pytest.fixture
def seal_file(tmp_path: Path) -> Path:
    return tmp_path / "seal" / "root.key"


def test_a_store_opens_with_its_seal_file_again(tmp_path: Path) -> None:
    """After a restart what was encrypted before decrypts."""
    with running(tmp_path) as platform:
        platform.key()
        ciphertext = platform.encrypt(KEY, b"kept")
    with running(tmp_path) as platform:
        assert platform.decrypt(KEY, ciphertext) == b"kept"


def test_a_new_store_needs_leave_to_make_its_seal(sqlite_store: Store, seal_file: Path) -> None:
    """Without `create` there is no file, and no root key either."""
    with pytest.raises(SealError):
        RootKey.open(sqlite_store, FileSeal(seal_file, create=False))
    assert not seal_file.exists()
    with sqlite_store.read() as tx:
        assert tx.meta.get("root-key") is None


@pytest.mark.parametrize(
    "damage", [b"file\0" + bytes(73), b"", b"file", b"\xff\xfe\0x", b"pkcs11\0" + bytes(73)]
)
def test_a_damaged_root_key_row_is_refused(sqlite_store: Store, seal_file: Path, damage: bytes) -> None:
    """A root key that was changed, or sealed in another way, does not open."""
    RootKey.open(sqlite_store, FileSeal(seal_file, create=True)).close()
    with sqlite_store.write() as tx:
        tx.meta.put("root-key", damage)
    with pytest.raises(SealError):
        RootKey.open(sqlite_store, FileSeal(seal_file, create=True))


def test_two_that_start_at_once_get_one_root_key(sqlite_store: Store, seal_file: Path) -> None:
    """Whoever comes second uses what the first stored."""
    seal = FileSeal(seal_file, create=True)
    first = RootKey.open(sqlite_store, seal)
    second = RootKey.open(sqlite_store, seal)
    with SecretBytes.random() as material:
        wrapped = first.wrap(FIRST, material)
        with second.unwrap(FIRST, wrapped) as unwrapped:
            assert unwrapped == material


def test_material_is_bound_to_its_version(sqlite_store: Store, seal_file: Path) -> None:
    """Wrapped for one version it does not unwrap for another, and no changed bit passes."""
    root = RootKey.open(sqlite_store, FileSeal(seal_file, create=True))
    with SecretBytes.random() as material:
        wrapped = root.wrap(FIRST, material)
    with pytest.raises(SealError, match="is damaged"):
        root.unwrap(SECOND, wrapped)
    for position in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[position] ^= 1
        with pytest.raises(SealError, match="is damaged"):
            root.unwrap(FIRST, bytes(changed))


def opened(store: Store, seal_file: Path) -> RootKey:
    return RootKey.open(store, FileSeal(seal_file, create=True))


def test_a_sealed_root_key_answers_unavailable(sqlite_store: Store, seal_file: Path) -> None:
    """Before it is opened and after it is closed, every use says that Keystead is sealed, and why."""
    root = opened(sqlite_store, seal_file)
    with SecretBytes.random() as material:
        wrapped = root.wrap(FIRST, material)
        sealed = RootKey()
        assert not sealed.is_open
        root.close("it was closed by the test.")
        for key, why in ((sealed, "it was not opened yet."), (root, "it was closed by the test.")):
            uses: list[Callable[[], object]] = [
                lambda key=key: key.wrap(FIRST, material),  # type: ignore[misc]
                lambda key=key: key.unwrap(FIRST, wrapped),  # type: ignore[misc]
                lambda key=key: key.fingerprint(material),  # type: ignore[misc]
                lambda key=key: key.use(bytes),  # type: ignore[misc]
                key.require_open,
            ]
            for use in uses:
                with pytest.raises(Unavailable) as refused:
                    use()
                assert refused.value.message == f"Keystead is sealed: {why}"


def test_closing_wipes_and_opening_again_restores(sqlite_store: Store, seal_file: Path) -> None:
    """The key that was put in is wiped by `close`, and by another that is put in its place."""
    root = opened(sqlite_store, seal_file)
    with SecretBytes.random() as material:
        wrapped = root.wrap(FIRST, material)
        sealed = read_sealed(sqlite_store)
        assert sealed is not None
        first, second = (unseal(sealed, FileSeal(seal_file, create=False)) for _ in range(2))
        root.put(first)
        root.put(second)
        assert (first.wiped, second.wiped) == (True, False)
        assert root.use(bytes) == bytes(second.expose())
        root.close()
        assert second.wiped
        root.put(unseal(sealed, FileSeal(seal_file, create=False)))
        with root.unwrap(FIRST, wrapped) as unwrapped:
            assert unwrapped == material


def test_a_key_wiped_in_the_middle_is_no_damage(sqlite_store: Store, seal_file: Path) -> None:
    """The moment between a use that took the key and the wiping of it: sealed, not damaged."""
    with SecretBytes.random() as material:
        wrapped = opened(sqlite_store, seal_file).wrap(FIRST, material)
        key = SecretBytes.random()
        root = RootKey(key)
        key.wipe()
        for use in (
            lambda: root.wrap(FIRST, material),
            lambda: root.unwrap(FIRST, wrapped),
            lambda: root.use(bytes),
        ):
            with pytest.raises(Unavailable, match="Keystead is sealed"):
                use()


def test_what_is_under_way_when_it_is_closed_ends_well(sqlite_store: Store, seal_file: Path) -> None:
    """Threads that unwrap while it is closed get the material or Unavailable, never a word of damage."""
    root = opened(sqlite_store, seal_file)
    sealed = read_sealed(sqlite_store)
    assert sealed is not None
    material = SecretBytes.random()
    wrapped = root.wrap(FIRST, material)
    failures: list[BaseException] = []
    refused = threading.Event()
    done = threading.Event()

    def use() -> None:
        while not done.is_set():
            try:
                with root.unwrap(FIRST, wrapped) as unwrapped:
                    assert unwrapped == material
                root.wrap(FIRST, material)
            except Unavailable:
                refused.set()
            except BaseException as error:  # what it is, is asserted on below
                failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        root.close()
        root.put(unseal(sealed, FileSeal(seal_file, create=False)))
    root.close()
    assert refused.wait(10)
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_root_key_of_the_first_form_still_opens(sqlite_store: Store, seal_file: Path) -> None:
    """A store whose root key was sealed before parameters were stored opens, and can be sealed anew."""
    seal = FileSeal(seal_file, create=True)
    with SecretBytes(b"k" * 32) as key:
        # What the first version wrote: the kind, a zero byte, the key wrapped under a fixed context.
        wrapped = seal.wrap(key, encode_aad("keystead/seal/file/v1"))
        with sqlite_store.write() as tx:
            tx.meta.put(ROOT_KEY, b"file\0" + wrapped)
        root = opened(sqlite_store, seal_file)
        assert root.use(bytes) == b"k" * 32
        before = read_sealed(sqlite_store)
        assert before is not None
        assert before.encode() == b"file\0" + wrapped
        replace_sealed(sqlite_store, before, seal_with(seal, key))
    assert opened(sqlite_store, seal_file).use(bytes) == b"k" * 32


def test_a_root_key_is_replaced_only_by_who_saw_it(sqlite_store: Store, seal_file: Path) -> None:
    """Two that change the seal at once: the second is told, and nothing of its transaction remains."""
    seal = FileSeal(seal_file, create=True)
    before = create_sealed(sqlite_store, seal)
    with unseal(before, seal) as key:
        first, second = seal_with(seal, key), seal_with(seal, key)
        replace_sealed(sqlite_store, before, first)
        with pytest.raises(Aborted, match="changed by somebody else"):
            replace_sealed(sqlite_store, before, second, lambda tx: tx.meta.put("other", b"1"))
    with sqlite_store.read() as tx:
        assert tx.meta.get(ROOT_KEY) == first.encode()
        assert tx.meta.get("other") is None


def test_a_seal_that_does_not_give_the_key_back_is_not_stored(sqlite_store: Store, seal_file: Path) -> None:
    """The first sealing is opened again before it is stored: a seal that only takes makes no root key."""

    class OneWay(FileSeal):
        def unwrap(self, wrapped: bytes, aad: bytes) -> SecretBytes:
            raise SealError("It takes and does not give.")

    with pytest.raises(SealError, match="does not give"):
        create_sealed(sqlite_store, OneWay(seal_file, create=True))
    assert read_sealed(sqlite_store) is None


# --- material rows, through the API ------------------------------------------------------------------


def replace_material(platform: Platform, name: str, wrapped: bytes | None) -> None:
    with platform.store.write() as tx:
        if wrapped is None:
            tx.material.delete(name)
        else:
            tx.material.put(name, wrapped)


def test_swapped_material_rows_do_not_open(platform: Platform) -> None:
    """Two versions' rows exchanged: neither encrypts or decrypts, and the answer says what to do."""
    platform.key()
    other = platform.key("other")
    ciphertext = platform.encrypt(KEY, b"x")
    with platform.store.read() as tx:
        mine, theirs = tx.material.get(FIRST), tx.material.get(f"{other}/cryptoKeyVersions/1")
    replace_material(platform, FIRST, theirs)
    replace_material(platform, f"{other}/cryptoKeyVersions/1", mine)
    attempts: list[Callable[[], bytes]] = [
        lambda: platform.encrypt(KEY, b"x"),
        lambda: platform.decrypt(KEY, ciphertext),
        lambda: platform.encrypt(other, b"x"),
    ]
    for attempt in attempts:
        with pytest.raises(Internal) as refused:
            attempt()
        assert "is damaged. Restore the store from a backup." in refused.value.message
    replace_material(platform, FIRST, mine)
    assert platform.decrypt(KEY, ciphertext) == b"x"


def test_missing_material_is_told(platform: Platform) -> None:
    """An ENABLED version without material is a damaged store, and the answer says so."""
    platform.key()
    ciphertext = platform.encrypt(KEY, b"x")
    replace_material(platform, FIRST, None)
    attempts: list[Callable[[], bytes]] = [
        lambda: platform.encrypt(KEY, b"x"),
        lambda: platform.decrypt(KEY, ciphertext),
    ]
    for attempt in attempts:
        with pytest.raises(Internal) as refused:
            attempt()
        assert refused.value.message == (
            f"The material of {FIRST} is missing. Restore the store from a backup."
        )


# --- sealed, through the API -------------------------------------------------------------------------


def test_a_sealed_platform_answers_what_needs_no_key(platform: Platform) -> None:
    """Encrypt, Decrypt and making a key are UNAVAILABLE; reading, disabling and destroying go on, and what
    was closed opens again with nothing lost."""
    platform.key()
    ciphertext = platform.encrypt(KEY, b"kept")
    sealed = read_sealed(platform.store)
    assert sealed is not None
    platform.root_key.close("the test closed it.")
    platform.cache.clear()
    request = CreateCryptoKeyRequest(
        parent=f"{LOCATION}/keyRings/ring", crypto_key_id="new", crypto_key={"purpose": "ENCRYPT_DECRYPT"}
    )
    uses: list[Callable[[], object]] = [
        lambda: platform.encrypt(KEY, b"x"),
        lambda: platform.decrypt(KEY, ciphertext),
        lambda: platform.call("CreateCryptoKey", request),
    ]
    for use in uses:
        with pytest.raises(Unavailable, match="Keystead is sealed: the test closed it"):
            use()
    disabled = platform.set_state(FIRST, "DISABLED")
    assert disabled.state == disabled.CryptoKeyVersionState.DISABLED
    platform.set_state(FIRST, "ENABLED")
    platform.ring("another")
    platform.root_key.put(unseal(sealed, platform.seal))
    assert platform.decrypt(KEY, ciphertext) == b"kept"
    assert platform.call("CreateCryptoKey", request).name == f"{LOCATION}/keyRings/ring/cryptoKeys/new"


def test_destruction_goes_on_while_it_is_sealed(platform: Platform) -> None:
    """What is due to be destroyed is; what is due to be rotated waits, once and quietly, for the root key."""
    rotating = platform.key("rotating", rotation_period={"seconds": 7 * 86400})
    platform.key()
    platform.destroy(FIRST)
    platform.clock.advance(dt.timedelta(days=40))
    sealed = read_sealed(platform.store)
    assert sealed is not None
    platform.root_key.close()
    assert platform.schedule.run_due(platform.clock.now(), making=False) == 1
    version = platform.call("GetCryptoKeyVersion", GetCryptoKeyVersionRequest(name=FIRST))
    assert version.state == version.CryptoKeyVersionState.DESTROYED
    assert not platform.exists(VERSIONS, f"{rotating}/cryptoKeyVersions/2")
    platform.root_key.put(unseal(sealed, platform.seal))
    platform.schedule.run_due(platform.clock.now())
    assert platform.exists(VERSIONS, f"{rotating}/cryptoKeyVersions/2")


def test_a_sealed_deployment_uses_no_key_of_a_token_either(
    sqlite_store: Store, seal_file: Path, soft_token: SoftToken
) -> None:
    """A token's key needs no root key, and yet is not opened while the deployment is sealed."""
    root = opened(sqlite_store, seal_file)
    backend = HsmBackend(soft_token.config())
    material = Material([backend], root.require_open)
    algorithm = BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"]
    version = CryptoKeyVersion(name=FIRST, protection_level="HSM", algorithm=algorithm.name)
    with sqlite_store.write() as tx:
        material.keep(tx, FIRST, backend.generate(FIRST, algorithm))
    with sqlite_store.read() as tx:
        assert isinstance(material.open(tx, version), TokenSymmetric)
        root.close()
        with pytest.raises(Unavailable, match="Keystead is sealed"):
            material.open(tx, version)
