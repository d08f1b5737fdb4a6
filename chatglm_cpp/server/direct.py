"""The endpoints without a network: bodies in, statuses and bodies out, through the same code as over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Message

Endpoints = Callable[[str, dict[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]


def endpoints_of(app: ASGIApp) -> Endpoints:
    """A function that posts a body to a path of the application, and gives the status and the body of the
    answer. A task that is cancelled meanwhile stops its reply.

        status, answer = await endpoints_of(app)("/v1/chat/completions", {"messages": [...]})

    The application must be open, see `opened`, and the answer JSON, thus no stream.
    """

    async def post(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        # Half of a surrogate pair goes through as its escape, and the endpoint says what is wrong with it.
        data = json.dumps(body).encode()
        requests: list[Message] = [{"type": "http.request", "body": data}]
        status, answer = 0, bytearray()

        async def receive() -> Message:
            if requests:
                return requests.pop()
            await asyncio.Event().wait()  # this client never goes away
            raise AssertionError

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                answer.extend(message.get("body", b""))

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))],
            "client": None,
            "server": None,
        }
        await app(scope, receive, send)
        return status, json.loads(answer)

    return post


@contextlib.asynccontextmanager
async def opened(app: Any) -> AsyncIterator[None]:
    """The application between its start and its end, as a server runs it."""
    async with app.router.lifespan_context(app):
        yield
