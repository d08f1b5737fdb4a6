"""Ctrl-C at a certain moment, without clocks."""

from __future__ import annotations

import signal
from typing import Any

from chatglm_cpp import Pipeline


class _Generation:
    def __init__(self, generation: Any, at_step: int) -> None:
        self._generation = generation
        self._until = at_step

    def step(self) -> int | None:
        self._until -= 1
        if self._until == 0:
            signal.raise_signal(signal.SIGINT)
        return self._generation.step()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generation, name)


class _Engine:
    def __init__(self, engine: Any, at_step: int) -> None:
        self._engine = engine
        self._at_step = at_step

    def start_alternatives(self, *args: Any) -> list[_Generation]:
        return [_Generation(g, self._at_step) for g in self._engine.start_alternatives(*args)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def press_ctrl_c(pipeline: Pipeline, at_step: int) -> Pipeline:
    """The same pipeline, but Ctrl-C is pressed at the given step of each of its replies."""
    pressed = object.__new__(Pipeline)
    pressed.__dict__.update(pipeline.__dict__, _engine=_Engine(pipeline._engine, at_step))
    return pressed
