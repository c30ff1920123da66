"""The identity of a deployment: a random name, made with its store and never changed."""

from __future__ import annotations

import os

from keystead.api.call import Transactions

_KEY = "deployment-id"
_SIZE = 16


def deployment_id(store: Transactions) -> str:
    """32 hexadecimal digits; made at the first call."""
    with store.read() as tx:
        known = tx.meta.get(_KEY)
    if known is None:
        with store.write() as tx:
            known = tx.meta.get(_KEY)
            if known is None:
                known = os.urandom(_SIZE)
                tx.meta.put(_KEY, known)
    return bytes(known).hex()
