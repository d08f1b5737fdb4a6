"""What may be typed in a conversation besides questions: /help, /save, ..."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .._C import InvalidArgument
from .conversation import Conversation

# Words that stand for commands: those of the demonstration that came with ChatGLM-6B, and what people try.
WORDS = {"clear": "/clear", "stop": "/exit", "exit": "/exit", "quit": "/exit"}


class Talk(Protocol):
    """What commands work on."""

    conversation: Conversation

    def note(self, text: str) -> None: ...
    def answer_again(self) -> None: ...
    def tokens(self) -> str: ...


class Leave(Exception):
    """The conversation is to end."""


@dataclass(frozen=True)
class Command:
    run: Callable[[Talk, str], None]
    help: str
    argument: str = ""  # what it is followed by; "[...]" may be left out


def is_command(line: str) -> bool:
    """A question that begins with a slash is asked with a space in front."""
    return line.startswith("/") or line.strip() in WORDS


def run_command(line: str, talk: Talk) -> None:
    """Raises Leave; InvalidArgument, OSError with a sentence for the user."""
    line = WORDS.get(line.strip(), line.strip())
    name, _, argument = line.partition(" ")
    command = COMMANDS.get(_ALIASES.get(name, name))
    if command is None:
        raise InvalidArgument(
            f"There is no command {name}; /help lists those that there are. To ask something that begins "
            "with a slash put a space in front of it."
        )
    argument = argument.strip()
    if argument and not command.argument:
        raise InvalidArgument(f"{name} stands alone, without {argument!r}.")
    if not argument and command.argument and not command.argument.startswith("["):
        raise InvalidArgument(f"{name} needs a {command.argument}: {name} {command.argument}.")
    command.run(talk, argument)


def _help(talk: Talk, _: str) -> None:
    width = max(len(f"{name} {command.argument}") for name, command in COMMANDS.items())
    lines = [f"{f'{name} {command.argument}':{width}}  {command.help}" for name, command in COMMANDS.items()]
    talk.note("\n".join([*lines, _MORE_HELP]))


_MORE_HELP = """
Enter sends; Alt+Enter, or a backslash at the end of a line, begins a new line; \"\"\" on a line of its own
begins and ends a text of several lines. Ctrl-C stops a reply, Ctrl-D leaves."""


def _save(talk: Talk, path: str) -> None:
    n_tokens = talk.conversation.save(Path(path).expanduser())
    talk.note(f"Saved {_messages(talk)} to {path}{_computed(n_tokens)}.")


def _load(talk: Talk, path: str) -> None:
    n_tokens = talk.conversation.load(Path(path).expanduser())
    talk.note(f"Loaded {_messages(talk)} from {path}{_computed(n_tokens)}.")


def _messages(talk: Talk) -> str:
    n = len(talk.conversation.messages)
    return "1 message" if n == 1 else f"{n} messages"


def _computed(n_tokens: int) -> str:
    return f", with what was computed for {n_tokens} tokens" if n_tokens else ""


def _system(talk: Talk, text: str) -> None:
    if text:
        talk.conversation.set_system(text)
        talk.note("The conversation begins anew with this system message.")
    else:
        talk.note(talk.conversation.system or "There is no system message.")


def _clear(talk: Talk, _: str) -> None:
    talk.conversation.clear()


def _leave(talk: Talk, _: str) -> None:
    raise Leave


COMMANDS = {
    "/help": Command(_help, "this list"),
    "/clear": Command(_clear, "forget the conversation, but not the system message; also: clear"),
    "/regenerate": Command(lambda talk, _: talk.answer_again(), "answer the last question again"),
    "/system": Command(_system, "show the system message, or begin anew with another one", "[TEXT]"),
    "/save": Command(_save, "write the conversation to a file, as JSON if it ends in .json", "FILE"),
    "/load": Command(_load, "go on with the conversation of a file", "FILE"),
    "/tokens": Command(lambda talk, _: talk.note(talk.tokens()), "how long the conversation is"),
    "/exit": Command(_leave, "leave; also: exit, quit, stop"),
}
_ALIASES = {"/quit": "/exit", "/stop": "/exit", "/?": "/help", "/retry": "/regenerate"}
