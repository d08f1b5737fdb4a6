"""From a file of requests to a file of records."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .._C import InvalidArgument
from .answers import PARALLEL, Endpoints, answers
from .files import Input, Output
from .records import Record


@dataclass(slots=True)
class Outcome:
    """How far a batch is."""

    total: int  # requests of the input
    before: int  # answered by earlier runs
    answered: int  # of all, errors included
    failed: int  # of these, with an error or a status other than 200
    tokens: int = 0  # of replies, in this run
    seconds: float = 0.0  # of this run, without loading
    interrupted: bool = False

    def count(self, record: Record, seconds: float) -> None:
        """Counts a record that was written `seconds` after the first request began."""
        self.answered += 1
        self.failed += not record.succeeded
        self.tokens += _n_tokens(record)
        self.seconds = seconds


@contextlib.contextmanager
def opened_files(source: Path, target: Path) -> Iterator[tuple[Input, Output, Outcome]]:
    """The files of a run, and what earlier runs have done. Raises as run_batch."""
    if not source.is_file():
        raise FileNotFoundError(f"{source}: there is no such file.")
    if target.exists() and os.path.samefile(source, target):
        raise InvalidArgument(f"{source}: is both input and output; give another output with -o.")
    requests = Input(source)
    with Output(target, requests.ids) as records:
        n_answered = len(records.answered)
        n_failed = sum(not succeeded for succeeded in records.answered.values())
        yield requests, records, Outcome(len(requests.ids), n_answered, n_answered, n_failed)


def run_batch(
    source: Path,
    target: Path,
    load: Callable[[], contextlib.AbstractContextManager[Endpoints]],
    *,
    parallel: int = PARALLEL,
    on_progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Answers the requests of `source` that `target` has no record of yet.

    Args:
        source: JSON lines in OpenAI's batch format.
        target: gets a record for each, in the order in which they become ready.
        load: opens what answers; called when the files are found good and something is left to do.
        parallel: requests at a time.
        on_progress: told after each record.

    Returns:
        What was done. Ctrl-C, or SIGTERM, ends a run early: `interrupted`.

    Raises:
        InvalidArgument: a file cannot be used; nothing was written.
        OSError: a file cannot be read or written.
    """
    with opened_files(source, target) as (requests, records, outcome):
        on_progress(outcome)
        if outcome.answered < outcome.total:
            with load() as endpoints:
                asyncio.run(_answer_all(requests, records, endpoints, parallel, outcome, on_progress))
    return outcome


async def _answer_all(
    requests: Input,
    records: Output,
    endpoints: Endpoints,
    parallel: int,
    outcome: Outcome,
    on_progress: Callable[[Outcome], None],
) -> None:
    begin = time.perf_counter()
    lines = requests.lines(without=set(records.answered))
    try:
        with _cancelled_by_signals():
            async with contextlib.aclosing(answers(endpoints, lines, parallel)) as ready:
                async for record in ready:
                    records.write(record)
                    outcome.count(record, time.perf_counter() - begin)
                    on_progress(outcome)
    except asyncio.CancelledError:
        outcome.interrupted = True


def _n_tokens(record: Record) -> int:
    usage = (record.body or {}).get("usage")
    if not isinstance(usage, dict):
        return 0
    n = usage.get("completion_tokens", usage.get("output_tokens"))  # of a response
    return n if isinstance(n, int) else 0


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM cancel the running task."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    added = []
    # Windows has no handlers, but asyncio.run cancels its task at Ctrl-C; other threads get no signals.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
            added.append(number)
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)
