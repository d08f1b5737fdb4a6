"""/v1/responses"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from sse_starlette import ServerSentEvent
from starlette.responses import JSONResponse, Response

from . import sse
from .body import StrictRoute
from .calls import ChatCall, ChatReply, start_chat
from .errors import ApiError, to_api_error
from .replies import while_connected
from .response_output import Event, Output
from .response_store import ResponseStore, StoredResponse
from .responses_schemas import ChosenTool, ResponseRequest, to_messages
from .schemas import ERRORS, EVENT_STREAM, check_max_tokens
from .service import Service, service_of

router = APIRouter(tags=["responses"], route_class=StrictRoute)

TheService = Annotated[Service, Depends(service_of)]


class ResponseBody(BaseModel):
    """The fields that always matter; the others repeat the request."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"]
    deleted: bool


def store_of(request: Request) -> ResponseStore:
    store: ResponseStore = request.app.state.responses
    return store


TheStore = Annotated[ResponseStore, Depends(store_of)]


@router.post("/v1/responses", response_model=ResponseBody, responses={**EVENT_STREAM, **ERRORS})
async def create_response(
    body: ResponseRequest, request: Request, service: TheService, store: TheStore
) -> Response:
    """The model's response to a text, or to items of a conversation."""
    model = service.check_model(body.model)
    conversation = _conversation(body, store)
    (reply,) = await start_chat(service, _call(body, service, conversation), [body.seed_option(0)])
    writer = _Writer(body, service, store, model, conversation, reply)
    if body.stream:
        return sse.respond(service, _events(writer), [reply])
    (response,) = await while_connected(request, [writer.whole()], [reply])
    return JSONResponse(response)


@router.get("/v1/responses/{response_id}", response_model=ResponseBody, responses=ERRORS)
async def get_response(response_id: str, store: TheStore) -> Response:
    """A response that is kept."""
    return JSONResponse(_stored(store, response_id, "response_id").body)


@router.delete("/v1/responses/{response_id}", response_model=DeletedResponse, responses=ERRORS)
async def delete_response(response_id: str, store: TheStore) -> Response:
    """Forgets a response."""
    if not store.remove(response_id):
        _stored(store, response_id, "response_id")
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


def _stored(store: ResponseStore, response_id: str, param: str) -> StoredResponse:
    found = store.get(response_id)
    if found is None:
        message = f"There is no response {response_id!r}: it was not stored, or forgotten since."
        raise ApiError(404, message, param=param, code="not_found")
    return found


def _conversation(body: ResponseRequest, store: ResponseStore) -> list[dict[str, Any]]:
    """The conversation that the response answers, without the instructions."""
    earlier: list[dict[str, Any]] = []
    if body.previous_response_id is not None:
        earlier = _stored(store, body.previous_response_id, "previous_response_id").conversation
    if isinstance(body.input, str):
        return [*earlier, {"role": "user", "content": body.input}]
    return to_messages(body.input, earlier)


def _call(body: ResponseRequest, service: Service, conversation: list[dict[str, Any]]) -> ChatCall:
    settings = service.settings
    if body.tool_choice not in (None, "none") and not body.tools:
        raise ApiError(400, "tool_choice is for requests with tools.", param="tool_choice")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is for requests with stream: true.", param="stream_options")
    options = body.sampling_options(settings)
    options["max_new_tokens"] = check_max_tokens(settings, body.max_output_tokens, "max_output_tokens")
    if "message.output_text.logprobs" in (body.include or ()):
        options["logprobs"] = True if body.top_logprobs is None else body.top_logprobs
    elif body.top_logprobs is not None:
        message = 'top_logprobs is for requests that include "message.output_text.logprobs".'
        raise ApiError(400, message, param="top_logprobs")
    if body.text is not None and body.text.format is not None:
        form = body.text.format.model_dump(by_alias=True, exclude_none=True)
        kind = form.pop("type")
        options["response_format"] = {"type": kind, kind: form} if form else {"type": kind}
    if body.truncation == "auto":
        options["when_full"] = "drop_oldest"
    instructions = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    choice = body.tool_choice or "auto"
    return ChatCall(
        messages=[*instructions, *conversation],
        options=options,
        tools=[_tool(tool) for tool in body.model_dump(exclude_none=True).get("tools", ())],
        tool_choice={"name": choice.name} if isinstance(choice, ChosenTool) else choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A function as chats have it. Clients ask for `strict` by default; the response says whether it holds,
    which it does where a call is asked for."""
    function = {name: tool[name] for name in ("name", "description", "parameters") if name in tool}
    return {"type": "function", "function": function}


class _Writer:
    """Writes one response."""

    def __init__(
        self,
        body: ResponseRequest,
        service: Service,
        store: ResponseStore,
        model: str,
        conversation: list[dict[str, Any]],
        reply: ChatReply,
    ) -> None:
        self._output = Output(service.pipeline.tokenizer)
        self._store = store if body.store is not False else None
        self._conversation = conversation
        self._reply = reply
        given = body.model_dump(by_alias=True, exclude_none=True)
        settings = service.settings
        forced = body.tool_choice not in (None, "auto", "none")
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "background": False,
            "error": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "store": self._store is not None,
            "temperature": given.get("temperature", settings.temperature),
            "text": given.get("text", {"format": {"type": "text"}}),
            "tool_choice": given.get("tool_choice", "auto"),
            "tools": [{**tool, "strict": forced} for tool in given.get("tools", ())],
            "top_p": given.get("top_p", settings.top_p),
            "truncation": body.truncation or "disabled",
        }

    def response(
        self, status: str, incomplete: dict[str, Any] | None = None, error: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The response as it is now."""
        usage = None if status == "in_progress" else self._usage()
        return {
            **self._head,
            "status": status,
            "error": error,
            "incomplete_details": incomplete,
            "output": list(self._output.items) if usage else [],
            "usage": usage,
        }

    async def events(self) -> AsyncGenerator[Event, None]:
        """Events between those of the beginning and the end; the last one has the response."""
        async for delta in self._reply:
            for event in self._output.put(delta):
                yield event
        complete = self._reply.finish_reason != "length"
        for event in self._output.finish(complete):
            yield event
        if complete:
            response = self.response("completed")
        else:
            response = self.response("incomplete", incomplete={"reason": "max_output_tokens"})
        if self._store is not None:
            self._store.put(StoredResponse(response, [*self._conversation, self._output.message()]))
        yield {"type": f"response.{response['status']}", "response": response}

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self.events()) as events:
            async for event in events:
                last = event
        response: dict[str, Any] = last["response"]
        return response

    def _usage(self) -> dict[str, Any]:
        usage = self._reply.usage
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.new_tokens,
            "output_tokens_details": {"reasoning_tokens": self._reply.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.new_tokens,
        }


async def _events(writer: _Writer) -> AsyncGenerator[ServerSentEvent, None]:
    """The stream of a response. An error in the middle ends it with response.failed."""
    number = -1

    def numbered(event: Event) -> ServerSentEvent:
        nonlocal number
        number += 1
        return sse.event({**event, "sequence_number": number}, event["type"])

    for kind in ("response.created", "response.in_progress"):
        yield numbered({"type": kind, "response": writer.response("in_progress")})
    try:
        async with aclosing(writer.events()) as events:
            async for event in events:
                yield numbered(event)
    except Exception as error:
        found = to_api_error(error)
        failure = {"code": found.code or "server_error", "message": found.message}
        yield numbered({"type": "response.failed", "response": writer.response("failed", error=failure)})
