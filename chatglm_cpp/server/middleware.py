"""What happens before and after every endpoint."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..host_check import foreign_host
from .errors import ApiError, to_response
from .metrics import Metrics

_OPEN_PATHS = ("/health",)


class RequestCounter:
    """Counts answers by path and status. A request whose client left before the answer counts as 499."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            # Of the paths that nobody serves there are too many.
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()


class KeyCheck:
    """Lets in who has one of the keys, as `Authorization: Bearer KEY` or `x-api-key: KEY`."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"] not in _OPEN_PATHS
            and not self._knows(Headers(scope=scope))
        ):
            error = ApiError(
                401,
                "No valid API key: send one of this server's keys as 'Authorization: Bearer KEY'.",
                code="invalid_api_key",
            )
            await to_response(error, scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = (
            (key if scheme.lower() == "bearer" else headers.get("x-api-key", "")).strip().encode("latin-1")
        )
        # Every key is compared, in the same time whatever is given.
        return any([hmac.compare_digest(given, known) for known in self._keys])


class HostCheck:
    """Refuses what a web page asks that has given its own name this machine's address (DNS rebinding)."""

    def __init__(self, app: ASGIApp, known: Sequence[str]) -> None:
        self._app = app
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = foreign_host(scope, self._known)
        if name is None:
            await self._app(scope, receive, send)
            return
        error = ApiError(
            421,
            f"This server is asked by the name {name!r}, which it does not know; --host_name makes it known.",
            code="unknown_host",
        )
        await to_response(error, scope["path"])(scope, receive, send)


class BodyLimit:
    """Refuses a body of more bytes than `limit` as soon as that is known."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._limit:
            await to_response(self._error(), scope["path"])(scope, receive, send)
            return
        n_bytes = 0

        async def count() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._limit:
                raise self._error()
            return message

        await self._app(scope, count, send)

    def _error(self) -> ApiError:
        return ApiError(
            413, f"The body is too large: this server takes {self._limit} bytes.", code="body_too_large"
        )
