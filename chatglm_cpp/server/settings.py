"""What a server is started with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from .._C import InvalidArgument

PREFIX = "CHATGLM_CPP_"


def _split(value: Any) -> Any:
    """The items of a text with commas between them, as an environment variable has them."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _split_keys(value: Any) -> Any:
    """The same for what keeps others out: a list of nothing would let in everybody."""
    items = _split(value)
    if isinstance(value, str) and not items:
        raise ValueError("there is no key in it")
    return items


Names = Annotated[list[str], BeforeValidator(_split)]
Key = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Settings(BaseModel):
    """Settings of a server. Each can come from the environment: `max_queue` from CHATGLM_CPP_MAX_QUEUE, lists
    with commas between their items."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    # The model; see Pipeline. None is the small model of the package.
    model: str | None = None
    dtype: str | None = None
    kv_dtype: str = "f16"
    lora: Names = []  # FILE, or SCALE:FILE
    threads: int = 0
    prompt_lookup: Literal["auto", "always", "never"] = "auto"
    draft: str | None = None
    draft_tokens: int = Field(0, ge=0)
    max_sequences: int = Field(16, ge=1)  # replies computed at a time
    max_queue: int = Field(256, ge=0)  # replies that may wait; one more is answered 503
    cache_memory: int = Field(0, ge=0)  # bytes, see Pipeline
    prefill_chunk: int = Field(512, ge=1)

    # Names that requests may call the model by, the first one of which replies say. By default its file's.
    model_name: str | None = None
    model_alias: Names = []

    # Who may ask.
    api_key: Annotated[list[Key], BeforeValidator(_split_keys)] = []  # any of these; none: everybody
    cors_origin: Names = []  # origins of web pages beside those of this machine; "*" for all
    host_name: Names = []  # names of this machine, where a proxy on it passes on the one it was asked by

    # How much may be asked for.
    max_length: int = Field(0, ge=0)  # tokens of prompt and reply together; 0: the model's context
    max_tokens: int = Field(0, ge=0)  # tokens of a reply; 0: what max_length leaves
    max_choices: int = Field(128, ge=1)  # replies of one request: n times the prompts
    max_body: int = Field(16 * 2**20, ge=1)  # bytes of a request
    max_time: float = Field(0, ge=0)  # seconds of a reply, waiting included; 0: no limit

    # Of requests that say nothing themselves, as Pipeline's.
    temperature: float = Field(0.95, ge=0)
    top_p: float = Field(0.7, ge=0, le=1)

    keep_alive: float = Field(10, gt=0)  # seconds between comments in a stream, so that no proxy ends it
    send_timeout: float = Field(60, gt=0)  # seconds after which a client that reads nothing is given up
    shutdown_timeout: float = Field(20, ge=0)  # seconds for running replies to end after SIGTERM

    @classmethod
    def make(cls, **values: Any) -> Settings:
        """Settings in which None is the default. Raises InvalidArgument, naming the setting."""
        try:
            return cls(**{name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            raise InvalidArgument(f"{name} is {first['input']!r}: {first['msg']}.") from None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **values: Any) -> Settings:
        """Settings of the variables that are set and not empty; `values` take the place of theirs."""
        found = {name: environment.get(PREFIX + name.upper()) or None for name in cls.model_fields}
        return cls.make(**{**found, **values})

    def loras(self) -> dict[str, float]:
        """The adapters and their scales."""
        result: dict[str, float] = {}
        for value in self.lora:
            scale, colon, path = value.partition(":")
            try:
                result[path if colon else value] = float(scale) if colon else 1.0
            except ValueError:  # a path with a colon in it
                result[value] = 1.0
        return result

    def names(self) -> list[str]:
        """What requests may call the model; the first one is its name."""
        if self.model_name:
            return [self.model_name, *self.model_alias]
        if self.model is None:
            return ["default", *self.model_alias]
        path = Path(self.model)
        name = path.stem if path.suffix in (".gguf", ".bin") else path.name
        return [name or self.model, *self.model_alias]
