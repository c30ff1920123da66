"""The REST listener: one bare ASGI application for every served API.

SECURITY: no body, token, query string or header is ever logged, and the text of an unexpected exception
never reaches the caller. Credentials are taken from the `Authorization` header only, never from the
query string. No cross-origin access is granted, and a server that believes names (development mode)
answers only to host names of its own, so that no web page can speak to it by rebinding its DNS name.

A path belongs to an API by its first segment (`/cloudkms/v1/...`) or by the host name
(`cloudkms.<universe>`). What a call does is not decided here: `api.transcoding` makes the request
message, `api.dispatch` runs it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import logging
import math
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import uvicorn

from keystead.api import jsonpb
from keystead.api.call import Call, WouldBlock
from keystead.api.clock import Clock
from keystead.api.dispatch import Door
from keystead.api.errors import ApiError, DeadlineExceeded, InvalidArgument, NotFound, PermissionDenied
from keystead.api.method import Method
from keystead.api.registry import Registry
from keystead.api.status import as_api_error, to_json
from keystead.api.transcoding import Match, Router, bind
from keystead.server.health import Reports
from keystead.server.http_protocol import GatheringHttpProtocol
from keystead.server.settings import MAX_BODY, Settings

if TYPE_CHECKING:
    from keystead.iam.authentication import Authenticator

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]

_COMMON = (
    (b"content-type", b"application/json; charset=UTF-8"),
    (b"x-content-type-options", b"nosniff"),
)
_PRIVATE = (b"cache-control", b"private")
_CHALLENGE = (b"www-authenticate", b'Bearer realm="https://accounts.google.com/"')
_ALLOW = (b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
_OVERRIDES = frozenset({"GET", "PUT", "PATCH", "DELETE"})
_DRAIN = 8  # how many times the limit is read and thrown away, so that the client gets to see the answer
_USER_AGENT = 1024
_HEALTH = frozenset({b"/healthz", b"/readyz"})
_ROUTES = 4096  # paths remembered, of at most this length: clients ask for the same few again and again
_ROUTE_LENGTH = 512


@dataclass(frozen=True)
class Limits:
    """max_body: bytes of a request's body, also once it is unpacked. gzip_above: answers longer than this
    are compressed for clients that take gzip."""

    max_body: int = MAX_BODY
    gzip_above: int = 1024


class TooLarge(ApiError):
    """The body is over the limit."""

    code, http, status = 3, 413, "INVALID_ARGUMENT"

    def __init__(self, limit: int, *, close: bool = False) -> None:
        super().__init__(f"Request payload size exceeds the limit: {limit} bytes.")
        self.close = close


class _Disconnected(Exception):
    """The client left before its request was complete: nobody is there to answer."""


class _Answer(NamedTuple):
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    compressible: bool = True


class RestApp:
    """The ASGI 3 application.

    loopback_names_only: refuse host names that are neither this machine's loopback names, an IP address,
    nor names of served APIs.
    """

    def __init__(
        self,
        registry: Registry,
        dispatcher: Door,
        authenticator: Authenticator,
        *,
        clock: Clock,
        health: Reports,
        universe: str = "googleapis.com",
        limits: Limits | None = None,
        loopback_names_only: bool = False,
    ) -> None:
        self._router = Router(registry)
        self._dispatcher = dispatcher
        self._authenticator = authenticator
        self._clock = clock
        self._health = health
        self._limits = limits or Limits()
        self._loopback_names_only = loopback_names_only
        self._prefixes = frozenset(s.prefix for s in registry.services if not s.at_root)
        self._roots = tuple(s.prefix for s in registry.services if s.at_root)
        self._hosts = {f"{s.prefix}.{universe}": s.prefix for s in registry.services}
        self._route = lru_cache(maxsize=_ROUTES)(self._find)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        try:
            answer = await self._answer(scope, headers, receive)
        except _Disconnected:
            return
        except ApiError as error:
            answer = _failure(error)
        except Exception as error:
            answer = _failure(as_api_error(error))
        body = answer.body
        extra = answer.headers
        if answer.compressible and len(body) > self._limits.gzip_above and _takes_gzip(headers):
            body = _gzip(body)
            extra = (*extra, (b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding"))
        if scope["method"] != "POST":  # no cache keeps the answer to a POST
            extra = (*extra, _PRIVATE)
        length = (b"content-length", str(len(body)).encode())
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": [*_COMMON, length, *extra]}
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive) -> _Answer:
        verb, path = scope["method"], scope["raw_path"]
        if verb != "POST":
            if verb == "OPTIONS":
                return _Answer(200, b"{}", (_ALLOW,))
            if path in _HEALTH and verb in {"GET", "HEAD"}:
                status, report = await (self._health.live() if path == b"/healthz" else self._health.ready())
                return _Answer(status, orjson.dumps(report))
        body = await _read(receive, headers, self._limits.max_body)
        query = scope["query_string"]
        if verb == "HEAD":
            verb = "GET"
        elif verb == "POST" and b"x-http-method-override" in headers:
            verb, query, body = _overridden(headers, query, body)
        find = self._route if len(path) <= _ROUTE_LENGTH else self._find
        match = find(verb, path, headers.get(b"host", b""))
        if match is None:
            raise NotFound("Method not found.")
        return await self._call(match, headers, scope, query, body)

    async def _call(self, match: Match, headers: Headers, scope: Scope, query: bytes, body: bytes) -> _Answer:
        credential = headers.get(b"authorization")
        principal = self._authenticator.principal(credential.decode("latin-1") if credential else None)
        request, enum_numbers = bind(match, query, body)
        method = match.route.method
        if method is None:  # `bind` has refused it
            raise NotFound("Method not found.")
        call = Call(principal)
        if method.spec.hot:
            try:
                response = self._dispatcher.inline(method, request, call)
            except WouldBlock:
                pass
            else:
                # Ciphertext, signatures and random bytes: compression would be wasted on them.
                return _Answer(200, jsonpb.dumps(response, enum_numbers=enum_numbers), compressible=False)
        response = await self._dispatched(method, request, call, headers, scope)
        return _Answer(
            200, jsonpb.dumps(response, enum_numbers=enum_numbers), compressible=not method.spec.hot
        )

    async def _dispatched(
        self, method: Method, request: Any, call: Call, headers: Headers, scope: Scope
    ) -> Any:
        """The answer to a call that takes time, told from where, with what and until when it comes."""
        client = scope.get("client")
        call.caller_ip = client[0] if client else "private"
        call.user_agent = headers.get(b"user-agent", b"")[:_USER_AGENT].decode("latin-1")
        timeout = _timeout(headers)
        if timeout is None:
            return await self._dispatcher.dispatch(method, request, call)
        call.deadline = self._clock.now() + dt.timedelta(seconds=timeout)
        try:
            async with asyncio.timeout(timeout):
                return await self._dispatcher.dispatch(method, request, call)
        except TimeoutError:
            raise DeadlineExceeded("The deadline expired before the operation could complete.") from None

    def _find(self, verb: str, raw_path: bytes, host: bytes) -> Match | None:
        """The RPC of a path, asked for under a host name. Raises PermissionDenied for a foreign one."""
        path = raw_path.decode("latin-1")
        named = self._hosts.get(self._host(host.decode("latin-1").lower()))
        if named is not None:
            return self._router.find(named, verb, path)
        head, _, rest = path[1:].partition("/")
        if head in self._prefixes:
            return self._router.find(head, verb, "/" + rest.lstrip("/"))
        for prefix in self._roots:
            found = self._router.find(prefix, verb, path)
            if found is not None:
                return found
        return None

    def _host(self, host: str) -> str:
        """A host name without its port. Raises PermissionDenied for one that is not this server's."""
        if not host.endswith("]"):
            name, colon, _ = host.rpartition(":")
            host = name if colon else host
        if self._loopback_names_only and host not in self._hosts and not _local(host):
            raise PermissionDenied(
                "In development mode this server answers to localhost, to IP addresses and to the names of "
                "its APIs only. Use one of those as the host name."
            )
        return host


def _local(host: str) -> bool:
    if host in {"", "localhost", "127.0.0.1"} or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


async def _read(receive: Receive, headers: Headers, limit: int) -> bytes:
    """The whole body, unpacked. Raises TooLarge, InvalidArgument and _Disconnected."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit * _DRAIN:
        raise TooLarge(limit, close=True)
    if not declared and b"transfer-encoding" not in headers:
        return b""
    message = await receive()
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise _Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit * _DRAIN:
            raise TooLarge(limit, close=True)
        if not message.get("more_body"):
            break
        message = await receive()
    if size > limit:
        raise TooLarge(limit)
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    encoding = headers.get(b"content-encoding")
    return _unpack(body, encoding, limit) if encoding else body


def _unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A body without its content coding, never more than `limit` bytes of it."""
    coding = encoding.strip().lower()
    if coding == b"identity" or not body:
        return body
    if coding not in {b"gzip", b"x-gzip"}:
        raise InvalidArgument("The content encoding of the request is not supported; send gzip or none.")
    unpacker = zlib.decompressobj(31)
    try:
        plain = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidArgument("The body of the request is not valid gzip.") from None
    if len(plain) > limit:
        raise TooLarge(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidArgument("The body of the request is not valid gzip.")
    return plain


def _overridden(headers: Headers, query: bytes, body: bytes) -> tuple[str, bytes, bytes]:
    """A POST that stands for another verb. Clients whose URL would be too long send a GET this way, with
    the query as a form in the body."""
    verb = headers[b"x-http-method-override"].decode("latin-1").strip().upper()
    if verb not in _OVERRIDES:
        return "POST", query, body
    if verb == "GET" and headers.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded"):
        return verb, b"&".join(part for part in (query, body.strip()) if part), b""
    return verb, query, body


def _timeout(headers: Headers) -> float | None:
    """Seconds of `X-Server-Timeout`; what is no positive number is no deadline."""
    text = headers.get(b"x-server-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, 86400.0) if seconds >= 0 else None


def _takes_gzip(headers: Headers) -> bool:
    for offer in headers.get(b"accept-encoding", b"").lower().split(b","):
        coding, _, quality = offer.partition(b";")
        if coding.strip() == b"gzip":
            return quality.replace(b" ", b"") not in {b"q=0", b"q=0.0", b"q=0.00", b"q=0.000"}
    return False


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def _failure(error: ApiError) -> _Answer:
    headers: list[tuple[bytes, bytes]] = []
    if error.http == 401:
        headers.append(_CHALLENGE)
    if isinstance(error, TooLarge) and error.close:
        headers.append((b"connection", b"close"))
    return _Answer(error.http, orjson.dumps(to_json(error)), tuple(headers))


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing is opened or closed by the application itself."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def uvicorn_config(app: RestApp, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the application: no access log (paths name customers' resources), no trust in
    forwarding headers, connections kept longer than clients keep them idle."""
    certificate, key = settings.tls or (None, None)
    # `access_log=False` only takes its handlers away: logging set up elsewhere could give it new ones.
    logging.getLogger("uvicorn.access").disabled = True
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=GatheringHttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.drain),
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
