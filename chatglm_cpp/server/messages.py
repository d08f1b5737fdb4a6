"""/v1/messages, the protocol of Anthropic's clients."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from sse_starlette import ServerSentEvent
from starlette.responses import JSONResponse, Response

from ..messages import DeltaMessage
from ..tokenizer import Tokenizer
from . import sse
from .body import StrictRoute
from .calls import ChatCall, ChatReply, start_chat
from .errors import ApiError, to_api_error, use_shape
from .messages_schemas import ChosenTool, MessageRequest, NoChoice, Prompt
from .replies import while_connected
from .schemas import EVENT_STREAM, check_max_tokens
from .service import Service, service_of

router = APIRouter(tags=["messages"], route_class=StrictRoute)

TheService = Annotated[Service, Depends(service_of)]

Event = dict[str, Any]

_ERROR_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ErrorBody(BaseModel):
    type: str
    message: str


class ErrorResponse(BaseModel):
    type: Literal["error"]
    error: ErrorBody


class MessageBody(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: dict[str, int]


class TokenCount(BaseModel):
    input_tokens: int


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": kind}
    for status, kind in {**_ERROR_KINDS, 500: "api_error"}.items()
}


def _error_shape(error: ApiError) -> dict[str, Any]:
    kind = _ERROR_KINDS.get(error.status_code)
    if kind is None:
        kind = "invalid_request_error" if error.status_code < 500 else "api_error"
    return {"type": "error", "error": {"type": kind, "message": error.message}}


use_shape("/v1/messages", _error_shape)


@router.post("/v1/messages", response_model=MessageBody, responses={**EVENT_STREAM, **_ERRORS})
async def create_message(body: MessageRequest, request: Request, service: TheService) -> Response:
    """The assistant's reply to a conversation, in Anthropic's protocol."""
    model = service.check_model(body.model)
    (reply,) = await start_chat(service, _call(body, service))
    writer = _Writer(body, service.pipeline.tokenizer, model, reply)
    if body.stream:
        return sse.respond(service, _events(writer), [reply])
    (message,) = await while_connected(request, [writer.whole()], [reply])
    return JSONResponse(message)


@router.post("/v1/messages/count_tokens", response_model=TokenCount, responses=_ERRORS)
async def count_tokens(body: Prompt, service: TheService) -> Response:
    """The tokens of a prompt."""
    service.check_model(body.model)
    messages, tools = body.conversation(), _offered(body)
    tokenizer = service.pipeline.tokenizer
    ids = await service.run(lambda: tokenizer.apply_chat_template(messages, tools=tools))
    return JSONResponse({"input_tokens": len(ids)})


def _offered(body: Prompt) -> list[dict[str, Any]]:
    return [] if isinstance(body.tool_choice, NoChoice) else body.functions()


def _call(body: MessageRequest, service: Service) -> ChatCall:
    settings = service.settings
    options: dict[str, Any] = {
        "max_new_tokens": check_max_tokens(settings, body.max_tokens, "max_tokens"),
        "temperature": settings.temperature if body.temperature is None else body.temperature,
        "top_p": settings.top_p if body.top_p is None else body.top_p,
        "top_k": body.top_k or 0,
        "stop": body.stop_sequences,
    }
    if body.output_config is not None and body.output_config.format is not None:
        schema = {"name": "output", "schema": body.output_config.format.schema_}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    choice: Any = "auto"
    if isinstance(body.tool_choice, ChosenTool):
        choice = {"name": body.tool_choice.name}
    elif body.tool_choice is not None:
        choice = {"auto": "auto", "any": "required", "none": "none"}[body.tool_choice.type]
    if choice not in ("auto", "none") and not body.tools:
        raise ApiError(400, "tool_choice is for requests with tools.", param="tool_choice")
    return ChatCall(
        messages=body.conversation(),
        options=options,
        tools=_offered(body),
        tool_choice=choice,
        parallel_tool_calls=not getattr(body.tool_choice, "disable_parallel_tool_use", False),
    )


class _Writer:
    """Writes one message: its blocks, and the events that tell how they grow."""

    def __init__(self, body: MessageRequest, tokenizer: Tokenizer, model: str, reply: ChatReply) -> None:
        self._tokenizer = tokenizer
        self._reply = reply
        self._stops = body.stop_sequences or []
        # Clients that ask for no thought would not know what to do with one.
        self._thinks = body.thinking is not None and body.thinking.type != "disabled"
        self._hides_thought = body.thinking is not None and body.thinking.display == "omitted"
        self._head = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._blocks: list[dict[str, Any]] = []
        self._open = False  # whether the last block still grows
        self._ids: list[int] = []  # tokens of the reply

    def message(self) -> dict[str, Any]:
        """The message as it is now."""
        return {
            **self._head,
            "content": list(self._blocks),
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self.usage(),
        }

    def usage(self) -> dict[str, int]:
        usage = self._reply.usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.new_tokens,
        }

    async def events(self) -> AsyncGenerator[Event, None]:
        """Events from the first block to the end of the last one."""
        async for delta in self._reply:
            self._ids += delta.token_ids
            for event in self._put(delta):
                yield event
        for event in self._close():
            yield event

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return {**self.message(), **self.end()}

    def end(self) -> dict[str, str | None]:
        """Why the reply ended."""
        reason = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}
        stop = self._stop_sequence() if self._reply.finish_reason == "stop" else None
        return {
            "stop_reason": reason[self._reply.finish_reason] if stop is None else "stop_sequence",
            "stop_sequence": stop,
        }

    def _stop_sequence(self) -> str | None:
        """The one that ended the reply: the first that its last token completed."""
        text = self._tokenizer.decode(self._ids)
        # The token before may end in the middle of a character.
        known = len(self._tokenizer.decode(self._ids[:-1]).rstrip("\N{REPLACEMENT CHARACTER}"))
        places = {stop: text.find(stop, max(0, known - len(stop) + 1)) for stop in self._stops if stop}
        found = [stop for stop, place in places.items() if place >= 0]
        return min(found, key=lambda stop: places[stop], default=None)

    def _put(self, delta: DeltaMessage) -> Iterator[Event]:
        if delta.reasoning_content and self._thinks:
            thought = "" if self._hides_thought else delta.reasoning_content
            yield from self._grow("thinking", "thinking", thought)
        if delta.content:
            yield from self._grow("text", "text", delta.content)
        for call in delta.tool_calls:
            yield from self._close()
            block = {"type": "tool_use", "id": call.id, "name": call.function.name}
            yield self._start({**block, "input": {}})
            arguments = _arguments(call.function.arguments)
            part = {"type": "input_json_delta", "partial_json": json.dumps(arguments, ensure_ascii=False)}
            yield {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": part}
            yield from self._close()
            self._blocks[-1] = {**block, "input": arguments}

    def _grow(self, kind: str, key: str, text: str) -> Iterator[Event]:
        if not self._open or self._blocks[-1]["type"] != kind:
            yield from self._close()
            yield self._start({"type": kind, key: "", **({"signature": ""} if kind == "thinking" else {})})
        if text:
            block = self._blocks[-1]
            block[key] += text
            part = {"type": f"{kind}_delta", key: text}
            yield {"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": part}

    def _start(self, block: dict[str, Any]) -> Event:
        self._blocks.append(block)
        self._open = True
        return {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": dict(block)}

    def _close(self) -> Iterator[Event]:
        if self._open:
            self._open = False
            yield {"type": "content_block_stop", "index": len(self._blocks) - 1}


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call, which the protocol has as an object."""
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = text
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}


async def _events(writer: _Writer) -> AsyncGenerator[ServerSentEvent, None]:
    """The stream of a message. An error in the middle is the last event."""

    def named(event: Event) -> ServerSentEvent:
        return sse.event(event, event["type"])

    yield named({"type": "message_start", "message": writer.message()})
    yield named({"type": "ping"})
    try:
        async with aclosing(writer.events()) as events:
            async for event in events:
                yield named(event)
    except Exception as error:
        yield named(_error_shape(to_api_error(error)))
        return
    yield named({"type": "message_delta", "delta": writer.end(), "usage": writer.usage()})
    yield named({"type": "message_stop"})
