"""SECURITY: the sealed-file format as a pure codec, and its one-message sibling for small bodies.

Property: whoever lacks the resource's KEK learns nothing of a sealed file but its size, and cannot change
what its reader sees: truncation, extension, reordering, duplication, chunks or whole files swapped between
files or names, and any altered bit, header included, are detected before a single byte is handed out.

How: every chunk has its own fresh DEK, stored beside it wrapped under the KEK. The wrap is bound to the
file's header (with its random file id), the caller's context (which names the object), the chunk's index and
whether it is the last. Every chunk but the last is exactly `chunk_size` long, the last is always shorter
(empty, if need be), so the sizes are computable and a file that lost its end cannot look whole. Layout:
docs/formats.md, sections 4 and 5.

It cannot detect that a whole file was replaced by an older one sealed under the same context: put what must
differ (a generation) into the context. Owns no I/O: files are `sealed_file`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keystead.crypto.aad import encode_aad, encode_field
from keystead.crypto.aead import KEY_SIZE, SEAL_OVERHEAD, TAG_SIZE, Aead, decrypt_into
from keystead.crypto.errors import DecryptionError, MalformedError
from keystead.crypto.secret import BytesLike, SecretBytes, random_bytes

MAGIC = b"KSTDSF1\n"
FORMAT = 1
FILE_ID_SIZE = 16
DEFAULT_CHUNK_SIZE = 1 << 20
MAX_CHUNK_SIZE = 1 << 26
"""64 MiB: a reader allocates a chunk before it can authenticate one, so the header may not ask for more."""

_HEADER = struct.Struct(f">8sII{FILE_ID_SIZE}s")
HEADER_SIZE = _HEADER.size
WRAPPED_DEK_SIZE = KEY_SIZE + SEAL_OVERHEAD
CHUNK_OVERHEAD = WRAPPED_DEK_SIZE + TAG_SIZE
"""How many bytes longer a sealed chunk is than its plaintext."""

BYTES_FORMAT = 1
BYTES_OVERHEAD = 1 + SEAL_OVERHEAD
"""How many bytes longer the result of `seal_bytes` is than its data."""

# A constant nonce is right here, and only here: each DEK is drawn afresh for one chunk and encrypts exactly
# one message, so no (key, nonce) pair can occur twice. A random nonce would cost 12 bytes a chunk and add
# nothing.
_PAYLOAD_NONCE = bytes(12)


@dataclass(frozen=True)
class SealedHeader:
    """The public beginning of a sealed file. `file_id` must be new for every file that is written.

    Raises ValueError for a chunk size outside 1..MAX_CHUNK_SIZE or an id that is not 16 bytes.
    """

    chunk_size: int = DEFAULT_CHUNK_SIZE
    file_id: bytes = field(default_factory=lambda: random_bytes(FILE_ID_SIZE))

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_size <= MAX_CHUNK_SIZE:
            raise ValueError(f"a chunk has from 1 to {MAX_CHUNK_SIZE} bytes")
        if len(self.file_id) != FILE_ID_SIZE:
            raise ValueError(f"a file id has {FILE_ID_SIZE} bytes")

    def encode(self) -> bytes:
        """The HEADER_SIZE bytes at the start of the file."""
        return _HEADER.pack(MAGIC, FORMAT, self.chunk_size, self.file_id)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The header in exactly HEADER_SIZE bytes; MalformedError for anything `encode` cannot have made."""
        if len(data) != HEADER_SIZE:
            raise MalformedError("a sealed file's header is cut off")
        magic, form, chunk_size, file_id = _HEADER.unpack(data)
        if magic != MAGIC:
            raise MalformedError("this is not a sealed file")
        if form != FORMAT:
            raise MalformedError("a sealed file has an unknown format")
        if not 1 <= chunk_size <= MAX_CHUNK_SIZE:
            raise MalformedError("a sealed file has an impossible chunk size")
        return cls(chunk_size, file_id)


def sealed_size(plain_size: int, chunk_size: int = DEFAULT_CHUNK_SIZE) -> int:
    """How many bytes a sealed file of `plain_size` bytes of content has."""
    return HEADER_SIZE + plain_size + CHUNK_OVERHEAD * (plain_size // chunk_size + 1)


def plain_size(sealed_size: int, chunk_size: int = DEFAULT_CHUNK_SIZE) -> int:
    """The inverse of `sealed_size`: a claim, until the final chunk is opened.

    MalformedError if no file has it.
    """
    full, rest = divmod(sealed_size - HEADER_SIZE, chunk_size + CHUNK_OVERHEAD)
    if sealed_size < HEADER_SIZE or rest < CHUNK_OVERHEAD:
        raise MalformedError("a sealed file is cut off")
    return full * chunk_size + rest - CHUNK_OVERHEAD


def chunk_offset(index: int, chunk_size: int = DEFAULT_CHUNK_SIZE) -> int:
    """Where the sealed chunk `index` (from 0) begins in the file."""
    return HEADER_SIZE + index * (chunk_size + CHUNK_OVERHEAD)


class _Binding:
    """What the chunks of one file are bound to.

    Header and context, then each chunk's index and final flag.
    """

    __slots__ = ("_payload", "_wrap", "chunk_size")

    def __init__(self, header: SealedHeader, context: bytes) -> None:
        self.chunk_size = header.chunk_size
        self._wrap = encode_aad("keystead.sealed-file.dek", header.encode(), context)
        self._payload = encode_aad("keystead.sealed-file.chunk", header.file_id)

    def of(self, index: int, final: bool) -> tuple[bytes, bytes]:
        """The associated data of the wrapped DEK and of the payload."""
        position = encode_field(index) + encode_field(int(final))
        return self._wrap + position, self._payload + position

    def fits(self, index: int, size: int, final: bool) -> bool:
        """Whether a chunk of `size` plaintext bytes can be there: full unless final, short if final."""
        return index >= 0 and (0 <= size < self.chunk_size if final else size == self.chunk_size)


# A stream makes a sealer or opener for every chunk, since it asks for the KEK anew each time.
_binding = lru_cache(maxsize=256)(_Binding)


class ChunkSealer:
    """Seals the chunks of one file under one KEK, for as long as the KEK is not wiped."""

    __slots__ = ("_binding", "_kek")

    def __init__(self, kek: SecretBytes, header: SealedHeader, context: bytes) -> None:
        """`context` (from `encode_aad`) names what the file is.

        Only a reader that names the same opens it.
        """
        self._kek = kek
        self._binding = _binding(header, context)

    def seal(self, index: int, plaintext: BytesLike, *, final: bool) -> bytes:
        """The sealed chunk `index`, CHUNK_OVERHEAD bytes longer than `plaintext`; see `seal_into`."""
        out = bytearray(len(plaintext) + CHUNK_OVERHEAD)
        self.seal_into(index, plaintext, out, final=final)
        return bytes(out)

    def seal_into(self, index: int, plaintext: BytesLike, out: bytearray | memoryview, *, final: bool) -> int:
        """Write the sealed chunk into the beginning of `out` without a copy; the number of bytes written.

        `plaintext` is exactly `chunk_size` bytes, or fewer if and only if `final`; otherwise, or if `out` is
        too small, ValueError. Sealing the same index again is safe (every call draws a new DEK).
        """
        size = len(plaintext) + CHUNK_OVERHEAD
        if not self._binding.fits(index, len(plaintext), final):
            raise ValueError("every chunk is full except the final one, which is shorter")
        if len(out) < size:
            raise ValueError("the output buffer is too small for the sealed chunk")
        wrap_aad, payload_aad = self._binding.of(index, final)
        view = memoryview(out)
        with SecretBytes.random(KEY_SIZE) as dek:
            view[:WRAPPED_DEK_SIZE] = dek.use(lambda key: Aead.of(self._kek).seal(key, wrap_aad))
            cipher = dek.use(AESGCM)
        cipher.encrypt_into(_PAYLOAD_NONCE, plaintext, payload_aad, view[WRAPPED_DEK_SIZE:size])
        return size


class ChunkOpener:
    """Opens the chunks of one file in any order, for as long as the KEK is not wiped."""

    __slots__ = ("_binding", "_kek")

    def __init__(self, kek: SecretBytes, header: SealedHeader, context: bytes) -> None:
        """The same `header` and `context` as the file was sealed with."""
        self._kek = kek
        self._binding = _binding(header, context)

    def open(self, index: int, sealed: BytesLike, *, final: bool) -> bytes:
        """The plaintext of the chunk `index`; MalformedError for an impossible size, else DecryptionError."""
        cipher, payload_aad = self._unwrap(index, sealed, final)
        try:
            return cipher.decrypt(_PAYLOAD_NONCE, memoryview(sealed)[WRAPPED_DEK_SIZE:], payload_aad)
        except InvalidTag:
            raise DecryptionError from None

    def open_into(self, index: int, sealed: BytesLike, out: bytearray | memoryview, *, final: bool) -> int:
        """As `open`, into the beginning of `out`; the number of bytes written.

        ValueError if `out` is too small. If the chunk does not open, nothing of it is left in `out`.
        """
        cipher, payload_aad = self._unwrap(index, sealed, final)
        size = len(sealed) - CHUNK_OVERHEAD
        if len(out) < size:
            raise ValueError("the output buffer is too small for the chunk")
        payload = memoryview(sealed)[WRAPPED_DEK_SIZE:]
        decrypt_into(cipher, _PAYLOAD_NONCE, payload, payload_aad, memoryview(out)[:size])
        return size

    def _unwrap(self, index: int, sealed: BytesLike, final: bool) -> tuple[AESGCM, bytes]:
        if not self._binding.fits(index, len(sealed) - CHUNK_OVERHEAD, final):
            raise MalformedError("a sealed chunk has an impossible size")
        wrap_aad, payload_aad = self._binding.of(index, final)
        with Aead.of(self._kek).open_secret(memoryview(sealed)[:WRAPPED_DEK_SIZE], wrap_aad) as dek:
            return dek.use(AESGCM), payload_aad


def seal_bytes(kek: SecretBytes, context: bytes, data: bytes) -> bytes:
    """A small body as one message under the KEK, bound to `context`: docs/formats.md, section 5."""
    return bytes((BYTES_FORMAT,)) + Aead.of(kek).seal(data, _bytes_aad(context))


def open_bytes(kek: SecretBytes, context: bytes, sealed: bytes) -> bytes:
    """What `seal_bytes` sealed. MalformedError for another format or a cut, else DecryptionError."""
    if len(sealed) < BYTES_OVERHEAD:
        raise MalformedError("sealed bytes are too short")
    if sealed[0] != BYTES_FORMAT:
        raise MalformedError("sealed bytes have an unknown format")
    return Aead.of(kek).open(memoryview(sealed)[1:], _bytes_aad(context))


def _bytes_aad(context: bytes) -> bytes:
    return encode_aad("keystead.sealed-bytes", BYTES_FORMAT, context)
