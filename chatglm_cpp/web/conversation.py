"""A conversation as the browser keeps it, and as the model reads it."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from .._C import ChatMessage, InvalidArgument
from ..messages import check_text

MAX_TURNS = 10_000
MAX_TITLE = 40  # characters


@dataclass(slots=True)
class Document:
    """A file that was dropped onto a question."""

    name: str
    text: str
    tokens: int


@dataclass(slots=True)
class Turn:
    """A question, the documents that came with it, and the reply as far as it is there."""

    question: str
    documents: list[Document] = field(default_factory=list)
    thought: str = ""
    answer: str = ""


@dataclass(slots=True)
class Conversation:
    """What the browser keeps under `id`. The server keeps nothing: each request brings its conversation."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    title: str = ""
    updated: float = 0.0  # seconds since 1970
    system: str = ""
    turns: list[Turn] = field(default_factory=list)

    def ask(self, question: str, documents: list[Document]) -> None:
        """Adds a turn; the first one gives the conversation its title."""
        self.turns.append(Turn(question, documents))
        if not self.title:
            words = question or documents[0].name
            line = " ".join(words.split())
            self.title = line if len(line) <= MAX_TITLE else line[: MAX_TITLE - 1] + "…"
        self.touch()

    def touch(self) -> None:
        self.updated = time.time()

    def messages(self) -> list[ChatMessage]:
        """What the model is asked with: all turns that have an answer, and the last one without its own."""
        messages = []
        if self.system.strip():
            messages.append(ChatMessage(role=ChatMessage.ROLE_SYSTEM, content=self.system))
        *earlier, last = self.turns
        for turn in earlier:
            if turn.answer:
                messages.append(ChatMessage(role=ChatMessage.ROLE_USER, content=_prompt_of(turn)))
                messages.append(ChatMessage(role=ChatMessage.ROLE_ASSISTANT, content=turn.answer))
        messages.append(ChatMessage(role=ChatMessage.ROLE_USER, content=_prompt_of(last)))
        return messages

    def dump(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def load(cls, text: str | None) -> Conversation:
        """The conversation that `dump` wrote; a new one for an empty text.

        Raises:
            InvalidArgument: it is none, whatever the browser sent.
        """
        if not text:
            return cls()
        try:
            data = json.loads(text)
            return cls(
                id=_text(data["id"], "id"),
                title=_text(data["title"], "title"),
                updated=float(data["updated"]),
                system=_text(data["system"], "system"),
                turns=[_turn(turn) for turn in _list(data["turns"], "turns")],
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise InvalidArgument(f"This is no conversation: {error!r}.") from None


def _prompt_of(turn: Turn) -> str:
    # Documents come first, so that a second question about them finds their beginning in the cache.
    parts = [f"{document.name}:\n\n{document.text}\n" for document in turn.documents]
    return "\n".join([*parts, turn.question])


def _turn(data: Any) -> Turn:
    return Turn(
        question=_text(data["question"], "question"),
        documents=[
            Document(_text(d["name"], "name"), _text(d["text"], "text"), int(d["tokens"]))
            for d in _list(data["documents"], "documents")
        ],
        thought=_text(data["thought"], "thought"),
        answer=_text(data["answer"], "answer"),
    )


def _text(value: Any, what: str) -> str:
    return check_text(value, what)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_TURNS:
        raise TypeError(f"{what} is no list of at most {MAX_TURNS}")
    return value
