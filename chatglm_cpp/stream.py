"""Replies that come piece by piece."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from . import _C
from ._C import ChatMessage
from .messages import DeltaMessage, TokenLogprob, ToolCallDelta
from .wakeups import Subscription, subscribe

T = TypeVar("T")
Whole = TypeVar("Whole")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply has cost so far."""

    prompt_tokens: int
    cached_tokens: int  # of these, found in the cache of an earlier call
    computed_tokens: int  # of these, in the cache by now: the progress of a long prompt
    new_tokens: int
    finish_reason: str | None  # "stop", "length", "cancelled", "deadline", or None while running
    queue_seconds: float  # from the request until its computation began, or until now
    prompt_seconds: float  # from the request until the first token, or until now
    seconds: float  # from the request until the end, or until now
    tokens_per_second: float  # of the tokens after the first one; 0 before the second one
    dropped_messages: int = 0  # messages of a chat that the prompt had no room for, see Pipeline.chat
    # Of a complete beam search: log-probability of the reply divided by its length^length_penalty.
    beam_score: float | None = None
    drafted_tokens: int = 0  # tokens guessed ahead and checked, see `prompt_lookup` of Pipeline
    accepted_tokens: int = 0  # of these, right ones: tokens of the reply that took no step of their own


class Completion(str):
    """A text, with why it ended ("stop", "length" or "deadline") and, with the option `logprobs`, how likely
    its tokens were."""

    finish_reason: str | None
    logprobs: list[TokenLogprob] | None

    @classmethod
    def of(cls, pieces: list[str], stream: Stream[str, Completion]) -> Completion:
        text = cls("".join(pieces))
        text.finish_reason = stream.usage.finish_reason
        text.logprobs = stream.logprobs
        return text


class Stream(Generic[T, Whole], Iterator[T]):
    """A reply that is being generated: an iterator over its pieces, for `for` and for `async for`.

    The engine computes it whether somebody waits for a piece or not. Cancelling, closing or dropping it stops
    the work, Ctrl-C while a piece is waited for does so too. Usable as a context manager, which closes it at
    the end of the block.

        with pipeline.chat(messages, stream=True) as stream:
            for delta in stream:
                print(delta.content, end="", flush=True)
            print(stream.usage.new_tokens)

    In a coroutine:

        async for delta in pipeline.submit(messages):
            print(delta.content, end="", flush=True)
        reply = await pipeline.submit(messages)
    """

    def __init__(
        self,
        generation: _C.Generation,
        text: _C.TextStreamer,
        make_piece: Callable[[DeltaMessage], T],
        make_whole: Callable[[list[T], Stream[T, Whole]], Whole],
        dropped_messages: int = 0,
    ) -> None:
        self._generation: _C.Generation | None = generation
        self._dropped_messages = dropped_messages
        self._usage = self._measure(generation)
        self._logprobs: list[TokenLogprob] = []
        self._pieces = _pieces(generation, text, make_piece, self._logprobs)
        self._make_whole = make_whole
        self._given: list[T] = []
        self._ahead: list[T] = []  # found while the prompt was waited for
        self._subscription: Subscription | None = None

    @property
    def usage(self) -> Usage:
        """Token counts and times; complete once the iterator is exhausted, final once it is closed."""
        if (generation := self._generation) is not None:
            self._usage = self._measure(generation)
        return self._usage

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """Of the tokens of all pieces so far; None when the option `logprobs` was not given."""
        return self._logprobs or None

    @property
    def done(self) -> bool:
        """Whether all pieces have been given."""
        return self._generation is None and not self._ahead

    def result(self) -> Whole:
        """Waits for the end and returns the whole reply: a ChatMessage or, of `generate`, a Completion."""
        for _ in self:
            pass
        return self._make_whole(self._given, self)

    def prefill(self) -> Iterator[Usage]:
        """Waits for the first piece of the reply, and says after each part of the prompt how far it is.

        for usage in stream.prefill():
            print(f"{usage.computed_tokens} of {usage.prompt_tokens} tokens read")
        """
        while not self._given and not self._ahead and self._generation is not None:
            piece = self._next()
            if isinstance(piece, Nothing):
                if self.usage.new_tokens == 0 and self._generation is not None:
                    yield self.usage
            else:
                self._ahead.append(piece)

    def cancel(self) -> None:
        """Stops the reply within one token. May be called from any thread; a second call does nothing."""
        if (generation := self._generation) is not None:
            generation.cancel()

    def close(self) -> None:
        """Stops the reply and gives its memory back; a second call does nothing."""
        self._ahead.clear()
        self.cancel()
        self._release()

    def _release(self) -> None:
        # Else another thread is at it, which finds it cancelled.
        if inspect.getgeneratorstate(self._pieces) != inspect.GEN_RUNNING:
            self._usage = self.usage
            self._generation = None
            self._pieces.close()
            self._subscription = None

    def _next(self) -> T | Nothing:
        """What the next token gives; nothing at the end, too."""
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._release()
            return _NOTHING
        except BaseException:
            if inspect.getgeneratorstate(self._pieces) != inspect.GEN_RUNNING:
                self.close()
            raise
        return piece

    def poll(self) -> T | Nothing:
        """The next piece if it need not be waited for. Another thread must not iterate meanwhile."""
        if self._ahead:
            return self._give(self._ahead.pop())
        while (generation := self._generation) is not None and generation.ready:
            piece = self._next()
            if not isinstance(piece, Nothing):
                return self._give(piece)
        return _NOTHING

    def advance(self) -> T | Nothing:
        """Waits for the next token or part of the prompt: the piece that it completes, or nothing."""
        piece = self._ahead.pop() if self._ahead else self._next()
        return piece if isinstance(piece, Nothing) else self._give(piece)

    def _measure(self, generation: _C.Generation) -> Usage:
        progress = generation.progress
        return Usage(
            prompt_tokens=progress.prompt_tokens,
            cached_tokens=progress.cached_tokens,
            computed_tokens=progress.computed_tokens,
            new_tokens=progress.new_tokens,
            finish_reason=generation.finish_reason,
            queue_seconds=progress.queue_seconds,
            prompt_seconds=progress.first_token_seconds,
            seconds=progress.seconds,
            tokens_per_second=progress.tokens_per_second,
            dropped_messages=self._dropped_messages,
            beam_score=progress.beam_score,
            drafted_tokens=progress.drafted_tokens,
            accepted_tokens=progress.accepted_tokens,
        )

    def _give(self, piece: T) -> T:
        self._given.append(piece)
        return piece

    def __iter__(self) -> Stream[T, Whole]:
        return self

    def __next__(self) -> T:
        if self._ahead:
            return self._give(self._ahead.pop())
        while self._generation is not None:
            piece = self._next()
            if not isinstance(piece, Nothing):
                return self._give(piece)
        raise StopIteration

    def __aiter__(self) -> Stream[T, Whole]:
        return self

    async def __anext__(self) -> T:
        if self._ahead:
            return self._give(self._ahead.pop())
        while self._generation is not None:
            await self.news()
            piece = self._next()
            if not isinstance(piece, Nothing):
                return self._give(piece)
        raise StopAsyncIteration

    async def news(self) -> None:
        """Waits until `advance` would not wait."""
        generation = self._generation
        if generation is None or generation.ready:
            return
        if self._subscription is None:
            self._subscription = subscribe(generation)
        event = self._subscription.event
        try:
            while not generation.ready:
                event.clear()
                if not generation.ready:
                    await event.wait()
        except BaseException:  # the task was cancelled
            self.close()
            raise

    def __await__(self) -> Generator[Any, None, Whole]:
        return self._wait_for_all().__await__()

    async def _wait_for_all(self) -> Whole:
        async for _ in self:
            pass
        return self._make_whole(self._given, self)

    async def aclose(self) -> None:
        """The same as close."""
        self.close()

    def __enter__(self) -> Stream[T, Whole]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Stream[T, Whole]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Nothing:
    """No piece, for there are not enough tokens for a character, or a part of the prompt was computed."""


_NOTHING = Nothing()


def _pieces(
    generation: _C.Generation,
    text: _C.TextStreamer,
    make_piece: Callable[[DeltaMessage], T],
    all_logprobs: list[TokenLogprob],
) -> Generator[T | Nothing, None, None]:
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
        token = generation.step()
        if token is None:
            yield _NOTHING
            continue
        pending.append(token)
        if (known := generation.logprobs) is not None:
            logprobs.append(TokenLogprob(token, *known))
        content = text.put(token)
        if text.stopped:
            generation.stop()
        if content or text.reasoning or text.new_tool_calls:
            yield take(content)
        else:
            yield _NOTHING
    content = text.finish()
    if text.stopped:
        generation.stop()
    if content or text.reasoning or text.new_tool_calls or pending:
        yield take(content)
