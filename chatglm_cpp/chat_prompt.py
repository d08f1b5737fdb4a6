"""From a conversation and the tools at hand to the ids of a prompt that leaves room for a reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from . import _C
from ._C import GenerationConfig
from .messages import Conversation, check_text, to_messages
from .tokenizer import Tokenizer

WhenFull = Literal["error", "drop_oldest", "keep_head"]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What a reply begins with."""

    ids: list[int]
    dropped_messages: int  # of the conversation, to make room


def make_chat_prompt(
    tokenizer: _C.Tokenizer,
    messages: Conversation,
    tools: str,
    when_full: str,
    config: GenerationConfig,
    model_length: int,
) -> ChatPrompt:
    """The prompt of a conversation. `model_length` is the length of the model's context in tokens."""
    room = prompt_room(config, model_length)
    when_full = check_text(when_full, "when_full")
    return ChatPrompt(*_C.fit_conversation(tokenizer, to_messages(messages), tools, when_full, room))


def end_of_thought(tokenizer: _C.Tokenizer | Tokenizer, prompt: list[int]) -> list[int]:
    """What ends the thought that a prompt of a reasoning model begins; nothing for other prompts. In a reply
    of a given format there is no place for one."""
    end = tokenizer.decode(prompt[-16:], False)
    return tokenizer.encode_special("</think>\n") if end.rstrip().endswith("<think>") else []


def prompt_room(config: GenerationConfig, model_length: int) -> int:
    """Tokens to which a long conversation is brought.

    The rest is for the reply: max_new_tokens but at most half of all, or a quarter when the reply has no
    limit of its own.
    """
    length = max(min(config.max_length, model_length), 1)
    reply = min(config.max_new_tokens, length // 2) if config.max_new_tokens > 0 else length // 4
    room = length - max(reply, 1)
    return min(room, config.max_context_length) if config.max_context_length > 0 else room
