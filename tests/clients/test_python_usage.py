"""What programs written against google-cloud-kms rely on, beside the calls themselves: iterators, filters, masks,
enums, operations, the details of errors, retries, project numbers, asyncio, and Tink."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import tink
from google.api_core import exceptions, protobuf_helpers
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2
from tink import aead
from tink.integration import gcpkms

from tests.clients.pyclients import (
    TRANSPORTS,
    async_kms_client,
    details_of,
    kms_client,
    projects_client,
    refusal,
)
from tests.clients.scene import LOCATION, MADE_S, METHOD, SYMMETRIC, Level, Scene, State
from tests.live import OWNER, LiveServer

Algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
LATER = timestamp_pb2.Timestamp(seconds=4_102_444_800)

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=TRANSPORTS)
def scene(request: pytest.FixtureRequest, live: LiveServer) -> Scene:
    return Scene(live, request.param)


@pytest.fixture
def ring(scene: Scene) -> str:
    """A key ring of the test's own; its name."""
    request = {"parent": LOCATION, "key_ring_id": f"usage-{next(_numbers)}", "key_ring": {}}
    return str(scene.kms.create_key_ring(request=request).name)


def ids(found: Any) -> list[str]:
    return [each.name.rsplit("/", 1)[1] for each in found]


# --- lists -------------------------------------------------------------------------------------------


def five_key_rings(scene: Scene, parent: str) -> None:
    for n in range(5):
        scene.kms.create_key_ring(parent=parent, key_ring_id=f"r{n}", key_ring={})


def five_keys(scene: Scene, parent: str) -> None:
    for n in range(5):
        scene.kms.create_crypto_key(
            parent=parent, crypto_key_id=f"k{n}", crypto_key={"purpose": Purpose.ENCRYPT_DECRYPT}
        )


def five_versions(scene: Scene, parent: str) -> None:
    for _ in range(4):
        scene.kms.create_crypto_key_version(parent=parent, crypto_key_version={})


def five_import_jobs(scene: Scene, parent: str) -> None:
    job = {"import_method": METHOD, "protection_level": Level.SOFTWARE}
    for n in range(5):
        scene.kms.create_import_job(parent=parent, import_job_id=f"j{n}", import_job=job)


def five_retired_resources(scene: Scene, parent: str) -> None:
    ring = scene.kms.create_key_ring(parent=parent, key_ring_id="retired", key_ring={}).name
    for n in range(5):
        request = {
            "parent": ring, "crypto_key_id": f"k{n}", "crypto_key": {"purpose": Purpose.MAC},
            "skip_initial_version_creation": True,
        }  # fmt: skip
        request["crypto_key"] = {
            "purpose": Purpose.MAC, "version_template": {"algorithm": Algorithm.HMAC_SHA256},
        }  # fmt: skip
        name = scene.kms.create_crypto_key(request=request).name
        scene.kms.delete_crypto_key(request={"name": name}).result(timeout=MADE_S)


@pytest.mark.parametrize(
    ("make", "listing", "field"),
    [
        (five_key_rings, "list_key_rings", "key_rings"),
        (five_keys, "list_crypto_keys", "crypto_keys"),
        (five_versions, "list_crypto_key_versions", "crypto_key_versions"),
        (five_import_jobs, "list_import_jobs", "import_jobs"),
        (five_retired_resources, "list_retired_resources", "retired_resources"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_iterators_go_over_all_pages(
    scene: Scene, ring: str, make: Callable[[Scene, str], None], listing: str, field: str
) -> None:
    """Five resources in pages of two: `pages` gives 2, 2 and 1 with their number, the iterator gives each
    once and in order, and one can begin at any page by its token."""
    location = LOCATION.replace("europe-west4", {"grpc": "us-east1", "rest": "us-east4"}[scene.transport])
    location = location if field == "key_rings" else location.replace("us-", "europe-").replace("4", "1")
    if field == "retired_resources":
        location = f"projects/retired-{scene.transport}/locations/global"
    parents = {
        "key_rings": location, "retired_resources": location, "crypto_keys": ring, "import_jobs": ring,
        "crypto_key_versions": scene.key(),
    }  # fmt: skip
    call, request = getattr(scene.kms, listing), {"parent": parents[field], "page_size": 2}
    make(scene, parents[field])

    pages = list(call(request=request).pages)
    everything = [each.name for page in pages for each in getattr(page, field)]
    assert [len(getattr(page, field)) for page in pages] == [2, 2, 1]
    assert [page.total_size for page in pages] == [5, 5, 5]
    assert len(set(everything)) == 5
    assert [each.name for each in call(request=request)] == everything
    assert [each.name for each in call(parent=parents[field])] == everything
    assert [each.name for each in call(request={**request, "order_by": "name desc"})] == everything[::-1]
    token = pages[0].next_page_token
    assert [each.name for each in call(request={**request, "page_token": token})] == everything[2:]
    assert not pages[-1].next_page_token
