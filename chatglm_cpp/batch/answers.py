"""From lines to records, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from .records import BadLine, Line, Record, parse_request

# An endpoint's url and the body of a request in, an HTTP status and the body of the response out.
Endpoints = Callable[[str, dict[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]

PARALLEL = 32  # requests at a time: twice what the engine computes together, so that some always wait
BUSY = 503


def answer_lines(endpoints: Endpoints, lines: Iterable[Line], parallel: int = PARALLEL) -> list[Record]:
    """The records of lines, in the order of the lines.

    For programs that bring lines and store records themselves, such as a step of a data pipeline.
    """

    async def collect() -> list[Record]:
        given = list(lines)
        places = {line.id: i for i, line in enumerate(given)}
        records = [record async for record in answers(endpoints, given, parallel)]
        return sorted(records, key=lambda record: places[record.id])

    return asyncio.run(collect())


async def answers(
    endpoints: Endpoints, lines: Iterable[Line], parallel: int = PARALLEL
) -> AsyncIterator[Record]:
    """The records of lines as they come: each once, in no order. At most `parallel` lines are held.

    Whatever is wrong with a line, it has a record, and the others go on. Closing the iterator cancels the
    requests that run.
    """
    remaining = iter(lines)
    again: list[Line] = []  # were refused because too many others waited
    running: dict[asyncio.Task[Record], Line] = {}
    try:
        while True:
            while len(running) < parallel:
                line = again.pop() if again else next(remaining, None)
                if line is None:
                    break
                running[asyncio.create_task(answer(endpoints, line))] = line
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            refused = [task for task in done if task.result().status == BUSY and len(running) > 1]
            if refused:
                parallel = max(1, len(running) - len(refused))
                again += [running.pop(task) for task in refused]
            for task in done - set(refused):
                del running[task]
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def answer(endpoints: Endpoints, line: Line) -> Record:
    """The record of one line."""
    try:
        request = parse_request(line)
    except BadLine as error:
        return _failed(line, error.custom_id, "invalid_request", str(error))
    if request.body.get("stream"):
        sentence = f"Line {line.number}: has a stream in its body; a batch has none: leave it out."
        return _failed(line, request.custom_id, "invalid_request", sentence)
    try:
        status, body = await endpoints(request.url, request.body)
    except Exception as error:
        sentence = f"Line {line.number}: the request failed: {type(error).__name__}: {error}"
        return _failed(line, request.custom_id, "server_error", sentence)
    return Record(line.id, request.custom_id, status, body)


def _failed(line: Line, custom_id: str | None, code: str, message: str) -> Record:
    return Record(line.id, custom_id, error={"code": code, "message": message})
