"""A pipeline whose model says what a test wants it to say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from chatglm_cpp import Pipeline


class ScriptedGeneration:
    """Gives ids one by one, as a Generation of the engine does."""

    def __init__(self, prompt: list[int], reply: list[int]) -> None:
        self._prompt, self._reply, self._n_given = prompt, reply, 0
        self._cancelled = False
        self.ready = True

    def step(self) -> int | None:
        if self.done:
            return None
        self._n_given += 1
        return self._reply[self._n_given - 1]

    def cancel(self) -> None:
        self._cancelled = self._cancelled or not self.done

    def stop(self) -> None:
        self._reply = self._reply[: self._n_given]

    @property
    def done(self) -> bool:
        return self._cancelled or self._n_given == len(self._reply)

    @property
    def logprobs(self) -> None:
        return None

    @property
    def finish_reason(self) -> str | None:
        return None if not self.done else "cancelled" if self._cancelled else "stop"

    @property
    def progress(self) -> SimpleNamespace:
        return SimpleNamespace(
            prompt_tokens=len(self._prompt),
            cached_tokens=0,
            computed_tokens=len(self._prompt),
            new_tokens=self._n_given,
            queue_seconds=0.0,
            first_token_seconds=0.0,
            seconds=0.0,
            tokens_per_second=0.0,
            beam_score=None,
            drafted_tokens=0,
            accepted_tokens=0,
        )


class ScriptedEngine:
    """The engine of a pipeline, with replies from a script in place of the model's."""

    def __init__(self, engine: Any, replies: list[str]) -> None:
        self._engine = engine
        self._replies = iter(replies)
        self.prompts: list[str] = []

    def start_alternatives(
        self, prompt: list[int], config: object, n: int = 1, constraints: object = ()
    ) -> list[ScriptedGeneration]:
        tokenizer = self._engine.tokenizer
        self.prompts.append(tokenizer.decode(prompt, False))
        return [ScriptedGeneration(prompt, tokenizer.encode_special(next(self._replies))) for _ in range(n)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


@contextlib.contextmanager
def scripted(pipeline: Pipeline, *replies: str) -> Iterator[list[str]]:
    """Lets `pipeline` give these replies, in which special tokens may be spelled; the value is a list of the
    prompts that it was asked with."""
    engine = ScriptedEngine(pipeline._engine, list(replies))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_engine", engine)
        yield engine.prompts
