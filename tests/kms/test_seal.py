"""The root key and its seal: what opens a store, and what is said when nothing does."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from keystead.api.errors import Internal
from keystead.crypto.secret import SecretBytes
from keystead.kms.rootkey import RootKey
from keystead.kms.seals import SealError
from keystead.kms.seals.file import FileSeal
from keystead.store.engine import Store
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


def test_a_new_store_needs_leave_to_make_its_seal(sqlite_store: Store, seal_file: Path) -> None:
    """Without `create` there is no file, and no root key either."""
    with pytest.raises(SealError):
        RootKey.open(sqlite_store, FileSeal(seal_file, create=False))
    assert not seal_file.exists()
    with sqlite_store.read() as tx:
        assert tx.meta.get("root-key") is None


def other_file(path: Path) -> None:
    path.write_bytes(os.urandom(32))


def open_to_others(path: Path) -> None:
    path.chmod(0o640)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:31])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


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
