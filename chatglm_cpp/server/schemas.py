"""What requests of all endpoints have in common, and the shape of errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .errors import ApiError
from .settings import Settings


class Strict(BaseModel):
    """A request, or a part of one. An unknown field is an error, never ignored; a text is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorBody


# Answers that every endpoint can give, for the description.
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The request is not valid, or too long for the model."},
    401: {"model": ErrorResponse, "description": "The API key is missing or wrong."},
    404: {"model": ErrorResponse, "description": "There is no such model."},
    413: {"model": ErrorResponse, "description": "The body is too large."},
    500: {"model": ErrorResponse, "description": "The server has a fault."},
    503: {"model": ErrorResponse, "description": "Too many requests wait, or the model is still loading."},
}

EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
}

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63 - 2**16)]


Tokens = Annotated[list[TokenId], Field(min_length=1)]
TextsOrTokens = (
    str | Annotated[list[str], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)]
)


def as_list(given: TextsOrTokens) -> list[str | list[int]]:
    """Several texts or rows of tokens, also where one is given."""
    several: Any = given
    return several if isinstance(given, list) and not isinstance(given[0], int) else [several]


class PromptDetails(BaseModel):
    cached_tokens: int


class ReplyDetails(BaseModel):
    reasoning_tokens: int


class UsageBody(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: ReplyDetails | None = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, Field(description="Accepted; nothing is obfuscated.")] = None


class Unused(Strict):
    """Fields that are accepted and change nothing: they say who asks, or choose the only thing there is."""

    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None


class Sampling(Strict):
    """How tokens are chosen. The fields after logit_bias are this server's own; see Pipeline.chat."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: Seed | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    xtc_probability: float | None = Field(None, ge=0, le=1)
    xtc_threshold: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: int | None = Field(None, ge=0, lt=2**31)
    ignore_eos: bool | None = None
    stop_token_ids: list[TokenId] | None = None
    regex: str | None = None
    grammar: str | None = None

    def sampling_options(self, settings: Settings) -> dict[str, Any]:
        """The options of Pipeline.submit that the request asks for, but `seed`."""
        options: dict[str, Any] = {
            "temperature": settings.temperature if self.temperature is None else self.temperature,
            "top_p": settings.top_p if self.top_p is None else self.top_p,
            "stop": self.stop,
            "logit_bias": self._biases(),
            "regex": self.regex,
            "grammar": self.grammar,
        }
        names = {
            "presence_penalty": "presence_penalty",
            "frequency_penalty": "frequency_penalty",
            "top_k": "top_k",
            "min_p": "min_p",
            "typical_p": "typical_p",
            "xtc_probability": "xtc_probability",
            "xtc_threshold": "xtc_threshold",
            "repetition_penalty": "repetition_penalty",
            "min_tokens": "min_new_tokens",
            "ignore_eos": "ignore_eos",
            "stop_token_ids": "stop_token_ids",
        }
        given = {option: getattr(self, name) for name, option in names.items()}
        return {**options, **{option: value for option, value in given.items() if value is not None}}

    def seed_option(self, i: int) -> dict[str, int]:
        """The seed of alternative `i`, as an option; without a seed each reply draws its own."""
        return {} if self.seed is None else {"seed": self.seed + i}

    def _biases(self) -> dict[int, float]:
        given = self.logit_bias or {}
        if not all(key.isascii() and key.isdigit() and len(key) < 11 for key in given):
            message = 'logit_bias has token ids for keys, such as {"5": -10}.'
            raise ApiError(400, message, param="logit_bias", code="invalid_value")
        return {int(key): value for key, value in given.items()}


def check_max_tokens(settings: Settings, value: int | None, param: str) -> int:
    """`max_new_tokens` for a request that asks for at most `value` tokens. Raises ApiError."""
    limit = settings.max_tokens
    if value is not None and limit and value > limit:
        message = f"{param} is {value}; this server writes at most {limit} tokens in a reply."
        raise ApiError(400, message, param=param, code="invalid_value")
    return value or limit or -1


def check_choices(settings: Settings, n: int, param: str) -> None:
    """Raises ApiError when one request asks for too many replies."""
    if n > settings.max_choices:
        message = f"{param} asks for {n} replies; this server gives at most {settings.max_choices} at once."
        raise ApiError(400, message, param=param, code="invalid_value")
