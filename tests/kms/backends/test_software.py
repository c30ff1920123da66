"""The software back end keeps what every back end promises, and what only it can."""

from __future__ import annotations

import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystead.api.errors import Unavailable
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import ALGORITHMS, BY_NAME, Family
from keystead.kms.backends import Backend
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.backends.software_keys import accept
from keystead.kms.backends.software_vault import Vault
from keystead.kms.messages import ImportJob
from keystead.kms.rootkey import RootKey
from keystead.kms.seals import SealError
from tests.crypto import independent

from .contract import BackendContract, Generated, new_version
from .import_contract import ImportContract
from .works import same_key, works

SECRET = os.urandom(32)
ROOT = RootKey(SecretBytes(SECRET))
OFFERED = frozenset(
    each.name
    for each in ALGORITHMS.values()
    if each.family not in {Family.EXTERNAL, Family.SLH_DSA} and each.curve != "secp256k1"
)
VERSION = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"


class TestSoftware(BackendContract, ImportContract):
    level = "SOFTWARE"
    algorithms = OFFERED
    import_methods = frozenset(ImportJob.ImportMethod.keys()) - {"IMPORT_METHOD_UNSPECIFIED"}
    importable = OFFERED
    exportable = OFFERED

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> Backend:
        return SoftwareBackend(ROOT)

    def restarted(self, backend: Backend) -> Backend:
        return SoftwareBackend(ROOT)


BACKEND = SoftwareBackend(ROOT)
KEYS = Generated(BACKEND)
SMALL = sorted(each for each in OFFERED if "3072" not in each and "4096" not in each)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("exportable", [False, True])
def test_what_is_stored_is_as_the_document_says(name: str, exportable: bool) -> None:
    """Another implementation of docs/formats.md, section 7, finds the material and its fingerprint."""
    version, made = KEYS.key(name, exportable=exportable)
    material = independent.open_stored_key(SECRET, version, name, made.stored)
    algorithm = BY_NAME[name]
    if algorithm.symmetric:
        assert len(material) == algorithm.key_bytes
    else:
        assert accept(algorithm, SecretBytes(material)).public == made.public
    assert independent.fingerprint(SECRET, material) == ROOT.fingerprint(SecretBytes(material))


@pytest.mark.parametrize("name", SMALL)
def test_a_key_has_one_use(name: str) -> None:
    """What is stored for one algorithm does not open for any other: raw AES-CTR of a GCM key would take its
    authentication away."""
    version, made = KEYS.key(name)
    for other in SMALL:
        if other != name:
            with pytest.raises(SealError, match="is damaged"):
                BACKEND.load(version, BY_NAME[other], made.stored)


@pytest.mark.parametrize("name", SMALL)
def test_an_opened_key_shows_nothing_of_itself(name: str) -> None:
    """Its text has nothing of the material, and it cannot be pickled."""
    version, made = KEYS.key(name)
    key = BACKEND.load(version, BY_NAME[name], made.stored)
    material = Vault(ROOT).material(version, name, made.stored)
    part = material.expose()[-8:].tobytes()
    for text in (repr(key), str(key), f"{key}"):
        assert part.hex() not in text
        assert repr(part)[2:-1] not in text
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_the_permission_to_be_exported_cannot_be_forged() -> None:
    """The byte that says so is bound: flipped, the key does not open at all."""
    for exportable in (False, True):
        made = BACKEND.generate(VERSION, BY_NAME["AES_256_GCM"], exportable=exportable)
        assert made.stored[0] == (3 if exportable else 2)
        forged = bytes((made.stored[0] ^ 1,)) + made.stored[1:]
        with pytest.raises(SealError):
            BACKEND.load(VERSION, BY_NAME["AES_256_GCM"], forged)


def test_a_symmetric_key_of_the_first_format_still_opens() -> None:
    """Before there were other algorithms the wrapped key alone was stored; only a symmetric key may be."""
    with SecretBytes.random(32) as key:
        stored = ROOT.wrap(VERSION, key)
    algorithm = BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"]
    works(BACKEND.load(VERSION, algorithm, stored), algorithm, b"")
    for name in ("AES_256_GCM", "HMAC_SHA256", "AES_256_KWP"):
        with pytest.raises(SealError):
            BACKEND.load(VERSION, BY_NAME[name], stored)


def test_another_root_key_opens_nothing() -> None:
    """What was stored in one deployment is noise in another, and fingerprints are others there."""
    other = RootKey(SecretBytes.random())
    made = BACKEND.generate(VERSION, BY_NAME["HMAC_SHA256"])
    with pytest.raises(SealError):
        SoftwareBackend(other).load(VERSION, BY_NAME["HMAC_SHA256"], made.stored)
    material = SecretBytes(os.urandom(32))
    assert ROOT.fingerprint(material) == ROOT.fingerprint(SecretBytes(material.expose()))
    assert ROOT.fingerprint(material) != other.fingerprint(material)


def test_a_sealed_root_key_makes_and_opens_nothing() -> None:
    """While the root key is sealed whatever needs it is UNAVAILABLE; a key opened before goes on working, and
    dropping it is its holder's part."""
    root = RootKey(SecretBytes.random())
    backend = SoftwareBackend(root)
    algorithm = BY_NAME["EC_SIGN_P256_SHA256"]
    made = backend.generate(VERSION, algorithm)
    opened = backend.load(VERSION, algorithm, made.stored)
    root.close()
    for call in (
        lambda: backend.generate(VERSION, algorithm),
        lambda: backend.load(VERSION, algorithm, made.stored),
        lambda: backend.generate_import_key("job", "HPKE_KEM_XWING_HKDF_SHA256_AES_256_GCM"),
        lambda: root.fingerprint(SecretBytes(b"x")),
    ):
        with pytest.raises(Unavailable, match="sealed"):
            call()
    same_key(opened, opened, algorithm, made.public)


@settings(max_examples=300)
@given(st.sampled_from([b"", b"\1", b"\2\1", b"\3\1"]), st.binary(max_size=200), st.sampled_from(SMALL))
def test_no_bytes_crash_the_opening(start: bytes, rest: bytes, name: str) -> None:
    """Whatever lies in the store instead of a key is SealError."""
    with pytest.raises(SealError):
        BACKEND.load(VERSION, BY_NAME[name], start + rest)


def test_it_says_how_it_works() -> None:
    """Software keys never wait for anything outside, take 64 KiB of each, and leave nothing to be removed."""
    assert BACKEND.blocking is False
    assert BACKEND.max_bytes == 64 * 1024
    assert BACKEND.together is False
    BACKEND.remove(new_version(), b"anything")
