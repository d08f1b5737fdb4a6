"""From what a caller says to replies that are being generated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import _C
from ._C import ChatMessage, InvalidArgument
from .chat_prompt import WhenFull, end_of_thought, make_chat_prompt
from .messages import Conversation, DeltaMessage, check_text, merge_deltas, to_token_ids
from .stream import Completion, Stream
from .structured import Constraint
from .tools import ToolLike, to_tools


def begin_chat(
    engine: _C.Pipeline,
    messages: Conversation,
    config: _C.GenerationConfig,
    tools: Iterable[ToolLike] | None,
    when_full: WhenFull,
    constraints: Sequence[Constraint],
    n: int = 1,
) -> list[Stream[DeltaMessage, ChatMessage]]:
    """`n` replies to a conversation, with `constraints` for all of them or none. Options and errors are those
    of Pipeline.chat."""
    known_tools = to_tools(tools)
    if known_tools and constraints:
        raise InvalidArgument(
            "tools and a format are given; a reply of a given format calls no tools. Leave out one."
        )
    prompt = make_chat_prompt(
        engine.tokenizer, messages, known_tools, when_full, config, engine.config.max_length
    )
    ids = prompt.ids + end_of_thought(engine.tokenizer, prompt.ids) if constraints else prompt.ids

    def stream(generation: _C.Generation) -> Stream[DeltaMessage, ChatMessage]:
        text = _C.TextStreamer(engine.tokenizer, stop=config.stop, tools=known_tools, exact=bool(constraints))
        return Stream(generation, text, _delta, _whole, prompt.dropped_messages)

    return [stream(generation) for generation in engine.start_alternatives(ids, config, n, constraints)]


def begin_text(
    engine: _C.Pipeline,
    prompt: str | Iterable[int],
    config: _C.GenerationConfig,
    constraints: Sequence[Constraint],
    n: int = 1,
) -> list[Stream[str, Completion]]:
    """`n` continuations of a text, as `begin_chat`; options and errors are those of Pipeline.generate."""
    if isinstance(prompt, str):
        ids = engine.tokenizer.encode(check_text(prompt, "text"))
    else:
        ids = to_token_ids(prompt, engine.config.vocab_size, "prompt")

    def stream(generation: _C.Generation) -> Stream[str, Completion]:
        text = _C.TextStreamer(engine.tokenizer, plain=True, stop=config.stop, exact=bool(constraints))
        return Stream(generation, text, _text, Completion.of)

    return [stream(generation) for generation in engine.start_alternatives(ids, config, n, constraints)]


def _delta(piece: DeltaMessage) -> DeltaMessage:
    return piece


def _text(piece: DeltaMessage) -> str:
    return piece.content


def _whole(pieces: list[DeltaMessage], stream: Stream[DeltaMessage, ChatMessage]) -> ChatMessage:
    reply = merge_deltas(pieces)
    usage = stream.usage
    reply.finish_reason = usage.finish_reason
    reply.dropped_messages = usage.dropped_messages
    return reply
