"""Write tests/crypto/vectors/*.json: what `crypto/` makes when its randomness is a fixed stream.

Run `python tests/crypto/make_vectors.py` after a deliberate change of a format (which then needs a new format
number and must keep opening these vectors). The tests check that the files are what this script writes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from keystead.crypto import aad, aead, ciphertext, sealed_file, sealing
from keystead.crypto.secret import SecretBytes

DIRECTORY = Path(__file__).parent / "vectors"
KEY = bytes(range(32))
KEY_ID = bytes(range(0xA0, 0xB0))
KEY_NAME = "projects/p/locations/global/keyRings/r/cryptoKeys/k"

Vector = dict[str, Any]


@contextmanager
def fixed_randomness(seed: str) -> Iterator[None]:
    """Every random byte drawn in here comes from SHAKE-128 of `seed`, in order."""
    stream = io.BytesIO(hashlib.shake_128(seed.encode()).digest(1 << 16))
    with mock.patch("os.urandom", stream.read):
        yield


def aad_vectors() -> list[Vector]:
    lists: list[tuple[str, list[bytes | str | int]]] = [
        ("demo", [b"\x0a\x0b", "é", 128]),
        ("", []),
        ("numbers", [0, 1, -1, 127, 128, -128, -129, 255, 256, 1 << 63, -(1 << 63)]),
        ("empty", [b"", "", 0]),
    ]
    return [
        {
            "label": label,
            "fields": [field.hex() if isinstance(field, bytes) else field for field in fields],
            "types": [type(field).__name__ for field in fields],
            "encoded": aad.encode_aad(label, *fields).hex(),
        }
        for label, fields in lists
    ]


def ciphertext_vectors() -> list[Vector]:
    vectors = []
    for version, plaintext, caller in (
        (1, b"", b""),
        (2, b"attack at dawn", b"case 42"),
        (1 << 31, bytes(100), b"\0"),
    ):
        with fixed_randomness(f"ciphertext {version}"):
            made = ciphertext.seal_message(
                aead.Aead(SecretBytes(KEY)),
                ciphertext.KeyVersionRef(KEY_ID, KEY_NAME, version),
                plaintext,
                caller,
            )
        vectors.append(
            {
                "key": KEY.hex(),
                "key_id": KEY_ID.hex(),
                "key_name": KEY_NAME,
                "version": version,
                "plaintext": plaintext.hex(),
                "caller_aad": caller.hex(),
                "ciphertext": made.hex(),
            }
        )
    return vectors


def wrapped_key_vectors() -> list[Vector]:
    vectors = []
    for size in (16, 32, 64):
        key, context = bytes(range(size)), aad.encode_aad("example", "instances/i", size)
        with fixed_randomness(f"wrapped key {size}"):
            made = aead.wrap_key(SecretBytes(KEY), SecretBytes(key), context)
        vectors.append({"kek": KEY.hex(), "key": key.hex(), "context": context.hex(), "wrapped": made.hex()})
    return vectors


def sealed_bytes_vectors() -> list[Vector]:
    vectors = []
    for data in (b"", b"a small body"):
        context = aad.encode_aad("example", "objects/o", len(data))
        with fixed_randomness(f"sealed bytes {len(data)}"):
            made = sealing.seal_bytes(SecretBytes(KEY), context, data)
        vectors.append({"kek": KEY.hex(), "context": context.hex(), "data": data.hex(), "sealed": made.hex()})
    return vectors


def sealed_file_vectors() -> list[Vector]:
    vectors = []
    for size, chunk_size in (
        (0, 16),
        (1, 16),
        (15, 16),
        (16, 16),
        (17, 16),
        (48, 16),
        (50, 16),
        (5, 1),
        (9, 1 << 20),
    ):
        data, context = bytes(range(size)), aad.encode_aad("example", "objects/o", size)
        raw = io.BytesIO()
        with fixed_randomness(f"sealed file {size} {chunk_size}"):
            with sealed_file.SealedWriter(raw, lambda: SecretBytes(KEY), context, chunk_size) as writer:
                writer.write(data)
        vectors.append(
            {
                "kek": KEY.hex(),
                "context": context.hex(),
                "chunk_size": chunk_size,
                "data": data.hex(),
                "sealed": raw.getvalue().hex(),
            }
        )
    return vectors


MAKERS: dict[str, Callable[[], list[Vector]]] = {
    "aad": aad_vectors,
    "ciphertext": ciphertext_vectors,
    "wrapped_key": wrapped_key_vectors,
    "sealed_bytes": sealed_bytes_vectors,
    "sealed_file": sealed_file_vectors,
}


def rendered(name: str) -> str:
    """The content of vectors/`name`.json."""
    return json.dumps(MAKERS[name](), indent=2, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    for name in MAKERS:
        (DIRECTORY / f"{name}.json").write_text(rendered(name))
