"""The server's endpoints without a network: through the same code as over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp, Message

from ..pipeline import Pipeline
from ..server import Settings, make_app
from .answers import Endpoints


@contextmanager
def opened(pipeline: Pipeline, model_name: str | None = None) -> Iterator[Endpoints]:
    """The endpoints over a pipeline, which is closed in the end.

    Args:
        pipeline: the model.
        model_name: what requests call it; by default its file's name, without the ending.
    """
    # A request is as large as a line may be, whose characters take more bytes as escapes.
    settings = Settings.make(model=pipeline.path, model_name=model_name, max_body=2**30)
    with pipeline:
        yield endpoints_of(make_app(settings, pipeline))


def endpoints_of(app: ASGIApp) -> Endpoints:
    """Posts bodies to the paths of an application, whose answers are JSON, thus no streams. A task that is
    cancelled meanwhile stops its reply.

        status, answer = await endpoints_of(app)("/v1/chat/completions", {"messages": [...]})
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
