"""Customer data at rest: the sealed part of every AML AI resource, and its sealed files.

SECURITY: of a resource, its row shows only name, times and state. Everything else is sealed under the KEK of
the instance, which only the customer's key opens: the resource as the customer wrote it, and the manifest of
its files. Whoever reads or writes any of it does so inside `lease`, so that no answer is made of customer
data when the key refuses, whether before the call or in its middle.

A body is bound to the resource's name and kind, and names the generation of its files; the row's alias
`sealed/<generation>` repeats it in clear, so that files can be deleted when the key is gone. It knows no
message type: models, backtests and predictions are kept by it as datasets are.
"""

from __future__ import annotations

import base64
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from keystead.api import names
from keystead.api.errors import ApiError, ResourceExhausted
from keystead.api.operations import Stopping
from keystead.cmek.answers import KeyUnavailableError
from keystead.cmek.keychain import Keychain
from keystead.cmek.lease import Lease
from keystead.cmek.sealed_store import SealedStore
from keystead.crypto.aad import encode_aad
from keystead.crypto.errors import CryptoError, DecryptionError
from keystead.crypto.sealed_file import SealedReader, SealedWriter
from keystead.crypto.sealing import open_bytes, seal_bytes
from keystead.financialservices.service import FILE_OWNERS, instance_of
from keystead.financialservices.wording import damaged, refusal

_ALIAS = "sealed/"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One sealed file in a manifest: object name, id, bytes of plaintext, rows of the table it holds."""

    name: str
    file_id: bytes
    size: int
    rows: int


@dataclass(frozen=True, slots=True)
class Body:
    """What a row keeps sealed: a serialized message, and the files of which generation belong to it."""

    message: bytes
    generation: str = ""
    files: tuple[StoredFile, ...] = ()

    @property
    def alias(self) -> str | None:
        """The alias of the row that keeps this body."""
        return _ALIAS + self.generation if self.generation else None

    def file(self, name: str) -> StoredFile:
        """The file of that name. Raises DecryptionError where the manifest has none."""
        for file in self.files:
            if file.name == name:
                return file
        raise DecryptionError

    def encode(self) -> bytes:
        """The body as JSON: what is sealed."""
        files = [[file.name, file.file_id.hex(), file.size, file.rows] for file in self.files]
        message = base64.b64encode(self.message).decode("ascii")
        return orjson.dumps({"message": message, "generation": self.generation, "files": files})

    @staticmethod
    def decode(data: bytes) -> Body:
        fields = orjson.loads(data)
        files = tuple(
            StoredFile(name, bytes.fromhex(file_id), size, rows)
            for name, file_id, size, rows in fields["files"]
        )
        return Body(base64.b64decode(fields["message"]), fields["generation"], files)


class CustomerData:
    """Seals and opens customer data, and words what happens when that cannot be done.

    agent_email: the address of the service's agent in a project, by the project's id.
    """

    def __init__(self, keychain: Keychain, files: SealedStore, agent_email: Callable[[str], str]) -> None:
        self.keychain = keychain
        self._files = files
        self._agent_email = agent_email

    @contextmanager
    def lease(self, resource: str) -> Iterator[Lease]:
        """The lease on the key of the resource's instance, for all that a block does with its data.

        Calls the key: not to be used inside a write transaction. What goes wrong in the block leaves it as an
        API error: the refusal of the key (also if the lease ended in the middle), RESOURCE_EXHAUSTED for a
        full disk, INTERNAL for data that was altered.
        """
        lease: Lease | None = None
        try:
            lease = self.keychain.lease(instance_of(resource))
            yield lease
        except (ApiError, Stopping):
            raise
        except KeyUnavailableError as error:
            raise self.refusal(error, resource) from error
        except Exception as error:
            explained = self._explain(error, lease, resource)
            if explained is None:
                raise
            raise explained from None  # readers' exceptions may quote what they read

    def refusal(self, error: KeyUnavailableError, resource: str) -> ApiError:
        """A key's refusal in the service's words."""
        return refusal(error, self._agent_email(names.project_of(resource)))

    def _explain(self, error: Exception, lease: Lease | None, resource: str) -> ApiError | None:
        if lease is not None:
            try:
                lease.key()
            except KeyUnavailableError as ended:  # what failed, failed because the key was gone
                return self.refusal(ended, resource)
        if isinstance(error, OSError) and error.errno in _FULL:
            return ResourceExhausted(
                f"There is no space left to store the data of {resource}; nothing of it was kept. Free space "
                "in the data directory of the server, then send the request again."
            )
        unreadable = isinstance(error, OSError) and error.errno is None  # an error of pyarrow's own
        return damaged(resource) if unreadable or isinstance(error, CryptoError | pa.ArrowException) else None

    def seal(self, lease: Lease, name: str, kind: str, body: Body) -> bytes:
        """A body as the row `name` of that kind keeps it."""
        return seal_bytes(lease.key(), _context(name, kind), body.encode())

    def unseal(self, lease: Lease, name: str, kind: str, sealed: bytes | None) -> Body:
        """What `seal` sealed for the same name and kind. Raises DecryptionError."""
        if sealed is None:
            raise DecryptionError
        return Body.decode(open_bytes(lease.key(), _context(name, kind), sealed))

    def open(self, lease: Lease, row: Any) -> Body:
        """The body of a resource's row. Raises DecryptionError, also when the row names other files."""
        body = self.unseal(lease, row.name, row.kind, row.sealed)
        if body.alias != row.alias:
            raise DecryptionError
        return body

    @contextmanager
    def create_file(self, lease: Lease, resource: str, generation: str, name: str) -> Iterator[SealedWriter]:
        """Write a sealed file of a resource; it is there when the block ends well, and not otherwise."""
        with self._files.create(lease, resource, generation, name) as writer:
            yield writer

    @contextmanager
    def open_file(self, lease: Lease, resource: str, body: Body, name: str) -> Iterator[SealedReader]:
        """Read a file of a body's manifest. Raises DecryptionError unless it is exactly the one noted."""
        noted = body.file(name)
        with self._files.open(lease, resource, body.generation, name, noted.file_id) as reader:
            if reader.size != noted.size:
                raise DecryptionError
            yield reader

    def new_generation(self) -> str:
        """An id for the files of a new resource."""
        return self._files.new_generation()

    def remove(self, generation: str) -> None:
        """Delete the files of a generation, key or no key."""
        if generation:
            self._files.remove(generation)


def alias_of(generation: str) -> str:
    """The alias of the row that owns a generation of files."""
    return _ALIAS + generation


def generation_of(row: Any) -> str:
    """The generation of files that a row owns, readable without the key; empty if none."""
    alias = row.alias or ""
    return alias.removeprefix(_ALIAS) if alias.startswith(_ALIAS) else ""


def owned_generations(store: Any) -> frozenset[str]:
    """Every generation that a row owns: what a sweep of the sealed files must keep."""
    with store.read() as tx:
        rows = [row for kind in FILE_OWNERS for row in tx.resources.list_kind(kind)]
    return frozenset(generation_of(row) for row in rows) - {""}


def _context(name: str, kind: str) -> bytes:
    return encode_aad("keystead/financialservices/body/v1", name, kind)
