"""Tokens and their log-probabilities as JSON has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..messages import TokenLogprob
from ..tokenizer import Tokenizer

# JSON has no infinity; OpenAI's API has this number for a token that cannot come.
_IMPOSSIBLE = -9999.0


def as_number(logprob: float) -> float:
    return max(logprob, _IMPOSSIBLE)


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    r"""The text of one token; of a part of a character its bytes, as in "bytes:\xe4\xbd"."""
    data = tokenizer.token_bytes(token_id, skip_special_tokens=False)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(logprobs: Sequence[TokenLogprob] | None, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The object `logprobs` of a chat's choice."""
    if not logprobs:
        return None

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        data = tokenizer.token_bytes(token_id, skip_special_tokens=False)
        return {"token": token_text(tokenizer, token_id), "logprob": as_number(logprob), "bytes": list(data)}

    content = [
        {**entry(one.token_id, one.logprob), "top_logprobs": [entry(i, x) for i, x in one.top]}
        for one in logprobs
    ]
    return {"content": content, "refusal": None}
