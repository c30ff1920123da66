"""The formats do not change: we write and open the committed vectors, and so does another implementation."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from keystead.crypto.aead import Aead, unwrap_key
from keystead.crypto.ciphertext import KeyVersionRef, open_message
from keystead.crypto.sealed_file import SealedReader, SealedWriter
from keystead.crypto.sealing import open_bytes, sealed_size
from keystead.crypto.secret import SecretBytes

from . import independent, make_vectors


def load(name: str) -> list[dict[str, Any]]:
    """The committed vectors, hexadecimal values as bytes where the key says so."""
    texts = {"key_name", "label"}
    return [
        {k: bytes.fromhex(v) if isinstance(v, str) and k not in texts else v for k, v in vector.items()}
        for vector in json.loads((make_vectors.DIRECTORY / f"{name}.json").read_text())
    ]


@pytest.mark.parametrize("name", sorted(make_vectors.MAKERS))
def test_the_generator_still_writes_the_committed_vectors(name: str) -> None:
    """With the same randomness, every format comes out byte for byte as committed."""
    assert (make_vectors.DIRECTORY / f"{name}.json").read_text() == make_vectors.rendered(name)


@pytest.mark.parametrize("vector", load("aad"), ids=lambda v: v["label"] or "-")
def test_associated_data_by_another_implementation(vector: dict[str, Any]) -> None:
    """The documented encoding, implemented apart, gives the committed bytes."""
    fields = [
        bytes.fromhex(field) if kind == "bytes" else field
        for field, kind in zip(vector["fields"], vector["types"], strict=True)
    ]
    assert independent.aad(vector["label"], *fields) == vector["encoded"]


@pytest.mark.parametrize("v", load("ciphertext"), ids=lambda v: str(v["version"]))
def test_ciphertexts_open(v: dict[str, Any]) -> None:
    """We and the other implementation open the committed ciphertexts, and we open what it makes."""
    arguments = v["key"], v["key_id"], v["key_name"], v["version"], v["caller_aad"]
    assert independent.open_ciphertext(*arguments, v["ciphertext"]) == v["plaintext"]
    aead, ref = Aead(SecretBytes(v["key"])), KeyVersionRef(v["key_id"], v["key_name"], v["version"])
    for made in (v["ciphertext"], independent.seal_ciphertext(*arguments, v["plaintext"])):
        assert open_message(aead, ref, made, v["caller_aad"]) == v["plaintext"]


@pytest.mark.parametrize("v", load("wrapped_key"), ids=lambda v: str(len(v["key"])))
def test_wrapped_keys_open(v: dict[str, Any]) -> None:
    """We and the other implementation unwrap the committed keys."""
    assert independent.unwrap_key(v["kek"], v["context"], v["wrapped"]) == v["key"]
    assert unwrap_key(SecretBytes(v["kek"]), v["wrapped"], v["context"]) == SecretBytes(v["key"])


@pytest.mark.parametrize("v", load("sealed_bytes"), ids=lambda v: str(len(v["data"])))
def test_sealed_bytes_open(v: dict[str, Any]) -> None:
    """We and the other implementation open the committed bodies."""
    assert independent.open_sealed_bytes(v["kek"], v["context"], v["sealed"]) == v["data"]
    assert open_bytes(SecretBytes(v["kek"]), v["context"], v["sealed"]) == v["data"]


@pytest.mark.parametrize("v", load("sealed_file"), ids=lambda v: f"{len(v['data'])}/{v['chunk_size']}")
def test_sealed_files_open(v: dict[str, Any]) -> None:
    """We and the other implementation open the committed files, and we open what it makes."""
    kek = SecretBytes(v["kek"])
    assert independent.open_sealed_file(v["kek"], v["context"], v["sealed"]) == v["data"]
    assert len(v["sealed"]) == sealed_size(len(v["data"]), v["chunk_size"])
    theirs = independent.seal_file(v["kek"], v["context"], v["data"], v["chunk_size"])
    for sealed in (v["sealed"], theirs):
        with SealedReader(io.BytesIO(sealed), lambda: kek, v["context"]) as reader:
            assert reader.size == len(v["data"])
            assert reader.read() == v["data"]


def test_the_other_implementation_refuses_what_was_altered() -> None:
    """The other implementation is no rubber stamp: it opens nothing cut, mixed up or misnamed."""
    v = next(vector for vector in load("sealed_file") if len(vector["data"]) == 50)
    sealed, size = v["sealed"], 16 + 88
    swapped = (
        sealed[:32] + sealed[32 + size : 32 + 2 * size] + sealed[32 : 32 + size] + sealed[32 + 2 * size :]
    )
    for data, context in ((sealed[:-1], v["context"]), (swapped, v["context"]), (sealed, b"other")):
        with pytest.raises(independent.Rejected):
            independent.open_sealed_file(v["kek"], context, data)


def test_a_fresh_file_is_readable_by_the_other_implementation() -> None:
    """What the writer makes with real randomness and the default chunk size opens elsewhere."""
    kek, raw, data = SecretBytes.random(), io.BytesIO(), b"0123456789abcdef" * 70_000
    with SealedWriter(raw, lambda: kek, b"context") as writer:
        writer.write(data)
    assert independent.open_sealed_file(bytes(kek.expose()), b"context", raw.getvalue()) == data
