"""How much a sealed file costs beside plain AES-256-GCM, and against Tink's streaming AEAD.

The contestants take turns within one run, so that a busy machine slows them alike; each ratio is of medians
of CPU time, sealed file in the divisor: 1.00 means as fast as the other. Exit status 1 if a target is missed.

Run: `python bench/sealed_file.py [--mib 64] [--rounds 9]`
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable

import tink
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tink import streaming_aead

from keystead.crypto.aad import encode_aad
from keystead.crypto.sealed_file import SealedReader, SealedWriter
from keystead.crypto.secret import SecretBytes

BUFFER = 1 << 20
CONTEXT = encode_aad("bench", "projects/p/buckets/b/objects/o", 1)
NONCE = bytes(12)


class KeepOpen(io.BytesIO):
    """A BytesIO that survives Tink's habit of closing the stream below."""

    def close(self) -> None:
        """Stay open, so that the sealed bytes can be read back."""


class Bench:
    """The contestants, all over the same data, the same 1 MiB buffers and the same kind of file."""

    def __init__(self, mib: int) -> None:
        self.buffer = os.urandom(BUFFER)
        self.count = mib
        self.kek = SecretBytes.random()
        self.gcm = AESGCM(os.urandom(32))
        streaming_aead.register()
        template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
        self.tink = tink.new_keyset_handle(template).primitive(streaming_aead.StreamingAead)
        self.files = {name: KeepOpen() for name in ("plain", "sealed", "tink")}

    def rewound(self, name: str) -> KeepOpen:
        self.files[name].seek(0)
        return self.files[name]

    def write_plain(self) -> None:
        raw = self.rewound("plain")
        for _ in range(self.count):
            raw.write(self.gcm.encrypt(NONCE, self.buffer, None))

    def read_plain(self) -> None:
        raw = self.rewound("plain")
        for _ in range(self.count):
            assert len(self.gcm.decrypt(NONCE, raw.read(BUFFER + 16), None)) == BUFFER

    def write_sealed(self) -> None:
        with SealedWriter(self.rewound("sealed"), lambda: self.kek, CONTEXT) as out:
            for _ in range(self.count):
                out.write(self.buffer)

    def read_sealed(self) -> None:
        with SealedReader(self.rewound("sealed"), lambda: self.kek, CONTEXT) as source:
            for _ in range(self.count):
                assert len(source.read(BUFFER)) == BUFFER

    def write_tink(self) -> None:
        with self.tink.new_encrypting_stream(self.rewound("tink"), CONTEXT) as out:
            for _ in range(self.count):
                out.write(self.buffer)

    def read_tink(self) -> None:
        with self.tink.new_decrypting_stream(self.rewound("tink"), CONTEXT) as source:
            left = self.count * BUFFER
            while left:
                piece = len(source.read(BUFFER))
                assert piece
                left -= piece


def cpu_seconds(work: Callable[[], None]) -> float:
    """CPU time of this process for one run of `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compete(rounds: int, *contestants: Callable[[], None]) -> list[float]:
    """The median CPU time of each contestant, taking turns; the first turn warms up and does not count."""
    times: list[list[float]] = [[] for _ in contestants]
    for turn in range(rounds + 1):
        for series, work in zip(times, contestants, strict=True):
            seconds = cpu_seconds(work)
            if turn:
                series.append(seconds)
    return [statistics.median(series) for series in times]


def report(name: str, ratio: float, target: float) -> bool:
    """Print one line; whether the target is met."""
    met = ratio >= target
    print(f"{name} {ratio:.2f} (target >= {target:.2f}) {'ok' if met else 'MISSED'}")
    return met


def main() -> int:
    """Print the four ratios; 0 if every target is met, else 1."""
    parser = argparse.ArgumentParser(
        description="sealed files against plain AES-256-GCM and Tink streaming AEAD"
    )
    parser.add_argument("--mib", type=int, default=64, help="MiB per run (default 64)")
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds (default 9)")
    options = parser.parse_args()
    bench = Bench(options.mib)
    plain, sealed, other = compete(options.rounds, bench.write_plain, bench.write_sealed, bench.write_tink)
    met = [
        report("sealed_write_vs_plain_gcm", plain / sealed, 0.80),
        report("sealed_write_vs_tink_stream", other / sealed, 1.50),
    ]
    plain, sealed, other = compete(options.rounds, bench.read_plain, bench.read_sealed, bench.read_tink)
    met += [
        report("sealed_read_vs_plain_gcm", plain / sealed, 0.80),
        report("sealed_read_vs_tink_stream", other / sealed, 1.50),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
