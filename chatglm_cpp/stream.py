"""Replies that come piece by piece."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Generic, TypeVar

from . import _C
from ._C import ChatMessage
from .messages import DeltaMessage, TokenLogprob, ToolCallDelta

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


class Completion(str):
    """A text, with why it ended ("stop" or "length") and, with the option `logprobs`, how likely its tokens
    were."""

    finish_reason: str | None
    logprobs: list[TokenLogprob] | None

    @classmethod
    def of(cls, pieces: Stream[str]) -> Completion:
        text = cls("".join(pieces))
        text.finish_reason = pieces.usage.finish_reason
        text.logprobs = pieces.logprobs
        return text


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
        make_piece: Callable[[DeltaMessage], T],
        dropped_messages: int = 0,
    ) -> None:
        self._generation: _C.Generation | None = generation
        self._dropped_messages = dropped_messages
        self._clock = [0.0, 0.0]  # until the first token, in all
        self._usage = self._measure(generation)
        self._logprobs: list[TokenLogprob] = []
        self._pieces = _pieces(generation, text, make_piece, self._clock, self._logprobs)

    @property
    def usage(self) -> Usage:
        """Token counts and times; complete once the iterator is exhausted, final once it is closed."""
        if self._generation is not None:
            self._usage = self._measure(self._generation)
        return self._usage

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """Of the tokens of all pieces so far; None when the option `logprobs` was not given."""
        return self._logprobs or None

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
    make_piece: Callable[[DeltaMessage], T],
    clock: list[float],
    all_logprobs: list[TokenLogprob],
) -> Generator[T, None, None]:
    pending: list[int] = []
    logprobs: list[TokenLogprob] = []

    def take(content: str) -> T:
        nonlocal pending, logprobs
        piece = DeltaMessage(
            role=ChatMessage.ROLE_ASSISTANT,
            content=content,
            token_ids=pending,
            reasoning_content=text.reasoning,
            tool_calls=[ToolCallDelta(i, c.id, c.type, c.function, c.code) for i, c in text.new_tool_calls],
            tool_call_error=text.tool_call_error,
            logprobs=logprobs or None,
        )
        all_logprobs.extend(logprobs)
        pending, logprobs = [], []
        return make_piece(piece)

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
        if (known := generation.logprobs) is not None:
            logprobs.append(TokenLogprob(token, *known))
        content = text.put(token)
        if text.stopped:
            generation.stop()
        if content or text.reasoning or text.new_tool_calls:
            yield take(content)
    content = text.finish()
    if text.stopped:
        generation.stop()
    if content or text.reasoning or text.new_tool_calls or pending:
        yield take(content)
