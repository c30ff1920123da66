"""Changes the seal of a data directory that is sealed by a file, and kills itself on the way.

    python -m tests.server.change_process DATA_DIR MOMENT [MODULE TOKEN PIN_FILE]

The new seal is PASSPHRASE, or in that token.

MOMENT: sealed (the new seal wraps the root key, nothing is stored), recorded (all is written, nothing is
committed) or committed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from keystead.api.clock import SystemClock
from keystead.audit.operators import OperatorTrail
from keystead.crypto.secret import SecretBytes
from keystead.iam.hierarchy import ensure_organization
from keystead.kms.seals.choice import SealOptions
from keystead.kms.seals.known import KnownSeals
from keystead.server.resealing import Resealing
from keystead.store.engine import open_store

PASSPHRASE = b"correct horse battery staple"


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingTrail(OperatorTrail):
    """The audit trail of a change, at the end of its transaction."""

    moment = ""

    def record(self, tx: Any, *arguments: Any, **named: Any) -> None:
        super().record(tx, *arguments, **named)
        if self.moment == "recorded":
            die()
        if self.moment == "committed":
            tx.after_commit(die)


def main(data_dir: Path, moment: str, *token: str) -> None:
    clock = SystemClock()
    trail = DyingTrail(clock, lambda tx: ensure_organization(tx, clock))
    trail.moment = moment
    if moment == "sealed":
        KnownSeals.add = die  # type: ignore[method-assign]
    options, secret = SealOptions("passphrase"), SecretBytes(PASSPHRASE)
    if token:
        module, label, pin_file = token
        options = SealOptions(
            "pkcs11", pkcs11_module=Path(module), pkcs11_token=label, pin_file=Path(pin_file)
        )
    store = open_store(f"sqlite:///{data_dir / 'store.db'}", create=False)
    Resealing(store, data_dir, trail).change("test", options, None if token else secret, None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
