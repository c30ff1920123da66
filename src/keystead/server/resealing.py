"""Changing the seal: the root key is wrapped by another one; no key and no data is touched.

SECURITY: the new wrapping is opened again from what would be stored before it is stored, and stored in one
transaction with its audit record: a crash leaves the old seal or the new one. The old wrapping is taken from
the store's files; older backups still hold it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystead.api.errors import ApiError
from keystead.audit.operators import OperatorTrail
from keystead.crypto.secret import SecretBytes
from keystead.iam.hierarchy import find_project
from keystead.kms.rootkey import read_sealed, replace_sealed, require_opens, unseal
from keystead.kms.seals import SealError
from keystead.kms.seals.choice import DEFAULT_FILE, SealOptions, describe, new_seal, stored_seal
from keystead.kms.seals.file import FileSeal
from keystead.kms.seals.known import KnownSeals
from keystead.kms.seals.record import SealedRootKey, seal_with
from keystead.kms.service import KEYS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resealed:
    """A seal that was changed: before and after in words, and the seal file that is left behind, if any."""

    before: str
    after: str
    left: str


class Resealing:
    """Changes the seal of a store. `running`: what the running server of the store was told of the present
    seal; None where no server runs."""

    def __init__(
        self, store: Any, data_dir: Path, trail: OperatorTrail, *, running: SealOptions | None = None
    ) -> None:
        self._store = store
        self._data_dir = data_dir
        self._trail = trail
        self._running = running

    def change(
        self,
        operator: str,
        options: SealOptions,
        secret: SecretBytes | None,
        current: SecretBytes | None,
    ) -> Resealed:
        """As `Sealing.change`."""
        before = read_sealed(self._store)
        if before is None:
            raise SealError(
                "There is no root key yet. Choose its seal at the first start: keystead serve --seal."
            )
        present = stored_seal(before, self._data_dir, self._running, current)
        with unseal(before, present) as root_key:
            after = self._seal(root_key, options, secret)
        left = str(present.path) if isinstance(present, FileSeal) else ""
        made = Resealed(describe(before), describe(after), left)
        known = KnownSeals(self._data_dir)
        known.add(after)
        facts = {"before": made.before, "after": made.after}
        replace_sealed(
            self._store, before, after, lambda tx: self._trail.record(tx, "Seal.Change", operator, facts)
        )
        log.warning("the seal was changed by %s: from %s to %s", operator, made.before, made.after)
        known.only(after)
        self._scrub()
        return made

    def _seal(self, root_key: SecretBytes, options: SealOptions, secret: SecretBytes | None) -> SealedRootKey:
        """The root key under the new seal, proved to open by what will be stored."""
        self._check(options)
        after = SealedRootKey.decode(seal_with(new_seal(options, self._data_dir, secret), root_key).encode())
        require_opens(after, stored_seal(after, self._data_dir, secret=secret), root_key)
        return after

    def _check(self, options: SealOptions) -> None:
        """Refuse what would lose the root key."""
        path = options.seal_file or self._data_dir / DEFAULT_FILE
        if (options.kind or "file") == "file" and path.exists():
            raise SealError(
                f"{path} is there already, and a new seal gets a new file. Name another with --seal-file, or "
                "move it away if no store is sealed by it."
            )
        if options.kind == "kms" and self._running is not None and self._is_own(options.kms_key):
            raise SealError(
                f"{options.kms_key} is a key of this Keystead too: a root key sealed by a key under itself "
                "could never be opened. If the key is another's of the same name, stop this server first."
            )

    def _is_own(self, key: str) -> bool:
        parts = key.split("/", 2)
        with self._store.read() as tx:
            project = find_project(tx, parts[1]) if len(parts) == 3 else None
            name = key if project is None else f"projects/{project.project_id}/{parts[2]}"
            return KEYS.find(tx, name) is not None

    def _scrub(self) -> None:
        try:
            self._store.scrub()
        except ApiError as error:
            log.warning("the root key under its old seal is still in the store's log: %s", error.message)
