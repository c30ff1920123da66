"""A process that starts a child which waits, prints the child's pid, and waits for it: to be killed."""

from __future__ import annotations

from keystead.cmek import child
from keystead.cmek.lease import Lease
from keystead.crypto.secret import SecretBytes
from tests.cmek.children import ENTRY, command


def main() -> None:
    child.command = command
    with SecretBytes.random() as key:
        lease = Lease(key, SecretBytes.random, 3600)
        child.run_child(
            ENTRY, {"do": "hang"}, lease, check=lambda: None, progress=lambda pid: print(pid, flush=True)
        )


if __name__ == "__main__":
    main()
