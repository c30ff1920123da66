"""The Locations mixin: where a service is offered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.cloud.location import locations_pb2

from keystead.api import names
from keystead.api.call import Call
from keystead.api.errors import NotFound
from keystead.api.lists import page_request, paginate
from keystead.api.method import LogKind, Service, method
from keystead.kms.messages import LocationMetadata


class Locations:
    """google.cloud.location.Locations, answering alike for every service that mixes it in."""

    def __init__(self, locations: Iterable[str], services: Sequence[Service]) -> None:
        self._locations = sorted(locations)
        self.services = tuple(services)

    @method(
        "google.cloud.location.Locations/ListLocations",
        http="GET /v1/{name=projects/*}/locations",
        permission=lambda handler, _: f"{handler.services[0].prefix}.locations.list",
        on="name",
        log=LogKind.NONE,
    )
    def list(
        self, call: Call, request: locations_pb2.ListLocationsRequest
    ) -> locations_pb2.ListLocationsResponse:
        found = [self._location(request.name, location) for location in self._locations]
        page = paginate(found, page_request(request), key=lambda location: location.location_id)
        return locations_pb2.ListLocationsResponse(locations=page.items, next_page_token=page.next_page_token)

    @method(
        "google.cloud.location.Locations/GetLocation",
        http="GET /v1/{name=projects/*/locations/*}",
        permission=lambda handler, _: f"{handler.services[0].prefix}.locations.get",
        on="name",
        log=LogKind.NONE,
    )
    def get(self, call: Call, request: locations_pb2.GetLocationRequest) -> locations_pb2.Location:
        location = names.last_of(request.name)
        if location not in self._locations:
            raise NotFound(f"Location {request.name} not found.")
        return self._location("/".join(request.name.split("/")[:2]), location)

    def _location(self, project: str, location: str) -> locations_pb2.Location:
        found = locations_pb2.Location(
            name=f"{project}/locations/{location}", location_id=location, display_name=location
        )
        found.metadata.Pack(LocationMetadata(hsm_available=False, ekm_available=False))
        return found
