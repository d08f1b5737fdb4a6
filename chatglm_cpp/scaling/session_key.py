"""What tells that two requests belong to one conversation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

HEADER = b"x-session-id"
_FIELDS = ("prompt_cache_key", "previous_response_id")
_TEXT_BEGINNING = 256  # characters


def session_key(headers: Sequence[tuple[bytes, bytes]], body: bytes) -> str:
    """The key of a request: its header X-Session-Id, or `prompt_cache_key` in its body; else a digest of how
    its conversation begins, up to the first question, which every later turn has in common with it. Empty
    when the body has nothing of the kind."""
    for name, value in headers:
        if name.lower() == HEADER and value:
            return _digest(value)
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(data, Mapping):
        return ""
    for field in _FIELDS:
        if isinstance(data.get(field), str) and data[field]:
            return _digest(data[field].encode(errors="replace"))
    beginning = _beginning(data)
    return _digest(json.dumps(beginning).encode()) if beginning else ""


def _beginning(data: Mapping[str, Any]) -> list[Any]:
    messages = data.get("messages", data.get("input"))
    if isinstance(messages, list):
        said = []
        for message in messages:
            said.append(message)
            if isinstance(message, Mapping) and message.get("role") == "user":
                break
        return [data.get("system"), data.get("instructions"), said]
    text = messages if isinstance(messages, str) else data.get("prompt")
    return [text[:_TEXT_BEGINNING]] if isinstance(text, str) and text else []


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
