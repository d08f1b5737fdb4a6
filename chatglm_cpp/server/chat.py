"""/v1/chat/completions"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from sse_starlette import ServerSentEvent
from starlette.responses import JSONResponse, Response

from .._C import ToolCallMessage
from ..messages import DeltaMessage, ToolCallDelta
from ..tokenizer import Tokenizer
from . import sse
from .body import StrictRoute
from .calls import ChatCall, ChatReply, start_chat
from .chat_schemas import ChatCompletion, ChatRequest, ChosenTool, to_pipeline
from .errors import ApiError
from .logprobs import chat_logprobs
from .replies import merged, while_connected
from .schemas import ERRORS, EVENT_STREAM, check_choices, check_max_tokens
from .service import Service, service_of
from .usage import usage_body

router = APIRouter(tags=["chat"], route_class=StrictRoute)

TheService = Annotated[Service, Depends(service_of)]


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses={**EVENT_STREAM, **ERRORS})
async def create_chat_completion(body: ChatRequest, request: Request, service: TheService) -> Response:
    """The assistant's reply to a conversation."""
    model = service.check_model(body.model)
    tokenizer = service.pipeline.tokenizer
    call = _call(body, service)
    n = body.n or 1
    check_choices(service.settings, n, "n")
    replies = await start_chat(service, call, [body.seed_option(i) for i in range(n)])
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
    if body.stream:
        include_usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _events({**head, "object": "chat.completion.chunk"}, replies, tokenizer, include_usage)
        return sse.respond(service, sse.with_errors(events), replies)
    messages = await while_connected(request, [reply.whole() for reply in replies], replies)
    choices = [
        {
            "index": i,
            "message": message_body(message),
            "logprobs": chat_logprobs(message.logprobs, tokenizer),
            "finish_reason": reply.finish_reason,
        }
        for i, (message, reply) in enumerate(zip(messages, replies, strict=True))
    ]
    return JSONResponse(
        {
            **head,
            "object": "chat.completion",
            "choices": choices,
            "usage": usage_body(replies, n=len(replies)),
        }
    )


def _call(body: ChatRequest, service: Service) -> ChatCall:
    """The question to the model. Raises ApiError for fields that contradict each other."""
    settings = service.settings
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens are given: send one.", param="max_tokens")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is for requests with stream: true.", param="stream_options")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs is for requests with logprobs: true.", param="top_logprobs")
    if body.tool_choice not in (None, "none") and not body.tools:
        raise ApiError(400, "tool_choice is for requests with tools.", param="tool_choice")
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    options = body.sampling_options(settings)
    options["max_new_tokens"] = check_max_tokens(settings, getattr(body, name), name)
    if body.logprobs:
        options["logprobs"] = True if body.top_logprobs is None else body.top_logprobs
    if body.response_format is not None:
        options["response_format"] = body.response_format.model_dump(by_alias=True, exclude_none=True)
    if body.when_full is not None:
        options["when_full"] = body.when_full
    choice = body.tool_choice or "auto"
    forced = isinstance(choice, ChosenTool) or choice == "required"
    for i, tool in enumerate(body.tools or []):
        if tool.type == "function" and tool.function.strict and not forced:
            raise ApiError(
                400,
                "strict holds only where tool_choice is 'required' or names a function; leave it out.",
                param=f"tools[{i}].function.strict",
            )
    return ChatCall(
        messages=[to_pipeline(message) for message in body.messages],
        options=options,
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools or []],
        tool_choice={"name": choice.function.name} if isinstance(choice, ChosenTool) else choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )


async def _events(
    head: dict[str, Any], replies: Sequence[ChatReply], tokenizer: Tokenizer, include_usage: bool
) -> AsyncGenerator[ServerSentEvent, None]:
    usage = {"usage": None} if include_usage else {}

    def chunk(
        i: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None
    ) -> ServerSentEvent:
        choice = {"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return sse.event({**head, "choices": [choice], **usage})

    for i in range(len(replies)):
        yield chunk(i, {"role": "assistant", "content": ""})
    async for i, delta in merged(replies):
        if delta is None:
            yield chunk(i, {}, reason=replies[i].finish_reason)
        elif (body := _delta_body(delta)) or delta.logprobs:
            yield chunk(i, body, chat_logprobs(delta.logprobs, tokenizer))
    if include_usage:
        yield sse.event({**head, "choices": [], "usage": usage_body(replies, n=len(replies))})


def _delta_body(delta: DeltaMessage) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if delta.reasoning_content:
        body["reasoning_content"] = delta.reasoning_content
    if delta.content:
        body["content"] = delta.content
    if delta.tool_calls:
        body["tool_calls"] = [{"index": call.index, **call_body(call)} for call in delta.tool_calls]
    return body


def message_body(message: Any) -> dict[str, Any]:
    """A whole reply as OpenAI's API has it."""
    body: dict[str, Any] = {"role": "assistant", "content": message.content, "refusal": None}
    if message.reasoning_content:
        body["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [call_body(call) for call in message.tool_calls]
    return body


def call_body(call: ToolCallMessage | ToolCallDelta) -> dict[str, Any]:
    """A call of a tool as OpenAI's API has it, and one of the code interpreter, which it does not have."""
    if call.type == ToolCallMessage.TYPE_CODE:
        return {"id": call.id, "type": "code", "code": {"input": call.code.input}}
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}
