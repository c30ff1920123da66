"""Every RPC that google-cloud-kms offers, once with success, over gRPC and REST, with software and HSM keys.

One table says how each is called; a test holds the table against the package, so that none can be forgotten.
What the calls answer in detail is tested elsewhere.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.api_core import exceptions
from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2

import keystead.kms
from keystead.kms.algorithms import BY_NAME
from tests.clients.pyclients import TRANSPORTS, refusal
from tests.clients.scene import LOCATION, MADE_S, METHODS, Level, Scene, State
from tests.clients.test_rpcs import UNIMPLEMENTED, official_rules
from tests.kms.backends import outside

API = "google.cloud.kms.v1.KeyManagementService/"
BOB = "user:bob@example.com"
# The fixture of the server that keeps keys of a protection level.
SERVERS = {"SOFTWARE": "live", "HSM": "hsm_server"}


class Story(Scene):
    """What calls leave for other calls."""

    @functools.cached_property
    def deletion(self) -> Any:
        """The operation that deleted a key, done."""
        operation = self.kms.delete_crypto_key(request={"name": self.key(empty=True)})
        operation.result(timeout=MADE_S)
        return operation

    @functools.cached_property
    def exported(self) -> bytes:
        """A version of HMAC_SHA256 wrapped by a key of AES_256_KWP."""
        version = self.kms.create_crypto_key_version(
            parent=self.key("HMAC_SHA256", empty=True), crypto_key_version={"trusted_wrapping_enabled": True}
        ).name
        self.settle(version)
        answer = self.kms.export_trusted_key_wrapped_crypto_key_version(
            request={"name": version, "wrapping_key": self.version("AES_256_KWP")}
        )
        return bytes(answer.wrapped_key)


@pytest.fixture(
    scope="module", params=[(level, way) for level in SERVERS for way in TRANSPORTS], ids="-".join
)
def scene(request: pytest.FixtureRequest) -> Story:
    """A story for each protection level and transport."""
    level, transport = request.param
    return Story(request.getfixturevalue(SERVERS[level]), transport, level)


Call = Callable[[Story], None]
CALLS: list[tuple[tuple[str, ...], Call]] = []


def calls(*rpcs: str) -> Callable[[Call], Call]:
    """Enter into the table: the function makes good calls of these RPCs and checks what they answer."""

    def enter(function: Call) -> Call:
        CALLS.append((rpcs, function))
        return function

    return enter


# --- key rings and keys ------------------------------------------------------------------------------


@calls("CreateKeyRing", "GetKeyRing")
def key_ring(scene: Story) -> None:
    assert scene.kms.get_key_ring(name=scene.ring).name == scene.ring


@calls("ListKeyRings")
def key_rings(scene: Story) -> None:
    assert scene.ring in {each.name for each in scene.kms.list_key_rings(parent=LOCATION)}


@calls("CreateCryptoKey", "GetCryptoKey")
def key(scene: Story) -> None:
    name = scene.key(labels={"made": "here"})
    found = scene.kms.get_crypto_key(name=name)
    assert (found.name, dict(found.labels)) == (name, {"made": "here"})


@calls("ListCryptoKeys")
def keys(scene: Story) -> None:
    name = scene.key()
    assert name in {each.name for each in scene.kms.list_crypto_keys(parent=scene.ring)}


@calls("UpdateCryptoKey")
def update_key(scene: Story) -> None:
    change = {"name": scene.key(), "labels": {"now": "this"}}
    changed = scene.kms.update_crypto_key(crypto_key=change, update_mask={"paths": ["labels"]})
    assert dict(changed.labels) == {"now": "this"}


@calls("CreateCryptoKeyVersion", "UpdateCryptoKeyPrimaryVersion")
def primary_version(scene: Story) -> None:
    name = scene.key()
    made = scene.kms.create_crypto_key_version(parent=name, crypto_key_version={})
    changed = scene.kms.update_crypto_key_primary_version(name=name, crypto_key_version_id="2")
    assert changed.primary.name == made.name == f"{name}/cryptoKeyVersions/2"


@calls("DeleteCryptoKey", "GetRetiredResource")
def delete_key(scene: Story) -> None:
    found = scene.kms.get_retired_resource(name=scene.deletion.metadata.retired_resource)
    assert found.resource_type == "cloudkms.googleapis.com/CryptoKey"
    assert isinstance(
        refusal(scene.kms.get_crypto_key, {"name": found.original_resource}), exceptions.NotFound
    )


@calls("ListRetiredResources")
def retired_resources(scene: Story) -> None:
    name = scene.deletion.metadata.retired_resource
    assert name in {each.name for each in scene.kms.list_retired_resources(parent=LOCATION)}


@calls("GetOperation")
def operation(scene: Story) -> None:
    found = scene.kms.get_operation(request={"name": scene.deletion.operation.name})
    assert (found.name, found.done) == (scene.deletion.operation.name, True)


# --- versions ----------------------------------------------------------------------------------------


@calls("GetCryptoKeyVersion")
def version(scene: Story) -> None:
    assert scene.kms.get_crypto_key_version(name=scene.version("HMAC_SHA256")).state == State.ENABLED


@calls("ListCryptoKeyVersions")
def versions(scene: Story) -> None:
    name = scene.version("HMAC_SHA256")
    (found,) = scene.kms.list_crypto_key_versions(parent=name.rsplit("/cryptoKeyVersions/", 1)[0])
    assert found.name == name


@calls("UpdateCryptoKeyVersion")
def update_version(scene: Story) -> None:
    change = {"name": f"{scene.key()}/cryptoKeyVersions/1", "state": State.DISABLED}
    changed = scene.kms.update_crypto_key_version(
        crypto_key_version=change, update_mask={"paths": ["state"]}
    )  # fmt: skip
    assert changed.state == State.DISABLED


@calls("DestroyCryptoKeyVersion", "RestoreCryptoKeyVersion")
def destroy_version(scene: Story) -> None:
    name = f"{scene.key()}/cryptoKeyVersions/1"
    assert scene.kms.destroy_crypto_key_version(name=name).state == State.DESTROY_SCHEDULED
    assert scene.kms.restore_crypto_key_version(name=name).state == State.DISABLED


@calls("DeleteCryptoKeyVersion")
def delete_version(scene: Story) -> None:
    name = scene.imported(scene.key(empty=True), b"no wrapped key").name
    scene.settle(name, State.IMPORT_FAILED)
    scene.kms.delete_crypto_key_version(request={"name": name}).result(timeout=MADE_S)
    assert isinstance(refusal(scene.kms.get_crypto_key_version, {"name": name}), exceptions.NotFound)


# --- import ------------------------------------------------------------------------------------------


@calls("CreateImportJob", "GetImportJob")
def import_job(scene: Story) -> None:
    assert scene.job.import_method == kms_v1.ImportJob.ImportMethod[METHODS[scene.level]]
    assert scene.job.protection_level == Level[scene.level]
    assert scene.job.public_key.pem or scene.job.public_key.data


@calls("ListImportJobs")
def import_jobs(scene: Story) -> None:
    assert scene.job.name in {each.name for each in scene.kms.list_import_jobs(parent=scene.ring)}


@calls("ImportCryptoKeyVersion")
def import_version(scene: Story) -> None:
    name = scene.key(empty=True, import_only=True)
    answer = scene.imported(name, scene.wrap(os.urandom(32)))
    assert answer.state == State.PENDING_IMPORT
    assert scene.settle(answer.name).import_job == scene.job.name


@calls("ExportTrustedKeyWrappedCryptoKeyVersion", "ImportTrustedKeyWrappedCryptoKeyVersion")
def trusted_wrapping(scene: Story) -> None:
    assert len(scene.exported) == 32 + 8  # RFC 5649
    request = {
        "parent": scene.key("HMAC_SHA256", empty=True), "algorithm": "HMAC_SHA256",
        "importing_key": scene.version("AES_256_KWP"), "wrapped_key": scene.exported,
    }  # fmt: skip
    answer = scene.kms.import_trusted_key_wrapped_crypto_key_version(request=request)
    assert answer.state == State.PENDING_IMPORT
    scene.settle(answer.name)


# --- use ---------------------------------------------------------------------------------------------


@calls("Encrypt", "Decrypt")
def encrypt(scene: Story) -> None:
    name = scene.key()
    sealed = scene.kms.encrypt(name=name, plaintext=b"plaintext")
    assert scene.kms.decrypt(name=name, ciphertext=sealed.ciphertext).plaintext == b"plaintext"


@calls("RawEncrypt", "RawDecrypt")
def raw_encrypt(scene: Story) -> None:
    name = scene.version("AES_256_GCM")
    sealed = scene.kms.raw_encrypt(request={"name": name, "plaintext": b"plaintext"})
    opened = scene.kms.raw_decrypt(
        request={
            "name": name, "ciphertext": sealed.ciphertext,
            "initialization_vector": sealed.initialization_vector,
        }
    )  # fmt: skip
    assert opened.plaintext == b"plaintext"


@calls("AsymmetricSign", "GetPublicKey")
def sign(scene: Story) -> None:
    name = scene.version("EC_SIGN_P256_SHA256")
    signature = scene.kms.asymmetric_sign(request={"name": name, "data": b"data"}).signature
    public: Any = load_pem_public_key(scene.kms.get_public_key(name=name).pem.encode())
    public.verify(signature, b"data", ec.ECDSA(hashes.SHA256()))


@calls("AsymmetricDecrypt")
def asymmetric_decrypt(scene: Story) -> None:
    name = scene.version("RSA_DECRYPT_OAEP_2048_SHA1")
    public: Any = load_pem_public_key(scene.kms.get_public_key(name=name).pem.encode())
    ciphertext = public.encrypt(b"plaintext", OAEP(MGF1(hashes.SHA1()), hashes.SHA1(), None))
    assert scene.kms.asymmetric_decrypt(name=name, ciphertext=ciphertext).plaintext == b"plaintext"


@calls("Decapsulate")
def decapsulate(scene: Story) -> None:
    if scene.level == "HSM":
        pytest.skip("SoftHSM2 has no ML-KEM: no token was found to test Decapsulate with")
    name = scene.version("ML_KEM_768")
    answer = scene.kms.get_public_key(request={"name": name, "public_key_format": "NIST_PQC"})
    secret, ciphertext = outside.encapsulate(BY_NAME["ML_KEM_768"], answer.public_key.data)
    opened = scene.kms.decapsulate(request={"name": name, "ciphertext": ciphertext})
    assert opened.shared_secret == secret


@calls("MacSign", "MacVerify")
def mac(scene: Story) -> None:
    name = scene.version("HMAC_SHA256")
    made = scene.kms.mac_sign(name=name, data=b"data").mac
    assert scene.kms.mac_verify(name=name, data=b"data", mac=made).success


@calls("GenerateRandomBytes")
def random_bytes(scene: Story) -> None:
    request = {"location": LOCATION, "length_bytes": 32, "protection_level": Level.HSM}
    if scene.level == "HSM":
        first, second = (scene.kms.generate_random_bytes(request=request).data for _ in range(2))
        assert len(first) == len(second) == 32
        assert first != second
    else:  # this server has no token
        error = refusal(scene.kms.generate_random_bytes, request)
        assert isinstance(error, exceptions.MethodNotImplemented)
        assert "--hsm-module" in error.message, "it must say what is missing"


# --- mixins ------------------------------------------------------------------------------------------


@calls("ListLocations", "GetLocation")
def locations(scene: Story) -> None:
    listed = scene.kms.list_locations(request={"name": "projects/p1"}).locations
    assert LOCATION in {each.name for each in listed}
    assert scene.kms.get_location(request={"name": LOCATION}).location_id == "europe-west4"


@calls("GetIamPolicy", "SetIamPolicy", "TestIamPermissions")
def policy(scene: Story) -> None:
    """On each kind of resource that carries one."""
    permissions = ["cloudkms.cryptoKeys.get"]
    for name in (scene.ring, scene.key(), scene.job.name):
        read = scene.kms.get_iam_policy(request=iam_policy_pb2.GetIamPolicyRequest(resource=name))
        read.bindings.append(policy_pb2.Binding(role="roles/cloudkms.viewer", members=[BOB]))
        write = iam_policy_pb2.SetIamPolicyRequest(resource=name, policy=read)
        assert list(scene.kms.set_iam_policy(request=write).bindings) == list(read.bindings)
        asked = iam_policy_pb2.TestIamPermissionsRequest(resource=name, permissions=permissions)
        assert list(scene.kms.test_iam_permissions(request=asked).permissions) == permissions


# --- the tests ---------------------------------------------------------------------------------------


def test_the_table_has_every_rpc_of_the_official_client() -> None:
    """Every RPC in the package, mixins included, but those that answer UNIMPLEMENTED altogether."""
    known = json.loads((Path(keystead.kms.__file__).parent / "rpcs.json").read_text())
    unserved = {line.removeprefix(API) for line in UNIMPLEMENTED.read_text().split() if line.startswith(API)}
    own = {rpc.removeprefix(API) for rpc in known if rpc.startswith(API)}
    offered = set(official_rules("kms_v1", "key_management_service"))

    assert own <= offered
    assert sorted(rpc for rpcs, _ in CALLS for rpc in rpcs) == sorted(offered - unserved)


@pytest.mark.parametrize(("rpcs", "call"), CALLS, ids=["+".join(rpcs) for rpcs, _ in CALLS])
def test_every_rpc_of_the_official_client_works(scene: Story, rpcs: tuple[str, ...], call: Call) -> None:
    """The call in the table succeeds, and the table did call those RPCs."""
    call(scene)
    assert {re.sub(r"\B([A-Z])", r"_\1", rpc).lower() for rpc in rpcs} <= scene.kms.called
