"""Options of a reply, as a caller gives them and as the engine takes them."""

from __future__ import annotations

import operator
from typing import TypedDict

from ._C import GenerationConfig, InvalidArgument

_C_INT_MAX = 2**31 - 1
_SEED_MAX = 2**63 - 1


class GenerationOptions(TypedDict, total=False):
    """The keywords of Pipeline.chat and Pipeline.generate; described there."""

    max_length: int
    max_new_tokens: int
    max_context_length: int
    do_sample: bool
    top_k: int
    top_p: float
    temperature: float
    repetition_penalty: float
    seed: int
    max_time: float
    num_threads: int


def make_generation_config(
    max_length: int,
    max_new_tokens: int,
    max_context_length: int,
    do_sample: bool,
    top_k: int,
    top_p: float,
    temperature: float,
    repetition_penalty: float,
    seed: int,
    max_time: float,
) -> GenerationConfig:
    """Checked options. Raises TypeError or InvalidArgument, naming the option."""
    return GenerationConfig(
        max_length=as_int("max_length", max_length),
        max_new_tokens=as_int("max_new_tokens", max_new_tokens),
        max_context_length=as_int("max_context_length", max_context_length),
        do_sample=bool(do_sample),
        top_k=as_int("top_k", top_k),
        top_p=as_float("top_p", top_p),
        temperature=as_float("temperature", temperature),
        repetition_penalty=as_float("repetition_penalty", repetition_penalty),
        seed=as_int("seed", seed, _SEED_MAX),
        max_time=as_float("max_time", max_time),
    )


def as_int(name: str, value: int, largest: int = _C_INT_MAX) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a {type(value).__name__}; give an int.") from None
    if not -largest <= number <= largest:
        raise InvalidArgument(f"{name} is {number}; it must be between {-largest} and {largest}.")
    return number


def as_float(name: str, value: float) -> float:
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name} is a {type(value).__name__}; give a number.")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is a {type(value).__name__}; give a number.") from None
    except OverflowError:
        raise InvalidArgument(f"{name} is too large a number.") from None
