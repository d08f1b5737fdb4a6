"""The output of a response: items, and the events that tell how they grow."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from ..messages import DeltaMessage, ToolCallDelta
from ..tokenizer import Tokenizer
from .logprobs import chat_logprobs

Event = dict[str, Any]

# Kinds of items that have text: the beginning of their ids, the type of their part, and of its events.
_TEXTS = {
    "reasoning": ("rs", "reasoning_text", "response.reasoning_text"),
    "message": ("msg", "output_text", "response.output_text"),
}


class Output:
    """Makes items of the pieces of a reply.

    `put` and `finish` give the events of a stream, without their numbers; `items` are what they amount to.
    Whole responses are made by the same steps, with the events left out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.items: list[dict[str, Any]] = []
        self._tokenizer = tokenizer
        self._part: dict[str, Any] | None = None  # of the last item, while it grows

    def put(self, delta: DeltaMessage) -> Iterator[Event]:
        if delta.reasoning_content:
            yield from self._grow("reasoning", delta.reasoning_content, [])
        if delta.content:
            logprobs = chat_logprobs(delta.logprobs, self._tokenizer)
            yield from self._grow("message", delta.content, logprobs["content"] if logprobs else [])
        for call in delta.tool_calls:
            yield from self._call(call)

    def finish(self, complete: bool) -> Iterator[Event]:
        """The end of the reply; `complete` is False when its tokens ran out."""
        if not self.items:
            yield from self._grow("message", "", [])
        yield from self._close("completed" if complete else "incomplete")

    def message(self) -> dict[str, Any]:
        """The reply as a message of a conversation, as Pipeline.chat takes it."""
        message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}
        for item in self.items:
            if item["type"] == "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                message["tool_calls"].append(call)
            else:
                key = "content" if item["type"] == "message" else "reasoning_content"
                text = "".join(part["text"] for part in item["content"])
                message[key] = message.get(key, "") + text
        return message

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    def _grow(self, kind: str, text: str, logprobs: list[Any]) -> Iterator[Event]:
        prefix, part_type, event = _TEXTS[kind]
        if self._part is None or self.items[-1]["type"] != kind:
            yield from self._close("completed")
            yield from self._open(kind, prefix, part_type)
        assert self._part is not None
        if not text:
            return
        self._part["text"] += text
        more: Event = {}
        if kind == "message":
            self._part["logprobs"] += logprobs
            more = {"logprobs": logprobs}
        yield {"type": f"{event}.delta", **self._place, "content_index": 0, "delta": text, **more}

    def _open(self, kind: str, prefix: str, part_type: str) -> Iterator[Event]:
        item = {"id": f"{prefix}_{uuid.uuid4().hex}", "type": kind, "status": "in_progress", "content": []}
        item.update({"role": "assistant"} if kind == "message" else {"summary": []})
        yield from self._add(item)
        self._part = {"type": part_type, "text": ""}
        if kind == "message":
            self._part.update({"annotations": [], "logprobs": []})
        yield {
            "type": "response.content_part.added",
            **self._place,
            "content_index": 0,
            "part": _copy(self._part),
        }

    def _close(self, status: str) -> Iterator[Event]:
        if self._part is None:
            return
        part, self._part = self._part, None
        item = self.items[-1]
        place = {**self._place, "content_index": 0}
        more = {"logprobs": part["logprobs"]} if item["type"] == "message" else {}
        yield {"type": f"{_TEXTS[item['type']][2]}.done", **place, "text": part["text"], **more}
        yield {"type": "response.content_part.done", **place, "part": part}
        item.update(content=[part], status=status)
        yield self._done(item)

    def _call(self, call: ToolCallDelta) -> Iterator[Event]:
        yield from self._close("completed")
        arguments = call.function.arguments
        item = {
            "id": f"fc_{uuid.uuid4().hex}",
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.function.name,
            "arguments": "",
        }
        yield from self._add(item)
        event = "response.function_call_arguments"
        yield {"type": f"{event}.delta", **self._place, "delta": arguments}
        yield {"type": f"{event}.done", **self._place, "name": item["name"], "arguments": arguments}
        item.update(arguments=arguments, status="completed")
        yield self._done(item)

    def _add(self, item: dict[str, Any]) -> Iterator[Event]:
        self.items.append(item)
        place = len(self.items) - 1
        yield {"type": "response.output_item.added", "output_index": place, "item": _copy(item)}

    def _done(self, item: dict[str, Any]) -> Event:
        place = len(self.items) - 1
        return {"type": "response.output_item.done", "output_index": place, "item": _copy(item)}


def _copy(value: dict[str, Any]) -> dict[str, Any]:
    """A copy that does not grow with what it was made of."""
    return {key: list(item) if isinstance(item, list) else item for key, item in value.items()}
