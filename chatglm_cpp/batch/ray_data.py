"""A file of requests, answered by the engines of a Ray cluster through Ray Data."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from .._C import Error, InvalidArgument
from .answers import Endpoints, answers
from .records import Line, Record
from .run import Outcome, opened_files

Load = Callable[[int], contextlib.AbstractContextManager[Endpoints]]  # opens an engine of so many threads

# Ray hands out blocks of lines, and takes the records of a whole block. An engine has several blocks at a
# time, so that others go on while the longest reply of one ends.
LINES_PER_BLOCK = 16
BLOCKS_AT_A_TIME = 3


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """The cluster of this machine or of $RAY_ADDRESS, or else one that is started for the while."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Error(f"Ray's cluster cannot be reached: {_last_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def run_batch_on_ray(
    source: Path,
    target: Path,
    load: Load,
    *,
    replicas: int = 0,
    threads: int = 0,
    on_progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """As run_batch, by engines on a cluster (see `connected`). The files are read and written here; lines
    whose engine dies are answered by another one.

    Args:
        source: see run_batch.
        target: see run_batch.
        load: opens what answers, in the process of each engine.
        replicas: engines; 0: one for each machine. Those for which there is room begin, the others follow.
        threads: of each engine; 0: what a machine has, divided by its engines.
        on_progress: told after each record.

    Raises:
        InvalidArgument, OSError: as run_batch; no machine has so many processors.
        Error: the engines failed, or the cluster.
    """
    with opened_files(source, target) as (requests, records, outcome):
        on_progress(outcome)
        if outcome.answered == outcome.total:
            return outcome
        lines = requests.lines(without=set(records.answered))
        try:
            with connected():
                begin = time.perf_counter()
                with contextlib.closing(_records(load, lines, *_shares(replicas, threads))) as ready:
                    for record in ready:
                        records.write(record)
                        outcome.count(record, time.perf_counter() - begin)
                        on_progress(outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
        except RayError as error:
            raise Error(f"The cluster ended the batch: {_last_line(error)}") from None
    return outcome


def _shares(replicas: int, threads: int) -> tuple[int, int]:
    """How many engines the cluster gets, and of how many threads."""
    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    machines = [n_cpus for n_cpus in machines if n_cpus] or [0]
    replicas = replicas or len(machines)
    threads = threads or max(1, min(machines) // math.ceil(replicas / len(machines)))
    if threads > max(machines):
        raise InvalidArgument(
            f"An engine of {threads} threads finds no place: the cluster's machines have up to "
            f"{max(machines)} processors for Ray."
        )
    return replicas, threads


def _records(load: Load, lines: Iterable[Line], replicas: int, threads: int) -> Iterator[Record]:
    """The records of lines, each once, as blocks of them become ready."""
    context = ray.data.DataContext.get_current()
    had_bars, context.enable_progress_bars = context.enable_progress_bars, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        engines = ray.data.ActorPoolStrategy(
            size=replicas,
            max_tasks_in_flight_per_actor=BLOCKS_AT_A_TIME,
            max_concurrent_calls_per_actor=BLOCKS_AT_A_TIME,
        )
        dataset = ray.data.from_arrow_refs(list(_blocks(lines))).map_batches(
            Engine,
            fn_constructor_args=(load, threads),
            batch_size=None,
            batch_format="pyarrow",
            compute=engines,
            num_cpus=threads,
        )
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for data in table["record"].to_pylist():
                yield Record(**json.loads(data))
    finally:
        context.enable_progress_bars = had_bars


def _blocks(lines: Iterable[Line]) -> Iterator[Any]:
    """Lines in the cluster's memory, from which Ray moves to disk what is too much."""
    remaining = iter(lines)
    while block := list(itertools.islice(remaining, LINES_PER_BLOCK)):
        numbers, data = [line.number for line in block], [line.data for line in block]
        yield ray.put(pa.table({"number": numbers, "data": pa.array(data, pa.large_binary())}))


class Engine:
    """What answers, in a process of its own."""

    def __init__(self, load: Load, threads: int) -> None:
        self._opened = contextlib.ExitStack()
        self._endpoints = self._opened.enter_context(load(threads))

    async def __call__(self, block: pa.Table) -> AsyncIterator[pa.Table]:
        """The records of a block of lines. Several blocks share one event loop."""
        lines = [
            Line(number, data)
            for number, data in zip(block["number"].to_pylist(), block["data"].to_pylist(), strict=True)
        ]
        records = [record async for record in answers(self._endpoints, lines)]
        data = [json.dumps(asdict(record)).encode() for record in records]
        yield pa.table({"record": pa.array(data, pa.large_binary())})


def _last_line(error: BaseException) -> str:
    """What was the matter, without the traces of other processes."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__
