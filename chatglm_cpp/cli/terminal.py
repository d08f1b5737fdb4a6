"""Text in and out of a terminal, a file or a pipe."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from .._C import InvalidArgument
from ..model_file import cache_folder

QUOTES = '"""'


def use_utf8() -> None:
    """Makes the standard streams UTF-8 whatever the locale says: models write every script there is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def decode_text(data: bytes, source: str) -> str:
    """UTF-8 text, without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"{source}: is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}."
        ) from None


def read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise type(error)(f"{path}: cannot be read: {error.strerror}.") from None
    return decode_text(data, str(path))


def read_stdin() -> str:
    if sys.stdin is None:
        raise InvalidArgument("Standard input is closed: give the prompt with -p or --pp.")
    return decode_text(sys.stdin.buffer.read(), "standard input")


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def question_reader(remember: bool) -> Callable[[str], str]:
    """Asks for a question: with editing and history where prompt_toolkit is installed, else plainly.

    A backslash at the end of a line, or Alt+Enter while editing, begins another line of the same question;
    a line of three quotation marks begins and ends one of several lines. With `remember` the history is kept
    for the next conversation. The reader raises EOFError at the end of the input, KeyboardInterrupt at
    Ctrl-C.
    """
    if sys.stdin is None:
        raise InvalidArgument("Standard input is closed: a conversation needs it.")
    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        with contextlib.suppress(ImportError):
            return _join_lines(_editing_reader(remember))
    if is_terminal(sys.stdin):
        return _join_lines(input)
    return _join_lines(lambda _: input())  # a prompt would only litter the output of a script


def _join_lines(read: Callable[[str], str]) -> Callable[[str], str]:
    def read_question(label: str) -> str:
        line = read(label)
        if line.strip() == QUOTES:
            lines = []
            with contextlib.suppress(EOFError):
                while (line := read("... ")).strip() != QUOTES:
                    lines.append(line)
            return "\n".join(lines)
        while line.endswith("\\"):
            try:
                line = line[:-1] + "\n" + read("... ")
            except EOFError:
                return line[:-1]
        return line

    return read_question


def _editing_reader(remember: bool) -> Callable[[str], str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    file = _history_file() if remember else None
    history: History = InMemoryHistory() if file is None else FileHistory(str(file))
    session = PromptSession[str](
        history=history,
        multiline=True,
        key_bindings=keys,
        prompt_continuation="... ",
        reserve_space_for_menu=0,
    )
    return session.prompt


def _history_file() -> Path | None:
    """A file that only its user can read; None where there can be none."""
    path = cache_folder() / "questions"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError:
        return None
    return path


def printable(text: str) -> str:
    """Text of a file as a terminal may have it: control characters, with which it could rewrite what the
    terminal shows, become escapes that JSON knows too."""
    return re.sub("[\x00-\x1f\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def format_bytes(n: float) -> str:
    for unit in ("B", "KB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def format_count(n: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)
