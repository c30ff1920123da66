"""SECURITY: sealed files as streams, for code that reads and writes ordinary binary files.

Property: no plaintext is handed out before its chunk is verified; a file whose writing failed or was given up
never gets its final chunk, so it can never be taken for complete; every chunk, and every read served from
memory, first asks `key` for the KEK, so that a revoked lease stops an open stream at its next call and its
cached plaintext is wiped; no copy of the KEK outlives it.

Opens nothing and knows no path: the caller hands in a binary file object that begins with the sealed file,
keeps owning it, and closes it. The bytes a caller has already read are the caller's.

Example:
    with path.open("xb") as raw, SealedWriter(raw, lease.key, context) as out:
        table.write(out)
"""

from __future__ import annotations

import io
from collections.abc import Callable
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from keystead.crypto.errors import MalformedError
from keystead.crypto.sealing import (
    CHUNK_OVERHEAD,
    DEFAULT_CHUNK_SIZE,
    HEADER_SIZE,
    ChunkOpener,
    ChunkSealer,
    SealedHeader,
    chunk_offset,
    plain_size,
)
from keystead.crypto.secret import SecretBytes, zeroise

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

KeySource = Callable[[], SecretBytes]
"""Returns the KEK, or raises if it may not be used now."""


class WritableRaw(Protocol):
    """What a writer needs of a file (any BinaryIO has it)."""

    def write(self, data: memoryview, /) -> int | None: ...


class ReadableRaw(Protocol):
    """What a reader needs of a file (any seekable BinaryIO has it)."""

    def read(self, size: int, /) -> bytes | None: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class SealedWriter(io.RawIOBase):
    """A write-only stream that seals what is written to it. `close` completes the file, `abort` gives it up.

    Leaving a `with` block by an exception, dropping the object unclosed, and any failure while writing abort.
    Safe to call from several threads, one call at a time.
    """

    def __init__(
        self, raw: WritableRaw, key: KeySource, context: bytes, chunk_size: int = DEFAULT_CHUNK_SIZE
    ) -> None:
        """Write a new file's header to `raw`. `context` names the object; its reader must name the same.

        Holds up to two chunks in memory. ValueError for an impossible `chunk_size`.
        """
        self._lock = RLock()
        self._aborted = False
        self._partial = bytearray()
        self._filled = 0
        self._sealed = bytearray()
        self._index = 0
        self._header = SealedHeader(chunk_size)
        self._raw = raw
        self._key = key
        self._context = context
        self._put(memoryview(self._header.encode()))

    @property
    def aborted(self) -> bool:
        """Whether the file was given up: it is closed and not complete."""
        return self._aborted

    @property
    def file_id(self) -> bytes:
        """The file's random id, to be noted by an owner who must tell it from an older one."""
        return self._header.file_id

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Take all of `data`; full chunks are sealed and written at once, the rest is kept for later.

        Raises whatever `key` or the file raises; the writer has then aborted. ValueError once closed.
        """
        view = memoryview(data).cast("B")
        with self._lock:
            self._check_open()
            try:
                self._take(view)
            except BaseException:
                self.abort()
                raise
        return len(view)

    def tell(self) -> int:
        """How many bytes of plaintext were written."""
        with self._lock:
            self._check_open()
            return self._index * self._header.chunk_size + self._filled

    def flush(self) -> None:
        """Do nothing: a partial chunk cannot be emitted, and the file's own buffering is its owner's."""

    def close(self) -> None:
        """Seal the rest as the final chunk; the file is then complete. Harmless when already closed."""
        with self._lock:
            if self.closed:
                return
            try:
                self._emit(memoryview(self._partial)[: self._filled], final=True)
            except BaseException:
                self.abort()
                raise
            self._end()

    def abort(self) -> None:
        """Close without the final chunk: no reader will ever take the file for complete."""
        with self._lock:
            if not self.closed:
                self._aborted = True
                self._end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def __del__(self) -> None:
        # The inherited finalizer would close, and so declare complete, a file whose writer was merely
        # forgotten.
        if hasattr(self, "_lock"):
            self.abort()

    def _take(self, view: memoryview) -> None:
        size = self._header.chunk_size
        if self._filled:
            head = view[: size - self._filled]
            self._keep(head)
            view = view[len(head) :]
            if self._filled == size:
                self._emit(memoryview(self._partial), final=False)
                self._filled = 0
        while len(view) >= size:
            self._emit(view[:size], final=False)
            view = view[size:]
        if len(view):
            self._keep(view)

    def _keep(self, piece: memoryview) -> None:
        if not self._partial:
            # Whole at once: growing it step by step would leave unwiped copies of plaintext behind.
            self._partial = bytearray(self._header.chunk_size)
        memoryview(self._partial)[self._filled : self._filled + len(piece)] = piece
        self._filled += len(piece)

    def _emit(self, plaintext: memoryview, *, final: bool) -> None:
        needed = len(plaintext) + CHUNK_OVERHEAD
        if len(self._sealed) < needed:
            self._sealed = bytearray(needed)
        sealer = ChunkSealer(self._key(), self._header, self._context)
        sealer.seal_into(self._index, plaintext, self._sealed, final=final)
        self._put(memoryview(self._sealed)[:needed])
        self._index += 1

    def _put(self, data: memoryview) -> None:
        while len(data):
            written = self._raw.write(data)
            if written is None:
                raise BlockingIOError("a sealed file needs a blocking file beneath it")
            data = data[written:]

    def _end(self) -> None:
        zeroise(self._partial)
        self._filled = 0
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the sealed writer is closed")


class SealedReader(io.RawIOBase):
    """A read-only, seekable stream of the plaintext of a sealed file.

    It decrypts only the chunks it is asked for. Safe to call from several threads, one call at a time; a
    lease's owner may `close` it from another thread.
    """

    def __init__(self, raw: ReadableRaw, key: KeySource, context: bytes) -> None:
        """Read the header and verify the final chunk, hence the size.

        Raises MalformedError or DecryptionError if this is not a complete sealed file of this KEK and
        context, and whatever `key` or the file raises. Holds at most one decrypted and one sealed chunk.
        """
        self._lock = RLock()
        self._cache = bytearray()
        self._cached: int | None = None
        self._scratch = bytearray()
        self._position = 0
        self._raw = raw
        # Every file of the io module can read into a buffer; asking it here keeps that out of each chunk's
        # path.
        self._readinto = raw.readinto if isinstance(raw, io.RawIOBase | io.BufferedIOBase) else None
        self._key = key
        self._context = context
        raw.seek(0)
        self._header = SealedHeader.parse(bytes(self._get(HEADER_SIZE)))
        self._size = plain_size(raw.seek(0, io.SEEK_END), self._header.chunk_size)
        self._final = self._size // self._header.chunk_size
        self._load(self._final)

    @property
    def size(self) -> int:
        """The size of the plaintext, as verified on opening."""
        return self._size

    @property
    def file_id(self) -> bytes:
        """The file's random id; authentic once the reader is open, for every chunk is bound to the header."""
        return self._header.file_id

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        """The position in the plaintext."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to `offset` from the start, the position or the end; reads beyond the end are empty."""
        with self._lock:
            self._check_open()
            origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
            if whence not in origins:
                raise ValueError("whence must be 0, 1 or 2")
            if origins[whence] + offset < 0:
                raise ValueError("a position cannot be before the start")
            self._position = origins[whence] + offset
            return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes (all the rest if negative or None); fewer only at the end.

        A chunk that does not open, or a key that is refused, fails the whole read; the position stays.
        """
        pieces = []
        with self._lock:
            position, stop = self._range(size)
            try:
                while position < stop:
                    pieces.append(self._piece(position, stop))
                    position += len(pieces[-1])
            except BaseException:
                self._forget()
                raise
            self._position = position
        return b"".join(pieces)

    def readall(self) -> bytes:
        """All the rest."""
        return self.read(-1)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """As `read`, into `buffer`, decrypting whole chunks straight into it; the number of bytes.

        If it fails, what it had already put into `buffer` is zeroed.
        """
        view = memoryview(buffer).cast("B")
        with self._lock:
            start, stop = self._range(len(view))
            position = start
            try:
                while position < stop:
                    position += self._piece_into(position, view[position - start : stop - start])
            except BaseException:
                self._forget()
                zeroise(view[: position - start])
                raise
            self._position = position
        return position - start

    def close(self) -> None:
        """Wipe the cached plaintext; the file beneath stays open."""
        with self._lock:
            self._forget()
            super().close()

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            self.close()

    def _range(self, size: int | None) -> tuple[int, int]:
        """Where a read of `size` bytes begins and ends.

        The end may be before the beginning: nothing to read.
        """
        self._check_open()
        if size is None or size < 0:
            return self._position, self._size
        return self._position, min(self._size, self._position + size)

    def _piece(self, position: int, stop: int) -> bytes:
        """What the chunk at `position` has of the plaintext up to `stop`."""
        index, start = divmod(position, self._header.chunk_size)
        length = self._length(index)
        if start == 0 and stop - position >= length and index != self._cached:
            return self._opener().open(index, self._sealed(index), final=index == self._final)
        self._load(index)
        return bytes(memoryview(self._cache)[start : min(length, start + stop - position)])

    def _piece_into(self, position: int, target: memoryview) -> int:
        """As `_piece`, as much as `target` takes; the number of bytes."""
        index, start = divmod(position, self._header.chunk_size)
        length = self._length(index)
        if start == 0 and len(target) >= length and index != self._cached:
            return self._opener().open_into(index, self._sealed(index), target, final=index == self._final)
        self._load(index)
        count = min(length - start, len(target))
        target[:count] = memoryview(self._cache)[start : start + count]
        return count

    def _length(self, index: int) -> int:
        return self._header.chunk_size if index != self._final else self._size % self._header.chunk_size

    def _opener(self) -> ChunkOpener:
        return ChunkOpener(self._key(), self._header, self._context)

    def _load(self, index: int) -> None:
        """Make `index` the cached chunk.

        The key is asked for even if it already is: a cache is not a lease.
        """
        if index == self._cached:
            self._key()
            return
        opener = self._opener()
        self._cached = None
        if len(self._cache) < self._length(index):
            self._cache = bytearray(self._length(index))
        opener.open_into(index, self._sealed(index), self._cache, final=index == self._final)
        self._cached = index

    def _sealed(self, index: int) -> memoryview:
        self._raw.seek(chunk_offset(index, self._header.chunk_size))
        return self._get(self._length(index) + CHUNK_OVERHEAD)

    def _get(self, size: int) -> memoryview:
        """The next `size` bytes of the file, in a buffer that the next call overwrites."""
        # One buffer for all chunks: fresh ones of this size are given back to the system and faulted in each
        # time.
        if len(self._scratch) < size:
            self._scratch = bytearray(size)
        data = rest = memoryview(self._scratch)[:size]
        while len(rest):
            count = self._read_some(rest)
            if not count:
                raise MalformedError("a sealed file is cut off")
            rest = rest[count:]
        return data

    def _read_some(self, target: memoryview) -> int | None:
        if self._readinto is not None:
            return self._readinto(target)
        piece = self._raw.read(len(target)) or b""
        target[: len(piece)] = piece
        return len(piece)

    def _forget(self) -> None:
        self._cached = None
        zeroise(self._cache)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the sealed reader is closed")
