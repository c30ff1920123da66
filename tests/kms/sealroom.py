"""Where seals are tested: a data directory, what an operator would choose in it, and another key service."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.cloud import kms_v1

from keystead.crypto.secret import SecretBytes
from keystead.kms.rootkey import unseal
from keystead.kms.seals import Seal, SealError
from keystead.kms.seals.choice import SealOptions, new_seal, stored_seal
from keystead.kms.seals.passphrase import LEAST, PassphraseSeal
from keystead.kms.seals.record import SealedRootKey, seal_with
from tests.clients.pyclients import kms_client
from tests.hsm import PIN, SoftToken
from tests.live import OWNER, LiveServer, live_server

PASSPHRASE = b"correct horse battery staple"
KINDS = ("file", "passphrase", "pkcs11", "kms")


@dataclasses.dataclass(frozen=True)
class KeyService:
    """Another Keystead with a key that seals."""

    live: LiveServer
    key: str

    @property
    def endpoint(self) -> str:
        return f"{self.live.url}/cloudkms"

    def set_state(self, state: str) -> None:
        version = {"name": f"{self.key}/cryptoKeyVersions/1", "state": state}
        request = {"crypto_key_version": version, "update_mask": {"paths": ["state"]}}
        kms_client(self.live, "rest").update_crypto_key_version(request=request)


@pytest.fixture(scope="session")
def key_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyService]:
    """Started once; every test leaves its key enabled."""
    with live_server(tmp_path_factory.mktemp("key-service")) as live:
        client = kms_client(live, "rest")
        parent = "projects/seals/locations/global"
        client.create_key_ring(request={"parent": parent, "key_ring_id": "ring", "key_ring": {}})
        purpose = kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT
        made = client.create_crypto_key(
            request={
                "parent": f"{parent}/keyRings/ring",
                "crypto_key_id": "seal",
                "crypto_key": {"purpose": purpose},
            }
        )
        yield KeyService(live, made.name)


@dataclasses.dataclass
class Scene:
    """A data directory and what an operator would choose in it. `secret` is what somebody types."""

    data_dir: Path
    options: SealOptions
    secret: SecretBytes | None = None

    def seal(self, root_key: SecretBytes) -> SealedRootKey:
        """The root key sealed, as it comes back from the store."""
        seal: Seal = new_seal(self.options, self.data_dir, self.secret)
        if isinstance(seal, PassphraseSeal) and self.secret is not None:
            seal = PassphraseSeal(self.secret, costs=LEAST)  # quicker
        return SealedRootKey.decode(seal_with(seal, root_key).encode())

    def open(self, sealed: SealedRootKey, secret: SecretBytes | None = None) -> SecretBytes:
        """The root key, found by nothing but what is stored and the secret."""
        return unseal(
            sealed, stored_seal(sealed, self.data_dir, secret=self.secret if secret is None else secret)
        )


def private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def make_scene(kind: str, request: pytest.FixtureRequest, data_dir: Path) -> Scene:
    if kind == "file":
        return Scene(data_dir, SealOptions("file"))
    if kind == "passphrase":
        return Scene(data_dir, SealOptions("passphrase"), SecretBytes(PASSPHRASE))
    if kind == "pkcs11":
        token: SoftToken = request.getfixturevalue("soft_token")
        options = SealOptions(
            "pkcs11", pkcs11_module=token.library, pkcs11_token=token.label, pin_file=token.pin_file
        )
        return Scene(data_dir, options)
    service: KeyService = request.getfixturevalue("key_service")
    token_file = private(data_dir / "token", f"{OWNER}\n".encode())
    options = SealOptions(
        "kms", kms_key=service.key, kms_endpoint=service.endpoint, kms_token_file=token_file
    )
    return Scene(data_dir, options)


def refuse(scene: Scene, sealed: SealedRootKey) -> None:
    with pytest.raises(SealError) as refused:
        scene.open(SealedRootKey.decode(sealed.encode()))
    text = str(refused.value)
    assert text.endswith("."), text
    assert PASSPHRASE.decode() not in text
    assert PIN not in text
