"""A process that follows a store: it answers from a cache of its own, by the epoch that it inherited.

    python -m tests.store.follower_process URL EPOCH ACKNOWLEDGED

Each line of its input is a task, and is answered by one line: `read NAME` by the body of a resource (empty if
there is none); `watch NAME SECONDS` by how often threads that read it for so long were answered from memory,
and how often they saw less than the number in the memory ACKNOWLEDGED said before.
"""

from __future__ import annotations

import sys
import threading
import time

from keystead.iam.memory import Remembered
from keystead.store.engine import Follower, open_follower
from keystead.store.epoch import EpochReader

THREADS = 3


class Reader:
    """What rooms do with the store: remembered for an epoch, read again after it."""

    def __init__(self, store: Follower) -> None:
        self._store = store
        self._remembered: Remembered[str, str] = Remembered(store, 100)
        self.hits = 0

    def read(self, name: str) -> str:
        entries = self._remembered.at()
        self.hits += name in entries
        return self._remembered.find(name, entries, self._load)

    def _load(self, name: str) -> str:
        with self._store.read() as tx:
            row = tx.resources.get(name)
        return "" if row is None else row.body.decode()


def watch(reader: Reader, acknowledged: EpochReader, name: str, seconds: float) -> tuple[int, int]:
    """See the module."""
    stale = [0] * THREADS
    before = reader.hits

    def work(number: int) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            least = acknowledged.cell[0]
            stale[number] += int(reader.read(name)) < least

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reader.hits - before, sum(stale)


def main(url: str, epoch: int, acknowledged: int) -> None:
    reader = Reader(open_follower(url, EpochReader(epoch)))
    for line in sys.stdin:
        match line.split():
            case ["read", name]:
                answer = reader.read(name)
            case ["watch", name, seconds]:
                answer = "{} {}".format(*watch(reader, EpochReader(acknowledged), name, float(seconds)))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
