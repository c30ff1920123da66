"""Deleted key material leaves the disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sqlalchemy import text

from keystead.api.errors import Unavailable
from keystead.store import Store, open_store


def _bytes_on_disk(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


def _markers(count: int) -> dict[str, bytes]:
    chance = random.Random(20260101)  # the same run every time; the bytes only have to be found again
    return {f"k/{number}": chance.randbytes(16) for number in range(count)}


def test_deleted_material_is_not_in_the_file_or_its_log(sqlite_store: Store, tmp_path: Path) -> None:
    """After delete and scrub the marker is in none of the files; before it was, so the search can find it."""
    marker = _markers(1)["k/0"]
    with sqlite_store.write() as tx:
        tx.material.put("k/1", marker * 4)
    assert marker in _bytes_on_disk(tmp_path)
    with sqlite_store.write() as tx:
        tx.material.delete("k/1")
    assert marker in _bytes_on_disk(tmp_path)  # in the log: what scrub is for
    sqlite_store.scrub()
    assert marker not in _bytes_on_disk(tmp_path)


@pytest.mark.parametrize("size", [16, 400, 20_000], ids=["tiny", "key-sized", "over many pages"])
def test_of_many_only_the_kept_remain(sqlite_store: Store, tmp_path: Path, size: int) -> None:
    """Material among other material, on pages that were split, merged and reused, is gone as well."""
    markers = _markers(300)
    names = list(markers)
    chance = random.Random(size)
    for start in range(0, len(names), 30):
        with sqlite_store.write() as tx:
            for name in names[start : start + 30]:
                tx.material.put(name, (markers[name] * (size // 16 + 1))[: size + chance.randrange(16)])
    dropped = set(chance.sample(names, 180))
    for name in sorted(dropped):
        with sqlite_store.write() as tx:
            tx.material.put(name, b"rewrapped") if chance.random() < 0.2 else tx.material.delete(name)
    sqlite_store.scrub()
    found = _bytes_on_disk(tmp_path)
    assert {name for name in names if markers[name] in found} == set(names) - dropped


def test_scrub_says_when_a_reader_is_in_the_way(sqlite_url: str, tmp_path: Path) -> None:
    """While an old snapshot needs the log, scrub answers Unavailable instead of pretending."""
    store = open_store(sqlite_url, busy_seconds=0.2)
    marker = _markers(1)["k/0"]
    with store.write() as tx:
        tx.material.put("k/1", marker)
    with store.read() as reader:
        assert reader.material.get("k/1") == marker
        with store.write() as tx:
            tx.material.delete("k/1")
        with pytest.raises(Unavailable):
            store.scrub()
    store.scrub()
    assert marker not in _bytes_on_disk(tmp_path)
    store.close()


def test_scrub_vacuums_on_postgresql(pg_url: str) -> None:
    """The page of the only, deleted, material is given back, which nothing but a vacuum does."""
    store = open_store(pg_url)
    with store.write() as tx:
        tx.material.put("k/1", b"wrapped")
    with store.write() as tx:
        tx.material.delete("k/1")
    size = text("SELECT pg_relation_size('key_material')")
    with store.backend.engine.connect() as connection:
        assert connection.scalar(size) == 8192
    store.scrub()
    with store.backend.engine.connect() as connection:
        assert connection.scalar(size) == 0
    store.close()
