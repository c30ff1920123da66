"""Where rows live: the only room that speaks SQL.

SQLite in one file by default, PostgreSQL by URL, under one contract. It knows no resource type: bodies are
opaque bytes that the rooms above parse.
"""

from __future__ import annotations

from keystead.store.engine import Store, open_store
from keystead.store.lock import DataDirLock, server_lock
from keystead.store.rows import AuditRow, KeychainRow, OperationRow, PolicyRow, Resource
from keystead.store.transactions import ReadTx, WriteTx

__all__ = [
    "AuditRow",
    "DataDirLock",
    "KeychainRow",
    "OperationRow",
    "PolicyRow",
    "ReadTx",
    "Resource",
    "Store",
    "WriteTx",
    "open_store",
    "server_lock",
]
