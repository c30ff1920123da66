"""Who may call what: the permission of every method, and what Google's predefined roles add up to."""

from __future__ import annotations

from typing import Any

import pytest

from keystead.api.method import Method
from keystead.iam.roles import predefined
from keystead.kms.algorithms import ALGORITHMS
from tests.platform import Platform

API = "google.cloud.kms.v1.KeyManagementService"

# Cloud KMS "Permissions and roles", and the reference of each method. What stands after a plus is needed too.
NEEDED = {
    "CreateKeyRing": "keyRings.create",
    "GetKeyRing": "keyRings.get",
    "ListKeyRings": "keyRings.list",
    "CreateCryptoKey": "cryptoKeys.create",
    "GetCryptoKey": "cryptoKeys.get",
    "ListCryptoKeys": "cryptoKeys.list",
    "UpdateCryptoKey": "cryptoKeys.update",
    "UpdateCryptoKeyPrimaryVersion": "cryptoKeys.update",
    "DeleteCryptoKey": "cryptoKeys.delete",
    "CreateCryptoKeyVersion": "cryptoKeyVersions.create",
    "GetCryptoKeyVersion": "cryptoKeyVersions.get",
    "ListCryptoKeyVersions": "cryptoKeyVersions.list",
    "UpdateCryptoKeyVersion": "cryptoKeyVersions.update",
    "DestroyCryptoKeyVersion": "cryptoKeyVersions.destroy",
    "RestoreCryptoKeyVersion": "cryptoKeyVersions.restore",
    "DeleteCryptoKeyVersion": "cryptoKeyVersions.delete",
    "CreateImportJob": "importJobs.create",
    "GetImportJob": "importJobs.get",
    "ListImportJobs": "importJobs.list",
    "ImportCryptoKeyVersion": "cryptoKeyVersions.create + importJobs.useToImport",
    "ImportTrustedKeyWrappedCryptoKeyVersion": "cryptoKeyVersions.create + cryptoKeyVersions.useToDecrypt",
    "ExportTrustedKeyWrappedCryptoKeyVersion": "cryptoKeyVersions.update + cryptoKeyVersions.useToEncrypt",
    "GetRetiredResource": "retiredResources.get",
    "ListRetiredResources": "retiredResources.list",
    "Encrypt": "cryptoKeyVersions.useToEncrypt",
    "RawEncrypt": "cryptoKeyVersions.useToEncrypt",
    "Decrypt": "cryptoKeyVersions.useToDecrypt",
    "RawDecrypt": "cryptoKeyVersions.useToDecrypt",
    "AsymmetricDecrypt": "cryptoKeyVersions.useToDecrypt",
    "Decapsulate": "cryptoKeyVersions.useToDecapsulate",
    "AsymmetricSign": "cryptoKeyVersions.useToSign",
    "MacSign": "cryptoKeyVersions.useToSign",
    "MacVerify": "cryptoKeyVersions.useToVerify",
    "GetPublicKey": "cryptoKeyVersions.viewPublicKey",
    "GenerateRandomBytes": "locations.generateRandomBytes",
}
READS = {"GetKeyRing", "ListKeyRings", "GetCryptoKey", "ListCryptoKeys", "GetCryptoKeyVersion"}
READS |= {"ListCryptoKeyVersions", "GetImportJob", "ListImportJobs", "GetRetiredResource"}
READS |= {"ListRetiredResources"}
ENCRYPTS, DECRYPTS = {"Encrypt", "RawEncrypt"}, {"Decrypt", "RawDecrypt", "AsymmetricDecrypt"}
SIGNS, VERIFIES, PUBLIC = {"AsymmetricSign", "MacSign"}, {"MacVerify"}, {"GetPublicKey"}
CRYPTO = ENCRYPTS | DECRYPTS | SIGNS | VERIFIES | PUBLIC | {"Decapsulate", "GenerateRandomBytes"}

# What each role is for, as the documentation of the roles says it.
ROLES = {
    "roles/cloudkms.admin": set(NEEDED) - CRYPTO - {"ImportTrustedKeyWrappedCryptoKeyVersion"}
    - {"ExportTrustedKeyWrappedCryptoKeyVersion"},
    "roles/cloudkms.viewer": READS,
    "roles/cloudkms.cryptoKeyEncrypter": ENCRYPTS,
    "roles/cloudkms.cryptoKeyDecrypter": DECRYPTS,
    "roles/cloudkms.cryptoKeyEncrypterDecrypter": ENCRYPTS | DECRYPTS,
    "roles/cloudkms.signer": SIGNS,
    "roles/cloudkms.signerVerifier": SIGNS | VERIFIES | PUBLIC,
    "roles/cloudkms.verifier": VERIFIES | PUBLIC,
    "roles/cloudkms.publicKeyViewer": PUBLIC,
    "roles/cloudkms.cryptoOperator": CRYPTO,
}  # fmt: skip


def needed(method: Method, request: Any) -> set[str]:
    """Everything that a call needs, without the name of the service."""
    also = {need.of(request) for need in method.spec.also if getattr(request, need.on.split(".")[0], None)}
    return {each.removeprefix("cloudkms.") for each in {method.permission(request), *also} if each}


def a_request(method: Method) -> Any:
    """A request in which every reference to another resource is set, but none to an existing version."""
    request = method.request_type()
    for field in ("name", "parent", "location", "import_job", "importing_key", "wrapping_key"):
        descriptor = request.DESCRIPTOR.fields_by_name.get(field)
        if descriptor is not None and descriptor.message_type is None:
            setattr(request, field, "x")
    return request


def methods(platform: Platform) -> dict[str, Method]:
    served = platform.registry.methods.items()
    return {rpc.split("/")[1]: method for rpc, method in served if rpc.startswith(API)}


def test_every_method_needs_what_the_documentation_says(platform: Platform) -> None:
    """All of them are in the table, and each asks for exactly those permissions."""
    found = {
        name: " + ".join(sorted(needed(method, a_request(method)), key=_in_order))
        for name, method in methods(platform).items()
    }
    assert found == {
        name: " + ".join(sorted(each.split(" + "), key=_in_order)) for name, each in NEEDED.items()
    }


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_predefined_role_allows_what_it_is_for_and_nothing_else(platform: Platform, role: str) -> None:
    """Of all methods, those whose permissions the role holds are those that its documentation names."""
    held = {each.removeprefix("cloudkms.") for each in predefined()[role].permissions}
    allowed = {
        name for name, method in methods(platform).items() if needed(method, a_request(method)) <= held
    }
    assert allowed == ROLES[role]


def test_some_algorithms_need_a_permission_of_their_own() -> None:
    """Modes and paddings that are easy to misuse, and post-quantum signatures (Cloud KMS permissions)."""
    asked = {
        each.extra_permission.rsplit(".", 1)[-1] for each in ALGORITHMS.values() if each.extra_permission
    }
    assert asked == {"manageRawAesCbcKeys", "manageRawAesCtrKeys", "manageRawPKCS1Keys", "managePqcSign"}
    for each in ALGORITHMS.values():
        name = each.name
        special = "_CBC" in name or "_CTR" in name or "RAW_PKCS1" in name or name.startswith("PQ_SIGN")
        assert bool(each.extra_permission) == special, name


def _in_order(permission: str) -> tuple[bool, str]:
    return "useTo" in permission, permission
