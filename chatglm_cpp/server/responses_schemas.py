"""Requests of /v1/responses, and how their items become messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .chat_schemas import JsonFormat, TextFormat, ToolName
from .errors import ApiError
from .schemas import Sampling, Strict, Unused

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Strict):
    type: Literal["input_text", "text"]
    text: str


class OutputText(Strict):
    """A part of an earlier reply. Clients send back what they got."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(Strict):
    type: Literal["refusal"]
    refusal: str


class InputMessage(Strict):
    type: Literal["message"] | None = None
    role: Literal["user", "system", "developer"]
    content: str | list[InputText]
    id: str | None = None
    status: Status | None = None


class ReplyMessage(Strict):
    type: Literal["message"] | None = None
    role: Literal["assistant"]
    content: str | list[Annotated[OutputText | InputText | Refusal, Field(discriminator="type")]]
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCall(Strict):
    type: Literal["function_call"]
    call_id: str
    name: ToolName
    arguments: str
    id: str | None = None
    status: Status | None = None


class FunctionOutput(Strict):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    status: Status | None = None


class ThoughtText(Strict):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class Thought(Strict):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ThoughtText] | None = None
    content: list[ThoughtText] | None = None
    encrypted_content: None = None
    status: Status | None = None


def _kind(value: Any) -> str:
    """What an item is. A message need not say so."""
    found: Any = value if isinstance(value, dict) else vars(value)
    kind = found.get("type") or "message"
    return "reply" if kind == "message" and found.get("role") == "assistant" else str(kind)


Item = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[ReplyMessage, Tag("reply")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionOutput, Tag("function_call_output")]
    | Annotated[Thought, Tag("reasoning")],
    Discriminator(_kind),
]


class FunctionTool(Strict):
    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(Strict):
    type: Literal["function"]
    name: ToolName


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    name: str
    description: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class TextOptions(Strict):
    format: Annotated[TextFormat | JsonFormat | JsonSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class StreamOptions(Strict):
    include_obfuscation: bool | None = None  # accepted; nothing is obfuscated


class ResponseRequest(Sampling, Unused):
    model: str | None = None
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: int | None = Field(None, ge=1, lt=2**31)
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    previous_response_id: str | None = None
    store: bool | None = None  # type: ignore[assignment]
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    background: Literal[False] | None = None


def to_messages(items: Sequence[Any], earlier: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """The conversation `earlier` and then the items, as Pipeline.chat takes it.

    The thought, the text and the calls of one reply, which are items of their own, become one message.

    Raises:
        ApiError: an output belongs to no call.
    """
    messages = list(earlier)
    calls = {call["id"] for message in earlier for call in message.get("tool_calls", ())}
    turn: dict[str, Any] | None = None  # the reply that the items before belong to
    for i, item in enumerate(items):
        if isinstance(item, InputMessage | FunctionOutput):
            turn = None
            messages.append(_said(item, f"input[{i}]", calls))
            continue
        if turn is None or _is_next(item, turn):
            turn = {"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": []}
            messages.append(turn)
        if isinstance(item, Thought):
            turn["reasoning_content"] = "".join(part.text for part in item.content or item.summary or [])
        elif isinstance(item, FunctionCall):
            calls.add(item.call_id)
            function = {"name": item.name, "arguments": item.arguments}
            turn["tool_calls"].append({"id": item.call_id, "type": "function", "function": function})
        else:
            turn["content"] = _text(item.content)
    return messages


def _said(item: InputMessage | FunctionOutput, where: str, calls: set[str]) -> dict[str, Any]:
    if isinstance(item, InputMessage):
        role = "system" if item.role == "developer" else item.role
        return {"role": role, "content": _text(item.content)}
    if item.call_id not in calls:
        message = f"{where}.call_id is {item.call_id!r}, and no function_call before it has this call_id."
        raise ApiError(400, message, param=f"{where}.call_id", code="invalid_value")
    return {"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id}


def _is_next(item: Any, turn: dict[str, Any]) -> bool:
    """Whether an item of a reply belongs to another reply than `turn`."""
    if isinstance(item, FunctionCall):
        return False
    return bool(turn["content"] or turn["tool_calls"]) or isinstance(item, Thought)


def _text(content: str | Sequence[Any]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, Refusal) else part.text for part in content)
