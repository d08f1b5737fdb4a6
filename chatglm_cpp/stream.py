"""Replies that come piece by piece."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Generic, TypeVar

from . import _C

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply has cost so far."""

    prompt_tokens: int
    cached_tokens: int  # of these, found in the cache of an earlier call
    new_tokens: int
    finish_reason: str | None  # "stop", "length", "cancelled", or None while running
    prompt_seconds: float  # until the first token, or until now
    seconds: float  # in all, without the time the caller spent between pieces
    dropped_messages: int = 0  # messages of a chat that the prompt had no room for, see Pipeline.chat


class Stream(Generic[T], Iterator[T]):
    """Iterator over the pieces of one reply. Closing or dropping it stops the work.

    Each token is computed when the next piece is asked for, so nothing runs behind the caller's back and
    Ctrl-C arrives between two tokens. Usable as a context manager, which closes it at the end of the block.

        with pipeline.chat(messages, stream=True) as stream:
            for delta in stream:
                print(delta.content, end="", flush=True)
            print(stream.usage.new_tokens)
    """

    def __init__(
        self,
        generation: _C.Generation,
        text: _C.TextStreamer,
        make_piece: Callable[[str, list[int], _C.TextStreamer], T],
        dropped_messages: int = 0,
    ) -> None:
        self._generation: _C.Generation | None = generation
        self._dropped_messages = dropped_messages
        self._clock = [0.0, 0.0]  # until the first token, in all
        self._usage = self._measure(generation)
        self._pieces = _pieces(generation, text, make_piece, self._clock)

    @property
    def usage(self) -> Usage:
        """Token counts and times; complete once the iterator is exhausted, final once it is closed."""
        if self._generation is not None:
            self._usage = self._measure(self._generation)
        return self._usage

    def close(self) -> None:
        """Stops the reply and gives its memory back; a second call does nothing."""
        self._release("cancelled")

    def _release(self, reason: str | None) -> None:
        if self._generation is None:
            return
        usage = self._measure(self._generation, reason)
        self._pieces.close()  # refuses, before anything changes, while another thread computes a piece
        self._usage = usage
        self._generation = None

    def _measure(self, generation: _C.Generation, reason: str | None = None) -> Usage:
        return Usage(
            prompt_tokens=generation.prompt_tokens,
            cached_tokens=generation.cached_tokens,
            new_tokens=generation.new_tokens,
            finish_reason=generation.finish_reason or reason,
            prompt_seconds=self._clock[0],
            seconds=self._clock[1],
            dropped_messages=self._dropped_messages,
        )

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        try:
            return next(self._pieces)
        except BaseException as error:
            if (
                inspect.getgeneratorstate(self._pieces) != inspect.GEN_RUNNING
            ):  # else another thread is at it, and its reply goes on
                self._release(None if isinstance(error, StopIteration) else "cancelled")
            raise

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pieces(
    generation: _C.Generation,
    text: _C.TextStreamer,
    make_piece: Callable[[str, list[int], _C.TextStreamer], T],
    clock: list[float],
) -> Generator[T, None, None]:
    pending: list[int] = []
    while not generation.done:
        start = perf_counter()
        token = generation.step()
        elapsed = perf_counter() - start
        clock[1] += elapsed
        if generation.new_tokens <= 1:
            clock[0] += elapsed
        if token is None:
            continue
        pending.append(token)
        content = text.put(token)
        if content or text.reasoning or text.new_tool_calls:
            yield make_piece(content, pending, text)
            pending = []
    content = text.finish()
    if content or text.reasoning or text.new_tool_calls or pending:
        yield make_piece(content, pending, text)
