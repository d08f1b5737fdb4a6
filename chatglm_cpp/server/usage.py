"""What a request has cost, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .calls import ChatReply
from .replies import Reply


def usage_body(replies: Sequence[Reply[Any, Any]], n: int = 1) -> dict[str, Any]:
    """The tokens of `replies`, `n` alternatives to each prompt: a prompt counts once."""
    prompts = [reply.usage for reply in replies[::n]]
    return usage_dict(
        prompt=sum(usage.prompt_tokens for usage in prompts),
        cached=sum(usage.cached_tokens for usage in prompts),
        completion=sum(reply.usage.new_tokens for reply in replies),
        reasoning=sum(reply.reasoning_tokens for reply in replies if isinstance(reply, ChatReply)),
    )


def usage_dict(prompt: int, cached: int = 0, completion: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """OpenAI's object of these numbers of tokens."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
