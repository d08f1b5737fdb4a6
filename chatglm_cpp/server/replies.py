"""Replies of the pipeline in the care of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from fastapi import Request

from ..messages import DeltaMessage
from ..stream import Stream, Usage
from .errors import ApiError
from .metrics import Metrics

Piece = TypeVar("Piece")
Whole = TypeVar("Whole")
T = TypeVar("T")


class Reply(Generic[Piece, Whole]):
    """A Stream whose pieces are timed and whose end is counted. An asynchronous iterator over its pieces;
    when it was cut off by the end of the server, it raises ApiError instead of ending."""

    def __init__(self, stream: Stream[Piece, Whole], metrics: Metrics) -> None:
        self._stream = stream
        self._metrics = metrics
        self._last: float | None = None
        self._closed = False
        self._ended_here = False
        self.on_close: Callable[[], None] | None = None  # called once

    @property
    def usage(self) -> Usage:
        return self._stream.usage

    @property
    def stream(self) -> Stream[Piece, Whole]:
        return self._stream

    @property
    def finish_reason(self) -> str:
        """Why the reply ended, in OpenAI's words: "stop" or "length"."""
        return "stop" if self._ended_here or self.usage.finish_reason == "stop" else "length"

    def __aiter__(self) -> Reply[Piece, Whole]:
        return self

    async def __anext__(self) -> Piece:
        if self._ended_here:
            self.close()
            raise StopAsyncIteration
        try:
            piece = await self._stream.__anext__()
        except StopAsyncIteration:
            self.close()
            if self.usage.finish_reason == "cancelled":
                raise ApiError(
                    503, "The server shut down before the reply was complete.", code="shutting_down"
                ) from None
            raise
        now = time.monotonic()
        if self._last is None:
            self._metrics.first_token.observe(self.usage.prompt_seconds)
        else:
            n_tokens = len(piece.token_ids) if isinstance(piece, DeltaMessage) else 1
            for _ in range(n_tokens):
                self._metrics.between_tokens.observe((now - self._last) / n_tokens)
        self._last = now
        return piece

    async def whole(self) -> Whole:
        """Waits for the end and gives the whole reply."""
        async for _ in self:
            pass
        return self._stream.result()

    def end(self) -> None:
        """Ends the reply as if the model had ended it here."""
        self._ended_here = True
        self._stream.cancel()

    def cancel(self) -> None:
        """Stops the reply; whoever iterates gets the error."""
        self._stream.cancel()

    def close(self) -> None:
        """Stops the reply, gives its memory back and counts it; a second call does nothing."""
        self._stream.close()
        if not self._closed:
            self._closed = True
            self._metrics.count_reply(self.usage)
            if self.on_close is not None:
                self.on_close()


async def merged(replies: Sequence[Reply[Piece, Whole]]) -> AsyncIterator[tuple[int, Piece | None]]:
    """The pieces of several replies as they come, each with the place of its reply; None is its end."""
    tasks = {asyncio.ensure_future(anext(reply, None)): i for i, reply in enumerate(replies)}
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=tasks.__getitem__):
                i = tasks.pop(task)
                piece = task.result()
                yield i, piece
                if piece is not None:
                    tasks[asyncio.ensure_future(anext(replies[i], None))] = i
    finally:
        await _drop(*tasks)


async def while_connected(
    request: Request, work: Sequence[Awaitable[T]], replies: Sequence[Reply[Any, Any]] = ()
) -> list[T]:
    """The results of `work`, which is cancelled when the client goes away. At the end, whatever it is, the
    `replies` that it reads are closed.

    Raises ApiError with the status 499 when the client went away, which nobody hears.
    """
    results = asyncio.gather(*work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({results, gone}, return_when=asyncio.FIRST_COMPLETED)
        if results.done():
            return results.result()
        raise ApiError(499, "The client went away.")
    finally:
        await _drop(results, gone)
        for reply in replies:
            reply.close()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _drop(*tasks: asyncio.Future[T]) -> None:
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
