"""Looking for plaintext where none may be.

Canaries are strings of the customer's data. A directory is searched for them in every file, as they are and
inside compressed payloads (gzip, zstd) and Parquet pages that a file may hold.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_COLUMNS = {
    "party": ("party_id", "name"),
    "account_party_link": ("account_id", "party_id"),
    "transaction": ("transaction_id", "account_id"),
    "risk_case_event": ("risk_case_event_id", "risk_case_id", "party_id"),
}
# Shorter or plainer values ("P00000001") stand in any file of numbers by accident.
_MIN_LENGTH = 8
_MIN_DISTINCT = 6
_BLOCK = 8 << 20
_INFLATED = 64 << 20
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_PARQUET = b"PAR1"


@dataclass(frozen=True)
class Found:
    """A canary in clear."""

    path: Path
    how: str


def pick(tables: Iterable[tuple[str, Path]], per_column: int = 12) -> list[bytes]:
    """Canaries from the input's own ids and names: of its first and last rows."""
    chosen: set[bytes] = set()
    for table, path in tables:
        for column in _COLUMNS.get(table, ()):
            values = [v for v in _sample(path, column, per_column) if _telling(v)]
            chosen.update(value.encode() for value in values)
    return sorted(chosen)


def _telling(value: str) -> bool:
    return len(value) >= _MIN_LENGTH and len(set(value)) >= _MIN_DISTINCT


def _sample(path: Path, column: str, count: int) -> Iterator[str]:
    if path.is_dir():
        parts = sorted(p for p in path.iterdir() if p.suffix in {".parquet", ".csv"})
        for part in parts[:1] + parts[-1:]:
            yield from _sample(part, column, count)
        return
    if path.suffix == ".csv":
        from pyarrow import csv

        batches = csv.open_csv(path)
        if column in batches.schema.names:
            batch = batches.read_next_batch()
            yield from (str(v) for v in batch.column(column).slice(0, count).to_pylist() if v)
        return
    file = pq.ParquetFile(path)
    if column not in file.schema_arrow.names:
        return
    for group in {0, file.num_row_groups - 1}:
        values = file.read_row_group(group, columns=[column]).column(0)
        for piece in (values.slice(0, count), values.slice(max(0, len(values) - count))):
            yield from (str(v) for v in piece.to_pylist() if v)


def search(
    roots: Sequence[Path], canaries: Sequence[bytes], progress: Callable[[int], None] = lambda _: None
) -> tuple[int, list[Found]]:
    """How many files there are under `roots` (folders or files), and every place where a canary stands in
    clear. `progress` is told the bytes looked at."""
    found: list[Found] = []
    below = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
    files = [path for path in below if path.is_file() and not path.is_symlink()]
    for path in files:
        found.extend(_search_file(path, canaries))
        progress(path.stat().st_size)
    return len(files), found


def _search_file(path: Path, canaries: Sequence[bytes]) -> Iterator[Found]:
    longest = max(map(len, canaries), default=1)
    tail = b""
    with path.open("rb") as file:
        head = file.read(4)
        if head == _PARQUET:
            yield Found(path, "is a plain Parquet file")
        file.seek(0)
        while block := file.read(_BLOCK):
            data = tail + block
            if _holds(data, canaries):
                yield Found(path, "as it is")
                return
            for inflated in _inflate(data):
                if _holds(inflated, canaries):
                    yield Found(path, "compressed")
                    return
            tail = data[-longest:]


def _holds(data: bytes, canaries: Sequence[bytes]) -> bool:
    return any(canary in data for canary in canaries)


def _inflate(data: bytes) -> Iterator[bytes]:
    for magic, inflate in ((_GZIP, _gunzip), (_ZSTD, _unzstd)):
        at = data.find(magic)
        while at >= 0:
            yield inflate(data[at:])
            at = data.find(magic, at + 1)


def _gunzip(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data, _INFLATED)
    except zlib.error:
        return b""


def _unzstd(data: bytes) -> bytes:
    pieces: list[bytes] = []
    try:
        with pa.CompressedInputStream(pa.PythonFile(io.BytesIO(data), mode="r"), "zstd") as stream:
            while (piece := stream.read(1 << 20)) and sum(map(len, pieces)) < _INFLATED:
                pieces.append(piece)
    except (OSError, pa.ArrowInvalid):
        pass  # what was inflated before the damage is still looked at
    return b"".join(pieces)
