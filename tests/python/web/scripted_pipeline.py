"""A pipeline for the page whose replies a test writes and paces."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from itertools import repeat
from typing import Any

from chatglm_cpp import DeltaMessage, Pipeline, Usage

PAUSE = 0.01  # seconds between two pieces: about the speed of a small model


class Reply:
    """A reply in a script: its thought, and then its answer, word by word; endless if asked for.

    With `held` its prompt stays half read until `release`.
    """

    def __init__(self, answer: str, thought: str = "", endless: bool = False, held: bool = False) -> None:
        self.answer, self.thought, self.endless = answer, thought, endless
        self._released = threading.Event()
        if not held:
            self._released.set()

    @property
    def released(self) -> bool:
        return self._released.is_set()

    def release(self) -> None:
        self._released.set()

    def pieces(self) -> Iterator[DeltaMessage]:
        for word in self.thought.split(" ") if self.thought else []:
            yield DeltaMessage("assistant", "", [0], word + " ")
        answers = repeat(self.answer) if self.endless else [self.answer]
        for answer in answers:
            for word in answer.split(" "):
                yield DeltaMessage("assistant", word + " ", [0])


class ScriptedStream:
    """What the page uses of a Stream."""

    def __init__(self, reply: Reply) -> None:
        self._reply, self._pieces = reply, reply.pieces()
        self._cancelled = False
        self.closed = threading.Event()
        self.usage = Usage(2048, 0, 0, 0, None, 0.0, 0.5, 1.0, 12.5)

    async def __anext__(self) -> DeltaMessage:
        while not self._reply.released and not self._cancelled:
            self.usage = dataclasses.replace(self.usage, computed_tokens=1024)
            await asyncio.sleep(PAUSE)
        await asyncio.sleep(PAUSE)
        piece = None if self._cancelled else next(self._pieces, None)
        if piece is None:
            reason = "cancelled" if self._cancelled else "stop"
            self.usage = dataclasses.replace(self.usage, finish_reason=reason)
            raise StopAsyncIteration
        self.usage = dataclasses.replace(
            self.usage, computed_tokens=2048, new_tokens=self.usage.new_tokens + 1
        )
        return piece

    def cancel(self) -> None:
        self._cancelled = True

    def __aiter__(self) -> ScriptedStream:
        return self

    def __enter__(self) -> ScriptedStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self.closed.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled


class ScriptedPipeline:
    """A pipeline that gives the replies of a script to questions that contain a key of it, and the model's
    own replies to others."""

    def __init__(self, pipeline: Pipeline, script: dict[str, Reply]) -> None:
        self._pipeline = pipeline
        self.script = script
        self.asked: list[list[Any]] = []
        self.options: list[dict[str, Any]] = []
        self.streams: dict[str, ScriptedStream] = {}

    def submit(self, messages: list[Any], **options: Any) -> Any:
        self.asked.append(messages)
        self.options.append(options)
        for key, reply in self.script.items():
            if key in messages[-1].content:
                self.streams[key] = ScriptedStream(reply)
                return self.streams[key]
        return self._pipeline.submit(messages, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)
