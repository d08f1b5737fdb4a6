"""Replies that are being written, and how far they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any

from ..messages import Conversation as Messages
from ..messages import DeltaMessage
from ..pipeline import Pipeline
from ..stream import Stream, Usage

INTERVAL = 0.1  # seconds between two updates of a page: what looks fluent and costs little
STOP_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Progress:
    """A reply so far."""

    thought: str
    answer: str
    usage: Usage
    ended: bool = False  # the last one of its reply


async def write_reply(
    pipeline: Pipeline, messages: Messages, running: Running, **options: Any
) -> AsyncGenerator[Progress, None]:
    """Says every INTERVAL seconds how far a reply is, and at last how it ended. Stopping `running` ends it,
    and so does closing the generator.

    Options and errors are those of Pipeline.chat.
    """
    # Making the prompt of a long document takes seconds, in which other pages shall be served.
    stream = await asyncio.to_thread(pipeline.submit, messages, **options)
    with stream:
        running.attach(stream)
        thought, answer = "", ""
        loop = asyncio.get_running_loop()
        shown = -INTERVAL
        piece: asyncio.Task[DeltaMessage | None] | None = None
        try:
            while True:
                piece = piece or asyncio.create_task(_next(stream))
                wait = shown + INTERVAL - loop.time()
                await asyncio.wait({piece}, timeout=max(wait, 0.0))
                if piece.done():
                    if (delta := piece.result()) is None:
                        break
                    piece = None
                    thought += delta.reasoning_content
                    answer += delta.content
                    if loop.time() < shown + INTERVAL:
                        continue
                yield Progress(thought, answer, stream.usage)
                shown = loop.time()
        finally:
            if piece is not None:
                piece.cancel()
    yield Progress(thought, answer, stream.usage, ended=True)


async def _next(stream: Stream[DeltaMessage, Any]) -> DeltaMessage | None:
    return await anext(stream, None)


class Running:
    """A reply from the request to its end, which another coroutine may ask for."""

    def __init__(self) -> None:
        self._stream: Stream[DeltaMessage, Any] | None = None
        self._stopped = False
        self.ended = asyncio.Event()

    def attach(self, stream: Stream[DeltaMessage, Any]) -> None:
        self._stream = stream
        if self._stopped:
            stream.cancel()

    def stop(self) -> None:
        """Ends the reply within a token; what is there of it stays."""
        self._stopped = True
        if self._stream is not None:
            self._stream.cancel()


class Replies:
    """The running reply of each page, at most one. Used in one event loop."""

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}

    @contextlib.contextmanager
    def begin(self, page: str) -> Iterator[Running]:
        self.stop(page)
        running = Running()
        self._running[page] = running
        try:
            yield running
        finally:
            running.ended.set()
            if self._running.get(page) is running:
                del self._running[page]

    def stop(self, page: str) -> None:
        """Stops the reply of a page, if there is one."""
        if running := self._running.get(page):
            running.stop()

    async def stop_and_wait(self, page: str) -> None:
        """The same, and waits until the page has what there is of it."""
        if running := self._running.get(page):
            running.stop()
            with contextlib.suppress(asyncio.TimeoutError):  # only a part of a prompt could take so long
                await asyncio.wait_for(running.ended.wait(), STOP_TIMEOUT)
