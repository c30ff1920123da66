"""Key rings: create, get, list. A key ring is never deleted."""

from __future__ import annotations

from collections.abc import Collection as Names

from keystead.api import names
from keystead.api.call import Call
from keystead.api.errors import InvalidArgument
from keystead.api.method import LogKind, method
from keystead.kms.messages import (
    CreateKeyRingRequest,
    GetKeyRingRequest,
    KeyRing,
    ListKeyRingsRequest,
    ListKeyRingsResponse,
)
from keystead.kms.service import KMS, LOCATION, RING, RINGS

_API = "google.cloud.kms.v1.KeyManagementService"


class KeyRings:
    """The key ring methods of KeyManagementService. `locations` are those that this deployment serves."""

    service = KMS

    def __init__(self, locations: Names[str]) -> None:
        self._locations = frozenset(locations)

    @method(
        f"{_API}/CreateKeyRing",
        http=f"POST /v1/{{parent={LOCATION}}}/keyRings",
        body="key_ring",
        permission="cloudkms.keyRings.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
    )
    def create(self, call: Call, request: CreateKeyRingRequest) -> KeyRing:
        names.require_id("key_ring_id", request.key_ring_id)
        require_location(self._locations, names.location_of(request.parent))
        ring = KeyRing(name=f"{request.parent}/keyRings/{request.key_ring_id}")
        ring.create_time.FromDatetime(call.now)
        RINGS.insert(call.tx, ring, parent=request.parent)
        return ring

    @method(
        f"{_API}/GetKeyRing",
        http=f"GET /v1/{{name={RING}}}",
        permission="cloudkms.keyRings.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get(self, call: Call, request: GetKeyRingRequest) -> KeyRing:
        return RINGS.require(call.tx, request.name).message

    @method(
        f"{_API}/ListKeyRings",
        http=f"GET /v1/{{parent={LOCATION}}}/keyRings",
        permission="cloudkms.keyRings.list",
        on="parent",
        log=LogKind.ADMIN_READ,
    )
    def list(self, call: Call, request: ListKeyRingsRequest) -> ListKeyRingsResponse:
        page = RINGS.page(call.tx, request, request.parent)
        return ListKeyRingsResponse(
            key_rings=page.items, next_page_token=page.next_page_token, total_size=page.total or 0
        )


def require_location(served: Names[str], location: str) -> None:
    """Raises InvalidArgument for a location that this deployment does not serve."""
    if location not in served:
        raise InvalidArgument(
            f"The request concerns location '{location}' but was sent to location 'global'. Either Cloud "
            f"KMS is not available in '{location}' or the request was misrouted. Ensure that routing "
            "information was appended to the request metadata, see https://cloud.google.com/kms/docs/grpc"
        )
