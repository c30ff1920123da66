"""Lists as google-cloud-kms walks them: pages, order and filters of everything that is listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.cloud import kms_v1

from tests.clients.pyclients import TRANSPORTS, details_of, refusal
from tests.clients.scene import MADE_S, METHOD, Level, Scene, ids, new_ring
from tests.live import LiveServer

Algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose


@pytest.fixture(scope="module", params=TRANSPORTS)
def scene(request: pytest.FixtureRequest, live: LiveServer) -> Scene:
    return Scene(live, request.param)


def make_key_rings(kms: Any, parent: str) -> None:
    for n in range(5):
        kms.create_key_ring(parent=parent, key_ring_id=f"r{n}", key_ring={})


def make_keys(kms: Any, parent: str) -> None:
    for n in range(5):
        key = {"purpose": Purpose.ENCRYPT_DECRYPT}
        kms.create_crypto_key(parent=parent, crypto_key_id=f"k{n}", crypto_key=key)


def make_versions(kms: Any, parent: str) -> None:
    for _ in range(4):
        kms.create_crypto_key_version(parent=parent, crypto_key_version={})


def make_import_jobs(kms: Any, parent: str) -> None:
    job = {"import_method": METHOD, "protection_level": Level.SOFTWARE}
    for n in range(5):
        kms.create_import_job(parent=parent, import_job_id=f"j{n}", import_job=job)


def retire_keys(kms: Any, parent: str) -> None:
    ring = new_ring(kms, parent)
    for n in range(5):
        request = {
            "parent": ring, "crypto_key_id": f"k{n}", "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT},
            "skip_initial_version_creation": True,
        }  # fmt: skip
        name = kms.create_crypto_key(request=request).name
        kms.delete_crypto_key(request={"name": name}).result(timeout=MADE_S)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("key_rings", make_key_rings),
        ("crypto_keys", make_keys),
        ("crypto_key_versions", make_versions),
        ("import_jobs", make_import_jobs),
        ("retired_resources", retire_keys),
    ],
)
def test_iterators_go_over_all_pages(scene: Scene, field: str, make: Callable[[Any, str], None]) -> None:
    """Of five resources in pages of two, `pages` gives 2, 2 and 1 and how many there are; the iterator gives
    each once and in order, forward and backward; and a list can be taken up at the token of a page."""
    kms = scene.kms
    if field in {"key_rings", "retired_resources"}:
        parent = f"projects/{field.replace('_', '-')}-{scene.transport}/locations/global"
    else:
        parent = scene.key() if field == "crypto_key_versions" else new_ring(kms)
    call, request = getattr(kms, f"list_{field}"), {"parent": parent, "page_size": 2}
    make(kms, parent)

    pages = list(call(request=request).pages)
    everything = [each.name for page in pages for each in getattr(page, field)]
    assert [len(getattr(page, field)) for page in pages] == [2, 2, 1]
    assert [page.total_size for page in pages] == [5, 5, 5]
    assert everything == sorted(set(everything))
    for whole in (call(request=request), call(parent=parent)):
        assert [each.name for each in whole] == everything
    if field != "retired_resources":  # these have neither order nor filter
        turned = call(request={**request, "order_by": "name desc"})
        assert [each.name for each in turned] == everything[::-1]
    rest = call(request={**request, "page_token": pages[0].next_page_token})
    assert [each.name for each in rest] == everything[2:]


def test_filters_of_the_documentation(scene: Scene) -> None:
    """By state, purpose, label, algorithm and time, joined as the documentation joins them; OR binds tighter
    than AND. What is no filter is refused, and no page leaves out what matches."""
    kms, ring = scene.kms, new_ring(scene.kms)
    keys = (
        ("a", {"purpose": Purpose.ENCRYPT_DECRYPT, "labels": {"team": "red"}}),
        ("b", {"purpose": Purpose.MAC, "version_template": {"algorithm": Algorithm.HMAC_SHA256}}),
        ("c", {"purpose": Purpose.ENCRYPT_DECRYPT, "labels": {"team": "blue"}}),
    )
    for key_id, fields in keys:
        kms.create_crypto_key(parent=ring, crypto_key_id=key_id, crypto_key=fields)
    kms.create_crypto_key_version(parent=f"{ring}/cryptoKeys/a", crypto_key_version={})
    kms.destroy_crypto_key_version(name=f"{ring}/cryptoKeys/a/cryptoKeyVersions/1")

    def found(text: str) -> list[str]:
        return ids(kms.list_crypto_keys(request={"parent": ring, "page_size": 1, "filter": text}))

    assert found("purpose=ENCRYPT_DECRYPT") == ["a", "c"]
    assert found("purpose != ENCRYPT_DECRYPT") == found("NOT purpose=ENCRYPT_DECRYPT") == ["b"]
    assert found("labels.team=blue") == found("labels.team:BLU") == ["c"]
    assert found("primary.state=DESTROY_SCHEDULED") == ["a"]
    assert found("labels.team=red AND purpose=MAC OR purpose=ENCRYPT_DECRYPT") == ["a"]
    assert found("versionTemplate.algorithm=HMAC_SHA256") == ["b"]
    assert found('create_time > "2100-01-01T00:00:00Z"') == []
    alive = {
        "parent": f"{ring}/cryptoKeys/a", "filter": "state != DESTROYED AND state != DESTROY_SCHEDULED",
    }  # fmt: skip
    assert ids(kms.list_crypto_key_versions(request=alive)) == ["2"]
    active = {
        "parent": scene.job.name.rsplit("/importJobs/")[0],
        "filter": f"import_method={METHOD} state=ACTIVE",
    }
    assert scene.job.name in {each.name for each in kms.list_import_jobs(request=active)}
    for wrong in ("no_such_field=1", "purpose="):
        error = refusal(kms.list_crypto_keys, {"parent": ring, "filter": wrong})
        assert details_of(error)[0]["fieldViolations"][0]["field"] == "filter"
