"""Keys with the real gcloud: every command prints what it prints against Google's own service."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest

from tests.clients.gcloud import Gcloud

pytestmark = pytest.mark.gcloud

LOCATION = "projects/p1/locations/us-central1"
RING = f"{LOCATION}/keyRings/kr1"
WHERE = ("--location=us-central1", "--keyring=kr1")
BOB = "user:bob@example.com"
LATER = "2100-01-01T00:00:00Z"
MakeKey = Callable[..., str]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def ring(gcloud: Gcloud) -> str:
    """The key ring kr1, made by gcloud."""
    gcloud.ok("kms", "keyrings", "create", "kr1", "--location=us-central1")
    (gcloud.directory / "pt").write_bytes(b"hello")
    (gcloud.directory / "aad").write_bytes(b"aad1")
    return RING


@pytest.fixture
def make_key(gcloud: Gcloud, ring: str) -> MakeKey:
    """Makes a symmetric key in kr1 with the given options; its id."""

    def make(*options: str) -> str:
        key = f"k{next(_numbers)}"
        printed = gcloud.ok("kms", "keys", "create", key, *WHERE, "--purpose=encryption", *options)
        assert printed.out == ""
        return key

    return make


def version_text(key: str, number: int, state: str) -> str:
    """A version as gcloud prints it, times left out."""
    return (
        "algorithm: GOOGLE_SYMMETRIC_ENCRYPTION\n"
        "createTime: 'TIME'\n"
        "generateTime: 'TIME'\n"
        f"name: {RING}/cryptoKeys/{key}/cryptoKeyVersions/{number}\n"
        "protectionLevel: SOFTWARE\n"
        f"state: {state}\n"
    )


def key_text(key: str, *, primary: int = 1, labels: str = "", rotation: tuple[str, str] = ("", "")) -> str:
    """A key as gcloud prints it, times left out; `rotation` is the lines of the next time and the period."""
    version = "".join(f"  {line}\n" for line in version_text(key, primary, "ENABLED").splitlines())
    return (
        "createTime: 'TIME'\n"
        "destroyScheduledDuration: 2592000s\n"
        f"{labels}"
        f"name: {RING}/cryptoKeys/{key}\n"
        f"{rotation[0]}"
        f"primary:\n{version}"
        "purpose: ENCRYPT_DECRYPT\n"
        f"{rotation[1]}"
        "versionTemplate:\n"
        "  algorithm: GOOGLE_SYMMETRIC_ENCRYPTION\n"
        "  protectionLevel: SOFTWARE\n"
    )


def test_locations_list_shows_googles_locations_without_hsm_or_ekm(gcloud: Gcloud) -> None:
    """`locations list` is a table of locations, and claims no HSM and no EKM where there is none."""
    lines = gcloud.ok("kms", "locations", "list").out.splitlines()

    assert lines[0].split() == ["LOCATION_ID", "HSM_AVAILABLE", "EKM_AVAILABLE"]
    assert {"global", "us", "us-central1", "europe-west4"} <= {line.split()[0] for line in lines[1:]}
    assert not any("True" in line for line in lines)


def test_key_rings_are_listed_and_described(gcloud: Gcloud, ring: str) -> None:
    """A created key ring is found by `list` and by `describe`."""
    listed = gcloud.ok("kms", "keyrings", "list", "--location=us-central1").out
    described = gcloud.ok("kms", "keyrings", "describe", "kr1", "--location=us-central1").shape

    assert listed == f"NAME\n{ring}\n"
    assert described == f"createTime: 'TIME'\nname: {ring}\n"


def test_a_key_ring_that_is_missing_taken_or_misnamed_is_refused(gcloud: Gcloud, ring: str) -> None:
    """gcloud prints the status and reason of NOT_FOUND, ALREADY_EXISTS and INVALID_ARGUMENT, with details."""
    missing = gcloud.refused("kms", "keyrings", "describe", "nope", "--location=us-central1")
    taken = gcloud.refused("kms", "keyrings", "create", "kr1", "--location=us-central1")
    misnamed = gcloud.refused("kms", "keyrings", "create", "bad id", "--location=us-central1")
    elsewhere = gcloud.refused("kms", "keyrings", "create", "kr1", "--location=mars1")

    assert f"NOT_FOUND: KeyRing {LOCATION}/keyRings/nope not found." in missing
    assert f"ALREADY_EXISTS: KeyRing {ring} already exists." in taken
    assert "INVALID_ARGUMENT: Invalid key_ring_id 'bad id'." in misnamed
    assert "type.googleapis.com/google.rpc.BadRequest" in misnamed
    assert "field: key_ring_id" in misnamed
    assert "INVALID_ARGUMENT: The request concerns location 'mars1'" in elsewhere


def test_describe_prints_a_key_by_id_url_or_full_name(gcloud: Gcloud, make_key: MakeKey) -> None:
    """A key prints alike whether it is named by id, by Google's URL, or with a billing project."""
    key = make_key()
    url = f"https://cloudkms.googleapis.com/v1/{RING}/cryptoKeys/{key}"

    assert gcloud.ok("kms", "keys", "describe", key, *WHERE).shape == key_text(key)
    assert gcloud.ok("kms", "keys", "describe", url).shape == key_text(key)
    billed = gcloud.ok("kms", "keys", "describe", key, *WHERE, "--billing-project=p1")
    assert billed.shape == key_text(key)


def test_a_key_keeps_its_rotation_destroy_duration_and_labels(gcloud: Gcloud, make_key: MakeKey) -> None:
    """What `keys create` was told is what `describe --format=json` shows, to the millisecond."""
    key = make_key(
        "--rotation-period=30d", "--next-rotation-time=2100-10-12T12:34:56.1234Z",
        "--destroy-scheduled-duration=2d", "--labels=env=prod,team=kms",
    )  # fmt: skip

    found = json.loads(gcloud.ok("kms", "keys", "describe", key, *WHERE, "--format=json").out)

    assert found["rotationPeriod"] == "2592000s"
    assert found["nextRotationTime"] == "2100-10-12T12:34:56.123Z"
    assert found["destroyScheduledDuration"] == "172800s"
    assert found["labels"] == {"env": "prod", "team": "kms"}


def test_keys_list_is_a_table_and_filters(gcloud: Gcloud, make_key: MakeKey) -> None:
    """`keys list` shows purpose, algorithm, level, labels and primary; filters and limits hold."""
    key = make_key("--labels=env=prod,team=kms")
    lines = gcloud.ok("kms", "keys", "list", *WHERE).out.splitlines()
    one = json.loads(gcloud.ok("kms", "keys", "list", *WHERE, "--format=json", "--limit=1").out)
    none = gcloud.ok("kms", "keys", "list", *WHERE, "--filter=purpose=MAC")

    assert lines[0].split() == [
        "NAME", "PURPOSE", "ALGORITHM", "PROTECTION_LEVEL", "LABELS", "PRIMARY_ID", "PRIMARY_STATE",
    ]  # fmt: skip
    (row,) = (line.split() for line in lines if f"/cryptoKeys/{key} " in line)
    assert row[1:] == [
        "ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION", "SOFTWARE", "env=prod,team=kms", "1", "ENABLED",
    ]  # fmt: skip
    assert len(one) == 1
    assert one[0]["purpose"] == "ENCRYPT_DECRYPT"
    assert (none.out, none.err) == ("", "Listed 0 items.\n")


def test_keys_update_changes_only_what_was_named(gcloud: Gcloud, make_key: MakeKey) -> None:
    """Labels and rotation come and go by `keys update` and the two rotation-schedule commands."""
    key = make_key()

    def run(*words: str) -> str:
        printed = gcloud.ok("kms", "keys", *words)
        assert printed.out == ""
        return gcloud.ok("kms", "keys", "describe", key, *WHERE).shape

    def shown(period: str, labels: str = "") -> str:
        return key_text(
            key, labels=labels, rotation=("nextRotationTime: 'TIME'\n", f"rotationPeriod: {period}\n")
        )

    rotation = ("--rotation-period=90d", f"--next-rotation-time={LATER}")
    labelled = "labels:\n  a: b\n"
    assert run("update", key, *WHERE, "--update-labels=a=b", *rotation) == shown("7776000s", labelled)
    changed = run("update", key, *WHERE, "--default-algorithm=google-symmetric-encryption")
    assert changed == shown("7776000s", labelled), "labels: {} outside the mask cleared the labels"
    assert run("update", key, *WHERE, "--remove-rotation-schedule", "--clear-labels") == key_text(key)
    schedule = ("--rotation-period=30d", f"--next-rotation-time={LATER}")
    assert run("set-rotation-schedule", key, *WHERE, *schedule) == shown("2592000s")
    assert run("remove-rotation-schedule", key, *WHERE) == key_text(key)


def test_versions_are_created_listed_and_made_primary(gcloud: Gcloud, make_key: MakeKey) -> None:
    """New versions count up; `--primary`, `set-primary-version` and `update` move the primary."""
    key = make_key()
    versions = ("--key", key, *WHERE)
    prefix = f"{RING}/cryptoKeys/{key}/cryptoKeyVersions"

    assert gcloud.ok("kms", "keys", "versions", "create", *versions).out == ""
    created = gcloud.ok("kms", "keys", "versions", "create", *versions, "--primary")
    assert "Successfully created key version [3] and set it as the primary version." in (
        created.out + created.err
    )
    rows = [line.split() for line in gcloud.ok("kms", "keys", "versions", "list", *versions).out.splitlines()]
    assert rows == [["NAME", "STATE"], *([f"{prefix}/{n}", "ENABLED"] for n in (1, 2, 3))]
    described = gcloud.ok("kms", "keys", "versions", "describe", "1", *versions).shape
    assert described == version_text(key, 1, "ENABLED")
    by_name = gcloud.ok("kms", "keys", "versions", "describe", f"{prefix}/1").shape
    assert by_name == described

    moved = gcloud.ok("kms", "keys", "set-primary-version", key, *WHERE, "--version=2").shape
    assert moved == key_text(key, primary=2)
    gcloud.ok("kms", "keys", "update", key, *WHERE, "--primary-version=1")
    assert gcloud.ok("kms", "keys", "describe", key, *WHERE).shape == key_text(key)
    gcloud.ok("kms", "keys", "update", key, *WHERE, "--primary-version=2", "--update-labels=x=y")
    assert gcloud.ok("kms", "keys", "describe", key, *WHERE).shape == key_text(
        key, primary=2, labels="labels:\n  x: y\n"
    )


def test_a_version_is_disabled_enabled_destroyed_and_restored(gcloud: Gcloud, make_key: MakeKey) -> None:
    """The states a version goes through print as Google prints them; a restored version is disabled."""
    key = make_key()

    def version(verb: str) -> str:
        return gcloud.ok("kms", "keys", "versions", verb, "1", "--key", key, *WHERE).shape

    assert version("disable") == version_text(key, 1, "DISABLED")
    assert version("enable") == version_text(key, 1, "ENABLED")
    assert version("destroy") == ""
    scheduled = version("describe")
    assert "state: DESTROY_SCHEDULED\n" in scheduled
    assert "destroyTime: 'TIME'\n" in scheduled
    assert version("restore") == ""
    assert version("describe") == version_text(key, 1, "DISABLED")
    listing = gcloud.ok(
        "kms", "keys", "versions", "list", "--key", key, *WHERE, "--filter=state=ENABLED"
    )  # fmt: skip
    assert listing.err == "Listed 0 items.\n"


def test_encrypt_and_decrypt_with_and_without_integrity_checks(gcloud: Gcloud, make_key: MakeKey) -> None:
    """What gcloud encrypted it decrypts, with AAD, by version, and with checksums left out or checked."""
    key = make_key()
    crypt = ("--key", key, *WHERE)
    aad = "--additional-authenticated-data-file=aad"

    for options in ((), (aad,), ("--skip-integrity-verification",)):
        done = gcloud.ok("kms", "encrypt", *crypt, "--plaintext-file=pt", "--ciphertext-file=ct", *options)
        assert done.out == ""
        assert b"hello" not in (gcloud.directory / "ct").read_bytes()
        opened = gcloud.ok("kms", "decrypt", *crypt, "--ciphertext-file=ct", "--plaintext-file=-", *options)
        assert opened.out == "hello"

    by_version = ("--version=1", "--plaintext-file=pt", "--ciphertext-file=ct3")
    gcloud.ok("kms", "encrypt", *crypt, *by_version)
    gcloud.ok("kms", "decrypt", *crypt, "--ciphertext-file=ct3", "--plaintext-file=pt.out")
    assert (gcloud.directory / "pt.out").read_bytes() == b"hello"


def test_a_ciphertext_opens_only_with_its_key_and_aad(gcloud: Gcloud, make_key: MakeKey) -> None:
    """A wrong AAD, a wrong key and rubbish are refused in the same words."""
    key, other = make_key(), make_key()
    aad = "--additional-authenticated-data-file=aad"
    gcloud.ok("kms", "encrypt", "--key", key, *WHERE, "--plaintext-file=pt", "--ciphertext-file=ct2", aad)
    refusal = (
        "ERROR: (gcloud.kms.decrypt) INVALID_ARGUMENT: Decryption failed: verify that 'name' refers to the "
        "correct CryptoKey.\n"
    )

    def decrypt(with_key: str, file: str, *options: str) -> str:
        target = (f"--ciphertext-file={file}", "--plaintext-file=-")
        return gcloud.refused("kms", "decrypt", "--key", with_key, *WHERE, *target, *options)

    assert decrypt(key, "ct2") == refusal
    assert decrypt(other, "ct2", aad) == refusal
    assert decrypt(key, "pt", "--skip-integrity-verification") == refusal


def test_a_disabled_key_refuses_with_the_violation_in_yaml(gcloud: Gcloud, make_key: MakeKey) -> None:
    """Encrypting and decrypting under a disabled version names the version and KEY_DISABLED."""
    key = make_key()
    crypt = ("--key", key, *WHERE)
    name = f"{RING}/cryptoKeys/{key}/cryptoKeyVersions/1"
    gcloud.ok("kms", "encrypt", *crypt, "--plaintext-file=pt", "--ciphertext-file=ct5")
    gcloud.ok("kms", "keys", "versions", "disable", "1", *crypt)
    details = (
        "- '@type': type.googleapis.com/google.rpc.PreconditionFailure\n"
        "  violations:\n"
        f"  - subject: {name}\n"
        "    type: KEY_DISABLED\n"
    )
    text = f"FAILED_PRECONDITION: {name} is not enabled, current state is: DISABLED.\n{details}"

    encrypting = gcloud.refused("kms", "encrypt", *crypt, "--plaintext-file=pt", "--ciphertext-file=-")
    decrypting = gcloud.refused("kms", "decrypt", *crypt, "--ciphertext-file=ct5", "--plaintext-file=-")

    assert encrypting == f"ERROR: (gcloud.kms.encrypt) {text}"
    assert decrypting == f"ERROR: (gcloud.kms.decrypt) {text}"
    gcloud.ok("kms", "keys", "versions", "enable", "1", *crypt)
    opened = gcloud.ok("kms", "decrypt", *crypt, "--ciphertext-file=ct5", "--plaintext-file=-")
    assert opened.out == "hello"


def test_a_caller_without_a_grant_learns_nothing_about_a_key(gcloud: Gcloud, make_key: MakeKey) -> None:
    """An existing and a missing key read alike to a stranger: PERMISSION_DENIED with its ErrorInfo."""
    key = make_key()
    denied = gcloud.refused("kms", "keys", "describe", key, *WHERE, token=BOB)
    missing = gcloud.refused("kms", "keys", "describe", "nokey", *WHERE, token=BOB)
    name = f"{RING}/cryptoKeys/{key}"

    assert f"PERMISSION_DENIED: Permission 'cloudkms.cryptoKeys.get' denied on resource '{name}'" in denied
    assert denied.endswith(
        "- '@type': type.googleapis.com/google.rpc.ErrorInfo\n"
        "  domain: cloudkms.googleapis.com\n"
        "  metadata:\n"
        "    permission: cloudkms.cryptoKeys.get\n"
        f"    resource: {name}\n"
        "  reason: IAM_PERMISSION_DENIED\n"
    )
    assert missing == denied.replace(key, "nokey")
    target = ("--plaintext-file=pt", "--ciphertext-file=-")
    encrypting = gcloud.refused("kms", "encrypt", "--key", key, *WHERE, *target, token=BOB)
    assert "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied" in encrypting


def test_a_caller_who_proves_nothing_is_unauthenticated(gcloud: Gcloud, ring: str) -> None:
    """A token that is nobody's, and none at all, answer UNAUTHENTICATED with the reason."""
    unknown = gcloud.refused("kms", "keys", "list", *WHERE, token="rubbish")
    absent = gcloud.refused("kms", "keys", "list", *WHERE, token=None)

    assert "UNAUTHENTICATED: Request had invalid authentication credentials." in unknown
    assert "reason: ACCESS_TOKEN_TYPE_UNSUPPORTED\n" in unknown
    assert "UNAUTHENTICATED: Request is missing required authentication credential." in absent
    assert "reason: CREDENTIALS_MISSING\n" in absent


def test_a_certificate_chain_of_a_software_key_is_refused_by_gcloud(
    gcloud: Gcloud, make_key: MakeKey
) -> None:
    """gcloud reads the protection level and says that only HSM key versions have certificates."""
    key = make_key()
    text = gcloud.refused("kms", "keys", "versions", "get-certificate-chain", "1", "--key", key, *WHERE)

    assert "Certificate chains are only available for HSM key versions." in text
