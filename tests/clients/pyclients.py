"""The official Python clients, pointed at a live server over either transport, or over gRPC with asyncio.

Owns credentials (a bearer token as gRPC metadata, or as the client's OAuth token over REST), and reading the
details of an error alike from both transports: gRPC gives messages, REST gives JSON objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.api_core import exceptions, retry
from google.cloud import kms_v1, resourcemanager_v3
from google.cloud.kms_v1.services.key_management_service.transports.grpc_asyncio import (
    KeyManagementServiceGrpcAsyncIOTransport,
)
from google.cloud.resourcemanager_v3.services.projects.transports.grpc import ProjectsGrpcTransport
from google.oauth2.credentials import Credentials
from google.protobuf import json_format

from tests.live import OWNER, LiveServer

TRANSPORTS = ("grpc", "rest")


class _Bearer(grpc.UnaryUnaryClientInterceptor):
    """Adds a bearer token to every call of a channel without TLS, which takes no call credentials."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), self._header]
        return continuation(details._replace(metadata=metadata), request)


def channel(live: LiveServer, token: str) -> Any:
    """A channel with a connection of its own, whose every call carries the token."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.intercept_channel(grpc.insecure_channel(live.grpc_target, options), _Bearer(token))


class Token(Credentials):
    """An access token that stays what it is: the client tries to renew one that was refused."""

    def refresh(self, request: Any) -> None:
        """Nothing to renew it with."""


def _rest(client: Any, live: LiveServer, prefix: str, token: str) -> Any:
    return client(
        transport="rest",
        credentials=Token(token),
        client_options={"api_endpoint": f"{live.url}/{prefix}"},
    )


def kms_client(
    live: LiveServer, transport: str, token: str = OWNER, service: str = "KeyManagementService"
) -> Any:
    """google-cloud-kms: the client of one of its services."""
    client = getattr(kms_v1, f"{service}Client")
    if transport == "rest":
        return _rest(client, live, "cloudkms", token)
    return client(transport=client.get_transport_class("grpc")(channel=channel(live, token)))


class _AsyncBearer(grpc.aio.UnaryUnaryClientInterceptor):
    """The same for asyncio."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._header)
        return await continuation(details._replace(metadata=metadata), request)


def async_kms_client(live: LiveServer, token: str = OWNER) -> Any:
    """google-cloud-kms for asyncio; to be made inside an event loop."""
    channel = grpc.aio.insecure_channel(live.grpc_target, interceptors=[_AsyncBearer(token)])
    return kms_v1.KeyManagementServiceAsyncClient(
        transport=KeyManagementServiceGrpcAsyncIOTransport(channel=channel)
    )


def projects_client(live: LiveServer, transport: str, token: str = OWNER) -> Any:
    """google-cloud-resource-manager, its projects."""
    if transport == "rest":
        return _rest(resourcemanager_v3.ProjectsClient, live, "cloudresourcemanager", token)
    return resourcemanager_v3.ProjectsClient(transport=ProjectsGrpcTransport(channel=channel(live, token)))


def refusal(call: Callable[..., Any], request: Any) -> Any:
    """The error that a call answers. Fails if it succeeds, or if the client saw a reason to try again."""
    retried: list[Exception] = []
    policy = retry.Retry(
        predicate=retry.if_exception_type(
            exceptions.DeadlineExceeded, exceptions.ServiceUnavailable, exceptions.InternalServerError
        ),
        timeout=5.0,
        on_error=retried.append,
    )
    try:
        answer = call(request=request, retry=policy)
    except exceptions.GoogleAPICallError as error:
        assert retried == []
        return error
    raise AssertionError(f"the call succeeded: {answer}")


def details_of(error: Any) -> list[dict[str, Any]]:
    """The details of an error as JSON objects with their `@type`."""
    found = []
    for detail in error.details:
        if isinstance(detail, dict):
            found.append(detail)
        else:
            kind = f"type.googleapis.com/{detail.DESCRIPTOR.full_name}"
            found.append({"@type": kind, **json_format.MessageToDict(detail)})
    return found
