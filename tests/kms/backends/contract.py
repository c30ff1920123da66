"""What every back end promises, told through `kms.backends.Backend` alone.

A back end's test module holds a class `TestX(BackendContract, ImportContract)` (the latter from
`import_contract`) with the facts of `Contract` and a fixture `backend` of class scope.
"""

from __future__ import annotations

import abc
import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from keystead.kms.algorithms import BY_NAME, Family
from keystead.kms.backends import (
    Backend,
    ImportFailedError,
    Made,
    NotExportableError,
)
from keystead.kms.messages import CryptoKeyVersion
from keystead.kms.seals import SealError

from . import outside
from .works import same_key, works

_NUMBERS = itertools.count(1)
WRAPPING = "AES_256_KWP"


def new_version() -> str:
    return f"projects/p/locations/l/keyRings/r/cryptoKeys/k{os.getpid()}/cryptoKeyVersions/{next(_NUMBERS)}"


def slow(algorithm: str) -> bool:
    """Whether a key takes long to make and is as another one in all but its size."""
    return BY_NAME[algorithm].family in outside.RSA and BY_NAME[algorithm].bits > 2048


class Generated:
    """One generated key of each algorithm, made when it is first asked for: making RSA keys takes long."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._made: dict[tuple[str, bool], tuple[str, Made]] = {}

    def key(self, algorithm: str, *, exportable: bool = False) -> tuple[str, Made]:
        """The version and what was made for it."""
        found = self._made.get((algorithm, exportable))
        if found is None:
            version = new_version()
            made = self._backend.generate(version, BY_NAME[algorithm], exportable=exportable)
            found = self._made[algorithm, exportable] = (version, made)
        return found


class Contract(abc.ABC):
    """What the two suites share: the facts that a subclass states of its back end.

    algorithms, import_methods: what it must offer. importable, exportable: those of its algorithms whose keys
    it can import, and wrap by AES_256_KWP.
    """

    level: ClassVar[str]
    algorithms: ClassVar[Iterable[str]]
    import_methods: ClassVar[Iterable[str]]
    importable: ClassVar[Iterable[str]]
    exportable: ClassVar[Iterable[str]]

    @abc.abstractmethod
    def restarted(self, backend: Backend) -> Backend:
        """Another back end on the same keys, as after a restart of the server."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        facts = {
            "algorithm": self.algorithms,
            "importable": self.importable,
            "exportable": [each for each in self.exportable if not slow(each)],
            "method": self.import_methods,
        }
        for name, values in facts.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, sorted(values))

    @pytest.fixture(scope="class")
    @classmethod
    def generated(cls, backend: Backend) -> Generated:
        return Generated(backend)


class BackendContract(Contract):
    """Making, opening, using and removing keys; AES key wrapping where it is offered."""

    def test_it_offers_what_is_expected(self, backend: Backend) -> None:
        """The algorithms and import methods stated here, no more and no less, of a level that exists."""
        assert backend.level == self.level
        assert backend.algorithms == frozenset(self.algorithms)
        assert backend.import_methods == frozenset(self.import_methods)
        assert backend.max_bytes >= 8192
        assert CryptoKeyVersion.DESCRIPTOR.fields_by_name["protection_level"].enum_type.values_by_name[
            backend.level
        ]

    def test_a_generated_key_does_its_work(
        self, backend: Backend, generated: Generated, algorithm: str
    ) -> None:
        """It signs, decrypts, seals ... such that somebody with the public key alone, or with the same key
        opened a second time, agrees."""
        version, made = generated.key(algorithm)
        assert made.fingerprint == b""
        works(backend.load(version, BY_NAME[algorithm], made.stored), BY_NAME[algorithm], made.public)

    def test_a_key_outlives_a_restart(self, backend: Backend, generated: Generated, algorithm: str) -> None:
        """What is stored opens the same key in another instance."""
        version, made = generated.key(algorithm)
        before = backend.load(version, BY_NAME[algorithm], made.stored)
        again = self.restarted(backend)
        after = again.load(version, BY_NAME[algorithm], made.stored)
        same_key(before, after, BY_NAME[algorithm], made.public)

    def test_keys_are_different(self, backend: Backend, generated: Generated, algorithm: str) -> None:
        """Two keys of an algorithm share nothing: what one makes the other does not open."""
        if slow(algorithm):
            return
        version, made = generated.key(algorithm)
        other_version = new_version()
        other = backend.generate(other_version, BY_NAME[algorithm])
        assert other.stored != made.stored
        keys = (
            backend.load(version, BY_NAME[algorithm], made.stored),
            backend.load(other_version, BY_NAME[algorithm], other.stored),
        )
        if BY_NAME[algorithm].family is not Family.AES_KWP:
            with pytest.raises(Exception):  # noqa: B017  # whichever way the two disagree
                same_key(*keys, BY_NAME[algorithm], made.public)
        backend.remove(other_version, other.stored)

    @pytest.mark.parametrize("name", ["GOOGLE_SYMMETRIC_ENCRYPTION", "EC_SIGN_P256_SHA256"])
    def test_making_a_key_again_replaces_it(self, backend: Backend, name: str) -> None:
        """A second attempt for the same version, as after a crash, gives a whole key."""
        version, algorithm = new_version(), BY_NAME[name]
        backend.generate(version, algorithm)
        made = backend.generate(version, algorithm)
        works(backend.load(version, algorithm, made.stored), algorithm, made.public)

    @pytest.mark.parametrize("name", ["GOOGLE_SYMMETRIC_ENCRYPTION", "EC_SIGN_P256_SHA256"])
    def test_removing_can_be_repeated(self, backend: Backend, name: str) -> None:
        """After a crash it is not known whether it was done: doing it again is no error."""
        version = new_version()
        made = backend.generate(version, BY_NAME[name])
        backend.remove(version, made.stored)
        backend.remove(version, made.stored)

    def test_damaged_bytes_open_nothing(self, backend: Backend, generated: Generated, algorithm: str) -> None:
        """Cut, extended or altered anywhere, what was stored is refused as damaged and never as something
        else."""
        version, made = generated.key(algorithm)
        stored = made.stored
        places = {0, 1, 2, len(stored) // 2, len(stored) - 1}
        altered = [stored[:at] + bytes((stored[at] ^ 1,)) + stored[at + 1 :] for at in places]
        for wrong in (b"", b"\x02", stored[: len(stored) // 2], stored[:-1], stored + b"\0", *altered):
            with pytest.raises(SealError):
                backend.load(version, BY_NAME[algorithm], wrong)

    def test_a_version_cannot_use_another_s_key(
        self, backend: Backend, generated: Generated, algorithm: str
    ) -> None:
        """What is stored is bound to the version's name: a row copied to another version does not open."""
        _, made = generated.key(algorithm)
        with pytest.raises(SealError):
            backend.load(new_version(), BY_NAME[algorithm], made.stored)

    def test_many_threads_use_one_key(self, backend: Backend, generated: Generated, algorithm: str) -> None:
        """No answer of one thread is another's."""
        version, made = generated.key(algorithm)
        key = backend.load(version, BY_NAME[algorithm], made.stored)
        with ThreadPoolExecutor(4) as threads:
            for done in [
                threads.submit(same_key, key, key, BY_NAME[algorithm], made.public) for _ in range(12)
            ]:
                done.result()

    def test_a_wrapped_key_comes_back(self, backend: Backend, generated: Generated, exportable: str) -> None:
        """An exportable key, wrapped by an AES_256_KWP key and unwrapped into another version, is the same
        key; its fingerprint is there. Altered, cut or wrapped by another key it is refused."""
        algorithm = BY_NAME[exportable]
        wrapper = self._wrapper(backend, generated)
        version, made = generated.key(exportable, exportable=True)
        wrapped = wrapper.wrap(version, algorithm, made.stored)
        assert len(wrapped) % 8 == 0
        assert wrapped == wrapper.wrap(version, algorithm, made.stored)
        target = new_version()
        again = wrapper.unwrap(wrapped, target, algorithm)
        assert again.public == made.public
        assert len(again.fingerprint) == 32
        keys = backend.load(version, algorithm, made.stored), backend.load(target, algorithm, again.stored)
        same_key(*keys, algorithm, made.public)
        for wrong in (
            b"",
            wrapped[:8],
            wrapped[:-8],
            wrapped[:-1],
            wrapped + bytes(8),
            wrapped[:-1] + bytes((wrapped[-1] ^ 1,)),
        ):
            with pytest.raises(ImportFailedError):
                wrapper.unwrap(wrong, new_version(), algorithm)

    def test_an_unwrapped_key_must_fit(self, backend: Backend, generated: Generated) -> None:
        """A key that is not of the algorithm asked for is refused, not adapted."""
        if WRAPPING not in self.algorithms:
            pytest.skip("this back end has no key wrapping")
        wrapper = self._wrapper(backend, generated)
        version, made = generated.key("AES_256_GCM", exportable=True)
        wrapped = wrapper.wrap(version, BY_NAME["AES_256_GCM"], made.stored)
        for name in {"AES_128_GCM", "HMAC_SHA512", "EC_SIGN_P256_SHA256"} & set(self.algorithms):
            with pytest.raises(ImportFailedError):
                wrapper.unwrap(wrapped, new_version(), BY_NAME[name])

    def test_a_key_that_is_not_exportable_never_leaves(
        self, backend: Backend, generated: Generated, exportable: str
    ) -> None:
        """Keys are made so unless it is asked for, and no wrapper takes them out."""
        version, made = generated.key(exportable)
        with pytest.raises(NotExportableError):
            self._wrapper(backend, generated).wrap(version, BY_NAME[exportable], made.stored)

    @staticmethod
    def _wrapper(backend: Backend, generated: Generated) -> Any:
        version, made = generated.key(WRAPPING)
        return backend.load(version, BY_NAME[WRAPPING], made.stored)
