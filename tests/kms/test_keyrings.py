"""Key rings, and where they can be."""

from __future__ import annotations

import pytest
from google.cloud.location import locations_pb2

from keystead.api.clock import moment
from keystead.api.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from keystead.kms.messages import (
    CreateKeyRingRequest,
    GetKeyRingRequest,
    ListKeyRingsRequest,
    LocationMetadata,
)
from keystead.kms.service import LOCATIONS
from tests.platform import LOCATION, PROJECT, Platform

RING = f"{LOCATION}/keyRings/ring"


def test_a_ring_is_made_and_read_back(platform: Platform) -> None:
    """CreateKeyRing answers the ring's name and time of creation, and GetKeyRing the same."""
    made = platform.call("CreateKeyRing", CreateKeyRingRequest(parent=LOCATION, key_ring_id="ring"))
    assert made.name == RING
    assert moment(made.create_time) == platform.clock.now()
    assert platform.call("GetKeyRing", GetKeyRingRequest(name=RING)) == made


def test_a_second_ring_of_that_name_is_refused(platform: Platform) -> None:
    """The refusal is ALREADY_EXISTS in the service's words."""
    platform.ring()
    with pytest.raises(AlreadyExists) as refused:
        platform.ring()
    assert refused.value.message == f"KeyRing {RING} already exists."


def test_a_missing_ring_is_not_found_by_those_who_may_look(platform: Platform) -> None:
    """Who may read it learns that it is missing; who may not is denied as if it were there."""
    with pytest.raises(NotFound) as missing:
        platform.call("GetKeyRing", GetKeyRingRequest(name=RING))
    assert missing.value.message == f"KeyRing {RING} not found."
    denials = []
    for _ in range(2):
        with pytest.raises(PermissionDenied) as denied:
            platform.call("GetKeyRing", GetKeyRingRequest(name=RING), "user:eve@example.com")
        denials.append(denied.value.message)
        if len(denials) == 1:
            platform.ring()
    assert denials[0] == denials[1]
    assert (
        denials[0] == f"Permission 'cloudkms.keyRings.get' denied on resource '{RING}' (or it may not exist)."
    )


@pytest.mark.parametrize("ring_id", ["", "a b", "a/b", "ä", "x" * 64, "a.b", "ring\n"])
def test_ring_ids_have_a_shape(platform: Platform, ring_id: str) -> None:
    """An id is 1 to 63 letters, digits, hyphens and underscores; anything else makes no ring."""
    with pytest.raises(InvalidArgument):
        platform.call("CreateKeyRing", CreateKeyRingRequest(parent=LOCATION, key_ring_id=ring_id))
    assert platform.call("ListKeyRings", ListKeyRingsRequest(parent=LOCATION)).total_size == 0


def test_a_ring_needs_a_served_location(platform: Platform) -> None:
    """An unknown location is refused as the real service does, whose text tells of misrouting."""
    request = CreateKeyRingRequest(parent=f"{PROJECT}/locations/atlantis", key_ring_id="ring")
    with pytest.raises(InvalidArgument) as refused:
        platform.call("CreateKeyRing", request)
    assert refused.value.message.startswith("The request concerns location 'atlantis'")


@pytest.mark.parametrize(
    "parent", ["", "projects/p1", "locations/global", f"{LOCATION}/", f"{LOCATION}/keyRings/r"]
)
def test_a_malformed_parent_is_refused(platform: Platform, parent: str) -> None:
    """Names of another shape are INVALID_ARGUMENT, in lists too."""
    with pytest.raises(InvalidArgument):
        platform.call("ListKeyRings", ListKeyRingsRequest(parent=parent))


def test_rings_list_by_name_within_their_location(platform: Platform) -> None:
    """A list holds the rings of its location only, in pages, ascending, and counts them."""
    for ring_id in ("b", "a", "c"):
        platform.ring(ring_id)
    platform.ring("elsewhere", f"{PROJECT}/locations/global")
    first = platform.call("ListKeyRings", ListKeyRingsRequest(parent=LOCATION, page_size=2))
    assert [ring.name.rsplit("/", 1)[1] for ring in first.key_rings] == ["a", "b"]
    assert first.total_size == 3
    request = ListKeyRingsRequest(parent=LOCATION, page_size=2, page_token=first.next_page_token)
    second = platform.call("ListKeyRings", request)
    assert [ring.name.rsplit("/", 1)[1] for ring in second.key_rings] == ["c"]
    assert not second.next_page_token


def test_locations_are_listed_and_found(platform: Platform) -> None:
    """Every served location is listed once over all pages, and found by its name with what it offers."""
    found: list[str] = []
    token = ""
    while True:
        request = locations_pb2.ListLocationsRequest(name=PROJECT, page_size=20, page_token=token)
        page = platform.call("ListLocations", request)
        found += [location.location_id for location in page.locations]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(LOCATIONS)
    request = locations_pb2.GetLocationRequest(name=LOCATION)
    location = platform.call("GetLocation", request)
    offered = LocationMetadata()
    assert location.metadata.Unpack(offered)
    assert (location.name, offered.hsm_available, offered.ekm_available) == (LOCATION, False, False)
    with pytest.raises(NotFound):
        platform.call("GetLocation", locations_pb2.GetLocationRequest(name=f"{PROJECT}/locations/atlantis"))
