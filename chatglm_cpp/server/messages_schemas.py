"""Requests of /v1/messages, and how their blocks become messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from .chat_schemas import ToolName
from .errors import ApiError
from .schemas import Strict


class CacheControl(Strict):
    """Accepted; the cache finds what prompts have in common by itself."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Strict):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


Text = str | list[TextBlock]


class ToolResult(Strict):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Text | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ToolUse(Strict):
    type: Literal["tool_use"]
    id: str
    name: ToolName
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: dict[str, Any] | None = None


class ThinkingBlock(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinking(Strict):
    """A thought of another model, which nobody can read."""

    type: Literal["redacted_thinking"]
    data: str


UserBlock = Annotated[TextBlock | ToolResult, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ToolUse | ThinkingBlock | RedactedThinking, Field(discriminator="type")
]


class UserMessage(Strict):
    role: Literal["user"]
    content: str | list[UserBlock]


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: str | list[AssistantBlock]


class Tool(Strict):
    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None


class AutoChoice(Strict):
    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class NoChoice(Strict):
    type: Literal["none"]


class ChosenTool(Strict):
    type: Literal["tool"]
    name: ToolName
    disable_parallel_tool_use: bool | None = None


class Thinking(Strict):
    """Asks for the thought of a reasoning model. How long it thinks is the model's choice."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(None, ge=1024)
    display: Literal["summarized", "omitted"] | None = None


class JsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    format: JsonSchemaFormat | None = None


class Metadata(Strict):
    user_id: str | None = None


class Prompt(Strict):
    """What is asked: the body of /v1/messages/count_tokens."""

    model: str
    messages: Annotated[
        list[Annotated[UserMessage | AssistantMessage, Field(discriminator="role")]], Field(min_length=1)
    ]
    system: Text | None = None
    tools: list[Tool] | None = None
    tool_choice: Annotated[AutoChoice | NoChoice | ChosenTool, Field(discriminator="type")] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None

    def conversation(self) -> list[dict[str, Any]]:
        """The messages as Pipeline.chat takes them.

        Raises:
            ApiError: a result belongs to no call, or the last message is not the user's.
        """
        system = "" if self.system is None else _text(self.system)
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        calls: set[str] = set()
        for i, message in enumerate(self.messages):
            if isinstance(message, AssistantMessage):
                messages.append(_reply(message.content))
                calls.update(call["id"] for call in messages[-1]["tool_calls"])
            else:
                messages += _said(message.content, f"messages[{i}].content", calls)
        if isinstance(self.messages[-1], AssistantMessage):
            raise ApiError(
                400,
                "The last message is the assistant's; this server does not go on with a reply that is begun.",
                param="messages",
            )
        return messages

    def functions(self) -> list[dict[str, Any]]:
        """The tools as chats have them."""
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": tool.input_schema,
                },
            }
            for tool in self.tools or []
        ]


class MessageRequest(Prompt):
    max_tokens: int = Field(ge=1, lt=2**31)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    metadata: Metadata | None = None  # accepted; it says who asks
    service_tier: Literal["auto", "standard_only"] | None = None  # accepted; there is one


def _text(content: Text) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _reply(content: str | Sequence[Any]) -> dict[str, Any]:
    """A message of the assistant."""
    blocks = [TextBlock(type="text", text=content)] if isinstance(content, str) else content
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    return {
        "role": "assistant",
        "content": _text([block for block in blocks if isinstance(block, TextBlock)]),
        "reasoning_content": "\n".join(thoughts) or None,
        "tool_calls": [
            {
                "id": block.id,
                "type": "function",
                "function": {"name": block.name, "arguments": json.dumps(block.input, ensure_ascii=False)},
            }
            for block in blocks
            if isinstance(block, ToolUse)
        ],
    }


def _said(content: str | Sequence[Any], where: str, calls: set[str]) -> list[dict[str, Any]]:
    """A message of the user: results of calls first, and then the text, if any."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    messages: list[dict[str, Any]] = []
    for i, block in enumerate(content):
        if not isinstance(block, ToolResult):
            continue
        place = f"{where}[{i}].tool_use_id"
        if block.tool_use_id not in calls:
            message = f"{place} is {block.tool_use_id!r}, and no tool_use before it has this id."
            raise ApiError(400, message, param=place, code="invalid_value")
        text = _text(block.content or "")
        messages.append({"role": "tool", "content": text, "tool_call_id": block.tool_use_id})
    texts = [block for block in content if isinstance(block, TextBlock)]
    if texts or not messages:
        messages.append({"role": "user", "content": _text(texts)})
    return messages
