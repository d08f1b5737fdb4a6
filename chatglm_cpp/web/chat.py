"""What happens when a user asks, edits, stops or opens something: the handlers of the page's events.

The server keeps no conversations. Each event brings the conversation as JSON, and its reply goes back with
it; the browser stores what comes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .._C import Busy, ContextLengthError, Error, InvalidArgument
from ..chat_prompt import prompt_room
from ..options import make_generation_config
from ..pipeline import Pipeline
from .conversation import Conversation, Document
from .documents import DocumentError, take_file
from .markdown import read_question
from .replies import Replies, write_reply
from .rows import make_rows, question_of_row
from .settings import Setting, accept_all, to_options
from .status import show_end, show_error, show_progress, show_waiting
from .strings import Strings, strings_for

SAVE_INTERVAL = 3.0  # seconds of a reply that a page which is reloaded may lose
NARROW = 900  # pixels; the sidebar covers the page of a narrower window, so there it stays closed

# Values of the components (rows, conversation, status, box), None for one that stays as it is.
Outputs = tuple[Any, Any, Any, Any]


class Chat:
    """The handlers, for all pages of a server."""

    def __init__(self, pipeline: Pipeline, settings: list[Setting], system: str) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._system = system
        self._replies = Replies()

    # Replies

    async def ask(
        self, request: gr.Request, stored: str, box: dict[str, Any], system: str, *settings: Any
    ) -> AsyncGenerator[Outputs, None]:
        """Answers what is in the box, with the files that lie there."""
        strings = _strings(request)
        question = (box.get("text") or "").strip()
        files = box.get("files") or []
        if not question and not files:
            yield gr.skip(), gr.skip(), show_error(strings["empty_question"]), gr.skip()
            return
        await self._replies.stop_and_wait(_page(request))
        try:
            conversation = Conversation.load(stored)
            options = to_options(self._settings, settings)
            documents = await asyncio.to_thread(self._take_files, files, options, strings)
        except DocumentError as error:
            yield gr.skip(), gr.skip(), show_error(str(error)), _ready(text=question)
            return
        except InvalidArgument:
            yield gr.skip(), gr.skip(), show_error(strings["damaged"]), gr.skip()
            return
        conversation.system = system or ""
        conversation.ask(question, documents)
        async for outputs in self._reply(conversation, options, request):
            yield outputs

    async def retry(
        self, request: gr.Request, stored: str, system: str, *settings: Any
    ) -> AsyncGenerator[Outputs, None]:
        """Answers the last question again."""
        await self._replies.stop_and_wait(_page(request))
        conversation = _load(stored, request)
        if conversation.turns:
            conversation.system = system or ""
            options = to_options(self._settings, settings)
            async for outputs in self._reply(conversation, options, request):
                yield outputs

    async def edit(
        self, request: gr.Request, edited: gr.EditData, stored: str, system: str, *settings: Any
    ) -> AsyncGenerator[Outputs, None]:
        """Answers a question that was edited; what came after it is gone."""
        await self._replies.stop_and_wait(_page(request))
        conversation = _load(stored, request)
        row = edited.index if isinstance(edited.index, int) else edited.index[0]
        turn = question_of_row(conversation, row)
        question = read_question(str(edited.value)).strip()
        if turn is None or not question:
            yield make_rows(conversation, _strings(request)), gr.skip(), "", gr.skip()
            return
        del conversation.turns[turn + 1 :]
        conversation.turns[turn].question = question
        conversation.system = system or ""
        async for outputs in self._reply(conversation, to_options(self._settings, settings), request):
            yield outputs

    async def _reply(
        self, conversation: Conversation, options: dict[str, Any], request: gr.Request
    ) -> AsyncGenerator[Outputs, None]:
        """Writes the reply to the last turn."""
        strings = _strings(request)
        turn = conversation.turns[-1]
        turn.thought, turn.answer = "", ""
        conversation.touch()
        rows = make_rows(conversation, strings, running=True)
        yield rows, conversation.dump(), show_waiting(strings), _busy()
        saved = time.monotonic()
        with self._replies.begin(_page(request)) as running:
            try:
                status = ""
                messages = conversation.messages()
                async for progress in write_reply(self._pipeline, messages, running, **options):
                    turn.thought, turn.answer = progress.thought, progress.answer
                    if progress.ended:
                        status = show_end(progress.usage, strings)
                        continue
                    save = time.monotonic() > saved + SAVE_INTERVAL
                    saved = time.monotonic() if save else saved
                    yield (
                        make_rows(conversation, strings, running=True),
                        conversation.dump() if save else gr.skip(),
                        show_progress(progress.usage, strings),
                        gr.skip(),
                    )
            except ContextLengthError as error:
                status = show_error(_context_full(error, strings))
            except Busy:
                status = show_error(strings["busy"])
            except (Error, ValueError, TypeError, MemoryError, RuntimeError, OSError) as error:
                reason = str(error) or type(error).__name__
                status = show_error(strings["failed"].format(error=reason))
            conversation.touch()
            yield make_rows(conversation, strings), conversation.dump(), status, _ready()

    def _take_files(self, files: list[str], options: dict[str, Any], strings: Strings) -> list[Document]:
        """The files as documents.

        Raises:
            DocumentError: one cannot be read, or all together leave no room for a reply.
        """
        documents = []
        context = self._pipeline.config.max_length
        config = make_generation_config(
            max_length=options["max_length"], max_new_tokens=options["max_new_tokens"]
        )
        room = prompt_room(config, context)
        for file in files:
            name, text = take_file(file, strings)
            n = len(self._pipeline.tokenizer.encode_plain(text))
            if n > room:
                raise DocumentError(
                    strings["file_too_long"].format(
                        name=name,
                        n=f"{n:,}",
                        limit=f"{max(room, 0):,}",
                        max_length=f"{options['max_length']:,}",
                        label=strings["max_length"],
                        model=f"{context:,}",
                    )
                )
            room -= n
            documents.append(Document(name, text, n))
        return documents

    # Stops

    async def stop(self, request: gr.Request) -> Any:
        """The button: what is there of the reply stays. Gives the box its button for questions back."""
        await self._replies.stop_and_wait(_page(request))
        return _ready()

    def leave(self, request: gr.Request) -> None:
        """The page was closed or reloaded."""
        self._replies.stop(_page(request))

    # Conversations

    def start(self, request: gr.Request, sent: str) -> list[Any]:
        """The page is there. `sent` is what page.js says of it: the conversation that this tab showed before
        it was reloaded, the settings that the browser keeps, and the width of the window."""
        page = _Sent.read(sent)
        conversation = _load(page.conversation, request)
        if not page.conversation:
            conversation.system = self._system
        sidebar = gr.Sidebar(open=page.width >= NARROW)
        values = accept_all(self._settings, page.settings)
        # Before, a question would have come too early.
        return [*_shown(conversation, request), sidebar, gr.MultimodalTextbox(interactive=True), *values]

    def open(self, request: gr.Request, _: None, sent: str) -> list[Any]:
        """Shows a conversation of the list, which the browser sends."""
        page = _Sent.read(sent)
        return [*_shown(_load(page.conversation, request), request), page.sidebar()]

    def new(self, request: gr.Request, system: str, sent: str) -> list[Any]:
        """Begins a conversation, with the system prompt of the one before."""
        return [*_shown(Conversation(system=system or ""), request), _Sent.read(sent).sidebar()]

    def clear(self, request: gr.Request, stored: str) -> tuple[Any, Any, Any]:
        """Empties the conversation."""
        conversation = _load(stored, request)
        conversation.turns.clear()
        conversation.title = ""
        return make_rows(conversation, _strings(request)), conversation.dump(), ""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What page.js sends, checked; whatever is missing or wrong is empty."""

    conversation: str
    settings: Any
    width: float

    @classmethod
    def read(cls, text: str) -> _Sent:
        try:
            data = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            data = None
        data = data if isinstance(data, dict) else {}
        conversation, width = data.get("conversation"), data.get("width")
        return cls(
            conversation if isinstance(conversation, str) else "",
            data.get("settings"),
            width if isinstance(width, (int, float)) else 0,
        )

    def sidebar(self) -> Any:
        """Closes the sidebar where it covers the page."""
        return gr.Sidebar(open=False) if self.width < NARROW else gr.skip()


def _strings(request: gr.Request) -> Strings:
    return strings_for(request.headers.get("accept-language", ""))


def _page(request: gr.Request) -> str:
    return request.session_hash or ""


def _load(stored: str | None, request: gr.Request) -> Conversation:
    try:
        return Conversation.load(stored)
    except InvalidArgument:
        gr.Warning(_strings(request)["damaged"])
        return Conversation()


def _shown(conversation: Conversation, request: gr.Request) -> tuple[Any, Any, Any, Any]:
    """Rows, conversation, system prompt and status of a conversation that is opened."""
    rows = make_rows(conversation, _strings(request))
    return rows, conversation.dump(), conversation.system, ""


def _context_full(error: ContextLengthError, strings: Strings) -> str:
    numbers = str(error).partition(". ")[0]  # what comes after is for programs
    return strings["context_full"].format(
        error=numbers, when_full=strings["when_full"], max_length=strings["max_length"]
    )


def _busy() -> Any:
    return gr.MultimodalTextbox(value={"text": "", "files": []}, submit_btn=False, stop_btn=True)


def _ready(text: str | None = None) -> Any:
    if text is None:
        return gr.MultimodalTextbox(submit_btn=True, stop_btn=False)
    return gr.MultimodalTextbox(value={"text": text, "files": []}, submit_btn=True, stop_btn=False)
