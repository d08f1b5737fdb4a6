"""Conversations in files, which Pipeline.save_session and Pipeline.load_session put aside and resume."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from . import _C
from ._C import ChatMessage, InvalidArgument
from .messages import check_text

_MAGIC = b"GLM-SESS"  # csrc/generate/session_file.cpp


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation from a file.

    `tools` are descriptions as `Pipeline.chat` takes them, `model` is the name of the model. `cached_tokens`
    at the beginning of the conversation need not be computed again: after `load_session` those that the cache
    got from the file, after `read_session` those that the file has.
    """

    messages: list[ChatMessage]
    tools: list[dict[str, Any]]
    model: str
    cached_tokens: int


def read_session(path: str | os.PathLike[str]) -> Session:
    """The conversation in a file of Pipeline.save_session, without its model.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is damaged, or is no session.
    """
    return make_session(_C.read_session(session_path(path)))


def is_session(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file that begins as those of Pipeline.save_session do."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def make_session(session: _C.Session) -> Session:
    tools = json.loads(session.tools) if session.tools else []
    return Session(session.messages, tools, session.model, session.cached_tokens)


def session_path(path: str | os.PathLike[str]) -> str:
    """`path` as the engine takes it."""
    text = check_text(os.fspath(path), "path")
    if "\0" in text:
        raise InvalidArgument("path holds a NUL character, which no file has in its name.")
    return text
