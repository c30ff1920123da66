"""A process that speaks to `server.workers` as a worker does, and does nothing else.

    python -m tests.server.worker_standin MODE FILE

It writes a line to FILE for each frame that it hears: the kind, and the digest of a key. MODE: `good` obeys;
`deaf` listens, then neither confirms anything nor ends by SIGTERM; `broken` ends at once; `short` ends once
it listens; `slow` never listens.
"""

from __future__ import annotations

import hashlib
import pickle
import signal
import socket
import sys
from pathlib import Path

from keystead.cmek.channel import MAX_JOB, Channel, ChannelClosedError, Kind


def main(mode: str, file: Path) -> None:
    if mode == "broken":
        sys.exit(3)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=0))
    while True:
        try:
            frame = channel.receive(MAX_JOB)
        except ChannelClosedError:
            return
        said = frame.kind.name
        if frame.kind is Kind.JOB:
            said = f"JOB {pickle.loads(frame.payload).port}"
        elif frame.kind is Kind.KEY:
            said = f"KEY {hashlib.sha256(frame.payload).hexdigest()}"
        with file.open("a") as lines:
            lines.write(f"{said}\n")
        listens = frame.kind is Kind.JOB and mode != "slow"
        if listens or mode == "good":
            channel.send(Kind.DONE, bytes((frame.kind,)))
        if mode == "short":
            sys.exit(4)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
