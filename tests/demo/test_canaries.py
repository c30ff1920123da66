"""The search for plaintext must find it wherever it can hide, or its silence proves nothing."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keystead.cli.demo.canaries import pick, search
from keystead.financialservices.generator import generate

CANARY = b"canary-4b1f0c9a7d"


def test_a_canary_is_found_as_it_is(tmp_path: Path) -> None:
    """A canary in clear anywhere below the folder is found."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 1000 + CANARY + b"y")
    files, found = search([tmp_path], [CANARY])
    assert files == 1
    assert [each.path.name for each in found] == ["file"]


def test_a_canary_across_two_blocks_is_found(tmp_path: Path) -> None:
    """A canary that the reading in blocks cuts in two is found."""
    edge = 8 << 20
    (tmp_path / "file").write_bytes(b"\0" * (edge - 5) + CANARY + b"\0" * 100)
    assert search([tmp_path], [CANARY])[1]


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: pa.compress(data, "zstd", asbytes=True)])
def test_a_canary_inside_a_compressed_payload_is_found(tmp_path: Path, compress: object) -> None:
    """Compression does not hide a canary, wherever in a file the payload begins."""
    noise = bytes(random.Random(1).choices(b"abcdefghij", k=5000))  # coded letter by letter, the canary too
    payload = compress(noise + CANARY + noise)  # type: ignore[operator]
    assert CANARY not in payload
    (tmp_path / "file").write_bytes(b"prefix" + payload)
    assert search([tmp_path], [CANARY])[1]


def test_a_plain_parquet_file_is_reported(tmp_path: Path) -> None:
    """A Parquet file in clear is a finding whatever it holds."""
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "file")
    assert "Parquet" in search([tmp_path], [CANARY])[1][0].how


def test_clean_files_are_not_reported(tmp_path: Path) -> None:
    """Files without a canary are counted and not reported."""
    (tmp_path / "a").write_bytes(b"nothing here")
    (tmp_path / "b").write_bytes(b"")
    assert search([tmp_path], [CANARY]) == (2, [])


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_canaries_are_picked_from_the_input(tmp_path: Path, file_format: str) -> None:
    """What is looked for really stands in the input, in either format."""
    generate(tmp_path, seed=3, transactions=2000, markers=["canary-in-input-1"], file_format=file_format)  # type: ignore[arg-type]
    party = tmp_path / f"party.{file_format}"
    canaries = pick([("party", party)])
    assert len(canaries) >= 5
    if file_format == "csv":
        text = party.read_bytes()
        assert all(canary in text for canary in canaries)
