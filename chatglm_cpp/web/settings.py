"""The settings of replies: their sliders as data, and what they are for the pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WHEN_FULL = ("drop_oldest", "keep_head", "error")


@dataclass(frozen=True, slots=True)
class Setting:
    """A number that the user chooses; `name` is the option of Pipeline.chat."""

    name: str
    low: float
    high: float
    step: float
    default: float

    def accept(self, value: Any) -> float:
        """The number nearest to `value` that can be chosen; the default when it is no number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            return self.default
        value = min(max(value, self.low), self.high)
        return int(value) if isinstance(self.step, int) else value


def settings_of(context: int, max_length: int) -> list[Setting]:
    """All settings for a model whose context has so many tokens, of which `max_length` are used at first."""
    return [
        Setting("temperature", 0.0, 2.0, 0.05, 0.95),
        Setting("top_p", 0.05, 1.0, 0.05, 0.7),
        Setting("top_k", 0, 200, 1, 0),
        Setting("repetition_penalty", 1.0, 2.0, 0.05, 1.0),
        Setting("max_new_tokens", 0, context, 1, 0),
        Setting("max_length", min(64, context), context, 1, min(max_length, context)),
        Setting("seed", -1, 2**31 - 1, 1, -1),
    ]


def accept_all(settings: Sequence[Setting], values: Any) -> list[Any]:
    """Values of all settings and of `when_full` from what a browser kept, or their defaults."""
    known = values if isinstance(values, list) and len(values) == len(settings) + 1 else []
    numbers = [setting.accept(known[i]) if known else setting.default for i, setting in enumerate(settings)]
    when_full = known[-1] if known and known[-1] in WHEN_FULL else WHEN_FULL[0]
    return [*numbers, when_full]


def to_options(settings: Sequence[Setting], values: Sequence[Any]) -> dict[str, Any]:
    """Options of Pipeline.chat."""
    *numbers, when_full = accept_all(settings, list(values))
    options = {setting.name: value for setting, value in zip(settings, numbers, strict=True)}
    if options["max_new_tokens"] == 0:
        options["max_new_tokens"] = -1
    return {**options, "when_full": when_full}
