"""The Locations mixin: where each service is offered.

Over REST the service is the one whose path was asked; over gRPC, where the call does not say, it is the
first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.cloud.location import locations_pb2
from google.protobuf.message import Message

from keystead.api import names
from keystead.api.call import Call
from keystead.api.errors import NotFound
from keystead.api.lists import page_request, paginate
from keystead.api.method import LogKind, Method, Service, method


@dataclass(frozen=True)
class Offer:
    """Where a service is offered, and what its locations carry as metadata."""

    locations: Iterable[str]
    metadata: Message | None = None


def _permission(verb: str) -> Any:
    def permission(served: Method, _: Any) -> str:
        return f"{served.service.prefix}.locations.{verb}"

    return permission


class Locations:
    """google.cloud.location.Locations for all services that mix it in."""

    def __init__(self, offers: Mapping[Service, Offer]) -> None:
        self.services = tuple(offers)
        self._offers = {
            service.name: dict.fromkeys(sorted(offer.locations), offer.metadata)
            for service, offer in offers.items()
        }

    @method(
        "google.cloud.location.Locations/ListLocations",
        http="GET /v1/{name=projects/*}/locations",
        permission=_permission("list"),
        on="name",
        log=LogKind.NONE,
    )
    def list(
        self, call: Call, request: locations_pb2.ListLocationsRequest
    ) -> locations_pb2.ListLocationsResponse:
        offered = self._offers[call.service]
        found = [_location(request.name, location, offered[location]) for location in offered]
        page = paginate(found, page_request(request), key=lambda location: location.location_id)
        return locations_pb2.ListLocationsResponse(locations=page.items, next_page_token=page.next_page_token)

    @method(
        "google.cloud.location.Locations/GetLocation",
        http="GET /v1/{name=projects/*/locations/*}",
        permission=_permission("get"),
        on="name",
        log=LogKind.NONE,
    )
    def get(self, call: Call, request: locations_pb2.GetLocationRequest) -> locations_pb2.Location:
        offered, location = self._offers[call.service], names.last_of(request.name)
        if location not in offered:
            raise NotFound(f"Location {request.name} not found.")
        return _location("/".join(request.name.split("/")[:2]), location, offered[location])


def _location(project: str, location: str, metadata: Message | None) -> locations_pb2.Location:
    found = locations_pb2.Location(
        name=f"{project}/locations/{location}", location_id=location, display_name=location
    )
    if metadata is not None:
        found.metadata.Pack(metadata)
    return found
