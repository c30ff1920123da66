"""The sealed-file codec: sizes are computable, chunks open only where they belong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.crypto.errors import CryptoError, DecryptionError, MalformedError
from keystead.crypto.sealing import (
    BYTES_OVERHEAD,
    CHUNK_OVERHEAD,
    HEADER_SIZE,
    MAX_CHUNK_SIZE,
    ChunkOpener,
    ChunkSealer,
    SealedHeader,
    chunk_offset,
    open_bytes,
    plain_size,
    seal_bytes,
    sealed_size,
)
from keystead.crypto.secret import SecretBytes

KEK = SecretBytes(bytes(range(32)))
HEADER = SealedHeader(8, bytes(range(16)))
CONTEXT = b"context"


def sealer(header: SealedHeader = HEADER) -> ChunkSealer:
    return ChunkSealer(KEK, header, CONTEXT)


def opener(header: SealedHeader = HEADER) -> ChunkOpener:
    return ChunkOpener(KEK, header, CONTEXT)


@given(st.integers(0, 10_000), st.integers(1, 100))
def test_sizes_and_offsets_are_consistent(size: int, chunk_size: int) -> None:
    """The plaintext size follows from the file size, and the last chunk begins where the sizes say."""
    whole = sealed_size(size, chunk_size)
    assert plain_size(whole, chunk_size) == size
    last = size // chunk_size
    assert chunk_offset(0, chunk_size) == HEADER_SIZE
    assert chunk_offset(last, chunk_size) + CHUNK_OVERHEAD + size % chunk_size == whole


@given(st.integers(-5, 3_000), st.integers(1, 100))
def test_only_sizes_a_file_can_have_are_believed(whole: int, chunk_size: int) -> None:
    """A file size is either that of exactly one plaintext size, or malformed."""
    try:
        assert sealed_size(plain_size(whole, chunk_size), chunk_size) == whole
    except MalformedError:
        assert all(sealed_size(size, chunk_size) != whole for size in range(3_000))


def test_headers_are_parsed_strictly() -> None:
    """Exactly what was encoded is parsed; other sizes, magics, formats and chunk sizes are malformed."""
    data = HEADER.encode()
    assert SealedHeader.parse(data) == HEADER
    assert len(data) == HEADER_SIZE
    bad = [data[:-1], data + b"\0", b"", b"X" + data[1:], data[:11] + b"\2" + data[12:]]
    bad += [data[:12] + size.to_bytes(4, "big") + data[16:] for size in (0, MAX_CHUNK_SIZE + 1)]
    for attempt in bad:
        with pytest.raises(MalformedError):
            SealedHeader.parse(attempt)
    assert SealedHeader(8).file_id != SealedHeader(8).file_id


@pytest.mark.parametrize("arguments", [(0, bytes(16)), (MAX_CHUNK_SIZE + 1, bytes(16)), (8, bytes(15))])
def test_impossible_headers_are_programming_errors(arguments: tuple[int, bytes]) -> None:
    """A header that no reader would accept cannot be made."""
    with pytest.raises(ValueError, match="bytes"):
        SealedHeader(*arguments)


@pytest.mark.parametrize(
    ("index", "size", "final"), [(0, 7, False), (0, 9, False), (0, 8, True), (-1, 8, False), (0, 0, False)]
)
def test_only_the_final_chunk_is_short_and_it_always_is(index: int, size: int, final: bool) -> None:
    """There is one way to cut a plaintext into chunks: sealer and opener accept no other."""
    with pytest.raises(ValueError, match="full"):
        sealer().seal(index, bytes(size), final=final)
    with pytest.raises(MalformedError):
        opener().open(index, bytes(size + CHUNK_OVERHEAD), final=final)


@given(st.binary(max_size=7), st.integers(0, 1 << 40))
def test_both_forms_of_sealing_and_opening_agree(plaintext: bytes, index: int) -> None:
    """Chunks sealed into a larger buffer, at any offset of it, open in both forms and touch nothing else."""
    buffer = bytearray(b"\xee" * 200)
    count = sealer().seal_into(index, plaintext, memoryview(buffer)[10:], final=True)
    assert count == len(plaintext) + CHUNK_OVERHEAD
    assert buffer[:10] == b"\xee" * 10
    assert set(buffer[10 + count :]) == {0xEE}
    for sealed in (bytes(buffer[10 : 10 + count]), sealer().seal(index, plaintext, final=True)):
        assert opener().open(index, sealed, final=True) == plaintext
        out = bytearray(b"\xee" * 20)
        assert opener().open_into(index, sealed, out, final=True) == len(plaintext)
        assert out == plaintext + b"\xee" * (20 - len(plaintext))


def test_buffers_that_are_too_small_are_refused() -> None:
    """Neither direction writes part of a chunk."""
    sealed = sealer().seal(0, bytes(8), final=False)
    with pytest.raises(ValueError, match="too small"):
        sealer().seal_into(0, bytes(8), bytearray(len(sealed) - 1), final=False)
    with pytest.raises(ValueError, match="too small"):
        opener().open_into(0, sealed, bytearray(7), final=False)


def test_a_chunk_opens_only_in_its_place() -> None:
    """Another index, final flag, file, chunk size, context or KEK is refused, and leaves no plaintext."""
    sealed = sealer().seal(3, b"8 bytes!", final=False)
    wide = SealedHeader(9, HEADER.file_id)
    wrong = [
        (opener(), 2, False),
        (ChunkOpener(KEK, wide, CONTEXT), 3, True),
        (opener(SealedHeader(8)), 3, False),
        (ChunkOpener(KEK, HEADER, b"other"), 3, False),
        (ChunkOpener(SecretBytes.random(), HEADER, CONTEXT), 3, False),
    ]
    for candidate, index, final in wrong:
        with pytest.raises(DecryptionError):
            candidate.open(index, sealed, final=final)
        out = bytearray(8)
        with pytest.raises(DecryptionError):
            candidate.open_into(index, sealed, out, final=final)
        assert out == bytes(8)


def test_a_final_chunk_cannot_be_made_to_continue() -> None:
    """A short final chunk does not pass for a full one by claiming a smaller chunk size in the header."""
    short = sealer(SealedHeader(8, HEADER.file_id)).seal(0, b"1234567", final=True)
    with pytest.raises(DecryptionError):
        opener(SealedHeader(7, HEADER.file_id)).open(0, short, final=False)


def test_a_payload_does_not_open_under_another_chunk_s_key() -> None:
    """Wrapped DEK and payload of two chunks cannot be combined, even at the same index."""
    one, two = (sealer().seal(0, text, final=False) for text in (b"11111111", b"22222222"))
    out = bytearray(b"\xee" * 8)
    with pytest.raises(DecryptionError):
        opener().open_into(0, one[:72] + two[72:], out, final=False)
    assert out == bytes(8)


def test_every_chunk_has_its_own_key() -> None:
    """Sealing the same chunk twice shares no ciphertext: the payload nonce never recurs under a key."""
    made = [sealer().seal(0, bytes(8), final=False) for _ in range(50)]
    assert len({chunk[72:] for chunk in made}) == 50
    assert len({chunk[:72] for chunk in made}) == 50


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_small_bodies_come_back(data: bytes, context: bytes) -> None:
    """One-message sealing is the inverse of opening and has the stated size."""
    sealed = seal_bytes(KEK, context, data)
    assert open_bytes(KEK, context, sealed) == data
    assert len(sealed) == len(data) + BYTES_OVERHEAD


def test_small_bodies_open_only_in_their_place() -> None:
    """Every flipped bit, every cut, an extension, another context and another KEK are refused."""
    sealed = seal_bytes(KEK, CONTEXT, b"body")
    damaged = [sealed[:cut] for cut in range(len(sealed))] + [sealed + b"\0"]
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for attempt in damaged:
        with pytest.raises(CryptoError):
            open_bytes(KEK, CONTEXT, attempt)
    for kek, context in ((KEK, b"other"), (SecretBytes.random(), CONTEXT)):
        with pytest.raises(DecryptionError):
            open_bytes(kek, context, sealed)
