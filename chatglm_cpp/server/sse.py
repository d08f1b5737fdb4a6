"""Server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent

from .errors import openai_shape, to_api_error
from .replies import Reply
from .service import Service

DONE = ServerSentEvent(data="[DONE]", sep="\n")


def event(data: Mapping[str, Any], name: str | None = None) -> ServerSentEvent:
    """An event with JSON in it."""
    return ServerSentEvent(data=to_json(data), event=name, sep="\n")


def to_json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def respond(
    service: Service, events: AsyncGenerator[ServerSentEvent, None], replies: Sequence[Reply[Any, Any]]
) -> EventSourceResponse:
    """The answer that streams `events`, which read the `replies`. These are closed when the stream ends, by
    itself or because the client has gone away."""

    async def guarded() -> AsyncGenerator[ServerSentEvent, None]:
        try:
            async with aclosing(events):
                async for one in events:
                    yield one
        finally:
            for reply in replies:
                reply.close()

    settings = service.settings
    return _Response(
        guarded(),
        sep="\n",
        ping=settings.keep_alive,
        ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
        send_timeout=settings.send_timeout,
        # The service ends replies when the server ends; this only keeps the library from doing it earlier.
        shutdown_grace_period=settings.shutdown_timeout + 10,
        replies=replies,
    )


class _Response(EventSourceResponse):
    """Closes its replies also when the client has gone before the stream began, and its events never ran."""

    def __init__(self, *args: Any, replies: Sequence[Reply[Any, Any]], **options: Any) -> None:
        super().__init__(*args, **options)
        self._replies = replies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for reply in self._replies:
                reply.close()


async def with_errors(events: AsyncGenerator[ServerSentEvent, None]) -> AsyncGenerator[ServerSentEvent, None]:
    """Events of OpenAI's protocol: an error in the middle is an event of its own, and the last one is
    [DONE] in any case."""
    try:
        async with aclosing(events):
            async for one in events:
                yield one
    except Exception as error:
        yield event(openai_shape(to_api_error(error)))
    yield DONE
