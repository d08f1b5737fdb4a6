"""A conversation on the command line: what was said, what is asked next, and its files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._C import ChatMessage, InvalidArgument, ToolCallMessage
from ..messages import DeltaMessage, check_text, to_dicts, to_messages
from ..pipeline import Pipeline
from ..sessions import is_session
from ..stream import Stream
from .terminal import read_text

ReplyStream = Stream[DeltaMessage, ChatMessage]


class Conversation:
    """Messages of user and model in turn, with a system message in front if there is one.

    Args:
        pipeline: who answers.
        system: the system message.
        chat_options: keywords of Pipeline.chat beside those of a reply: tools, when_full.
        options: those of a reply.
    """

    def __init__(
        self, pipeline: Pipeline, system: str | None, chat_options: dict[str, Any], options: dict[str, Any]
    ) -> None:
        self._pipeline = pipeline
        self._chat_options = {"tools": [], **chat_options}
        self._tools = self._chat_options["tools"]
        self._options = options
        self._n_regenerated = 0
        self._messages: list[ChatMessage] = []
        self.set_system(system)

    @property
    def messages(self) -> list[ChatMessage]:
        return list(self._messages)

    @property
    def system(self) -> str | None:
        first = self._messages[0] if self._messages else None
        return first.content if first is not None and first.role == ChatMessage.ROLE_SYSTEM else None

    def set_system(self, text: str | None) -> None:
        """Begins anew, with this system message."""
        self._messages = []
        if text:
            check_text(text, "the system message")
            self._messages = [ChatMessage(role=ChatMessage.ROLE_SYSTEM, content=text)]

    def clear(self) -> None:
        """Forgets all but the system message."""
        self.set_system(self.system)

    def open_calls(self) -> list[ToolCallMessage]:
        """Calls of the last reply whose results are still to come."""
        for n_results, message in enumerate(reversed(self._messages)):
            if message.role != ChatMessage.ROLE_OBSERVATION:
                return message.tool_calls[n_results:]
        return []

    def add_result(self, text: str) -> None:
        """The result of the first open call, when it is not the last one that is open."""
        self._messages.append(_observation(text))

    def ask(self, text: str) -> ReplyStream:
        """Begins the reply to a question, or to the result of the last open call. Nothing is remembered
        before accept()."""
        check_text(text, "the prompt")
        question = ChatMessage(role=ChatMessage.ROLE_USER, content=text)
        self._asked = [*self._messages, _observation(text) if self.open_calls() else question]
        self._n_regenerated = 0
        return self._begin()

    def regenerate(self) -> ReplyStream:
        """Begins another reply to the last question. With a fixed seed it is drawn with the next one.

        Raises:
            InvalidArgument: nothing was asked yet.
        """
        asked = self.messages
        while asked and asked[-1].role == ChatMessage.ROLE_ASSISTANT:
            asked.pop()
        if not asked or asked[-1].role == ChatMessage.ROLE_SYSTEM:
            raise InvalidArgument("There is no question yet to be answered again.")
        self._asked = asked
        self._n_regenerated += 1
        return self._begin()

    def _begin(self) -> ReplyStream:
        options = dict(self._options)
        if options.get("seed", -1) >= 0:
            options["seed"] += self._n_regenerated
        return self._pipeline.chat(self._asked, stream=True, **self._chat_options, **options)

    def accept(self, pieces: list[DeltaMessage]) -> ChatMessage:
        """Remembers what was asked last with this reply, which may be an incomplete one."""
        reply = self._pipeline.merge_streaming_messages(pieces)
        self._messages = [*self._asked, reply]
        return reply

    def n_tokens(self) -> int:
        """Tokens of the conversation as the model reads it."""
        asked, tokenizer = self.messages, self._pipeline.tokenizer
        n = 0
        while asked and asked[-1].role in (ChatMessage.ROLE_ASSISTANT, ChatMessage.ROLE_SYSTEM):
            reply = asked.pop()
            n += len(tokenizer.encode_plain(reply.content + reply.reasoning_content))
        if asked:
            n += len(tokenizer.apply_chat_template(asked, tools=self._chat_options["tools"]))
        return n

    def save(self, path: Path) -> int:
        """Writes the messages: as JSON in OpenAI's form where the file is called so (.json), else as a
        session, with what was computed for them. A conversation that was there is replaced at once.

        Returns:
            How many tokens need not be computed again.

        Raises:
            InvalidArgument: something else is there, or the file cannot be written.
            OSError: a session cannot be written; the message says why.
        """
        try:
            if path.is_file() and path.stat().st_size > 0 and not _is_conversation(path):
                raise InvalidArgument(
                    f"{path}: is no saved conversation and stays as it is; give another name."
                )
            if path.suffix.lower() != ".json":
                return self._pipeline.save_session(path, self._messages, tools=self._chat_options["tools"])
            text = json.dumps({"messages": to_dicts(self._messages)}, ensure_ascii=False, indent=2) + "\n"
            write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
        except OSError as error:
            if error.strerror is None:  # save_session has said it in a sentence
                raise
            raise InvalidArgument(f"{path}: cannot be written: {error.strerror}.") from None
        return 0

    def load(self, path: Path) -> int:
        """Goes on with the messages of a file that save() wrote, or of a plain list of such messages. A
        session brings its tools, unless others were given.

        Returns:
            How many tokens need not be computed again.

        Raises:
            InvalidArgument: the file holds something else, or a session of another model; then nothing has
                changed.
            FormatError: the session is damaged.
        """
        if is_session(path):
            session = self._pipeline.load_session(path)
            self._messages = session.messages
            self._chat_options["tools"] = self._tools or session.tools
            return session.cached_tokens
        self._messages = _read_messages(path)
        self._chat_options["tools"] = self._tools
        return 0


def _read_messages(path: Path) -> list[ChatMessage]:
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: is no JSON: {error}.") from None
    if isinstance(data, dict):
        data = data.get("messages")
    if not isinstance(data, list):
        raise InvalidArgument(f'{path}: has no list of "messages".')
    try:
        return to_messages(data)
    except (TypeError, InvalidArgument) as error:
        raise InvalidArgument(f"{path}: {error}") from None


def _is_conversation(path: Path) -> bool:
    try:
        if not is_session(path):
            _read_messages(path)
    except InvalidArgument:
        return False
    return True


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make a file beside `path`, and then gives it that name: a file is never half written."""
    path = path.expanduser()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        write(Path(name))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _observation(content: str) -> ChatMessage:
    return ChatMessage(role=ChatMessage.ROLE_OBSERVATION, content=check_text(content, "the result"))
