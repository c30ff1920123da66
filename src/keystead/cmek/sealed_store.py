"""Sealed objects on disk: the files of a protected resource, each a sealed file under the resource's KEK.

    sealed/<generation>/<object>

The generation is a random id that the resource's sealed body names: a resource made again under the same
name has another, and none of the old files fits it. An object is there as a whole or not at all: it is
written beside, synced, and renamed.

SECURITY: a file is bound to its resource, generation and object name, so that swapping two files, or putting
back an older one of another generation, is detected. `SealedObject.file_id` in the owner's manifest detects
putting back an older file of the same object.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from keystead.cmek.lease import Lease
from keystead.crypto.aad import encode_aad
from keystead.crypto.errors import DecryptionError
from keystead.crypto.sealed_file import SealedReader, SealedWriter
from keystead.crypto.secret import random_bytes

_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,100}")
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class SealedObject:
    """What an owner notes of an object it wrote: its id, and how many bytes of plaintext it holds."""

    name: str
    file_id: bytes
    size: int


class PartialObject:
    """An object that is being written: `raw` is its file, unbuffered, into which `object_writer` seals."""

    def __init__(self, raw: FileIO, path: Path, final: Path) -> None:
        self.raw = raw
        self._path = path
        self._final = final

    def commit(self) -> None:
        """Have the object appear, safe from a crash; what was there under its name is replaced. To be called
        once its writer, in whatever process, has completed the file. Raises OSError."""
        os.fsync(self.raw.fileno())
        self._path.rename(self._final)
        _sync_directory(self._final.parent)


class SealedStore:
    """The sealed objects of a service, under one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @staticmethod
    def new_generation() -> str:
        """A fresh id for a resource's files."""
        return random_bytes(16).hex()

    @contextmanager
    def create(self, lease: Lease, resource: str, generation: str, name: str) -> Iterator[SealedWriter]:
        """Write an object. It appears when the block ends without an exception, and not otherwise (nor when
        the writer was aborted). What another had written under that name is replaced at that moment.

        Raises OSError (a full disk) and KeyUnavailableError.
        """
        with self.partial(generation, name) as partial:
            with object_writer(partial.raw, lease, resource, generation, name) as writer:
                yield writer
            if not writer.aborted:
                partial.commit()

    @contextmanager
    def partial(self, generation: str, name: str) -> Iterator[PartialObject]:
        """The file of a new object, to be filled by whoever has the lease, maybe another process. Nothing is
        left of it after the block unless it was committed."""
        path = self._path(generation, name)
        self._make_directory(path.parent)
        # A name of its own for every attempt: two writers of one object do not write into each other's file.
        partial = path.with_name(f"{name}.{random_bytes(8).hex()}{_PARTIAL}")
        try:
            with partial.open("xb", buffering=0) as raw:
                partial.chmod(0o600)
                yield PartialObject(raw, partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def open(
        self, lease: Lease, resource: str, generation: str, name: str, file_id: bytes | None = None
    ) -> Iterator[SealedReader]:
        """Read an object: a seekable stream. Raises DecryptionError when the file is missing, was changed, or
        is not the one noted as `file_id`; KeyUnavailableError, also from every later read."""
        path = self._path(generation, name)
        try:
            raw: BinaryIO = path.open("rb")
        except FileNotFoundError:
            raise DecryptionError from None
        with raw, SealedReader(raw, lease.key, _context(resource, generation, name)) as reader:
            if file_id is not None and reader.file_id != file_id:
                raise DecryptionError
            yield reader

    def remove(self, generation: str) -> None:
        """Delete all objects of a generation; nothing happens where there is none."""
        shutil.rmtree(self._path(generation, "x").parent, ignore_errors=True)

    def sweep(self, keep: Collection[str]) -> int:
        """Delete what no resource owns (left by a crash): generations not in `keep`, and partial objects."""
        removed = 0
        for directory in self._root.iterdir():
            if directory.name not in keep:
                shutil.rmtree(directory, ignore_errors=True)
                removed += 1
                continue
            for partial in directory.glob(f"*{_PARTIAL}"):
                partial.unlink()
                removed += 1
        return removed

    def _make_directory(self, path: Path) -> None:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            return
        _sync_directory(self._root)

    def _path(self, generation: str, name: str) -> Path:
        for part in (generation, name):
            if not _ID.fullmatch(part) or part.endswith(_PARTIAL):
                raise ValueError(f"not a name for a sealed object: {part[:40]!r}")
        return self._root / generation / name


def object_writer(raw: FileIO, lease: Lease, resource: str, generation: str, name: str) -> SealedWriter:
    """Seals an object into its file, which stays open; `SealedStore.open` reads it by the same names."""
    return SealedWriter(raw, lease.key, _context(resource, generation, name))


def _context(resource: str, generation: str, name: str) -> bytes:
    return encode_aad("keystead/cmek/object/v1", resource, generation, name)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
