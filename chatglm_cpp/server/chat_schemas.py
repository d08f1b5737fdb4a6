"""Requests and answers of /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from .schemas import Sampling, StreamOptions, Strict, Unused, UsageBody

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]


class TextPart(Strict):
    type: Literal["text"]
    text: str


Content = str | list[TextPart]


def text_of(content: Content | None) -> str | None:
    """The text of a message's content."""
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Strict):
    name: ToolName
    arguments: str


class CalledCode(Strict):
    input: str


class FunctionCall(Strict):
    id: str
    type: Literal["function"]
    function: CalledFunction


class CodeCall(Strict):
    """A call of the code interpreter of ChatGLM3 and GLM-4, which OpenAI's API does not have."""

    id: str
    type: Literal["code"]
    code: CalledCode


ToolCall = Annotated[FunctionCall | CodeCall, Field(discriminator="type")]


class AssistantMessage(Strict):
    """An earlier reply. The last four fields are accepted, because clients send back what they got."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None
    refusal: str | None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None


class ToolMessage(Strict):
    role: Literal["tool"]
    content: Content
    tool_call_id: str | None = None
    name: str | None = None


def to_pipeline(message: SystemMessage | UserMessage | AssistantMessage | ToolMessage) -> dict[str, Any]:
    """A message as Pipeline.chat takes it."""
    role = "system" if message.role == "developer" else message.role
    result: dict[str, Any] = {"role": role, "content": text_of(message.content)}
    if isinstance(message, AssistantMessage):
        result["reasoning_content"] = message.reasoning_content
        result["tool_calls"] = [call.model_dump() for call in message.tool_calls or []]
    elif isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    return result


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionDescription(Strict):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Strict):
    type: Literal["function"]
    function: FunctionDescription


class CodeTool(Strict):
    """The code interpreter of ChatGLM3 and GLM-4."""

    type: Literal["python", "code_interpreter"]


Tool = Annotated[FunctionTool | CodeTool, Field(discriminator="type")]


class ChosenName(Strict):
    name: ToolName


class ChosenTool(Strict):
    type: Literal["function"]
    function: ChosenName


class TextFormat(Strict):
    type: Literal["text"]


class JsonFormat(Strict):
    type: Literal["json_object"]


class NamedSchema(Strict):
    name: str
    description: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatRequest(Sampling, Unused):
    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    n: int | None = Field(None, ge=1, le=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    when_full: Literal["error", "drop_oldest", "keep_head"] | None = None  # see Pipeline.chat


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class ReplyMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(BaseModel):
    index: int
    message: ReplyMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
