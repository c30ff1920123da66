"""The rows that the store keeps, as plain immutable values.

Owns: their fields, and what each means to the store. Deliberately does not know what is inside a body: bodies
are opaque bytes (a serialized official message, or ciphertext) that only the rooms above parse.

Byte fields stay out of `repr`, so that no log line or assertion message carries a body or a wrapped key.
Times are microseconds since the Unix epoch (UTC), the precision Cloud KMS keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource.

    `name` is the full relative resource name and unique in the store. `sort` orders a resource among those of
    its `kind` under its `parent`, bytewise, and is unique there. `alias` is a second, store-wide unique name.
    `sealed` is the part of a resource that is kept encrypted. `due` is when a background loop must look at it
    again; None is never. `revision` counts the writes of this row: an update names the one it read.
    """

    name: str
    kind: str
    parent: str
    sort: str
    body: bytes = field(repr=False)
    sealed: bytes | None = field(default=None, repr=False)
    revision: int = 1
    due: int | None = None
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """The policy of one resource. `revision` is store-wide and never given twice, so neither is its etag."""

    resource: str
    body: bytes = field(repr=False)
    revision: int


@dataclass(frozen=True, slots=True)
class KeychainRow:
    """The wrapped KEK of one protected resource, and the customer's key version that wrapped it.

    `kms_key` is the name of the crypto key and `key_version` the name of the version; `wrapped_kek` is
    ciphertext under that version. `revision` is as for `Resource`.
    """

    resource: str
    service: str
    resource_type: str
    kms_key: str
    key_version: str
    wrapped_kek: bytes = field(repr=False)
    location: str
    project: str
    create_us: int
    revision: int = 1


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One long-running operation: what was asked (`arguments`), by whom, and how far it is (`body`, `done`).

    `request_id` is the client's own identifier of the call; (service, principal, request_id) is unique, so a
    retried call finds the operation that the first try started.
    """

    name: str
    service: str
    parent: str
    kind: str
    target: str
    done: bool
    body: bytes = field(repr=False)
    arguments: bytes = field(repr=False)
    principal: str
    request_id: str | None
    create_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One audit record in the hash chain: `digest` covers this record and `previous`, the digest before it.

    `seq` counts from 1 without a gap; 0 is a record that has not been appended.
    """

    seq: int = 0
    log_name: str
    parent: str
    time_us: int
    insert_id: str
    body: bytes = field(repr=False)
    previous: bytes = field(repr=False)
    digest: bytes = field(repr=False)
