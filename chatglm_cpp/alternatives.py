"""Several replies to one prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from .stream import Nothing, Stream

T = TypeVar("T")
Whole = TypeVar("Whole")


class Alternatives(Sequence[Stream[T, Whole]], Generic[T, Whole]):
    """Several replies to one prompt that are being generated: a sequence of their streams.

        alternatives = pipeline.submit_alternatives(messages, n=3)
        for reply in alternatives.result():
            print(reply.content)

    Each stream may be used by itself. All pieces in the order in which they come:

        for index, delta in alternatives.pieces():
            print(index, delta.content)

    In a coroutine:

        async for index, delta in alternatives.apieces():
            print(index, delta.content)
        replies = await alternatives

    Closing it, for example by the end of a `with` block over it, stops all that still run; so does Ctrl-C,
    the end of a task that waits, and an error of one of them.
    """

    def __init__(self, streams: Sequence[Stream[T, Whole]]) -> None:
        self._streams = tuple(streams)

    def result(self) -> list[Whole]:
        """Waits for the end of all and returns the whole replies, in order."""
        with self._all_or_none():
            return [stream.result() for stream in self._streams]

    def pieces(self) -> Iterator[tuple[int, T]]:
        """The pieces of all as they come, each with the index of its stream."""
        with self._all_or_none():
            while live := self._live():
                if found := self._found(live):
                    yield from found
                else:
                    # They are computed in the same steps, the first one ahead of the others if at all.
                    index, stream = live[0]
                    piece = stream.advance()
                    if not isinstance(piece, Nothing):
                        yield index, piece

    async def apieces(self) -> AsyncIterator[tuple[int, T]]:
        """`pieces` for coroutines."""
        with self._all_or_none():
            while live := self._live():
                if found := self._found(live):
                    for item in found:
                        yield item
                else:
                    await live[0][1].news()

    def cancel(self) -> None:
        """Stops all replies within one token. May be called from any thread."""
        for stream in self._streams:
            stream.cancel()

    def close(self) -> None:
        """Stops all replies and gives their memory back; a second call does nothing."""
        for stream in self._streams:
            stream.close()

    def _live(self) -> list[tuple[int, Stream[T, Whole]]]:
        return [(i, stream) for i, stream in enumerate(self._streams) if not stream.done]

    def _found(self, live: list[tuple[int, Stream[T, Whole]]]) -> list[tuple[int, T]]:
        """The next piece of each that has one without waiting."""
        polled = [(index, stream.poll()) for index, stream in live]
        return [(index, piece) for index, piece in polled if not isinstance(piece, Nothing)]

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        try:
            yield
        except GeneratorExit:  # nobody wants more pieces here, but perhaps elsewhere
            raise
        except BaseException:
            self.close()
            raise

    async def _wait_for_all(self) -> list[Whole]:
        with self._all_or_none():
            return [await stream for stream in self._streams]

    def __await__(self) -> Generator[Any, None, list[Whole]]:
        return self._wait_for_all().__await__()

    def __len__(self) -> int:
        return len(self._streams)

    @overload
    def __getitem__(self, index: int) -> Stream[T, Whole]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Stream[T, Whole]]: ...
    def __getitem__(self, index: int | slice) -> Stream[T, Whole] | Sequence[Stream[T, Whole]]:
        return self._streams[index]

    def __enter__(self) -> Alternatives[T, Whole]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Alternatives[T, Whole]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
