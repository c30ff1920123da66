"""An import writes what it read to its sink and nowhere else, and stops when told to."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keystead.crypto.errors import CryptoError
from keystead.crypto.sealed_file import SealedReader, SealedWriter
from keystead.crypto.secret import SecretBytes
from keystead.financialservices.failures import DatasetValidationError
from keystead.financialservices.ingest import ROW_GROUP_ROWS, ingest
from keystead.financialservices.tables import TABLES

from .samples import arrow, imported, link, party, source_of


def many(tmp_path: Path, count: int = 3 * 65_536) -> Any:
    """A source of three batches."""
    ids = pa.array([f"L{number}" for number in range(count)])
    first = arrow("account_party_link", [link(1)]).slice(0, 1)
    same = pa.concat_tables([first] * 1).take(pa.array([0] * count))
    return source_of(tmp_path, "account_party_link", same.set_column(0, "account_id", ids))


class Revoked(Exception):
    """What a lease raises."""


class Spy(io.RawIOBase):
    """A sink that can only be written to, counts, and may refuse."""

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.data = bytearray()
        self.limit = limit

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self.limit is not None and len(self.data) >= self.limit:
            raise Revoked
        taken = bytes(data)[:1000]  # as an unbuffered file may: not all at once
        self.data += taken
        return len(taken)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise AssertionError("the sink is only appended to")


TABLE = TABLES["account_party_link"]


def test_row_groups_and_progress(tmp_path: Path) -> None:
    """Rows are written in full row groups, progress counts up, and the report says what was written."""
    told: list[int] = []
    checks: list[int] = []
    sink = Spy()
    report = ingest(TABLE, many(tmp_path), sink, check=lambda: checks.append(1), progress=told.append)
    file = pq.ParquetFile(pa.BufferReader(bytes(sink.data)))
    groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    assert groups == [ROW_GROUP_ROWS, ROW_GROUP_ROWS // 2]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert told == [65_536, 131_072, 196_608]
    assert len(checks) == 4
    assert (report.table, report.rows, report.written_bytes) == (TABLE.name, 196_608, len(sink.data))
    assert report.absent_columns == ("is_entity_deleted", "source_system")
    assert not sink.closed


@pytest.mark.parametrize("allowed", range(4))
def test_a_revoked_lease_ends_the_import(tmp_path: Path, allowed: int) -> None:
    """Whatever `check` raises comes out as it is, at the next batch or the footer; no footer is written."""
    left = [None] * allowed

    def check() -> None:
        if not left:
            raise Revoked
        left.pop()

    sink = Spy()
    with pytest.raises(Revoked):
        ingest(TABLE, many(tmp_path), sink, check=check)
    written = len(sink.data)
    assert not bytes(sink.data[4:]).endswith(b"PAR1")
    assert written == len(sink.data)


@pytest.mark.parametrize("limit", [0, 4, 50_000])
def test_a_failing_sink_ends_the_import(tmp_path: Path, limit: int) -> None:
    """What the sink raises comes out as it is, also when the very first bytes are refused."""
    sink = Spy(limit)
    with pytest.raises(Revoked):
        ingest(TABLE, many(tmp_path), sink, check=lambda: None)
    assert len(sink.data) <= limit + 1000


def test_a_table_that_fails_is_never_readable(tmp_path: Path) -> None:
    """After a validation failure the sink holds no footer: nobody can take it for a table."""
    sink = Spy()
    source = source_of(tmp_path, "party", arrow("party", [party(1), party(1)]))
    with pytest.raises(DatasetValidationError):
        ingest(TABLES["party"], source, sink, check=lambda: None)
    with pytest.raises(pa.ArrowInvalid):
        pq.ParquetFile(pa.BufferReader(bytes(sink.data)))


def test_nothing_is_written_but_to_the_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import opens no file for writing, in no directory."""
    source = many(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(scratch))
    monkeypatch.chdir(scratch)
    before = sorted(tmp_path.rglob("*"))
    ingest(TABLE, source, Spy(), check=lambda: None)
    assert sorted(tmp_path.rglob("*")) == before


def sealed_import(source: Any, raw: io.BytesIO, key: Callable[[], SecretBytes]) -> None:
    with SealedWriter(raw, key, b"a table", chunk_size=65_536) as sink:
        ingest(TABLE, source, sink, check=lambda: None)


def test_a_sealed_import_reads_back_under_its_key(tmp_path: Path) -> None:
    """Sealed, the table is the same under the key, and no id of it is to be found in the bytes."""
    raw = io.BytesIO()
    source = many(tmp_path, 5_000)
    with SecretBytes.random(32) as key:
        sealed_import(source, raw, lambda: key)
        reader = SealedReader(raw, lambda: key, b"a table")
        written = pq.read_table(pa.PythonFile(reader, mode="r"))
    assert written == imported(source, TABLE.name)
    assert b"L4999" not in raw.getvalue()
    assert b"PAR1" not in raw.getvalue()


def test_a_key_revoked_in_the_middle_ends_a_sealed_import(tmp_path: Path) -> None:
    """When the key is refused, the import ends with that refusal and the sealed file is incomplete."""
    raw = io.BytesIO()
    source = many(tmp_path)
    uses = 0
    with SecretBytes.random(32) as key:

        def lease() -> SecretBytes:
            nonlocal uses
            uses += 1
            if uses > 1:
                raise Revoked
            return key

        with pytest.raises(Revoked):
            sealed_import(source, raw, lease)
        with pytest.raises(CryptoError):
            SealedReader(raw, lambda: key, b"a table")
