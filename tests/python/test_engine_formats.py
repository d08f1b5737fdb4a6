"""Stop texts, log-probabilities and constraints of replies that are computed together."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from chatglm_cpp import Error, Pipeline
from chatglm_cpp._C import GenerationConfig

GREEDY = {"do_sample": False, "max_new_tokens": 24}


class Only:
    """Lets a token come `n` times and nothing else."""

    def __init__(self, token: int, n: int) -> None:
        self.token, self.n_left = token, n

    def fill_mask(self, mask: memoryview) -> None:
        words = mask.cast("B").cast("I")
        words[self.token // 32] = 1 << self.token % 32

    def accept(self, token: int) -> bool:
        self.n_left -= 1
        return self.n_left == 0


class Broken(Only):
    def accept(self, token: int) -> bool:
        if self.n_left == 2:
            raise RuntimeError("broken")
        return super().accept(token)


def tokens(pipeline: Pipeline, constraint: Only) -> list[int]:
    generation = pipeline._engine.start([5, 6], GenerationConfig(), constraint)
    ids = []
    while not generation.done:
        if (token := generation.step()) is not None:
            ids.append(token)
    assert generation.finish_reason == "stop"
    return ids


def test_stops_and_log_probabilities_are_those_of_a_reply_alone(shared_pipeline: Pipeline):
    options = {**GREEDY, "logprobs": 2}
    free = shared_pipeline.generate("今天", **options)
    assert len(free) > 4
    stop = free[len(free) // 2]
    alone = shared_pipeline.generate("今天", stop=stop, **options)
    assert alone == free[: free.index(stop)] and alone.finish_reason == "stop"
    streams = [shared_pipeline.submit(prompt="今天", stop=s, **options) for s in (stop, None, stop, None)]
    replies = [stream.result() for stream in streams]
    assert replies == [alone, free, alone, free]
    assert [reply.finish_reason for reply in replies] == ["stop", free.finish_reason] * 2
    for reply, expected in zip(replies, [alone, free] * 2, strict=True):
        assert reply.logprobs == expected.logprobs


def test_an_awaited_reply_ends_before_a_stop_text(shared_pipeline: Pipeline):
    free = shared_pipeline.generate("今天", **GREEDY)
    stop = free[len(free) // 2]

    async def ask() -> str:
        return await shared_pipeline.agenerate("今天", stop=stop, **GREEDY)

    reply = asyncio.run(ask())
    assert reply == free[: free.index(stop)] and reply.finish_reason == "stop"


def test_constraints_hold_beside_free_replies(shared_pipeline: Pipeline):
    free = shared_pipeline.generate("今天", **GREEDY)
    beside = [shared_pipeline.submit(prompt="今天", **GREEDY) for _ in range(3)]
    generations = [
        shared_pipeline._engine.start([5, 6], GenerationConfig(), Only(10 + i, i + 1)) for i in range(3)
    ]
    for i, generation in enumerate(generations):
        ids = []
        while not generation.done:
            if (token := generation.step()) is not None:
                ids.append(token)
        assert ids == [10 + i] * (i + 1)
    assert [stream.result() for stream in beside] == [free] * 3


def test_a_constraint_that_fails_ends_its_own_reply_alone(shared_pipeline: Pipeline):
    free = shared_pipeline.generate("今天", **GREEDY)
    beside = shared_pipeline.submit(prompt="今天", **GREEDY)
    other = shared_pipeline._engine.start([5, 6], GenerationConfig(), Only(9, 5))
    with pytest.raises(RuntimeError, match="broken"):
        tokens(shared_pipeline, Broken(7, 4))
    assert beside.result() == free
    n = 0
    while not other.done:
        n += other.step() is not None
    assert n == 5


def test_a_constraint_cannot_wait_for_its_own_pipeline(shared_pipeline: Pipeline):
    class Asks(Only):
        def fill_mask(self, mask: memoryview) -> None:
            shared_pipeline.logits([5])

    with pytest.raises(Error, match="this very thread"):
        tokens(shared_pipeline, Asks(7, 1))


ENDLESS = """
import gc, sys
from chatglm_cpp import Pipeline
from chatglm_cpp._C import GenerationConfig

class Endless:
    def __init__(self, collects=False):
        self.collects = collects
    def fill_mask(self, mask):
        mask.cast("B")[:] = b"\\xff" * mask.nbytes
        if self.collects:
            gc.collect()
    def accept(self, token):
        return False

def begin(collects=False):
    pipeline = Pipeline(sys.argv[1])
    config = GenerationConfig(max_length=10**6, ignore_eos=False, min_new_tokens=10**6)
    generation = pipeline._engine.start([5, 6], config, Endless(collects))
    while generation.step() is None:
        pass
    return pipeline, generation
"""


@pytest.mark.parametrize(
    "end",
    [
        "pipeline, generation = begin()\npipeline.close()",
        "pipeline, generation = begin()\ndel pipeline, generation",
        "pipeline, generation = begin()\ndel generation, pipeline",
        "pipeline, generation = begin()",  # the end of Python
        # The garbage collector may find the pipeline in the thread that computes.
        "for _ in range(5):\n"
        "    pipeline, generation = begin(collects=True)\n"
        "    cycle = [pipeline, generation]\n"
        "    cycle.append(cycle)\n"
        "    del pipeline, generation, cycle\n"
        "    sum(range(10**6))",
    ],
)
def test_a_pipeline_can_end_while_a_constraint_runs(model_path: Path, end: str):
    script = ENDLESS + end + "\nprint('ended')"
    done = subprocess.run(
        [sys.executable, "-c", script, str(model_path)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
