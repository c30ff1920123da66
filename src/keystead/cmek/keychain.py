"""The keychain of a service: one key-encryption key (KEK) per protected resource, stored wrapped by the
customer's key.

Data is sealed by data keys (DEKs) stored beside it, wrapped by the KEK; so a rotation of the customer's key
re-wraps 32 bytes whatever the resource holds, and after that no old version is needed.

SECURITY: a wrapped KEK is bound to its service, type and resource name: the customer's key does not open it
for another. The KEK in clear exists only under a `Lease`.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from keystead.api import names
from keystead.api.clock import Clock, timestamp
from keystead.api.errors import Aborted, ApiError, NotFound
from keystead.cmek.answers import Answer, KeyUnavailableError
from keystead.cmek.keyclient import KeyClient
from keystead.cmek.lease import Lease
from keystead.crypto.aad import encode_aad
from keystead.crypto.secret import SecretBytes
from keystead.store.rows import KeychainRow

log = logging.getLogger(__name__)

ClientFor = Callable[[str], KeyClient]
_KEK_BYTES = 32


class Keychain:
    """The KEKs of one resource type of one service.

    clients: the key client for a project, as which the service's agent of that project calls.
    max_age_s: how long a lease is good without asking the key service again.
    """

    def __init__(
        self,
        store: Any,
        clients: ClientFor,
        clock: Clock,
        *,
        service: str,
        resource_type: str,
        max_age_s: float = 0.5,
    ) -> None:
        self.service = service
        self.resource_type = resource_type
        self._store = store
        self._clients = clients
        self._clock = clock
        self._max_age_s = max_age_s
        self._leases: dict[str, Lease] = {}
        self._doubts = 0
        self._lock = threading.Lock()

    def create(self, resource: str, kms_key: str) -> KeychainRow:
        """A new KEK for a resource, wrapped by the key's primary version; to be added in the transaction
        that creates the resource. Calls the key: not to be used inside a transaction.

        Raises KeyUnavailableError.
        """
        project = names.project_of(resource)
        with SecretBytes.random(_KEK_BYTES) as kek:
            wrapped = self._clients(project).encrypt(kms_key, kek, self._bound_to(resource))
        return KeychainRow(
            resource=resource,
            service=self.service,
            resource_type=self.resource_type,
            kms_key=kms_key,
            key_version=wrapped.key_version,
            wrapped_kek=wrapped.ciphertext,
            location=names.location_of(resource),
            project=project,
            create_us=timestamp(self._clock.now()).ToMicroseconds(),
        )

    def lease(self, resource: str) -> Lease:
        """The lease on a resource's KEK. Raises KeyUnavailableError, and NotFound where there is no KEK."""
        found = self._leases.get(resource)
        if found is not None and found.alive:
            found.key()
            return found
        with self._lock:
            found = self._leases.get(resource)
            if found is not None and found.alive:
                return found
            doubts, asked = self._doubts, time.monotonic()
            kek = self._unwrap(resource)
            lease = Lease(kek, lambda: self._unwrap(resource), self._max_age_s, asked)
            self._leases[resource] = lease
            if self._doubts != doubts:
                # `doubt` came while the key was asked, and may have looked for this lease too early.
                lease.doubt()
            return lease

    def doubt(self, kms_key_prefix: str) -> list[str]:
        """Have every lease under a key (or a ring, or a project) asked for again before its next use;
        returns the resources that the prefix protects, leased or not."""
        self._doubts += 1
        with self._store.read() as tx:
            rows = tx.keychains.list(kms_key_prefix or None, self.service)
        rows = [row for row in rows if self._mine(row)]
        for row in rows:
            lease = self._leases.get(row.resource)
            if lease is not None:
                lease.doubt()
        return [row.resource for row in rows]

    def check(self, resource: str) -> Answer:
        """Ask the key of a resource. ENABLED also re-wraps the KEK where another version is primary now;
        any other answer ends the resource's lease."""
        row = self._row(resource)
        if row is None:
            return Answer.ENABLED
        lease = self._leases.get(resource)  # one that is taken later has its own, later answer
        try:
            with self._open(row):
                pass
        except KeyUnavailableError as error:
            if lease is not None:
                lease.end(error)
            return error.answer
        self._rewrap_if_rotated(row)
        return Answer.ENABLED

    def rewrap(self, resource: str) -> str:
        """Wrap the KEK of a resource by the key's primary version; returns that version's name.

        The stored row changes in one transaction: a crash leaves the old wrapping or the new one, and both
        open. Raises KeyUnavailableError; Aborted when another re-wrap was faster.
        """
        row = self._row(resource)
        if row is None:
            raise NotFound(f"{resource} has no key-encryption key.")
        client = self._clients(row.project)
        with self._open(row) as kek:
            wrapped = client.encrypt(row.kms_key, kek, self._bound_to(resource))
        with self._store.write() as tx:
            tx.keychains.update(
                dataclasses.replace(row, wrapped_kek=wrapped.ciphertext, key_version=wrapped.key_version)
            )
        log.info("re-wrapped the key of %s by %s", resource, wrapped.key_version)
        return wrapped.key_version

    def forget(self, resource: str) -> None:
        """The resource was deleted: its lease ends and its KEK is wiped. Its row goes with the resource's
        transaction (`tx.keychains.delete`), which makes its data unreadable for good."""
        lease = self._leases.pop(resource, None)
        if lease is not None:
            gone = NotFound(f"{resource} was deleted.")
            lease.end(KeyUnavailableError("", Answer.DISABLED, gone))

    def end_leases(self, reason: ApiError) -> None:
        """Wipe every KEK that is in memory; whoever asks for one from now on asks its key anew."""
        with self._lock:
            leases, self._leases = list(self._leases.values()), {}
        for lease in leases:
            lease.end(KeyUnavailableError("", Answer.UNREACHABLE, reason))

    def close(self) -> None:
        """Wipe every KEK."""
        for resource in list(self._leases):
            self.forget(resource)

    def _rewrap_if_rotated(self, row: KeychainRow) -> None:
        try:
            if self._clients(row.project).describe(row.kms_key) != row.key_version:
                self.rewrap(row.resource)
        except Aborted:
            log.info("the key of %s was re-wrapped meanwhile", row.resource)
        except KeyUnavailableError as error:
            # Decrypting works, encrypting does not (the primary is disabled): reading goes on.
            log.warning("cannot re-wrap the key of %s: %s", row.resource, error.cause.message)

    def _unwrap(self, resource: str) -> SecretBytes:
        row = self._row(resource)
        if row is None:
            gone = NotFound(f"{resource} has no key-encryption key.")
            raise KeyUnavailableError("", Answer.DISABLED, gone)
        return self._open(row)

    def _open(self, row: KeychainRow) -> SecretBytes:
        return self._clients(row.project).decrypt(row.kms_key, row.wrapped_kek, self._bound_to(row.resource))

    def _row(self, resource: str) -> KeychainRow | None:
        with self._store.read() as tx:
            row: KeychainRow | None = tx.keychains.get(resource)
        return row if row is not None and self._mine(row) else None

    def _mine(self, row: KeychainRow) -> bool:
        return row.service == self.service and row.resource_type == self.resource_type

    def _bound_to(self, resource: str) -> bytes:
        return encode_aad("keystead/cmek/kek/v1", self.service, self.resource_type, resource)
