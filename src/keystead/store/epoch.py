"""The epoch of a store in memory that processes share: one process writes it, the others follow.

SECURITY: what other processes keep of the store is good for one epoch, so a revocation holds there from the
moment the number here has moved. The writer moves it after the commit and before the commit is answered;
whoever follows reads it before reading the store. Followers can only read: the kernel refuses them a mapping
that writes.

The number is one aligned word of 64 bits, so that no reader ever sees half of it.
"""

from __future__ import annotations

import fcntl
import mmap
import os

_SIZE = 8
_SEAL_FUTURE_WRITE = 0x10  # fcntl(2), Linux 5.1; Python has no name for it
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _SEAL_FUTURE_WRITE


class EpochWriter:
    """The side that moves the epoch. `descriptor` is what others follow it by; it is not inherited unless it
    is passed on."""

    def __init__(self, epoch: int) -> None:
        self.descriptor = os.memfd_create("keystead-epoch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, _SIZE)
        # Mapped before it is sealed: this mapping is the only one that may write.
        self._cell = memoryview(mmap.mmap(self.descriptor, _SIZE)).cast("Q")
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self.publish(epoch)

    def publish(self, epoch: int) -> None:
        """Show a new epoch to all who follow."""
        self._cell[0] = epoch

    def close(self) -> None:
        """Let go of the descriptor. Who has mapped it reads on."""
        os.close(self.descriptor)


class EpochReader:
    """The side that follows. `cell[0]` is the epoch; the descriptor may be closed once this is made."""

    def __init__(self, descriptor: int) -> None:
        self.cell = memoryview(mmap.mmap(descriptor, _SIZE, prot=mmap.PROT_READ)).cast("Q")
