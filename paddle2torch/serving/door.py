"""What stands before the application: who may ask, and what every answer has. Refusals are made into answers here."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddle2torch.serving.limits import RequestError
from paddle2torch.serving.metrics import Metrics

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names of this machine, as requests call it."""

_SWALLOWED = 16_000_000
_SWALLOWED_SECONDS = 1.0

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Door:
    """What every request passes: its host, its origin, its token. Counts answers and gives them their headers.

    token, hosts: see `create_app`. open_paths: what needs no token.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        token: str | None,
        hosts: frozenset[str] | None,
        open_paths: frozenset[str],
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.token = None if token is None else token.encode()
        self.hosts = hosts
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = "none"
        sent = _Body(receive, waits=b"expect" in dict(scope["headers"]))

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                MutableHeaders(scope=message).update(_HEADERS)
                if message["status"] >= 400:
                    await sent.swallow()
            await send(message)

        try:
            refused = self._refuse(scope)
            if refused is None:
                await self.app(scope, sent.receive, send_on)
            else:
                await error_response(scope["path"], refused)(scope, sent.receive, send_on)
        finally:
            route = _route(scope)
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _refuse(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _hostname(host) not in self.hosts:
            return RequestError(403, "host", "this server answers to its own name alone; start it with a --token")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return RequestError(403, "origin", "pages of other servers may not send anything here")
        if self.token is None or scope["path"] in self.open_paths:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), self.token):
            return None
        return RequestError(401, "token", "send the server's token, as 'Authorization: Bearer TOKEN'")


class _Body:
    """The body of a request, and a little patience with what is left of it when it is refused: a client that only sends
    would not read the answer.

    waits: whether the client sends nothing before it is told to.
    """

    def __init__(self, receive: Receive, *, waits: bool) -> None:
        self._receive = receive
        self._waits = waits
        self._ended = False

    async def receive(self) -> Message:
        """The next message of the request."""
        message = await self._receive()
        self._waits = False
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def swallow(self) -> None:
        """Throw away what still comes, for a second, and not much of it."""

        async def read() -> None:
            count = 0
            while not self._ended and count < _SWALLOWED:
                count += len((await self.receive()).get("body", b""))

        if not self._waits:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(read(), _SWALLOWED_SECONDS)


def _hostname(host: str) -> str:
    """A Host header without the port, in lower case; an IPv6 address keeps its brackets."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def _route(scope: Scope) -> str:
    """The address as the application has it, so that clients cannot make up further ones."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "other"


def error_response(path: str, error: RequestError) -> Response:
    """The answer that is an error, in the form of the protocol that the path belongs to."""
    content: dict[str, Any] = {"error": {"code": error.code, "message": str(error)}}
    if path.startswith("/v2"):
        content = {"error": str(error)}
    return JSONResponse(content, error.status, {"connection": "close", **error.headers})
