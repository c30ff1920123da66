"""Every `gcloud kms` command of the installed gcloud: which test runs it, or why none does.

`RUN_BY` is held in two ways: `test_gcloud_kms_commands` compares it with gcloud, and the fixture `claims`
sees that each test in it did run its commands. `LEFT_OUT` is run too: what is left out must say so.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

_CRYPTO = "test_gcloud_crypto::test_"
_IAM = "test_gcloud_iam::test_"
_IMPORT = "test_gcloud_import::test_"
_KMS = "test_gcloud_kms::test_"
_HERE = "test_gcloud_kms_commands::test_"

_POLICIES = "a_key_ring_has_a_policy_that_its_keys_inherit"
_STATES = "a_version_is_disabled_enabled_destroyed_and_restored"
_CHAIN = "a_certificate_chain_of_a_software_key_is_refused_by_gcloud"
_LISTED = "versions_are_created_listed_and_made_primary"
_UPDATES = "keys_update_changes_only_what_was_named"

RUN_BY = {
    "asymmetric-decrypt": f"{_CRYPTO}asymmetric_decrypt",
    "asymmetric-sign": f"{_CRYPTO}asymmetric_sign_by_digest_and_by_data",
    "decrypt": f"{_KMS}encrypt_and_decrypt_with_and_without_integrity_checks",
    "encrypt": f"{_KMS}encrypt_and_decrypt_with_and_without_integrity_checks",
    "import-jobs add-iam-policy-binding": f"{_HERE}an_import_job_has_a_policy",
    "import-jobs create": f"{_IMPORT}jobs_are_made_described_and_listed",
    "import-jobs describe": f"{_IMPORT}jobs_are_made_described_and_listed",
    "import-jobs get-iam-policy": f"{_HERE}an_import_job_has_a_policy",
    "import-jobs list": f"{_IMPORT}jobs_are_made_described_and_listed",
    "import-jobs remove-iam-policy-binding": f"{_HERE}an_import_job_has_a_policy",
    "import-jobs set-iam-policy": f"{_HERE}an_import_job_has_a_policy",
    "keyrings add-iam-policy-binding": f"{_IAM}{_POLICIES}",
    "keyrings create": f"{_KMS}a_key_ring_that_is_missing_taken_or_misnamed_is_refused",
    "keyrings describe": f"{_KMS}key_rings_are_listed_and_described",
    "keyrings get-iam-policy": f"{_IAM}{_POLICIES}",
    "keyrings list": f"{_KMS}key_rings_are_listed_and_described",
    "keyrings remove-iam-policy-binding": f"{_IAM}{_POLICIES}",
    "keyrings set-iam-policy": f"{_IAM}{_POLICIES}",
    "keys add-iam-policy-binding": f"{_IAM}a_grant_lets_a_user_in_and_its_removal_locks_him_out",
    "keys create": f"{_KMS}a_key_keeps_its_rotation_destroy_duration_and_labels",
    "keys describe": f"{_KMS}describe_prints_a_key_by_id_url_or_full_name",
    "keys get-iam-policy": f"{_IAM}a_service_agent_is_granted_a_key",
    "keys list": f"{_KMS}keys_list_is_a_table_and_filters",
    "keys remove-iam-policy-binding": f"{_IAM}a_grant_lets_a_user_in_and_its_removal_locks_him_out",
    "keys remove-rotation-schedule": f"{_KMS}{_UPDATES}",
    "keys set-iam-policy": f"{_IAM}a_stale_etag_is_aborted_and_none_overwrites",
    "keys set-primary-version": f"{_KMS}{_LISTED}",
    "keys set-rotation-schedule": f"{_KMS}{_UPDATES}",
    "keys update": f"{_KMS}{_UPDATES}",
    "keys versions create": f"{_KMS}{_LISTED}",
    "keys versions describe": f"{_KMS}{_LISTED}",
    "keys versions destroy": f"{_KMS}{_STATES}",
    "keys versions disable": f"{_KMS}{_STATES}",
    "keys versions enable": f"{_KMS}{_STATES}",
    "keys versions get-certificate-chain": f"{_KMS}{_CHAIN}",
    "keys versions get-public-key": f"{_CRYPTO}asymmetric_sign_by_digest_and_by_data",
    "keys versions import": f"{_IMPORT}gcloud_wraps_a_key_and_imports_it",
    "keys versions list": f"{_KMS}{_LISTED}",
    "keys versions restore": f"{_KMS}{_STATES}",
    "keys versions update": f"{_HERE}versions_update_changes_the_state",
    "locations list": f"{_KMS}locations_list_shows_googles_locations_without_hsm_or_ekm",
    "mac-sign": f"{_CRYPTO}mac_sign_and_verify",
    "mac-verify": f"{_CRYPTO}mac_sign_and_verify",
    "raw-decrypt": f"{_CRYPTO}raw_encrypt_and_decrypt_with_a_vector_of_the_caller",
    "raw-encrypt": f"{_CRYPTO}raw_encrypt_with_gcm",
}

EKM = "external keys are not served yet"
AUTOKEY = "Autokey is not served yet"
JUSTIFICATIONS = "Key Access Justifications are not served yet"
TOKEN = "this server has no token"
INVENTORY = "the inventory is not served yet, and gcloud has no property for its endpoint"
CONFIG = "in alpha only, and it starts another program"


@dataclass(frozen=True)
class LeftOut:
    """A command, or a way to use one, that is not served: `words` after `gcloud`, what gcloud then prints on
    standard error, and why."""

    words: str
    printed: str
    why: str

    @property
    def unimplemented(self) -> bool:
        """Whether the server is asked; gcloud asks it again for half a minute."""
        return self.printed.startswith("UNIMPLEMENTED ")


_WHERE = "--location=us-central1"
_KEY = f"{_WHERE} --keyring=kr1"
_NOT = "UNIMPLEMENTED The method google.cloud.kms.v1.{} is not implemented."
_NO_POLICY = "UNIMPLEMENTED Resource projects/p1/locations/us-central1/{} carries no policy in this server."
_CONFIG_POLICY, _CONNECTION_POLICY = _NO_POLICY.format("ekmConfig"), _NO_POLICY.format("ekmConnections/ek1")
_MEMBER = "--member=user:a@x.com --role=roles/viewer"
_SERVICE = "projects/p1/locations/us-central1/namespaces/n/services/s"
_EXTERNAL = "UNIMPLEMENTED Keys of protection level {} are not supported by this server."
_POLICY_FIELD = (
    "UNIMPLEMENTED The field crypto_key.key_access_justifications_policy is not supported by this server."
)
_BUCKET = "--resource-type=storage.googleapis.com/Bucket"

LEFT_OUT = (
    LeftOut(f"kms ekm-config add-iam-policy-binding {_WHERE} {_MEMBER}", _CONFIG_POLICY, EKM),
    LeftOut(f"kms ekm-config describe {_WHERE}", _NOT.format("EkmService/GetEkmConfig"), EKM),
    LeftOut(f"kms ekm-config get-iam-policy {_WHERE}", _CONFIG_POLICY, EKM),
    LeftOut(f"kms ekm-config remove-iam-policy-binding {_WHERE} {_MEMBER}", _CONFIG_POLICY, EKM),
    LeftOut(f"kms ekm-config set-iam-policy {_WHERE} policy.json", _CONFIG_POLICY, EKM),
    LeftOut(
        f"kms ekm-config update {_WHERE} --default-ekm-connection=projects/p1/locations/us-central1/"
        "ekmConnections/ek1",
        _NOT.format("EkmService/GetEkmConfig"), EKM,
    ),
    LeftOut(f"kms ekm-connections add-iam-policy-binding ek1 {_WHERE} {_MEMBER}", _CONNECTION_POLICY, EKM),
    LeftOut(
        f"kms ekm-connections create ek1 {_WHERE} --service-directory-service={_SERVICE} "
        "--hostname=ekm.example.com --server-certificates-files=ekm.pem",
        _NOT.format("EkmService/CreateEkmConnection"), EKM,
    ),
    LeftOut(f"kms ekm-connections describe ek1 {_WHERE}", _NOT.format("EkmService/GetEkmConnection"), EKM),
    LeftOut(f"kms ekm-connections get-iam-policy ek1 {_WHERE}", _CONNECTION_POLICY, EKM),
    LeftOut(f"kms ekm-connections list {_WHERE}", _NOT.format("EkmService/ListEkmConnections"), EKM),
    LeftOut(
        f"kms ekm-connections remove-iam-policy-binding ek1 {_WHERE} {_MEMBER}", _CONNECTION_POLICY, EKM
    ),
    LeftOut(f"kms ekm-connections set-iam-policy ek1 {_WHERE} policy.json", _CONNECTION_POLICY, EKM),
    LeftOut(
        f"kms ekm-connections update ek1 {_WHERE} --hostname=ekm2.example.com",
        _NOT.format("EkmService/GetEkmConnection"), EKM,
    ),
    LeftOut(
        f"kms keys create kext {_KEY} --purpose=encryption --protection-level=external "
        "--default-algorithm=external-symmetric-encryption --skip-initial-version-creation",
        _EXTERNAL.format("EXTERNAL"), EKM,
    ),
    LeftOut(
        f"kms keys create kvpc {_KEY} --purpose=encryption --protection-level=external-vpc "
        "--default-algorithm=external-symmetric-encryption --skip-initial-version-creation "
        "--crypto-key-backend=projects/p1/locations/us-central1/ekmConnections/ek1",
        "UNIMPLEMENTED The field crypto_key.crypto_key_backend is not supported by this server.", EKM,
    ),
    LeftOut(
        f"kms keys versions create --key=k1 {_KEY} --external-key-uri=https://ekm.example.com/v0/keys/1",
        "UNIMPLEMENTED The field crypto_key_version.external_protection_level_options is not supported by "
        "this server.", EKM,
    ),
    LeftOut(
        f"kms keys versions create --key=k1 {_KEY} --ekm-connection-key-path=v0/longlived/x --primary",
        "UNIMPLEMENTED The field crypto_key_version.external_protection_level_options is not supported by "
        "this server.", EKM,
    ),
    LeftOut(
        f"kms keys versions update 1 --key=k1 {_KEY} --external-key-uri=https://ekm.example.com/v0/keys/2",
        "External key URI updates are only available for key versions with EXTERNAL protection level", EKM,
    ),
    LeftOut(
        "kms autokey-config describe --folder=123", _NOT.format("AutokeyAdmin/GetAutokeyConfig"), AUTOKEY
    ),
    LeftOut(
        "kms autokey-config show-effective-config --project=p1",
        _NOT.format("AutokeyAdmin/ShowEffectiveAutokeyConfig"), AUTOKEY,
    ),
    LeftOut(
        "kms autokey-config update autokey.yaml", _NOT.format("AutokeyAdmin/UpdateAutokeyConfig"), AUTOKEY
    ),
    LeftOut(
        f"kms key-handles create --key-handle-id=kh1 {_WHERE} {_BUCKET}",
        _NOT.format("Autokey/CreateKeyHandle"), AUTOKEY,
    ),
    LeftOut(f"kms key-handles describe kh1 {_WHERE}", _NOT.format("Autokey/GetKeyHandle"), AUTOKEY),
    LeftOut(f"kms key-handles list {_WHERE} {_BUCKET}", _NOT.format("Autokey/ListKeyHandles"), AUTOKEY),
    LeftOut(
        f"kms keys create kkaj {_KEY} --purpose=encryption "
        "--allowed-access-reasons=customer-initiated-access,google-initiated-system-operation",
        _POLICY_FIELD, JUSTIFICATIONS,
    ),
    LeftOut(
        f"kms keys update k1 {_KEY} --allowed-access-reasons=customer-initiated-support",
        "Failed to update field(s) 'keyAccessJustificationsPolicy'.", JUSTIFICATIONS,
    ),
    LeftOut(
        f"kms keys update k1 {_KEY} --remove-key-access-justifications-policy",
        "Failed to update field(s) 'keyAccessJustificationsPolicy'.", JUSTIFICATIONS,
    ),
    LeftOut(
        f"kms keys create khsm {_KEY} --purpose=encryption --protection-level=hsm "
        "--default-algorithm=google-symmetric-encryption",
        _EXTERNAL.format("HSM"), TOKEN,
    ),
    LeftOut(
        f"kms keys versions describe 1 --key=k1 {_KEY} --attestation-file=attestation",
        "Attestations are only available for HSM key versions.", TOKEN,
    ),
    LeftOut(f"kms keys config export k1 {_KEY}", "Invalid choice: 'config'.", CONFIG),
    LeftOut(f"kms keyrings config export kr1 {_WHERE}", "Invalid choice: 'config'.", CONFIG),
)  # fmt: skip

# These would call Google: what is run instead shows that they cannot be made to call this server.
NOT_RUN = {
    f"inventory {command}": INVENTORY
    for command in ("get-protected-resources-summary", "list-keys", "search-protected-resources")
}
INVENTORY_ENDPOINT = LeftOut(
    "config set api_endpoint_overrides/kmsinventory http://127.0.0.1:1/",
    "Section [api_endpoint_overrides] has no property [kmsinventory].", INVENTORY,
)  # fmt: skip


def commands_of_gcloud() -> set[str]:
    """The `gcloud kms` commands of the installed gcloud, by the files that define them; empty if it is laid
    out in another way."""
    found = shutil.which("gcloud")
    assert found is not None
    surface = Path(found).resolve().parents[1] / "lib" / "surface" / "kms"
    files = [path for path in surface.rglob("*") if path.suffix in {".py", ".yaml"}]
    names = [path.relative_to(surface).with_suffix("") for path in files if path.stem != "__init__"]
    return {" ".join(name.parts).replace("_", "-") for name in names}


def claimed_by(test: str) -> list[str]:
    """The commands that a test, `module::function`, runs."""
    return [command for command, claimant in RUN_BY.items() if claimant == test]
