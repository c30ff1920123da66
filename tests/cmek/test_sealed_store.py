"""Sealed objects: there as a whole or not at all, and readable by nobody without the key."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.cmek.answers import KeyUnavailableError
from keystead.cmek.lease import Lease
from keystead.cmek.sealed_store import SealedObject, SealedStore
from keystead.crypto.errors import CryptoError
from tests.cmek.scene import ALWAYS, FIRST, OTHER, RESOURCE, Scene

MIB = 1 << 20
CANARY = b"canary-1fb2a9c4-of-the-customer"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sealed"


@pytest.fixture
def sealed(root: Path) -> SealedStore:
    return SealedStore(root)


@pytest.fixture
def lease(scene: Scene) -> Lease:
    return scene.keychain.lease(RESOURCE)


@pytest.fixture
def generation() -> str:
    return SealedStore.new_generation()


def write(
    sealed: SealedStore, lease: Lease, generation: str, name: str, data: bytes, of: str = RESOURCE
) -> SealedObject:
    with sealed.create(lease, of, generation, name) as writer:
        writer.write(data)
    return SealedObject(name, writer.file_id, len(data))


def read(
    sealed: SealedStore,
    lease: Lease,
    generation: str,
    name: str,
    of: str = RESOURCE,
    file_id: bytes | None = None,
) -> bytes:
    with sealed.open(lease, of, generation, name, file_id) as reader:
        return reader.read()


def names_on_disk(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@given(data=st.binary(max_size=3000))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read(sealed: SealedStore, lease: Lease, data: bytes) -> None:
    """Any content, from the start or from within."""
    generation = SealedStore.new_generation()
    noted = write(sealed, lease, generation, "table", data)
    assert read(sealed, lease, generation, "table", file_id=noted.file_id) == data
    with sealed.open(lease, RESOURCE, generation, "table") as reader:
        assert reader.size == noted.size
        reader.seek(len(data) // 2)
        assert reader.read() == data[len(data) // 2 :]


def test_nothing_on_the_disk_tells_what_was_written(
    sealed: SealedStore, lease: Lease, generation: str, root: Path
) -> None:
    """Neither content nor name of the resource is in file or path; only the server's user may open it."""
    write(sealed, lease, generation, "table", CANARY * 1000)
    (path,) = (path for path in root.rglob("*") if path.is_file())
    assert CANARY not in path.read_bytes()
    assert RESOURCE.encode() not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(root.stat().st_mode) == 0o700


# --- appearing ---------------------------------------------------------------------------------------


def test_an_object_appears_when_it_is_whole(
    sealed: SealedStore, lease: Lease, generation: str, root: Path
) -> None:
    """While it is written nobody can open it, and an earlier one of that name stays as it was."""
    write(sealed, lease, generation, "table", b"first")
    with sealed.create(lease, RESOURCE, generation, "table") as writer:
        writer.write(b"second" * MIB)
        assert read(sealed, lease, generation, "table") == b"first"
        with pytest.raises(CryptoError):
            read(sealed, lease, generation, "other")
    assert read(sealed, lease, generation, "table") == b"second" * MIB
    assert names_on_disk(root) == [f"{generation}/table"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_nothing(
    sealed: SealedStore, lease: Lease, generation: str, root: Path, failure: type[BaseException]
) -> None:
    """Neither an object nor a part of one."""
    with pytest.raises(failure):
        with sealed.create(lease, RESOURCE, generation, "table") as writer:
            writer.write(bytes(2 * MIB))
            raise failure
    assert names_on_disk(root) == []


def test_a_writer_that_gave_up_leaves_nothing(
    sealed: SealedStore, lease: Lease, generation: str, root: Path
) -> None:
    """An aborted object does not appear, though nothing was raised."""
    with sealed.create(lease, RESOURCE, generation, "table") as writer:
        writer.write(b"data")
        writer.abort()
    assert names_on_disk(root) == []


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """The kernel refuses this process any file beyond `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_grow_leaves_nothing(
    sealed: SealedStore, lease: Lease, generation: str, root: Path
) -> None:
    """The system's error reaches the writer's owner, and the half object is gone."""
    write(sealed, lease, generation, "table", b"first")
    with small_files(MIB), pytest.raises(OSError, match="File too large"):
        write(sealed, lease, generation, "table", bytes(3 * MIB))
    assert names_on_disk(root) == [f"{generation}/table"]
    assert read(sealed, lease, generation, "table") == b"first"


def test_a_disk_that_fills_up_at_the_end_leaves_nothing(
    sealed: SealedStore, lease: Lease, generation: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems say only at fsync that there is no room."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(sealed, lease, generation, "earlier", b"x")
    monkeypatch.setattr("keystead.cmek.sealed_store.os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(sealed, lease, generation, "table", b"data")
    assert names_on_disk(root) == [f"{generation}/earlier"]


def test_two_writers_of_one_object_do_not_mix(sealed: SealedStore, lease: Lease, generation: str) -> None:
    """Whoever ends last is what is read, whole."""
    barrier = threading.Barrier(2)

    def writing(letter: bytes) -> None:
        with sealed.create(lease, RESOURCE, generation, "table") as writer:
            for _ in range(5):
                barrier.wait(10)
                writer.write(letter * (MIB // 2))

    threads = [threading.Thread(target=writing, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    content = read(sealed, lease, generation, "table")
    assert content in {letter * (MIB // 2) * 5 for letter in (b"a", b"b")}


# --- leftovers ---------------------------------------------------------------------------------------


def test_what_a_crash_left_is_swept(sealed: SealedStore, lease: Lease, root: Path) -> None:
    """Generations that nobody owns and half objects go; what is owned stays."""
    kept, orphan = SealedStore.new_generation(), SealedStore.new_generation()
    write(sealed, lease, kept, "table", b"kept")
    write(sealed, lease, orphan, "table", b"orphan")
    unfinished = sealed.create(lease, RESOURCE, kept, "half")
    unfinished.__enter__().write(bytes(2 * MIB))
    assert len(names_on_disk(root)) == 3
    assert SealedStore(root).sweep({kept}) == 2
    assert names_on_disk(root) == [f"{kept}/table"]
    assert read(sealed, lease, kept, "table") == b"kept"
    assert sealed.sweep({kept}) == 0


def test_removing_a_generation_removes_all_of_it(sealed: SealedStore, lease: Lease, root: Path) -> None:
    """And nothing else; a generation that is not there is no error."""
    first, second = SealedStore.new_generation(), SealedStore.new_generation()
    for generation in (first, second):
        write(sealed, lease, generation, "a", b"x")
        write(sealed, lease, generation, "b", b"x")
    for _ in range(2):
        sealed.remove(first)
    assert names_on_disk(root) == [f"{second}/a", f"{second}/b"]


@pytest.mark.parametrize("bad", ["", "..", ".", "a/b", "../x", "A", "x\0", "x.partial", "-x", "x" * 102, "ä"])
def test_only_plain_names_reach_the_disk(
    sealed: SealedStore, lease: Lease, generation: str, root: Path, bad: str
) -> None:
    """Nothing that could leave the directory, and nothing that a sweep would take for a half object."""
    for path in ((generation, bad), (bad, "table")):
        with pytest.raises(ValueError, match="not a name for a sealed object"):
            write(sealed, lease, *path, b"x")
        with pytest.raises(ValueError, match="not a name for a sealed object"):
            read(sealed, lease, *path)
    assert names_on_disk(root) == []


# --- tampering ---------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_a_chunk(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:MIB])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [flip, truncate, cut_a_chunk, extend, empty, delete])
def test_a_file_that_was_harmed_is_not_read(
    sealed: SealedStore, lease: Lease, generation: str, root: Path, harm: Callable[[Path], None]
) -> None:
    """Whatever was done to it, reading raises and gives no wrong byte."""
    write(sealed, lease, generation, "table", CANARY * 100_000)
    harm(root / generation / "table")
    with pytest.raises(CryptoError):
        read(sealed, lease, generation, "table")


def test_files_cannot_be_exchanged(sealed: SealedStore, lease: Lease, scene: Scene, root: Path) -> None:
    """Two objects swapped, a file of another generation, of another resource: none opens."""
    first, second = SealedStore.new_generation(), SealedStore.new_generation()
    scene.protect(OTHER)
    other_lease = scene.keychain.lease(OTHER)
    write(sealed, lease, first, "a", b"first a")
    write(sealed, lease, first, "b", b"first b")
    write(sealed, lease, second, "a", b"second a")
    write(sealed, other_lease, second, "b", b"other b", of=OTHER)
    for source, target in (("a", "b"), ("b", "a")):
        shutil.copy(root / first / source, root / second / target)
    with pytest.raises(CryptoError):
        read(sealed, lease, second, "a")
    with pytest.raises(CryptoError):
        read(sealed, other_lease, second, "b", of=OTHER)
    shutil.copy(root / first / "a", root / second / "a")
    with pytest.raises(CryptoError):
        read(sealed, lease, second, "a")
    with pytest.raises(CryptoError):
        read(sealed, lease, first, "a", of=OTHER)
    assert read(sealed, lease, first, "a") == b"first a"
    shutil.copy(root / first / "a", root / first / "b")
    with pytest.raises(CryptoError):
        read(sealed, lease, first, "b")


def test_an_older_file_of_the_same_object_is_noticed(
    sealed: SealedStore, lease: Lease, generation: str, root: Path
) -> None:
    """It opens as such, but not as the one that the owner noted."""
    write(sealed, lease, generation, "table", b"old")
    shutil.copy(root / generation / "table", root / "kept")
    noted = write(sealed, lease, generation, "table", b"new")
    assert read(sealed, lease, generation, "table", file_id=noted.file_id) == b"new"
    shutil.copy(root / "kept", root / generation / "table")
    with pytest.raises(CryptoError):
        read(sealed, lease, generation, "table", file_id=noted.file_id)
    assert read(sealed, lease, generation, "table") == b"old"


# --- the key goes ------------------------------------------------------------------------------------


def test_an_open_reader_fails_at_its_next_chunk(scene: Scene, sealed: SealedStore, generation: str) -> None:
    """The key is disabled while somebody reads: what comes next fails, and the KEK is wiped."""
    with scene.guarded():
        lease = scene.keychain.lease(RESOURCE)
        kek = lease.key()
        write(sealed, lease, generation, "table", CANARY * 100_000)
        with sealed.open(lease, RESOURCE, generation, "table") as reader:
            assert reader.read(len(CANARY)) == CANARY
            scene.platform.set_state(FIRST, "DISABLED")
            for size in (1, len(CANARY), -1):
                with pytest.raises(KeyUnavailableError):
                    reader.read(size)
        assert kek.wiped
        scene.platform.set_state(FIRST, "ENABLED")
        again = scene.keychain.lease(RESOURCE)
        assert read(sealed, again, generation, "table") == CANARY * 100_000


def test_an_open_reader_fails_though_nobody_told(scene: Scene, sealed: SealedStore, generation: str) -> None:
    """By the age of its lease alone."""
    keychain = scene.new_keychain(ALWAYS)
    lease = keychain.lease(RESOURCE)
    write(sealed, lease, generation, "table", bytes(3 * MIB))
    with sealed.open(lease, RESOURCE, generation, "table") as reader:
        reader.read(1)
        scene.platform.set_state(FIRST, "DISABLED")
        with pytest.raises(KeyUnavailableError):
            reader.read(1)


def test_an_open_writer_fails_and_leaves_nothing(
    scene: Scene, sealed: SealedStore, generation: str, root: Path
) -> None:
    """The key goes while an object is written: it never appears."""
    with scene.guarded():
        lease = scene.keychain.lease(RESOURCE)
        with pytest.raises(KeyUnavailableError):
            with sealed.create(lease, RESOURCE, generation, "table") as writer:
                writer.write(bytes(MIB))
                scene.platform.set_state(FIRST, "DISABLED")
                writer.write(bytes(MIB))
    assert names_on_disk(root) == []
