"""What every back end promises of keys that were made outside."""

from __future__ import annotations

import os
from typing import Any

import pytest

from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends import Backend, ImportFailedError, Made, NotExportableError, WrappedKey
from keystead.kms.seals import SealError

from . import outside
from .contract import WRAPPING, Contract, new_version
from .works import is_the_key, works

Jobs = dict[str, tuple[str, Made]]
"""For each import method the name of a job and its key."""


class ImportContract(Contract):
    """Import jobs, and keys that come in by them."""

    @pytest.fixture(scope="class")
    @classmethod
    def jobs(cls, backend: Backend) -> Jobs:
        """An import job for each method, and its key."""
        names = {each: f"projects/p/locations/l/keyRings/r/importJobs/{each}" for each in cls.import_methods}
        return {each: (job, backend.generate_import_key(job, each)) for each, job in names.items()}

    def test_a_key_comes_in_by_every_method(self, backend: Backend, jobs: Jobs, method: str) -> None:
        """A secret key and a private key, wrapped outside to the job's public key, work here; also after a
        restart, because what is kept of the job is all that it needs."""
        for name in [each for each in ("AES_256_GCM", "EC_SIGN_P256_SHA256") if each in self.importable]:
            algorithm, key = BY_NAME[name], outside.known(BY_NAME[name])
            again = self.restarted(backend)
            version, made = self._import(again, jobs, method, name, key.private)
            assert made.public == key.public
            assert len(made.fingerprint) == 32
            opened = again.load(version, algorithm, made.stored)
            works(opened, algorithm, key.public)
            is_the_key(opened, algorithm, key.private)

    def test_a_key_of_every_algorithm_comes_in(self, backend: Backend, jobs: Jobs, importable: str) -> None:
        """It is the very key that was wrapped."""
        algorithm, key = BY_NAME[importable], outside.known(BY_NAME[importable])
        version, made = self._import(backend, jobs, self._carrier(), importable, key.private)
        assert made.public == key.public
        opened = backend.load(version, algorithm, made.stored)
        works(opened, algorithm, key.public)
        is_the_key(opened, algorithm, key.private)
        shown = repr(made) + repr(opened)
        assert key.private.hex() not in shown
        assert repr(key.private)[2:-1] not in shown

    def test_a_fingerprint_is_the_material_s(self, backend: Backend, jobs: Jobs) -> None:
        """The same bytes give the same fingerprint in any version, by any method; other bytes another one."""
        name = "AES_256_GCM"
        key, other = os.urandom(32), os.urandom(32)
        found = [
            self._import(backend, jobs, method, name, key)[1].fingerprint for method in self.import_methods
        ]
        found.append(self._import(backend, jobs, self._carrier(), name, key)[1].fingerprint)
        assert len(set(found)) == 1
        different = self._import(backend, jobs, self._carrier(), name, other)[1].fingerprint
        assert different != found[0]
        assert key[:8] not in found[0]

    def test_altered_wrappings_are_refused(self, backend: Backend, jobs: Jobs, method: str) -> None:
        """Cut, extended or altered anywhere: ImportFailedError, with a text that shows nothing of it."""
        key = os.urandom(32)
        job, made = jobs[method]
        good = outside.wrap(method, made.public, key)
        places = {0, 1, len(good) // 2, len(good) - 1}
        altered = [good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :] for at in places]
        for wrong in (b"", b"\0", good[: len(good) // 2], good[:-1], good[:-8], good + b"\0" * 8, *altered):
            with pytest.raises(ImportFailedError) as error:
                backend.import_key(
                    WrappedKey(job, method, made.stored, wrong), new_version(), BY_NAME["AES_256_GCM"]
                )
            assert str(error.value).endswith(".")
            assert key.hex() not in str(error.value)
            assert len(str(error.value)) < 300

    def test_a_wrapping_for_another_job_is_refused(self, backend: Backend, jobs: Jobs) -> None:
        """Only the job whose public key was used opens what was wrapped."""
        method = self._carrier()
        other_job = "projects/p/locations/l/keyRings/r/importJobs/other"
        other = backend.generate_import_key(other_job, method)
        data = outside.wrap(method, other.public, os.urandom(32))
        (job, made), algorithm = jobs[method], BY_NAME["HMAC_SHA256"]
        with pytest.raises(ImportFailedError):
            backend.import_key(WrappedKey(job, method, made.stored, data), new_version(), algorithm)
        with pytest.raises(SealError):
            backend.import_key(WrappedKey(other_job, method, made.stored, data), new_version(), algorithm)

    @pytest.mark.parametrize(
        ("asked", "given"),
        [
            ("AES_256_GCM", "AES_128_GCM"),
            ("AES_128_GCM", "AES_256_GCM"),
            ("HMAC_SHA512", "HMAC_SHA256"),
            ("GOOGLE_SYMMETRIC_ENCRYPTION", "EC_SIGN_P256_SHA256"),
            ("EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384"),
            ("EC_SIGN_P384_SHA384", "EC_SIGN_P256_SHA256"),
            ("EC_SIGN_P256_SHA256", "AES_256_GCM"),
            ("EC_SIGN_P256_SHA256", "EC_SIGN_ED25519"),
            ("EC_SIGN_ED25519", "EC_SIGN_P256_SHA256"),
            ("RSA_SIGN_PSS_3072_SHA256", "RSA_SIGN_PSS_2048_SHA256"),
            ("RSA_SIGN_PSS_2048_SHA256", "EC_SIGN_P256_SHA256"),
            ("RSA_DECRYPT_OAEP_2048_SHA256", "RSA_SIGN_PSS_3072_SHA256"),
            ("PQ_SIGN_ML_DSA_44", "PQ_SIGN_ML_DSA_65"),
            ("ML_KEM_768", "ML_KEM_1024"),
            ("KEM_XWING", "ML_KEM_768"),
        ],
    )
    def test_a_key_of_something_else_is_refused(
        self, backend: Backend, jobs: Jobs, asked: str, given: str
    ) -> None:
        """Another length, size, curve or kind than the algorithm's is an import that fails with a reason."""
        if asked not in self.importable:
            pytest.skip(f"{asked} is not imported here")
        with pytest.raises(ImportFailedError) as error:
            self._import(backend, jobs, self._carrier(), asked, outside.known(BY_NAME[given]).private)
        assert len(str(error.value)) > 20

    def test_direct_wrapping_carries_no_rsa_key(self, backend: Backend, jobs: Jobs) -> None:
        """RSA_OAEP_*_SHA256 without AES is refused for RSA algorithms, whatever was wrapped."""
        direct = [each for each in self.import_methods if each.endswith("_SHA256") and "OAEP" in each]
        if not direct or "RSA_SIGN_PSS_2048_SHA256" not in self.importable:
            pytest.skip("nothing to refuse")
        for method in direct:
            with pytest.raises(ImportFailedError, match="RSA"):
                self._import(backend, jobs, method, "RSA_SIGN_PSS_2048_SHA256", os.urandom(32))

    def test_an_imported_key_is_exported_as_it_came(self, backend: Backend, jobs: Jobs) -> None:
        """Wrapped by an imported AES_256_KWP key it opens outside to the very bytes (RFC 5649); imported
        without the permission it stays."""
        if not {WRAPPING, "HMAC_SHA256"} <= set(self.importable) or "HMAC_SHA256" not in self.exportable:
            pytest.skip("this back end imports no wrapping keys")
        kek, key, algorithm = os.urandom(32), os.urandom(32), BY_NAME["HMAC_SHA256"]
        version, made = self._import(backend, jobs, self._carrier(), WRAPPING, kek)
        wrapper: Any = backend.load(version, BY_NAME[WRAPPING], made.stored)
        target, leaving = self._import(backend, jobs, self._carrier(), "HMAC_SHA256", key, exportable=True)
        assert outside.unwrap(kek, wrapper.wrap(target, algorithm, leaving.stored)) == key
        stays, staying = self._import(backend, jobs, self._carrier(), "HMAC_SHA256", key)
        with pytest.raises(NotExportableError):
            wrapper.wrap(stays, algorithm, staying.stored)

    def _carrier(self) -> str:
        """A method that carries keys of any length."""
        return min(each for each in self.import_methods if each.endswith("_AES_256"))

    def _import(
        self,
        backend: Backend,
        jobs: Jobs,
        method: str,
        algorithm: str,
        key: bytes,
        *,
        exportable: bool = False,
    ) -> tuple[str, Made]:
        job, made = jobs[method]
        version = new_version()
        wrapped = WrappedKey(job, method, made.stored, outside.wrap(method, made.public, key))
        return version, backend.import_key(wrapped, version, BY_NAME[algorithm], exportable=exportable)
