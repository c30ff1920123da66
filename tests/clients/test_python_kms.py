"""google-cloud-kms against a live server: the same tests over gRPC and over REST.

Every served method of KeyManagementService and its mixins, as the client's users call them.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2

from tests.clients.pyclients import TRANSPORTS, kms_client
from tests.live import LiveServer

LOCATION = "projects/p1/locations/europe-west4"
PURPOSE = kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT
ALGORITHM = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.GOOGLE_SYMMETRIC_ENCRYPTION
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
BOB = "user:bob@example.com"
CRYPTER = "roles/cloudkms.cryptoKeyEncrypterDecrypter"

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=TRANSPORTS)
def kms(request: pytest.FixtureRequest, live: LiveServer) -> Any:
    """The official client as the owner, over each transport in turn."""
    return kms_client(live, request.param)


@pytest.fixture
def as_bob(kms: Any, live: LiveServer) -> Any:
    """The same client as somebody who holds nothing."""
    return kms_client(live, kms.transport.kind, BOB)


@pytest.fixture
def ring(kms: Any) -> str:
    """A key ring of the test's own; its name."""
    made = kms.create_key_ring(
        request={"parent": LOCATION, "key_ring_id": f"ring-{next(_numbers)}", "key_ring": {}}
    )
    return str(made.name)


@pytest.fixture
def make_key(kms: Any, ring: str) -> Callable[..., Any]:
    """Makes a symmetric key in the ring; `fields` are those of the CryptoKey."""

    def make(key_id: str = "key", **fields: Any) -> Any:
        key = {"purpose": PURPOSE, **fields}
        return kms.create_crypto_key(
            request={"parent": ring, "crypto_key_id": key_id, "crypto_key": key}
        )  # fmt: skip

    return make


def mask(*paths: str) -> field_mask_pb2.FieldMask:
    """A field mask of these paths."""
    return field_mask_pb2.FieldMask(paths=paths)


def test_locations(kms: Any) -> None:
    """The locations mixin lists where the service is and gives one."""
    listed = kms.list_locations(request={"name": "projects/p1"}).locations
    found = kms.get_location(request={"name": LOCATION})

    assert "europe-west4" in {location.location_id for location in listed}
    assert (found.name, found.location_id) == (LOCATION, "europe-west4")


def test_key_rings(kms: Any, ring: str) -> None:
    """A key ring is created with its time, read, and listed."""
    found = kms.get_key_ring(request={"name": ring})
    age = dt.datetime.now(dt.UTC) - found.create_time

    assert found.name == ring
    assert abs(age) < dt.timedelta(minutes=5)
    assert ring in [each.name for each in kms.list_key_rings(request={"parent": LOCATION})]


def test_a_created_key_has_the_defaults_and_its_first_version(kms: Any, make_key: Callable[..., Any]) -> None:
    """Algorithm, level and destroy duration default; version 1 is enabled and primary."""
    key = make_key(labels={"env": "prod"})

    assert key == kms.get_crypto_key(request={"name": key.name})
    assert key.purpose == PURPOSE
    assert key.version_template.algorithm == ALGORITHM
    assert key.version_template.protection_level == kms_v1.ProtectionLevel.SOFTWARE
    assert key.destroy_scheduled_duration == dt.timedelta(days=30)
    assert dict(key.labels) == {"env": "prod"}
    assert key.primary.name == f"{key.name}/cryptoKeyVersions/1"
    assert key.primary.state == State.ENABLED
    assert key.primary == kms.get_crypto_key_version(request={"name": key.primary.name})


def test_a_key_without_a_version_has_no_primary(kms: Any, ring: str) -> None:
    """`skip_initial_version_creation` leaves the key empty until a version is made and made primary."""
    key = kms.create_crypto_key(
        request={
            "parent": ring, "crypto_key_id": "empty", "crypto_key": {"purpose": PURPOSE},
            "skip_initial_version_creation": True,
        }
    )  # fmt: skip

    assert not key.primary.name
    assert list(kms.list_crypto_key_versions(request={"parent": key.name})) == []
    made = kms.create_crypto_key_version(request={"parent": key.name, "crypto_key_version": {}})
    assert made.name == f"{key.name}/cryptoKeyVersions/1"
    moved = kms.update_crypto_key_primary_version(request={"name": key.name, "crypto_key_version_id": "1"})
    assert moved.primary == made


def test_update_applies_its_mask_and_nothing_else(kms: Any, make_key: Callable[..., Any]) -> None:
    """Masked fields are set or, where absent, cleared; fields outside of the mask stay."""
    key = make_key(labels={"env": "prod"})
    later = timestamp_pb2.Timestamp(seconds=4_102_444_800)
    change = {
        "name": key.name,
        "labels": {"ignored": "yes"},
        "rotation_period": duration_pb2.Duration(seconds=86_400 * 90),
        "next_rotation_time": later,
    }

    scheduled = kms.update_crypto_key(
        request={"crypto_key": change, "update_mask": mask("rotation_period", "next_rotation_time")}
    )
    assert scheduled.rotation_period == dt.timedelta(days=90)
    assert scheduled.next_rotation_time == dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    assert dict(scheduled.labels) == {"env": "prod"}

    cleared = kms.update_crypto_key(
        request={
            "crypto_key": {"name": key.name},
            "update_mask": mask("rotation_period", "next_rotation_time", "labels"),
        }
    )
    assert "rotation_period" not in cleared
    assert "next_rotation_time" not in cleared
    assert not cleared.labels
    again = kms.update_crypto_key(
        request={
            "crypto_key": {"name": key.name, "version_template": {"algorithm": ALGORITHM}},
            "update_mask": mask("version_template.algorithm"),
        }
    )
    assert again == kms.get_crypto_key(request={"name": key.name})


def test_versions_go_through_their_states(kms: Any, make_key: Callable[..., Any]) -> None:
    """Create, disable, enable, destroy and restore answer the version as it then is."""
    key = make_key()
    version = kms.create_crypto_key_version(request={"parent": key.name, "crypto_key_version": {}})
    assert version.name == f"{key.name}/cryptoKeyVersions/2"

    for state in (State.DISABLED, State.ENABLED):
        changed = kms.update_crypto_key_version(
            request={
                "crypto_key_version": {"name": version.name, "state": state}, "update_mask": mask("state"),
            }
        )  # fmt: skip
        assert changed.state == state
        assert changed == kms.get_crypto_key_version(request={"name": version.name})

    scheduled = kms.destroy_crypto_key_version(request={"name": version.name})
    assert scheduled.state == State.DESTROY_SCHEDULED
    left = scheduled.destroy_time - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=29) < left <= dt.timedelta(days=30)
    restored = kms.restore_crypto_key_version(request={"name": version.name})
    assert restored.state == State.DISABLED
    assert "destroy_time" not in restored


def test_rotation_keeps_old_ciphertexts_readable(kms: Any, make_key: Callable[..., Any]) -> None:
    """A new primary encrypts from then on; what the old one encrypted still opens, and says so."""
    key = make_key()
    old = kms.encrypt(request={"name": key.name, "plaintext": b"old"})
    kms.create_crypto_key_version(request={"parent": key.name, "crypto_key_version": {}})
    kms.update_crypto_key_primary_version(request={"name": key.name, "crypto_key_version_id": "2"})
    new = kms.encrypt(request={"name": key.name, "plaintext": b"new"})

    assert (old.name[-2:], new.name[-2:]) == ("/1", "/2")
    opened = [kms.decrypt(request={"name": key.name, "ciphertext": each.ciphertext}) for each in (old, new)]
    assert [(each.plaintext, each.used_primary) for each in opened] == [(b"old", False), (b"new", True)]


@pytest.mark.parametrize("aad", [b"", b"purpose=backup"])
@pytest.mark.parametrize("plaintext", [b"", b"hello", bytes(range(256)) * 256])
def test_encrypt_and_decrypt_with_checksums(
    kms: Any, make_key: Callable[..., Any], plaintext: bytes, aad: bytes
) -> None:
    """Up to 64 KiB come back unchanged; checksums sent are verified, checksums answered are right."""
    key = make_key()
    sealed = kms.encrypt(
        request={
            "name": key.name, "plaintext": plaintext, "plaintext_crc32c": google_crc32c.value(plaintext),
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": google_crc32c.value(aad),
        }
    )  # fmt: skip
    assert sealed.name == key.primary.name
    assert sealed.verified_plaintext_crc32c
    assert sealed.verified_additional_authenticated_data_crc32c
    assert sealed.protection_level == kms_v1.ProtectionLevel.SOFTWARE
    assert sealed.ciphertext_crc32c == google_crc32c.value(sealed.ciphertext)

    opened = kms.decrypt(
        request={
            "name": key.name, "ciphertext": sealed.ciphertext,
            "ciphertext_crc32c": google_crc32c.value(sealed.ciphertext),
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": google_crc32c.value(aad),
        }
    )  # fmt: skip
    assert opened.plaintext == plaintext
    assert opened.plaintext_crc32c == google_crc32c.value(plaintext)
    assert opened.used_primary


def test_lists_are_paged_filtered_and_ordered(kms: Any, make_key: Callable[..., Any]) -> None:
    """Pages follow each other without loss, filters select, and `order_by` turns the order."""
    names = [make_key(f"k{n}", labels={"n": str(n % 2)}).name for n in range(5)]
    parent = names[0].rsplit("/cryptoKeys/", 1)[0]
    request = {"parent": parent, "page_size": 2}

    first = kms.list_crypto_keys(request=request)
    assert (len(first.crypto_keys), first.total_size) == (2, 5)
    assert [key.name for key in kms.list_crypto_keys(request=request)] == names
    assert [page.total_size for page in kms.list_crypto_keys(request=request).pages] == [5, 5, 5]
    odd = kms.list_crypto_keys(request={**request, "filter": "labels.n = 1"})
    assert [key.name for key in odd] == [names[1], names[3]]
    turned = kms.list_crypto_keys(request={**request, "order_by": "name desc"})
    assert [key.name for key in turned] == names[::-1]


def test_versions_are_listed_in_their_order_and_by_state(kms: Any, make_key: Callable[..., Any]) -> None:
    """Eleven versions list as 1 to 11, and a state filter finds the disabled one."""
    key = make_key()
    for _ in range(10):
        kms.create_crypto_key_version(request={"parent": key.name, "crypto_key_version": {}})
    third = {"name": f"{key.name}/cryptoKeyVersions/3", "state": State.DISABLED}
    kms.update_crypto_key_version(request={"crypto_key_version": third, "update_mask": mask("state")})

    listed = kms.list_crypto_key_versions(request={"parent": key.name, "page_size": 4})
    assert [each.name.rsplit("/", 1)[1] for each in listed] == [str(n) for n in range(1, 12)]
    disabled = kms.list_crypto_key_versions(request={"parent": key.name, "filter": "state=DISABLED"})
    assert [each.name for each in disabled] == [third["name"]]
    full = kms_v1.CryptoKeyVersion.CryptoKeyVersionView.FULL
    assert len(list(kms.list_crypto_key_versions(request={"parent": key.name, "view": full}))) == 11


def test_policies_are_set_read_tested_and_obeyed(kms: Any, as_bob: Any, make_key: Callable[..., Any]) -> None:
    """A binding set on a key lets its member in at once, and shows in what he may do there."""
    key = make_key()
    wanted = ["cloudkms.cryptoKeyVersions.useToEncrypt", "cloudkms.cryptoKeys.update"]

    def held_by_bob() -> list[str]:
        request = iam_policy_pb2.TestIamPermissionsRequest(resource=key.name, permissions=wanted)
        return list(as_bob.test_iam_permissions(request=request).permissions)

    before = kms.get_iam_policy(request=iam_policy_pb2.GetIamPolicyRequest(resource=key.name))
    assert not before.bindings
    assert held_by_bob() == []
    before.bindings.append(policy_pb2.Binding(role=CRYPTER, members=[BOB]))
    after = kms.set_iam_policy(
        request=iam_policy_pb2.SetIamPolicyRequest(resource=key.name, policy=before)
    )  # fmt: skip

    assert after.etag != before.etag
    assert held_by_bob() == wanted[:1]
    sealed = as_bob.encrypt(request={"name": key.name, "plaintext": b"mine"})
    assert as_bob.decrypt(request={"name": key.name, "ciphertext": sealed.ciphertext}).plaintext == b"mine"
    assert kms.get_iam_policy(request=iam_policy_pb2.GetIamPolicyRequest(resource=key.name)) == after
