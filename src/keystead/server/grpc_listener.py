"""The gRPC listener: every RPC of the registry, on one grpc.aio server.

SECURITY: the caller is who the `authorization` metadata proves, nothing else; no message, token or other
metadata is ever logged, and the text of an unexpected exception never reaches the caller.

The official message classes serialise themselves; there are no generated servicers (the packages of the
Google clients carry none). What a call does is not decided here: `api.dispatch` runs it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from keystead.api.call import Call, WouldBlock
from keystead.api.clock import Clock
from keystead.api.dispatch import Door
from keystead.api.errors import ApiError, InvalidArgument, Unimplemented
from keystead.api.method import Method
from keystead.api.registry import Registry
from keystead.api.status import as_api_error, to_trailers
from keystead.server.settings import MAX_BODY

if TYPE_CHECKING:
    from keystead.iam.authentication import Authenticator

_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Clients take 8 KiB of metadata in all: details beyond this are left out, and long texts cut, or the
# client would see RESOURCE_EXHAUSTED instead of the error.
_MAX_TRAILERS = 5 * 1024
_MAX_TEXT = 1500
_USER_AGENT = 1024

Metadata = Iterable[tuple[str, Any]]


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """All handlers behind one look-up. Registering each method with grpcio, or each service, makes every call
    dearer by the number of them: a third more CPU with the RPCs of the served APIs."""

    def __init__(self, handlers: dict[str, Callable[[Metadata], Any]]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        """The handler of one call. It is given the metadata here, where grpcio has it: asking the call's
        context makes it once more."""
        handler = self._handlers.get(handler_call_details.method)
        return handler(handler_call_details.invocation_metadata or ()) if handler is not None else None


class GrpcListener:
    """A grpc.aio server over a registry. Make and use it on one event loop.

    shared: other processes listen on the same port; otherwise one that is taken is an error.
    """

    def __init__(
        self,
        registry: Registry,
        dispatcher: Door,
        authenticator: Authenticator,
        *,
        clock: Clock,
        max_message: int = MAX_BODY,
        shared: bool = False,
    ) -> None:
        self._dispatcher = dispatcher
        self._authenticator = authenticator
        self._clock = clock
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message),
                ("grpc.so_reuseport", int(shared)),
                # Messages are small: estimating the bandwidth by pings only costs.
                ("grpc.http2.bdp_probe", 0),
            ]
        )
        self._server.add_generic_rpc_handlers([_Handlers(self._handlers(registry))])

    async def start(self, host: str, port: int, tls: tuple[Path, Path] | None = None) -> int:
        """Listen, and return the port (that was taken, if 0 was asked for).

        tls: files of the certificate chain and private key (PEM). Raises RuntimeError or OSError where
        the port or the files cannot be had.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if tls is None:
            bound = self._server.add_insecure_port(address)
        else:
            certificate, key = tls
            pair = (key.read_bytes(), certificate.read_bytes())
            bound = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        await self._server.start()
        return int(bound)

    async def stop(self, grace: float) -> None:
        """Take no new calls, and give running ones `grace` seconds to end."""
        await self._server.stop(grace)

    def _handlers(self, registry: Registry) -> dict[str, Callable[[Metadata], Any]]:
        """Handlers by path, made for each call. grpcio answers UNIMPLEMENTED to what has none."""
        served = {f"/{rpc}": self._serving(method) for rpc, method in registry.methods.items()}
        return served | {f"/{rpc}": self._refusing(rpc) for rpc in registry.unimplemented()}

    def _serving(self, method: Method) -> Callable[[Metadata], Any]:
        parse, serialize = method.request_type.FromString, method.response_type.SerializeToString
        dispatch, inline, hot = self._dispatcher.dispatch, self._dispatcher.inline, method.spec.hot

        def handler(metadata: Metadata) -> Any:
            async def serve(data: bytes, context: Any) -> Any:
                try:
                    call = Call(self._principal(metadata))
                    request = parse(data)
                    if hot:
                        try:
                            return inline(method, request, call)
                        except WouldBlock:
                            pass
                    self._describe(call, context, metadata)
                    return await dispatch(method, request, call)
                except ApiError as error:
                    failure = error
                except DecodeError:
                    failure = InvalidArgument("The request message could not be parsed.")
                except Exception as error:
                    failure = as_api_error(error)
                return await _abort(context, failure)

            return grpc.unary_unary_rpc_method_handler(serve, response_serializer=serialize)

        return handler

    def _refusing(self, rpc: str) -> Callable[[Metadata], Any]:
        """What answers an RPC of a served API that no function declares."""

        def handler(metadata: Metadata) -> Any:
            async def refuse(_data: bytes, context: Any) -> Any:
                failure: ApiError = Unimplemented(f"The method {rpc} is not implemented.")
                try:
                    self._principal(metadata)
                except ApiError as error:
                    failure = error
                return await _abort(context, failure)

            return grpc.unary_unary_rpc_method_handler(refuse)

        return handler

    def _principal(self, metadata: Metadata) -> str | None:
        """Who calls. Raises Unauthenticated for credentials that prove nothing."""
        for key, value in metadata:
            if key == "authorization":
                return self._authenticator.principal(value)
        return self._authenticator.principal(None)

    def _describe(self, call: Call, context: Any, metadata: Metadata) -> None:
        """From where, with what, until when: dear to ask, and not needed for what is answered at once."""
        call.caller_ip = _address(context.peer())
        call.user_agent = dict(metadata).get("user-agent", "")[:_USER_AGENT]
        remaining = context.time_remaining()
        if remaining is not None:
            call.deadline = self._clock.now() + dt.timedelta(seconds=min(remaining, 86400.0))


async def _abort(context: Any, error: ApiError) -> Any:
    trailers = to_trailers(error) if error.details else ()
    if sum(len(value) for _, value in trailers) > _MAX_TRAILERS:
        trailers = ()
    text = error.message if len(error.message) <= _MAX_TEXT else error.message[:_MAX_TEXT] + "..."
    await context.abort(_CODES[error.code], text, trailers)


@lru_cache(maxsize=1024)
def _address(peer: str) -> str:
    """The IP address of a grpcio peer (`ipv4:127.0.0.1:4711`, `ipv6:%5B::1%5D:4711`, `unix:`)."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return "private"
    return unquote(rest.rpartition(":")[0]).strip("[]")
