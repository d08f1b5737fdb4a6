"""A conversation as rows of the page: what a Gradio Chatbot shows, one message a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .conversation import Conversation, Document, Turn
from .markdown import show_question, show_reply
from .strings import Strings

PREVIEW = 1500  # characters of a document that its row unfolds to

Row = dict[str, Any]


def make_rows(conversation: Conversation, strings: Strings, running: bool = False) -> list[Row]:
    """All rows. `running` says that the last reply is still being written."""
    last = len(conversation.turns) - 1
    return [row for i, row, _ in _rows(conversation, strings, last if running else -1)]


def question_of_row(conversation: Conversation, index: int) -> int | None:
    """The turn whose question is in a row; None when the row is no question."""
    for n, (i, _, is_question) in enumerate(_rows(conversation, {}, -1, bare=True)):
        if n == index:
            return i if is_question else None
    return None


def _rows(
    conversation: Conversation, strings: Strings, running: int, bare: bool = False
) -> Iterator[tuple[int, Row, bool]]:
    """(turn, row, whether it is a question) of each row; `bare` leaves the rows empty."""
    for i, turn in enumerate(conversation.turns):
        for document in turn.documents:
            yield i, {} if bare else _document(document, strings), False
        if turn.question:
            yield i, {} if bare else {"role": "user", "content": show_question(turn.question)}, True
        if turn.thought:
            yield i, {} if bare else _thought(turn, strings, i == running), False
        if turn.answer:
            yield i, {} if bare else {"role": "assistant", "content": show_reply(turn.answer)}, False
        elif i != running:
            yield i, {} if bare else {"role": "assistant", "content": strings["no_reply"]}, False


def _document(document: Document, strings: Strings) -> Row:
    text = document.text[:PREVIEW]
    if len(document.text) > PREVIEW:
        text += strings["document_more"]
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    title = strings["document_title"].format(name=show_question(document.name), n=document.tokens)
    return {
        "role": "user",
        "content": f"{fence}text\n{text}\n{fence}",
        "metadata": {"title": title, "status": "done"},
    }


def _thought(turn: Turn, strings: Strings, running: bool) -> Row:
    thinking = running and not turn.answer
    return {
        "role": "assistant",
        "content": show_reply(turn.thought),
        "metadata": {
            "title": strings["thinking" if thinking else "thought"],
            "status": "pending" if thinking else "done",
        },
    }
