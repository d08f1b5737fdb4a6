"""From what a chat protocol asks for to replies of the pipeline.

The endpoints of every chat protocol build on it: they make a ChatCall of their request, and write the
ChatReply in their own words."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from .._C import ChatMessage, CodeMessage, FunctionMessage, ToolCallMessage
from ..chat_prompt import end_of_thought
from ..json_schema import check_schema
from ..messages import DeltaMessage, ToolCallDelta, merge_deltas
from ..pipeline import Pipeline
from ..stream import Stream
from ..structured import WHITESPACE
from .errors import ApiError
from .metrics import Metrics
from .replies import Reply
from .service import Ask, Service


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One question to the model.

    Args:
        messages: dicts as Pipeline.chat takes them.
        options: other options of Pipeline.chat, without max_length and max_time, which the server sets.
        tools: what the model may call, in OpenAI's form.
        tool_choice: "auto", "none", "required", or {"name": ...} for one of the tools.
        parallel_tool_calls: whether one reply may have several calls.
    """

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, str] = "auto"
    parallel_tool_calls: bool = True


class ChatReply(Reply[DeltaMessage, ChatMessage]):
    """A reply of a chat, as pieces of a message. Calls of tools come whole, each in one piece."""

    def __init__(self, stream: Stream[Any, Any], metrics: Metrics, one_call: bool = False) -> None:
        super().__init__(stream, metrics)
        self._one_call = one_call
        self._n_calls = 0
        self._reasoning_tokens = 0

    @property
    def finish_reason(self) -> str:
        """ "stop", "length" or "tool_calls"."""
        reason = super().finish_reason
        return "tool_calls" if self._n_calls and reason == "stop" else reason

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the thought before the answer, so far."""
        return self._reasoning_tokens

    async def __anext__(self) -> DeltaMessage:
        delta = await super().__anext__()
        if delta.reasoning_content and not delta.content:
            self._reasoning_tokens += len(delta.token_ids)
        if delta.tool_calls and self._one_call:
            delta = replace(delta, tool_calls=delta.tool_calls[:1])
            self.end()
        self._n_calls += len(delta.tool_calls)
        return delta

    async def whole(self) -> ChatMessage:
        return merge_deltas([delta async for delta in self])


class ForcedReply(ChatReply):
    """A reply that is nothing but a call of a tool: the pipeline writes its name, a line break and its
    arguments. When the tokens run out before its end, what there is comes as content."""

    def __init__(self, stream: Stream[Any, Any], metrics: Metrics) -> None:
        super().__init__(stream, metrics)
        self._text = ""
        self._given = False

    async def __anext__(self) -> DeltaMessage:
        if self._given:
            raise StopAsyncIteration
        while True:
            try:
                self._text += await Reply.__anext__(self)  # type: ignore[operator]
            except StopAsyncIteration:
                break
        self._given = True
        if self.usage.finish_reason != "stop":
            return DeltaMessage(ChatMessage.ROLE_ASSISTANT, self._text, logprobs=self._stream.logprobs)
        name, _, arguments = self._text.partition("\n")
        self._n_calls = 1
        call = ToolCallDelta(
            index=0,
            id=f"call_{uuid.uuid4().hex}",
            type=ToolCallMessage.TYPE_FUNCTION,
            function=FunctionMessage(name, arguments),
            code=CodeMessage(""),
        )
        return DeltaMessage(ChatMessage.ROLE_ASSISTANT, "", tool_calls=[call], logprobs=self._stream.logprobs)


async def start_chat(
    service: Service, call: ChatCall, seeds: Sequence[Mapping[str, int]] = ({},)
) -> list[ChatReply]:
    """Begins one reply for each of `seeds`, options of their own. Close them in the end.

    Raises what Pipeline.chat raises, and ApiError.
    """
    options = {**service.limits, **call.options}
    if call.tool_choice not in ("auto", "none"):
        return await service.start_all(_forced(call, options, seeds), ForcedReply)
    tools = call.tools if call.tool_choice == "auto" else ()

    def ask(seed: Mapping[str, int]) -> Ask:
        return lambda pipeline: pipeline.submit(call.messages, tools=tools, **options, **seed)

    make = partial(ChatReply, one_call=not call.parallel_tool_calls)
    return await service.start_all([ask(seed) for seed in seeds], make)


def _forced(call: ChatCall, options: dict[str, Any], seeds: Sequence[Mapping[str, int]]) -> list[Ask]:
    """What asks for nothing but a call of a tool. Raises ApiError for options that leave no place for one."""
    grammar = _grammar(call)
    for name in ("response_format", "regex", "grammar", "stop"):
        if options.pop(name, None):
            raise ApiError(400, f"tool_choice asks for a call, which leaves no place for {name}.", param=name)
    if options.pop("when_full", "error") != "error":
        raise ApiError(
            400, "when_full does not go with a tool_choice that asks for a call.", param="when_full"
        )

    def ask(seed: Mapping[str, int]) -> Ask:
        def submit(pipeline: Pipeline) -> Stream[Any, Any]:
            prompt = pipeline.tokenizer.apply_chat_template(call.messages, tools=call.tools)
            prompt += end_of_thought(pipeline.tokenizer, prompt)
            return pipeline.submit(prompt=prompt, grammar=grammar, **options, **seed)

        return submit

    return [ask(seed) for seed in seeds]


def _grammar(call: ChatCall) -> str:
    """Lark's notation for a call of one of the tools, in the form that GLM-4 writes calls in."""
    functions = {
        tool["function"]["name"]: tool["function"] for tool in call.tools if tool["type"] == "function"
    }
    if isinstance(call.tool_choice, Mapping):
        name = call.tool_choice["name"]
        if name not in functions:
            raise ApiError(
                400, f"tool_choice names {name!r}, which is none of the tools.", param="tool_choice"
            )
        functions = {name: functions[name]}
    if not functions:
        raise ApiError(
            400, "tool_choice asks for a call, and there are no functions in tools.", param="tool_choice"
        )
    rules = [f"start: {' | '.join(f'call{i}' for i in range(len(functions)))}"]
    for i, (name, function) in enumerate(functions.items()):
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        check_schema(schema, f"the parameters of {name}")
        whitespace = {"x-guidance": {"whitespace_pattern": WHITESPACE}}
        rules.append(f'call{i}: "{name}\\n" arguments{i}')
        rules.append(f"arguments{i}: %json {json.dumps({**schema, **whitespace}, ensure_ascii=False)}")
    return "\n".join(rules)
