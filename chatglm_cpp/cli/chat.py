"""`chatglm-cpp chat`: one reply, or a conversation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .._C import ContextLengthError, FormatError, InvalidArgument, ToolCallMessage
from ..stream import Usage
from . import generate
from .commands import Leave, is_command, run_command
from .conversation import Conversation, ReplyStream
from .generation_options import add_generation_options, asks_for_format, generation_options, read_json
from .options import add_model_options, load
from .prompt_options import add_prompt_options, add_system_options, read_prompt, read_system
from .render import note_printer
from .replies import EXIT_INTERRUPTED, format_call, print_model, print_reply, summary
from .terminal import is_terminal, printable, question_reader


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "chat",
        help="chat with a model",
        description="Answers a prompt (-p, --pp or standard input) once; without one holds a conversation, "
        "in which /help lists the commands.",
    )
    add_model_options(parser)
    text = parser.add_argument_group("text")
    add_prompt_options(text)
    add_system_options(text)
    text.add_argument(
        "--tools", type=Path, metavar="FILE",
        help="JSON list of tools that the model may call; calls are shown and never run",
    )  # fmt: skip
    text.add_argument(
        "-i", "--interactive", action="store_true", help="hold a conversation, after the prompt if any"
    )
    text.add_argument(
        "--load", type=Path, metavar="FILE", help="go on with a conversation that /save has written"
    )
    text.add_argument(
        "--session", type=Path, metavar="FILE",
        help="go on with the conversation in this file if it is there, and keep it there after each reply",
    )  # fmt: skip
    text.add_argument(
        "--when_full", "--when-full", choices=("error", "drop_oldest", "keep_head"), default="error",
        help="what gives way in a conversation that is too long: nothing, its oldest turns, or those after "
        "the first (default: %(default)s)",
    )  # fmt: skip
    text.add_argument(
        "--mode",
        choices=("chat", "generate"),
        default="chat",
        help="chat in the model's format, or continue the plain prompt, as `chatglm-cpp generate` does "
        "(default: %(default)s)",
    )
    generate.add_reply_options(parser)
    parser.add_argument(
        "--no_markdown", "--no-markdown", action="store_true", help="print replies on a terminal as they come"
    )
    parser.add_argument(
        "--no_history",
        "--no-history",
        action="store_true",
        help="do not remember questions for the next time",
    )
    add_generation_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    interactive = args.interactive or (
        args.prompt is None and args.pp is None and args.mode == "chat" and is_terminal(sys.stdin)
    )
    if args.mode == "generate":
        if args.interactive:
            raise InvalidArgument(
                "--mode generate continues one text: give it with -p, --pp or standard input."
            )
        if args.tools or args.load or args.session:
            raise InvalidArgument(
                "--mode generate continues a text: it knows no --tools, no --load and no --session."
            )
        return generate.run(args)
    if args.tools and asks_for_format(args):
        raise InvalidArgument("A reply of a given format calls no tools: leave out --tools or the format.")
    if args.load and args.session:
        raise InvalidArgument("--session begins with a file of its own: leave out --load.")
    prompt = read_prompt(args, from_stdin=not interactive)
    return _Talk(args, read_system(args), _read_tools(args.tools)).run(prompt, interactive)


def _read_tools(path: Path | None) -> list[Any]:
    if path is None:
        return []
    tools = read_json(path)
    if not isinstance(tools, list):
        raise InvalidArgument(f"{path}: is no list of tools: it must begin with [.")
    return tools


class _Talk:
    """A model, the conversation with it, and how replies are printed."""

    def __init__(self, args: argparse.Namespace, system: str | None, tools: list[Any]) -> None:
        self._verbose, self._sync, self._markdown = args.verbose, args.sync, not args.no_markdown
        self._remembers_questions = not args.no_history
        self._limited = args.max_new_tokens >= 0
        options = generation_options(args)
        self._dropped = 0
        self._interactive = False
        self._last: Usage | None = None
        self.note = note_printer()
        self._pipeline, seconds = load(args)
        if tools:  # a wrong one is an error at once, not with every prompt
            self._pipeline.tokenizer.apply_chat_template(["?"], tools=tools)
        chat_options = {"tools": tools, "when_full": args.when_full}
        self.conversation = Conversation(self._pipeline, system, chat_options, options)
        if args.load:
            self.conversation.load(args.load)
        self._session: Path | None = args.session
        if self._session and self._session.exists():
            if system:
                raise InvalidArgument(
                    f"{self._session}: this conversation has begun already; leave out the system message, or "
                    "name another file."
                )
            self.conversation.load(self._session)
        if self._verbose:
            print_model(self._pipeline, seconds)

    def run(self, prompt: str | None, interactive: bool) -> int:
        if interactive:
            self._converse(prompt)
            return 0
        assert prompt is not None
        return 0 if self._answer(self.conversation.ask(prompt)) else EXIT_INTERRUPTED

    def _converse(self, prompt: str | None) -> None:
        read = question_reader(self._remembers_questions)
        self._interactive = is_terminal(sys.stdin) and is_terminal(sys.stdout)
        if is_terminal(sys.stdin):
            self.note(
                f"{printable(self._pipeline.config.name)}. Ask whatever you want. /help lists what else "
                "there is, Ctrl-C stops a reply, Ctrl-D leaves."
            )
        while True:
            try:
                if prompt is None:
                    prompt = read(self._label())
                if is_command(prompt):
                    run_command(prompt, self)
                elif (question := prompt.strip()) and len(self.conversation.open_calls()) > 1:
                    self.conversation.add_result(question)
                elif question:
                    self._answer(self.conversation.ask(question))
            except (EOFError, Leave):
                return
            except KeyboardInterrupt:
                if not is_terminal(sys.stdin):
                    raise
                self.note("Type exit, or press Ctrl-D, to leave.")
            except ContextLengthError as error:
                self.note(f"{error} Type clear to start again.")
            except (InvalidArgument, FormatError, MemoryError, OSError) as error:
                self.note(str(error))
            prompt = None

    def _label(self) -> str:
        calls = self.conversation.open_calls()
        if not calls:
            return "You > "
        if calls[0].type == ToolCallMessage.TYPE_CODE:
            return "The model wants this code to be run. Its output > "
        return f"The model calls {format_call(calls[0])}. Its result > "

    def answer_again(self) -> None:
        self._answer(self.conversation.regenerate())

    def tokens(self) -> str:
        """How long the conversation is, and what the last reply took."""
        n, most = self.conversation.n_tokens(), self._pipeline.config.max_length
        said = f"The conversation has {n} tokens; the model reads up to {most}."
        return said if self._last is None else f"{said} The last reply: {summary(self._last)}."

    def _answer(self, stream: ReplyStream) -> bool:
        """Prints the reply and remembers it. False when Ctrl-C stopped it."""
        self._note_dropped(stream.usage.dropped_messages)
        if self._interactive:
            print(
                f"{self._pipeline.config.model_type_name} > ", end="\n" if self._markdown else "", flush=True
            )
        complete, pieces = print_reply(
            stream, sync=self._sync, markdown=self._markdown, verbose=self._verbose
        )
        self._last = stream.usage
        if complete or pieces:
            self._note_what_is_odd(self.conversation.accept(pieces), stream.usage)
            if self._session:
                self.conversation.save(self._session)
        if self._interactive and not self._verbose:
            self.note(f"[{summary(stream.usage)}]")
        return complete

    def _note_what_is_odd(self, reply: Any, usage: Usage) -> None:
        if reply.tool_call_error:
            self.note(f"The model may have meant to call a tool. {printable(reply.tool_call_error)}")
        if usage.finish_reason != "length":
            return
        if reply.reasoning_content and not reply.content and not reply.tool_calls:
            self.note("The reply ended in its thought: for an answer raise --max_length or --max_new_tokens.")
        elif not self._limited:
            self.note("The reply was cut at --max_length: raise it for a longer one.")

    def _note_dropped(self, n: int) -> None:
        if n > self._dropped:
            what = "1 message is" if n == 1 else f"{n} messages are"
            self.note(f"The conversation is too long: {what} left out of what the model reads.")
        self._dropped = n
