"""Sealed files as streams: they behave like files, and no tampering or lost key goes unnoticed."""

from __future__ import annotations

import gc
import io
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystead.crypto.errors import CryptoError, DecryptionError, MalformedError, SecretWipedError
from keystead.crypto.sealed_file import SealedReader, SealedWriter
from keystead.crypto.sealing import CHUNK_OVERHEAD, HEADER_SIZE, sealed_size
from keystead.crypto.secret import SecretBytes

KEK = SecretBytes(bytes(range(32)))
CONTEXT = b"context"
CHUNK = 16
STRIDE = CHUNK + CHUNK_OVERHEAD


class Revoked(Exception):
    """What a lease raises once it is revoked."""


class Lease:
    """A key source that can be revoked, and counts how often it was asked."""

    def __init__(self) -> None:
        self.revoked = False
        self.asked = 0

    def key(self) -> SecretBytes:
        self.asked += 1
        if self.revoked:
            raise Revoked
        return KEK


def seal(data: bytes, *, chunk_size: int = CHUNK, context: bytes = CONTEXT) -> bytes:
    raw = io.BytesIO()
    with SealedWriter(raw, lambda: KEK, context, chunk_size) as writer:
        writer.write(data)
    return raw.getvalue()


def reader(
    sealed: bytes, *, key: Callable[[], SecretBytes] = lambda: KEK, context: bytes = CONTEXT
) -> SealedReader:
    return SealedReader(io.BytesIO(sealed), key, context)


def everything(sealed: bytes, context: bytes = CONTEXT) -> bytes:
    with reader(sealed, context=context) as source:
        return source.read()


def text(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


@given(st.binary(max_size=100), st.integers(1, 40), st.lists(st.integers(0, 60), max_size=8))
def test_the_sizes_of_writes_do_not_matter(data: bytes, chunk_size: int, cuts: list[int]) -> None:
    """However it is cut into writes, the same plaintext comes back, and the file has the computed size."""
    raw = io.BytesIO()
    with SealedWriter(raw, lambda: KEK, CONTEXT, chunk_size) as writer:
        rest = data
        for cut in cuts:
            assert writer.write(rest[:cut]) == len(rest[:cut])
            writer.flush()
            rest = rest[cut:]
            assert writer.tell() == len(data) - len(rest)
        writer.write(bytearray(rest))
    assert len(raw.getvalue()) == sealed_size(len(data), chunk_size)
    assert everything(raw.getvalue()) == data


@given(
    st.integers(0, 100),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 120), st.integers(-1, 120)), max_size=6),
)
def test_random_access_equals_slicing(size: int, chunk_size: int, reads: list[tuple[int, int]]) -> None:
    """Seeking and reading anywhere gives what slicing the plaintext gives, by `read` and by `readinto`."""
    data = text(size)
    with reader(seal(data, chunk_size=chunk_size)) as source:
        for start, count in reads:
            expected = data[start:] if count < 0 else data[start : start + count]
            assert source.seek(start) == start
            assert source.read(count) == expected
            assert source.tell() == start + len(expected)
            source.seek(start)
            buffer = bytearray(b"\xee" * max(count, 0))
            got = source.readinto(buffer)
            assert buffer == data[start : start + max(count, 0)] + b"\xee" * (max(count, 0) - got)


def test_it_is_an_ordinary_file() -> None:
    """Whence, the io flags, line reading, buffering and reading past the end work as for any binary file."""
    data = b"one\ntwo\n" * 10
    source = reader(seal(data))
    assert (source.readable(), source.writable(), source.seekable(), source.size) == (True, False, True, 80)
    assert source.seek(-4, io.SEEK_END) == 76
    assert source.seek(-6, io.SEEK_CUR) == 70
    assert source.seek(1000) == 1000
    assert source.read(5) == b""
    assert source.tell() == 1000
    source.seek(0)
    assert source.readline() == b"one\n"
    assert source.readall() == data[4:]
    source.seek(0)
    assert io.BufferedReader(source).read() == data
    for arguments in ((-1, 0), (0, 3)):
        with pytest.raises(ValueError, match=r"position|whence"):
            reader(seal(data)).seek(*arguments)
    writer = SealedWriter(io.BytesIO(), lambda: KEK, CONTEXT)
    assert (writer.readable(), writer.writable(), writer.seekable()) == (False, True, False)
    writer.abort()


@pytest.mark.parametrize("close", [SealedReader.close, SealedReader.__del__])
def test_a_closed_reader_refuses_and_holds_no_plaintext(close: Callable[[SealedReader], None]) -> None:
    """Closing wipes the cached chunk, leaves the file beneath open, and every later call fails."""
    raw = io.BytesIO(seal(b"plaintext" * 5))
    source = SealedReader(raw, lambda: KEK, CONTEXT)
    source.read(3)
    cache = source._cache
    assert any(cache)
    close(source)
    assert not any(cache)
    assert not raw.closed
    for call in (source.read, source.tell, lambda: source.seek(0), lambda: source.readinto(bytearray(3))):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_closed_writer_refuses_and_holds_no_plaintext() -> None:
    """Closing wipes the buffered plaintext, leaves the file beneath open, and later writes fail."""
    raw = io.BytesIO()
    writer = SealedWriter(raw, lambda: KEK, CONTEXT, CHUNK)
    writer.write(b"plaintext")
    partial = writer._partial
    assert any(partial)
    writer.close()
    writer.close()
    assert not any(partial)
    assert not writer.aborted
    assert everything(raw.getvalue()) == b"plaintext"
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")
    with pytest.raises(ValueError, match="closed"):
        writer.tell()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 40])
def test_every_flipped_bit_is_detected(size: int) -> None:
    """No single bit of a file, header included, can change without the reader failing."""
    sealed = seal(text(size))
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DecryptionError, MalformedError)):
            everything(bytes(flipped))


@pytest.mark.parametrize("size", [0, 1, 16, 33, 48])
def test_every_truncation_is_detected_on_opening(size: int) -> None:
    """A file cut anywhere, chunk boundaries included, does not even open."""
    sealed = seal(text(size))
    for cut in range(len(sealed)):
        with pytest.raises((DecryptionError, MalformedError)):
            reader(sealed[:cut])


@given(st.binary(min_size=1, max_size=300))
def test_every_extension_is_detected_on_opening(extra: bytes) -> None:
    """A file with anything appended does not open, a repeated valid chunk included."""
    sealed = seal(text(40))
    chunks = [sealed[HEADER_SIZE + i * STRIDE :][:STRIDE] for i in range(3)]
    for attempt in (extra, *chunks, sealed):
        with pytest.raises((DecryptionError, MalformedError)):
            reader(sealed + attempt)


@given(st.permutations(range(4)), st.integers(0, 3))
def test_reordered_and_repeated_chunks_are_detected(order: list[int], repeated: int) -> None:
    """Chunks open only at their own place in the file."""
    sealed = seal(text(4 * CHUNK + 5))
    chunks = [sealed[HEADER_SIZE + i * STRIDE :][:STRIDE] for i in range(4)]
    head, tail = sealed[:HEADER_SIZE], sealed[HEADER_SIZE + 4 * STRIDE :]
    if order != sorted(order):
        with pytest.raises(DecryptionError):
            everything(head + b"".join(chunks[i] for i in order) + tail)
    doubled = [chunks[repeated] if i == (repeated + 1) % 4 else chunks[i] for i in range(4)]
    with pytest.raises(DecryptionError):
        everything(head + b"".join(doubled) + tail)


@given(st.integers(0, 4))
def test_chunks_swapped_between_files_are_detected(index: int) -> None:
    """A chunk of another file under the same key and context, or that file's header, does not fit."""
    data = text(4 * CHUNK + 5)
    one, two = seal(data), seal(data)
    start = HEADER_SIZE + index * STRIDE
    mixed = one[:start] + two[start : start + STRIDE] + one[start + STRIDE :]
    for attempt in (mixed, two[:HEADER_SIZE] + one[HEADER_SIZE:]):
        with pytest.raises(DecryptionError):
            everything(attempt)


def test_a_file_opens_only_under_its_own_name_and_key() -> None:
    """A whole file in another's place, or under another KEK, is refused."""
    sealed = seal(b"data")
    with pytest.raises(DecryptionError):
        everything(sealed, context=b"another object")
    other = SecretBytes.random()
    with pytest.raises(DecryptionError):
        reader(sealed, key=lambda: other)


def test_damage_is_confined_to_reads_that_touch_it() -> None:
    """Random access decrypts only what it needs: other chunks of a damaged file stay readable."""
    data = text(5 * CHUNK)
    sealed = bytearray(seal(data))
    sealed[HEADER_SIZE + 2 * STRIDE + 80] ^= 1
    with reader(bytes(sealed)) as source:
        source.seek(3 * CHUNK)
        assert source.read() == data[3 * CHUNK :]
        source.seek(0)
        buffer = bytearray(b"\xee" * (5 * CHUNK))
        with pytest.raises(DecryptionError):
            source.readinto(buffer)
        assert buffer[: 3 * CHUNK] == bytes(3 * CHUNK)
        assert source.tell() == 0
        with pytest.raises(DecryptionError):
            source.read(3 * CHUNK)
        assert not any(source._cache)
        assert source.read(2 * CHUNK) == data[: 2 * CHUNK]


def test_an_aborted_file_is_never_complete() -> None:
    """A writer that is aborted, left by an exception, or forgotten never writes the final chunk."""

    def abort(writer: SealedWriter) -> None:
        writer.abort()
        writer.close()

    def leave(writer: SealedWriter) -> None:
        with pytest.raises(KeyError), writer:
            raise KeyError("the source of the data failed")

    def forget(writer: SealedWriter) -> None:
        writer.__del__()

    for end in (abort, leave, forget):
        for size in (0, 5, CHUNK, CHUNK + 5):
            raw = io.BytesIO()
            writer = SealedWriter(raw, lambda: KEK, CONTEXT, CHUNK)
            writer.write(text(size))
            end(writer)
            assert writer.aborted
            assert writer.closed
            with pytest.raises(CryptoError):
                reader(raw.getvalue())


def test_a_garbage_collected_writer_leaves_an_incomplete_file() -> None:
    """Dropping the last reference does not complete a file."""
    raw = io.BytesIO()
    SealedWriter(raw, lambda: KEK, CONTEXT, CHUNK).write(b"half a sentence")
    gc.collect()
    with pytest.raises(MalformedError):
        reader(raw.getvalue())


def test_a_revoked_lease_stops_a_writer() -> None:
    """Once the key is refused, the next chunk fails, the writer aborts and its plaintext is gone."""
    lease, raw = Lease(), io.BytesIO()
    writer = SealedWriter(raw, lease.key, CONTEXT, CHUNK)
    writer.write(text(CHUNK + 5))
    partial = writer._partial
    lease.revoked = True
    with pytest.raises(Revoked):
        writer.write(text(CHUNK))
    assert writer.aborted
    assert not any(partial)
    writer.close()
    with pytest.raises(CryptoError):
        reader(raw.getvalue())
    late = SealedWriter(io.BytesIO(), lease.key, CONTEXT, CHUNK)
    with pytest.raises(Revoked), late:
        late.write(b"rest")
    assert late.aborted


def test_a_revoked_lease_stops_a_reader_even_within_a_cached_chunk() -> None:
    """Once the key is refused, not even a chunk already decrypted is served, and it is wiped."""
    lease = Lease()
    source = reader(seal(text(3 * CHUNK)), key=lease.key)
    assert source.read(3) == text(3)
    cache = source._cache
    asked = lease.asked
    assert source.read(3) == text(6)[3:]
    assert lease.asked == asked + 1
    lease.revoked = True
    for call in (lambda: source.read(3), lambda: source.readinto(bytearray(3)), source.readall):
        with pytest.raises(Revoked):
            call()
        assert not any(cache)
    assert source.tell() == 6
    with pytest.raises(Revoked):
        reader(seal(b""), key=lease.key)
    lease.revoked = False
    assert source.read(3) == text(9)[6:]


def test_a_lease_revoked_between_chunks_leaves_nothing_in_the_caller_s_buffer() -> None:
    """The key is asked for at every chunk; a read refused halfway zeroes what it had put out."""
    source = reader(seal(text(4 * CHUNK)))
    answers = iter([KEK, KEK])

    def key() -> SecretBytes:
        for answer in answers:
            return answer
        raise Revoked

    source._key = key
    buffer = bytearray(b"\xee" * (4 * CHUNK))
    with pytest.raises(Revoked):
        source.readinto(buffer)
    assert buffer[: 2 * CHUNK] == bytes(2 * CHUNK)


def test_a_wiped_key_is_a_refused_key() -> None:
    """A key source that hands out wiped key material neither seals nor opens anything."""
    gone = SecretBytes.random()
    gone.wipe()
    with pytest.raises(SecretWipedError):
        reader(seal(b""), key=lambda: gone)
    with pytest.raises(SecretWipedError), SealedWriter(io.BytesIO(), lambda: gone, CONTEXT) as writer:
        writer.write(b"x")


class Trickle(io.RawIOBase):
    """A file that reads and writes a few bytes at a time, as raw files may."""

    def __init__(self, data: bytes = b"") -> None:
        self.inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self.inner.seek(offset, whence)

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
        return self.inner.readinto(memoryview(buffer)[:7])

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]
        return self.inner.write(data[:5])


class ReadOnlyFile:
    """The least a reader needs: `read` and `seek`, a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self.inner = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self.inner.read(min(size, 9))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self.inner.seek(offset, whence)


def test_short_reads_and_writes_of_the_file_beneath_are_completed() -> None:
    """Raw files that transfer less than asked, and files without `readinto`, serve as well as any."""
    data = text(100)
    trickle = Trickle()
    with SealedWriter(trickle, lambda: KEK, CONTEXT, CHUNK) as writer:
        writer.write(data)
    sealed = trickle.inner.getvalue()
    assert everything(sealed) == data
    assert SealedReader(Trickle(sealed), lambda: KEK, CONTEXT).read() == data
    assert SealedReader(ReadOnlyFile(sealed), lambda: KEK, CONTEXT).read() == data


def test_a_file_that_fails_beneath_aborts_the_writer() -> None:
    """A full disk, or a file that would block, leaves an aborted writer, not a quiet gap."""

    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            if self.tell() > 100:
                raise OSError(28, "No space left on device")
            return super().write(data)  # type: ignore[arg-type]

    class Blocking(io.BytesIO):
        def write(self, data: object, /) -> int | None:  # type: ignore[override]
            return None

    writer = SealedWriter(Full(), lambda: KEK, CONTEXT, CHUNK)
    with pytest.raises(OSError, match="No space"):
        writer.write(bytes(100))
    assert writer.aborted
    with pytest.raises(BlockingIOError):
        SealedWriter(Blocking(), lambda: KEK, CONTEXT, CHUNK)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_real_files_with_the_default_chunk_size(tmp_path: Path, size: int) -> None:
    """Unbuffered files on a disk round-trip at and around the chunk boundaries, and hold no plaintext."""
    data = (b"plaintext canary" * (size // 16 + 1))[:size]
    path = tmp_path / "sealed"
    with path.open("xb", buffering=0) as raw, SealedWriter(raw, lambda: KEK, CONTEXT) as writer:
        writer.write(data)
    assert b"plaintext" not in path.read_bytes()
    with path.open("rb", buffering=0) as raw, SealedReader(raw, lambda: KEK, CONTEXT) as source:
        assert source.size == size
        assert source.read() == data
        buffer = bytearray(size)
        source.seek(0)
        assert source.readinto(buffer) == size
        assert buffer == data


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 5_000), st.sampled_from([64, 1000, 1 << 20]))
def test_parquet_through_pyarrow(rows: int, chunk_size: int) -> None:
    """pyarrow writes and reads a Parquet file through both streams, one column or all."""
    table = pa.table({"id": list(range(rows)), "name": [f"customer {i % 7}" for i in range(rows)]})
    raw = io.BytesIO()
    with SealedWriter(raw, lambda: KEK, CONTEXT, chunk_size) as writer:
        sink = pa.PythonFile(writer, mode="w")
        pq.write_table(table, sink, row_group_size=500)
        sink.flush()
    assert b"customer" not in raw.getvalue()
    assert pq.read_table(pa.PythonFile(reader(raw.getvalue()))).equals(table)
    assert pq.read_table(pa.PythonFile(reader(raw.getvalue()), mode="r"), columns=["name"]).equals(
        table.select(["name"])
    )


def test_one_reader_can_be_shared_and_closed_by_another_thread() -> None:
    """Concurrent reads each see a consistent position, and a close from elsewhere ends them cleanly."""
    data = text(50 * CHUNK)
    source = reader(seal(data))
    seen: list[bytes] = []
    lock = threading.Lock()

    def work() -> None:
        while piece := source.read(10):
            with lock:
                seen.append(piece)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(map(len, seen)) == len(data)
    assert sorted(seen) == sorted(data[i : i + 10] for i in range(0, len(data), 10))
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join(30)
    with pytest.raises(ValueError, match="closed"):
        source.read(1)
