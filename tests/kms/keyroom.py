"""A platform with a key of every algorithm, in software and in a token, each made when it is first asked for.

Owns how tests of the cryptographic methods come by keys. The token is one for limits and threads only: real
cryptography, with keys that lie in this process instead of the store. `tests.hsm` has a PKCS#11 token.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keystead.kms.algorithms import ALGORITHMS, BY_NAME, Algorithm, Family
from keystead.kms.backends import Backend, Key, Made, WrappedKey
from keystead.kms.backends import software_keys as keys
from keystead.kms.backends.software_vault import Vault
from keystead.kms.service import VERSIONS
from tests.platform import OWNER, Platform

SECP256K1 = "EC_SIGN_SECP256K1_SHA256"
_NOT_IN_SOFTWARE = {Family.SLH_DSA, Family.EXTERNAL}

#: Every algorithm that software keys can have, but for those that only wrap other keys.
OFFERED = [
    each
    for each in ALGORITHMS.values()
    if each.family not in _NOT_IN_SOFTWARE and each.name != SECP256K1 and each.family is not Family.AES_KWP
]


def offered(*purposes: str) -> list[Any]:
    """The offered algorithms of these purposes, as parameters named after them."""
    return [pytest.param(each, id=each.name) for each in OFFERED if each.purpose in purposes]


class Token:
    """A back end with the rules of a token: used in threads only, for short messages, with a generator."""

    level = "HSM"
    blocking = True
    max_bytes = 8192
    together = True
    import_methods: frozenset[str] = frozenset()
    algorithms = frozenset(each.name for each in OFFERED) | {SECP256K1}

    def __init__(self) -> None:
        self._objects: dict[bytes, keys.Material] = {}

    def generate(self, version: str, algorithm: Algorithm, *, exportable: bool = False) -> Made:
        del version, exportable
        handle = os.urandom(16)
        self._objects[handle] = keys.generate(algorithm)
        return Made(handle, self._objects[handle].public)

    def load(self, version: str, algorithm: Algorithm, stored: bytes) -> Key:
        del version
        return keys.opened(algorithm, self._objects[stored].private)

    def remove(self, version: str, stored: bytes) -> None:
        del version
        self._objects.pop(stored, None)

    def generate_import_key(self, job: str, method: str) -> Made:
        raise AssertionError("this token imports nothing")

    def import_key(
        self, wrapped: WrappedKey, version: str, algorithm: Algorithm, *, exportable: bool = False
    ) -> Made:
        raise AssertionError("this token imports nothing")

    def random(self, n: int) -> bytes:
        return os.urandom(n)


class Keyroom:
    """The platform, and the keys in it."""

    def __init__(self, directory: Path, token: Backend | None = None) -> None:
        self.platform = Platform(directory, backends=[token or Token()])
        self._versions: dict[tuple[str, str], str] = {}
        self._numbers = itertools.count(1)
        self._rsa_keys: dict[int, rsa.RSAPrivateKey] = {}

    def version(self, algorithm: str, level: str = "SOFTWARE") -> str:
        """The one version of a key of that algorithm, shared by all tests: leave it as it is."""
        if (algorithm, level) not in self._versions:
            self._versions[algorithm, level] = self.fresh(algorithm, level)
        return self._versions[algorithm, level]

    def fresh(self, algorithm: str, level: str = "SOFTWARE") -> str:
        """The version of a new key."""
        with self._one_rsa_key_per_size():
            key = self.platform.key(
                f"key-{next(self._numbers)}",
                purpose=BY_NAME[algorithm].purpose,
                version_template={"algorithm": algorithm, "protection_level": level},
            )
        return f"{key}/cryptoKeyVersions/1"

    def call(self, rpc: str, name: str, principal: str = OWNER, **fields: Any) -> Any:
        """Call a method on a version, to its end in this thread."""
        return self.platform.call(rpc, self.request(rpc, name, **fields), principal)

    def request(self, rpc: str, name: str, **fields: Any) -> Any:
        """The request of a method on a version."""
        method = self.platform.registry.methods[f"google.cloud.kms.v1.KeyManagementService/{rpc}"]
        return method.request_type(name=name, **fields)

    def secret(self, version: str) -> bytes:
        """The bytes of a secret software key, as its back end opens what is stored of it."""
        with self.platform.store.read() as tx:
            stored = tx.material.get(version) or b""
            algorithm = ALGORITHMS[VERSIONS.require(tx, version).message.algorithm]
        with Vault(self.platform.root_key).material(version, algorithm.name, stored) as material:
            return bytes(material.expose())

    def put_in_state(self, version: str, state: str) -> None:
        """Have a version be in a state, however it may have come there."""
        with self.platform.store.write() as tx:
            stored = VERSIONS.require(tx, version)
            stored.message.state = state
            VERSIONS.update(tx, stored)

    @contextmanager
    def _one_rsa_key_per_size(self) -> Iterator[None]:
        """RSA keys are slow to make, and one is as good as another: of each size the first is used again."""
        original = rsa.generate_private_key

        def generate(public_exponent: int, key_size: int) -> rsa.RSAPrivateKey:
            if key_size not in self._rsa_keys:
                self._rsa_keys[key_size] = original(public_exponent, key_size)
            return self._rsa_keys[key_size]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rsa, "generate_private_key", generate)
            yield


def crc(data: bytes) -> int:
    """CRC32C by Google's own library."""
    return int(google_crc32c.value(data))


def checked(**fields: bytes) -> dict[str, Any]:
    """Fields with their checksums beside them."""
    return {**fields, **{f"{name}_crc32c": {"value": crc(data)} for name, data in fields.items()}}
