"""Messages of a conversation, and the loose forms in which callers may give them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ._C import ChatMessage, CodeMessage, FunctionMessage, InvalidArgument, ToolCallMessage

MessageLike = ChatMessage | Mapping[str, Any]
Conversation = Sequence[MessageLike] | Sequence[str]

# A message of OpenAI's role "tool" says what call it answers, and may name the tool.
_MESSAGE_KEYS = {"role", "content", "tool_calls", "reasoning_content", "tool_call_id", "name"}
_TOOL_CALL_KEYS = {"id", "type", "function", "code", "index"}
_ROLE_TOOL = "tool"


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A call of a tool in a streamed reply. It comes whole: only its end tells that it is one.

    `index` counts the calls of the reply from 0. The other fields are those of ToolCallMessage: by `type`,
    "function" or "code", either `function` or `code` is filled.
    """

    index: int
    id: str
    type: str
    function: FunctionMessage
    code: CodeMessage


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of a reply and how likely the model found it: the natural logarithm of its probability, before
    temperature and all other settings. `top` are the likeliest tokens at that place as (id, logprob), best
    first: as many as the option `logprobs` says."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DeltaMessage:
    """A piece of a reply as it comes.

    `token_ids` are the tokens whose text became complete with this piece: a character can need several
    tokens, so a piece may hold more than one.

    What a reasoning model thinks comes first, as pieces of `reasoning_content` without `content`; the pieces
    of the answer come after them. Only a token that holds the end of the one and the beginning of the other
    makes a piece with both.

    With the option `logprobs` there is a TokenLogprob for each of the `token_ids`. Calls of tools are no part
    of `content`. Where something looks like a call and turns out to be none, its text comes as `content` in a
    piece whose `tool_call_error` says why.
    """

    role: str
    content: str
    token_ids: list[int] = field(default_factory=list)
    reasoning_content: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    tool_call_error: str = ""
    logprobs: list[TokenLogprob] | None = None


def merge_deltas(deltas: Iterable[DeltaMessage]) -> ChatMessage:
    """The whole reply from all of its pieces."""
    content, thought, error = [], [], ""
    calls: list[ToolCallMessage] = []
    logprobs: list[TokenLogprob] = []
    for delta in deltas:
        content.append(delta.content)
        thought.append(delta.reasoning_content)
        error = error or delta.tool_call_error
        logprobs += delta.logprobs or []
        for call in delta.tool_calls:
            if call.type == ToolCallMessage.TYPE_CODE:
                calls.append(ToolCallMessage(code=call.code, id=call.id))
            else:
                calls.append(ToolCallMessage(function=call.function, id=call.id))
    message = ChatMessage(
        role=ChatMessage.ROLE_ASSISTANT,
        content="".join(content),
        tool_calls=calls,
        reasoning_content="".join(thought),
        tool_call_error=error,
    )
    message.logprobs = logprobs or None
    return message


def to_messages(conversation: Conversation) -> list[ChatMessage]:
    """The conversation as ChatMessage objects.

    Takes ChatMessage objects and dicts in any mixture, or plain texts that alternate between user and
    assistant, the user first. OpenAI's role "tool" is another name of "observation"; results that say by
    "tool_call_id" what call they belong to are put into the order of the calls, which is how models tell them
    apart.

    Raises:
        TypeError: something of another type is given.
        InvalidArgument: a dict has unknown keys or lacks one, a text is not valid Unicode, or a
            "tool_call_id" names none of the calls before it.
    """
    if isinstance(conversation, (str, bytes, ChatMessage, Mapping)) or not isinstance(conversation, Iterable):
        raise TypeError(
            f"messages is a {type(conversation).__name__}; give a list of messages, "
            'for example [{"role": "user", "content": "你好"}].'
        )
    items = list(conversation)
    if items and all(isinstance(item, str) for item in items):
        roles = (ChatMessage.ROLE_USER, ChatMessage.ROLE_ASSISTANT)
        return [
            ChatMessage(role=roles[i % 2], content=check_text(text, f"messages[{i}]"))
            for i, text in enumerate(items)
        ]
    messages = [_to_message(item, f"messages[{i}]") for i, item in enumerate(items)]
    return _order_results(messages, [_tool_call_id(item, f"messages[{i}]") for i, item in enumerate(items)])


def _tool_call_id(item: object, where: str) -> str | None:
    value = item.get("tool_call_id") if isinstance(item, Mapping) else None
    return None if value is None else check_text(value, f"{where}.tool_call_id")


def _order_results(messages: list[ChatMessage], answered: list[str | None]) -> list[ChatMessage]:
    """`messages` with the results of each answer's calls in the order of the calls. `answered` are the ids of
    the calls that they belong to."""
    for i, message in enumerate(messages):
        call_ids = [call.id for call in message.tool_calls]
        if not any(call_ids):
            continue
        places = []  # of the results that name their call; another one keeps its place
        for j in range(i + 1, len(messages)):
            if messages[j].role != ChatMessage.ROLE_OBSERVATION:
                break
            if (call_id := answered[j]) is None:
                continue
            if call_id not in call_ids:
                known = ", ".join(map(repr, filter(None, call_ids)))
                raise InvalidArgument(
                    f"messages[{j}].tool_call_id is {call_id!r}, which is no call of the message before; "
                    f"its calls are {known}."
                )
            places.append(j)
        results = sorted(places, key=lambda j: call_ids.index(answered[j] or ""))
        for place, result in zip(places, [messages[j] for j in results], strict=True):
            messages[place] = result
    return messages


def _to_message(item: object, where: str) -> ChatMessage:
    if isinstance(item, ChatMessage):
        if item.role == _ROLE_TOOL:
            return ChatMessage(role=ChatMessage.ROLE_OBSERVATION, content=item.content)
        return item
    if not isinstance(item, Mapping):
        raise TypeError(f"{where} is a {type(item).__name__}; give a ChatMessage or a dict.")
    _check_keys(item, _MESSAGE_KEYS, where)
    if "role" not in item:
        raise InvalidArgument(f'{where} has no "role".')
    calls = item.get("tool_calls") or []
    if isinstance(calls, (str, bytes, Mapping)) or not isinstance(calls, Iterable):
        raise TypeError(f"{where}.tool_calls is a {type(calls).__name__}; give a list of calls.")
    calls = list(calls)
    thought = item.get("reasoning_content")
    # A message that only calls tools, or whose thought was cut, has no content in the OpenAI format.
    content = item.get("content")
    if content is None:
        if not calls and not thought:
            raise InvalidArgument(f'{where} has no "content".')
        content = ""
    role = check_text(item["role"], f"{where}.role")
    return ChatMessage(
        role=ChatMessage.ROLE_OBSERVATION if role == _ROLE_TOOL else role,
        content=check_text(content, f"{where}.content"),
        tool_calls=[_to_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)],
        reasoning_content="" if thought is None else check_text(thought, f"{where}.reasoning_content"),
    )


def _to_tool_call(item: object, where: str) -> ToolCallMessage:
    if isinstance(item, ToolCallMessage):
        return item
    if not isinstance(item, Mapping):
        raise TypeError(f"{where} is a {type(item).__name__}; give a ToolCallMessage or a dict.")
    _check_keys(item, _TOOL_CALL_KEYS, where)
    kind = item.get("type") or (
        ToolCallMessage.TYPE_CODE if "code" in item else ToolCallMessage.TYPE_FUNCTION
    )
    if kind not in (ToolCallMessage.TYPE_FUNCTION, ToolCallMessage.TYPE_CODE):
        raise InvalidArgument(f'{where} has the type {kind!r}; it can be "function" or "code".')
    body = item.get(kind)
    call_id = "" if item.get("id") is None else check_text(item["id"], f"{where}.id")
    if isinstance(body, FunctionMessage):
        return ToolCallMessage(function=body, id=call_id)
    if isinstance(body, CodeMessage):
        return ToolCallMessage(code=body, id=call_id)
    if not isinstance(body, Mapping):
        raise InvalidArgument(f'{where} has the type "{kind}" and no "{kind}" dict.')

    def text(key: str) -> str:
        if key not in body:
            raise InvalidArgument(f'{where}.{kind} has no "{key}".')
        return check_text(body[key], f"{where}.{kind}.{key}")

    if kind == ToolCallMessage.TYPE_CODE:
        return ToolCallMessage(code=CodeMessage(input=text("input")), id=call_id)
    if isinstance(body.get("arguments"), Mapping):
        try:
            body = {**body, "arguments": json.dumps(body["arguments"], ensure_ascii=False, allow_nan=False)}
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{where}.function.arguments cannot be written as JSON: {error}.") from None
    function = FunctionMessage(name=text("name"), arguments=text("arguments"))
    return ToolCallMessage(function=function, id=call_id)


def _check_keys(item: Mapping[str, Any], known: set[str], where: str) -> None:
    # Clients send the fields that they leave empty as null.
    unknown = [key for key, value in item.items() if key not in known and value is not None]
    if unknown:
        raise InvalidArgument(f"{where} has the key {unknown[0]!r}; the keys are {', '.join(sorted(known))}.")


def check_text(value: object, what: str) -> str:
    """`value` itself when it is a text that UTF-8 can carry.

    Raises:
        TypeError: it is no str.
        InvalidArgument: it holds half of a surrogate pair, as undecodable command line arguments do.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} is a {type(value).__name__}; give a str.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{what} holds U+{ord(value[error.start]):04X} at position {error.start}, "
            "half of a surrogate pair and no character; was it read with the wrong encoding?"
        ) from None
    return value


def to_token_ids(ids: Iterable[int], vocab_size: int, what: str = "ids") -> list[int]:
    """Token ids of a list, tuple or one-dimensional integer array.

    Raises:
        TypeError: something else is given.
        InvalidArgument: an id is outside the vocabulary.
    """
    if not isinstance(ids, np.ndarray):
        ids = list(ids)
        for i in ids:  # before numpy, whose integers end at 64 bits
            if isinstance(i, int) and not 0 <= i < vocab_size:
                raise _outside(i, vocab_size, what)
    array = np.asarray(ids)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"{what} must be a flat list of integers.")
    if array.size and not (array.min() >= 0 and array.max() < vocab_size):
        bad = next(int(i) for i in array if not 0 <= i < vocab_size)
        raise _outside(bad, vocab_size, what)
    result: list[int] = array.tolist()
    return result


def _outside(bad: int, vocab_size: int, what: str) -> InvalidArgument:
    return InvalidArgument(f"{what} holds {bad}; the vocabulary has the ids 0 to {vocab_size - 1}.")


def to_dicts(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """The messages in OpenAI's form, which to_messages() takes back."""
    return [_to_dict(message) for message in messages]


def _to_dict(message: ChatMessage) -> dict[str, Any]:
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning_content:
        result["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        result["tool_calls"] = [_call_to_dict(call) for call in message.tool_calls]
    return result


def _call_to_dict(call: ToolCallMessage) -> dict[str, Any]:
    body = (
        {"code": {"input": call.code.input}}
        if call.type == ToolCallMessage.TYPE_CODE
        else {"function": {"name": call.function.name, "arguments": call.function.arguments}}
    )
    return {"id": call.id, "type": call.type, **body}
