"""A pipeline whose model says what a test wants it to say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from chatglm_cpp import Pipeline


class ScriptedGeneration:
    """Gives ids one by one, as a Generation of the engine does."""

    def __init__(self, prompt: list[int], reply: list[int]) -> None:
        self._reply = reply
        self.prompt_tokens, self.cached_tokens, self.new_tokens = len(prompt), 0, 0

    def step(self) -> int:
        self.new_tokens += 1
        return self._reply[self.new_tokens - 1]

    def stop(self) -> None:
        self._reply = self._reply[: self.new_tokens]

    @property
    def done(self) -> bool:
        return self.new_tokens == len(self._reply)

    @property
    def logprobs(self) -> None:
        return None

    @property
    def finish_reason(self) -> str | None:
        return "stop" if self.done else None


class ScriptedEngine:
    """The engine of a pipeline, with replies from a script in place of the model's."""

    def __init__(self, engine: Any, replies: list[str]) -> None:
        self._engine = engine
        self._replies = iter(replies)
        self.prompts: list[str] = []

    def start(self, prompt: list[int], config: object, constraint: object = None) -> ScriptedGeneration:
        tokenizer = self._engine.tokenizer
        self.prompts.append(tokenizer.decode(prompt, False))
        return ScriptedGeneration(prompt, tokenizer.encode_special(next(self._replies)))

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
