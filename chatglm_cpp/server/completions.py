"""/v1/completions"""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from sse_starlette import ServerSentEvent
from starlette.responses import JSONResponse, Response

from ..messages import TokenLogprob, to_token_ids
from ..pipeline import Pipeline
from ..stream import Completion
from ..tokenizer import Tokenizer
from . import sse
from .body import StrictRoute
from .errors import ApiError
from .logprobs import as_number, token_text
from .replies import Reply, merged, while_connected
from .schemas import (
    ERRORS,
    EVENT_STREAM,
    Sampling,
    StreamOptions,
    TextsOrTokens,
    Unused,
    UsageBody,
    as_list,
    check_choices,
    check_max_tokens,
)
from .scores import score
from .service import Ask, Service, service_of
from .usage import usage_body, usage_dict

router = APIRouter(tags=["completions"], route_class=StrictRoute)

TheService = Annotated[Service, Depends(service_of)]
TextReply = Reply[str, Completion]

_DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionRequest(Sampling, Unused):
    model: str | None = None
    prompt: TextsOrTokens
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    n: int | None = Field(None, ge=1, le=128)
    best_of: int | None = Field(None, ge=1, le=128)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: Literal[""] | None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody


@router.post("/v1/completions", response_model=CompletionResponse, responses={**EVENT_STREAM, **ERRORS})
async def create_completion(body: CompletionRequest, request: Request, service: TheService) -> Response:
    """Continuations of texts."""
    model = service.check_model(body.model)
    pipeline = service.pipeline
    tokenizer = pipeline.tokenizer
    _check(body)
    prompts = [
        await service.run(lambda given=given: _prompt(given, tokenizer)) for given in as_list(body.prompt)
    ]
    n = body.n or 1
    check_choices(service.settings, n * len(prompts), "n")
    maximum = _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    options = {**service.limits, **body.sampling_options(service.settings)}
    options["max_new_tokens"] = check_max_tokens(service.settings, maximum, "max_tokens")
    if body.logprobs is not None:
        options["logprobs"] = body.logprobs

    def ask(prompt: _Prompt, i: int) -> Ask:
        return lambda pipeline: pipeline.submit(prompt=prompt.ids, **options, **body.seed_option(i))

    asks = [ask(prompt, i) for prompt in prompts for i in range(n)] if maximum else []
    replies = await service.start_all(asks, TextReply)
    answer = _Answer(service, pipeline, body, prompts, n, replies)
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        return sse.respond(service, sse.with_errors(answer.events(head, include_usage)), replies)
    (choices,) = await while_connected(request, [answer.choices()], replies)
    return JSONResponse({**head, "choices": choices, "usage": answer.usage()})


def _check(body: CompletionRequest) -> None:
    """Raises ApiError for fields that contradict each other."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError(400, "best_of is not supported: leave it out, or make it n.", param="best_of")
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(
            400,
            "max_tokens is 0: only echo, which scores the prompt, has a use for that.",
            param="max_tokens",
        )
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is for requests with stream: true.", param="stream_options")


@dataclass(frozen=True, slots=True)
class _Prompt:
    ids: list[int]
    n_before: int  # of the ids, those that stand before every prompt and are no part of the given text
    text: str


def _prompt(given: str | list[int], tokenizer: Tokenizer) -> _Prompt:
    if isinstance(given, str):
        return _Prompt(tokenizer.encode(given), len(tokenizer.prefix_ids), given)
    ids = to_token_ids(given, tokenizer.vocab_size, "prompt")
    return _Prompt(ids, 0, tokenizer.decode(ids, skip_special_tokens=False))


class _Answer:
    """The choices of one request: `n` for each of the prompts, in this order."""

    def __init__(
        self,
        service: Service,
        pipeline: Pipeline,
        body: CompletionRequest,
        prompts: Sequence[_Prompt],
        n: int,
        replies: Sequence[TextReply],  # none when no token is asked for
    ) -> None:
        self._service = service
        self._pipeline = pipeline
        self._echo = bool(body.echo)
        self._top = body.logprobs
        self._prompts = prompts
        self._n = n
        self._replies = replies
        self._scores: dict[int, list[TokenLogprob]] = {}  # by the identity of the prompt
        self._writers = [_Writer(pipeline.tokenizer) for _ in range(n * len(prompts))]

    async def choices(self) -> list[dict[str, Any]]:
        return [await self._choice(i) for i in range(len(self._writers))]

    async def _choice(self, i: int) -> dict[str, Any]:
        text, reason = await self._echoed(i), "length"
        if self._replies:
            reply = self._replies[i]
            text += await reply.whole()
            self._writers[i].write(reply.stream.logprobs or [])
            reason = reply.finish_reason
        logprobs = self._writers[i].all if self._top is not None else None
        return {"index": i, "text": text, "logprobs": logprobs, "finish_reason": reason}

    async def events(
        self, head: dict[str, Any], include_usage: bool
    ) -> AsyncGenerator[ServerSentEvent, None]:
        usage = {"usage": None} if include_usage else {}

        def chunk(i: int, text: str, logprobs: Any = None, reason: str | None = None) -> ServerSentEvent:
            choice = {"index": i, "text": text, "logprobs": logprobs, "finish_reason": reason}
            return sse.event({**head, "choices": [choice], **usage})

        for i, writer in enumerate(self._writers):
            if text := await self._echoed(i):
                yield chunk(i, text, writer.take() if self._top is not None else None)
            if not self._replies:
                yield chunk(i, "", reason="length")
        n_written = [0] * len(self._replies)
        async for i, piece in merged(self._replies):
            reply = self._replies[i]
            if piece is None:
                yield chunk(i, "", reason=reply.finish_reason)
                continue
            logprobs = None
            if self._top is not None:
                new = (reply.stream.logprobs or [])[n_written[i] :]
                n_written[i] += len(new)
                self._writers[i].write(new)
                logprobs = self._writers[i].take()
            if piece or logprobs:
                yield chunk(i, piece, logprobs)
        if include_usage:
            yield sse.event({**head, "choices": [], "usage": self.usage()})

    def usage(self) -> dict[str, Any]:
        if self._replies:
            return usage_body(self._replies, self._n)
        return usage_dict(prompt=sum(len(prompt.ids) for prompt in self._prompts))

    async def _echoed(self, i: int) -> str:
        """The text of the prompt when it is to be repeated; writes its logprobs, too."""
        if not self._echo:
            return ""
        prompt, writer = self._prompts[i // self._n], self._writers[i]
        if self._top is not None:
            scores = await self._score(prompt, self._top)
            if prompt.n_before == 0:
                writer.write_unknown(prompt.ids[0])
            writer.write(scores[max(prompt.n_before - 1, 0) :])
        return prompt.text

    async def _score(self, prompt: _Prompt, top: int) -> list[TokenLogprob]:
        if id(prompt) not in self._scores:
            work = partial(score, self._pipeline, prompt.ids, top)
            self._scores[id(prompt)] = await self._service.compute(work)
        return self._scores[id(prompt)]


class _Writer:
    """Logprobs of a text in the form of this endpoint."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._n_taken = 0
        self.all: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }

    def write_unknown(self, token_id: int) -> None:
        """The first token of all, of which the model says nothing."""
        self._write(token_id, None, None)

    def write(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Adds tokens."""
        for one in logprobs:
            chosen = (one.token_id, one.logprob)
            top = {token_text(self._tokenizer, i): as_number(x) for i, x in [*one.top, chosen]}
            self._write(one.token_id, as_number(one.logprob), top)

    def take(self) -> dict[str, list[Any]]:
        """What was added since the last time."""
        start, self._n_taken = self._n_taken, len(self.all["tokens"])
        return {name: values[start:] for name, values in self.all.items()}

    def _write(self, token_id: int, logprob: float | None, top: dict[str, float] | None) -> None:
        self.all["tokens"].append(token_text(self._tokenizer, token_id))
        self.all["token_logprobs"].append(logprob)
        self.all["top_logprobs"].append(top)
        self.all["text_offset"].append(self._offset)
        self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token_id)))
