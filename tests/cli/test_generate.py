"""`keystead generate`: input tables out of a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Keystead

TABLES = {"party", "account_party_link", "transaction", "risk_case_event"}


def files(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by its relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_it_writes_the_four_tables(keystead: Keystead, tmp_path: Path, file_format: str) -> None:
    """Each table is there in the format asked for; nothing is printed on standard output."""
    target = tmp_path / "tables"
    ran = keystead("generate", target, "--transactions", "2000", "--format", file_format)

    assert (ran.status, ran.out) == (0, "")
    assert f"wrote 2,000 transactions to {target}" in ran.text
    written = files(target)
    assert {name.split("/")[0].split(".")[0] for name in written} == TABLES
    assert all(name.endswith(f".{file_format}") for name in written)


def test_the_seed_decides_the_data(keystead: Keystead, tmp_path: Path) -> None:
    """The same seed writes the same bytes, another seed others."""
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        options = ("--transactions", "2000", "--seed", str(seed), "--format", "csv")
        assert keystead("generate", tmp_path / name, *options).status == 0

    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert files(tmp_path / "one") != files(tmp_path / "three")


def test_a_file_in_the_way_is_a_usage_error(keystead: Keystead, tmp_path: Path) -> None:
    """DIRECTORY must not be a file."""
    (tmp_path / "file").write_text("")

    assert keystead("generate", tmp_path / "file").status == 2
