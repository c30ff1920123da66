"""A process that writes until it is killed: prints the number of each transaction once it is committed."""

from __future__ import annotations

import itertools
import sys

from keystead.store import open_store
from tests.stores import a_resource, an_audit_row


def main(url: str) -> None:
    """Every transaction writes one row in each of three tables, and a large one."""
    store = open_store(url)
    for number in itertools.count(1):
        with store.write() as tx:
            tx.resources.insert(a_resource(f"t/{number}", body=bytes(20_000)))
            tx.policies.put(f"t/{number}", b"policy")
            tx.audit.append(an_audit_row(seq=number))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
