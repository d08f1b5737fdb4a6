"""What a request has cost, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .calls import ChatReply
from .replies import Reply


def usage_body(replies: Sequence[Reply[Any, Any]]) -> dict[str, Any]:
    """The tokens of alternative replies to one prompt: the prompt counts once."""
    usages = [reply.usage for reply in replies]
    prompt = usages[0].prompt_tokens
    completion = sum(usage.new_tokens for usage in usages)
    reasoning = sum(reply.reasoning_tokens for reply in replies if isinstance(reply, ChatReply))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
