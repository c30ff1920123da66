"""The HSM back end, on a real SoftHSM2 token, keeps what every back end promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from keystead.kms.algorithms import BY_NAME, Family
from keystead.kms.backends import Backend
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.hsm.config import HsmConfig
from tests.hsm import SoftToken, make_token

from .contract import BackendContract
from .import_contract import ImportContract

# What SoftHSM2 2.6.1 can do. Its OAEP has no hash but SHA-1, and it has no post-quantum algorithm.
OFFERED = frozenset(
    each.name
    for each in BY_NAME.values()
    if each.family
    not in {Family.EXTERNAL, Family.SLH_DSA, Family.ML_DSA, Family.ML_KEM, Family.XWING, Family.RSA_OAEP}
    or (each.family is Family.RSA_OAEP and each.hash == "sha1")
)
# It does not unwrap Ed25519 keys, and pads the others otherwise than RFC 5649 when it wraps them.
IMPORTABLE = OFFERED - {"EC_SIGN_ED25519"}
EXPORTABLE = {name for name in OFFERED if BY_NAME[name].symmetric and BY_NAME[name].key_bytes % 8 == 0}


@pytest.fixture(scope="module")
def shared_token(softhsm: Path, tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """A token for all tests of the contract."""
    return make_token(softhsm, tmp_path_factory.mktemp("pin") / "pin")


class TestHsm(BackendContract, ImportContract):
    level = "HSM"
    algorithms = OFFERED
    import_methods = frozenset({"RSA_OAEP_3072_SHA1_AES_256", "RSA_OAEP_4096_SHA1_AES_256"})
    importable = IMPORTABLE
    exportable = EXPORTABLE

    config: ClassVar[HsmConfig]

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, shared_token: SoftToken) -> Iterator[Backend]:
        cls.config = shared_token.config()
        backend = HsmBackend(cls.config)
        yield backend
        backend.close()

    def restarted(self, backend: Backend) -> Backend:
        return HsmBackend(self.config)
