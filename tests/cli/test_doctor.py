"""`keystead doctor`: what it finds, and that its exit status tells a script."""

from __future__ import annotations

import importlib.util
import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tests.cli.commands import Keystead


def test_a_sound_data_directory_is_ok(keystead: Keystead, data_dir: Path) -> None:
    """Store intact, seal opened: status 0."""
    ran = keystead("doctor", "--data-dir", data_dir)

    assert ran.status == 0
    assert "store intact" in ran.text
    assert "seal of the root key opened by file seal/root.key" in ran.text
    assert "missing" not in ran.out


def test_a_new_data_directory_is_ok_and_not_made(keystead: Keystead, tmp_path: Path) -> None:
    """Looking at a directory that is not there yet is fine, and leaves nothing behind."""
    new = tmp_path / "new" / "data"
    ran = keystead("doctor", "--data-dir", new)

    assert ran.status == 0
    assert f"{new} is new" in ran.text
    assert not new.parent.exists()


def test_a_seal_that_others_can_read_fails(keystead: Keystead, data_dir: Path) -> None:
    """A seal file with a loose mode is named, with the command that mends it."""
    seal = data_dir / "seal" / "root.key"
    seal.chmod(0o644)
    ran = keystead("doctor", "--data-dir", data_dir)

    assert ran.status == 1
    assert f"The seal file {seal} is open to others. Run: chmod 600 {seal}" in ran.text
    seal.chmod(0o600)
    assert keystead("doctor", "--data-dir", data_dir).status == 0


def test_a_missing_seal_fails(keystead: Keystead, data_dir: Path) -> None:
    """A store whose seal file is gone is no new directory: its keys are lost without the file."""
    (data_dir / "seal" / "root.key").unlink()
    ran = keystead("doctor", "--data-dir", data_dir)

    assert ran.status == 1
    assert "restore it from your backup" in ran.text
    assert "is new" not in ran.text
    assert not (data_dir / "seal" / "root.key").exists(), "doctor made a seal that opens nothing"


def test_another_stores_seal_fails(keystead: Keystead, data_dir: Path) -> None:
    """A seal file of the right size with the wrong key is found out."""
    (data_dir / "seal" / "root.key").write_bytes(bytes(32))
    ran = keystead("doctor", "--data-dir", data_dir)

    assert ran.status == 1
    assert "does not open this store" in ran.text


@pytest.mark.parametrize("damage", ["garbage", "cut", "gone"])
def test_a_damaged_store_fails(keystead: Keystead, data_dir: Path, damage: str) -> None:
    """A store with overwritten pages, cut short or gone is not called intact."""
    store = data_dir / "store.db"
    if damage == "garbage":
        data = bytearray(store.read_bytes())
        data[4096:] = b"\xa5" * (len(data) - 4096)
        store.write_bytes(data)
    elif damage == "cut":
        store.write_bytes(store.read_bytes()[: store.stat().st_size // 2])
    else:
        store.unlink()
    ran = keystead("doctor", "--data-dir", data_dir)

    assert ran.status == 1
    assert "store intact" not in ran.text
    assert str(store) in ran.text


def test_what_is_not_installed_is_no_failure(
    keystead: Keystead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without optional packages and gcloud, doctor says how to get them, in full, and ends well."""
    find_spec = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in {"pyarrow", "psycopg"} else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    ran = keystead("doctor", "--data-dir", tmp_path / "data")

    assert ran.status == 0
    assert "pip install 'keystead[financialservices]'" in ran.text
    assert "pip install 'keystead[postgresql]'" in ran.text
    assert "gcloud not installed" in ran.text
