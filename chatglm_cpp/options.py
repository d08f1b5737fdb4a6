"""Options of a reply, as a caller gives them and as the engine takes them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

import numpy as np

from ._C import GenerationConfig, InvalidArgument
from .messages import check_text

_C_INT_MAX = 2**31 - 1
_SEED_MAX = 2**63 - 1

# Pipeline's `prompt_lookup` by the names that programs have for it.
PROMPT_LOOKUP: dict[str, bool | None] = {"auto": None, "always": True, "never": False}


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
    min_p: float
    typical_p: float
    presence_penalty: float
    frequency_penalty: float
    penalty_last_n: int
    logit_bias: Mapping[int, float] | None
    stop: str | Iterable[str] | None
    stop_token_ids: Iterable[int]
    ignore_eos: bool
    min_new_tokens: int
    logprobs: bool | int
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    xtc_probability: float
    xtc_threshold: float
    response_format: Mapping[str, Any] | None
    regex: str | None
    grammar: str | None


def make_generation_config(
    max_length: int = 2048,
    max_new_tokens: int = -1,
    max_context_length: int = -1,
    do_sample: bool = True,
    top_k: int = 0,
    top_p: float = 0.7,
    temperature: float = 0.95,
    repetition_penalty: float = 1.0,
    seed: int = -1,
    max_time: float = -1,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    penalty_last_n: int = -1,
    logit_bias: Mapping[int, float] | None = None,
    stop: str | Iterable[str] | None = None,
    stop_token_ids: Iterable[int] = (),
    ignore_eos: bool = False,
    min_new_tokens: int = 0,
    logprobs: bool | int = False,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    xtc_probability: float = 0.0,
    xtc_threshold: float = 0.1,
) -> GenerationConfig:
    """Checked options. Raises TypeError or InvalidArgument, naming the option."""
    return GenerationConfig(
        max_length=as_int("max_length", max_length),
        max_new_tokens=as_int("max_new_tokens", max_new_tokens),
        max_context_length=as_int("max_context_length", max_context_length),
        do_sample=as_bool("do_sample", do_sample),
        top_k=as_int("top_k", top_k),
        top_p=as_float("top_p", top_p),
        temperature=as_float("temperature", temperature),
        repetition_penalty=as_float("repetition_penalty", repetition_penalty),
        seed=as_int("seed", seed, _SEED_MAX),
        max_time=as_float("max_time", max_time),
        min_p=as_float("min_p", min_p),
        typical_p=as_float("typical_p", typical_p),
        presence_penalty=as_float("presence_penalty", presence_penalty),
        frequency_penalty=as_float("frequency_penalty", frequency_penalty),
        penalty_last_n=as_int("penalty_last_n", penalty_last_n),
        logit_bias=_as_biases(logit_bias),
        stop=_as_texts("stop", stop),
        stop_token_ids=_as_ints("stop_token_ids", stop_token_ids),
        ignore_eos=as_bool("ignore_eos", ignore_eos),
        min_new_tokens=as_int("min_new_tokens", min_new_tokens),
        logprobs=_as_logprobs(logprobs),
        num_beams=as_int("num_beams", num_beams),
        length_penalty=as_float("length_penalty", length_penalty),
        xtc_probability=as_float("xtc_probability", xtc_probability),
        xtc_threshold=as_float("xtc_threshold", xtc_threshold),
        early_stopping=check_text(early_stopping, "early_stopping")
        if isinstance(early_stopping, str)
        else as_bool("early_stopping", early_stopping),
    )


def as_int(name: str, value: int, largest: int = _C_INT_MAX) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a {type(value).__name__}; give an int.") from None
    if not -largest <= number <= largest:
        raise InvalidArgument(f"{name} is {number}; it must be between {-largest} and {largest}.")
    return number


def as_bool(name: str, value: bool) -> bool:
    """numpy's booleans too, 0 and 1; nothing else, for the text "false" would be true."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name} is a {type(value).__name__}; give True or False.")


def as_float(name: str, value: float) -> float:
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name} is a {type(value).__name__}; give a number.")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is a {type(value).__name__}; give a number.") from None
    except OverflowError:
        raise InvalidArgument(f"{name} is too large a number.") from None


def _as_biases(value: Mapping[int, float] | None) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(
            f"logit_bias is a {type(value).__name__}; give a dict of token ids and numbers: {{5: -10}}."
        )
    return {
        as_int("a token id in logit_bias", i): as_float(f"logit_bias[{i}]", bias) for i, bias in value.items()
    }


def _as_texts(name: str, value: str | Iterable[str] | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        value = [value]
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is a {type(value).__name__}; give a str or a list of them.")
    return [check_text(text, f"{name}[{i}]") for i, text in enumerate(value)]


def _as_ints(name: str, value: Iterable[int]) -> list[int]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is a {type(value).__name__}; give a list of ints.")
    return [as_int(f"{name}[{i}]", number) for i, number in enumerate(value)]


def _as_logprobs(value: bool | int | None) -> int:
    if value is None or value is False:
        return -1
    return 0 if value is True else as_int("logprobs", value)
