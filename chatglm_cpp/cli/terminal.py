"""Text in and out of a terminal, a file or a pipe."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from .._C import InvalidArgument


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


def line_reader() -> Callable[[str], str]:
    """Asks for one line: with editing and history where prompt_toolkit is installed, else plainly.

    Raises EOFError at the end of the input, KeyboardInterrupt at Ctrl-C.
    """
    if sys.stdin is None:
        raise InvalidArgument("Standard input is closed: a conversation needs it.")
    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        with contextlib.suppress(ImportError):
            from prompt_toolkit import PromptSession

            return PromptSession[str]().prompt
    if is_terminal(sys.stdin):
        return input

    def read(_: str) -> str:  # a prompt would only litter the output of a script
        return input()

    return read


def note_printer() -> Callable[[str], None]:
    """Prints what the program itself says, apart from replies: dimmed where rich is installed."""
    dim = _dim_printer("\n") if is_terminal(sys.stdout) else None
    return dim or (lambda text: print(text, file=sys.stderr))


class ReplyPrinter:
    """Prints a reply as it comes, or with `sync` when it is complete.

    On a terminal the thought of a reasoning model is shown first: dimmed where rich is installed, and with a
    blank line before the answer. Elsewhere the answer stands alone.
    """

    def __init__(self, sync: bool) -> None:
        self._shows_thought = is_terminal(sys.stdout)
        self._print_thought = (_dim_printer("") if self._shows_thought else None) or _print_now
        self._held: list[tuple[str, str]] | None = [] if sync else None
        self._after_thought = False
        self._in_line = False

    def put(self, content: str, reasoning_content: str = "") -> None:
        self._in_line = self._in_line or bool(content)
        if self._held is None:
            self._print(content, reasoning_content)
        else:
            self._held.append((content, reasoning_content))

    def put_line(self, text: str) -> None:
        """What stands on a line of its own, such as a call of a tool."""
        self.put(("\n" if self._in_line else "") + text)

    def finish(self) -> None:
        for piece in self._held or ():
            self._print(*piece)
        print(flush=True)

    def _print(self, content: str, reasoning_content: str) -> None:
        if reasoning_content and self._shows_thought:
            self._print_thought(reasoning_content)
            self._after_thought = True
        if content:
            _print_now("\n\n" + content if self._after_thought else content)
            self._after_thought = False


def _print_now(text: str) -> None:
    print(text, end="", flush=True)


def _dim_printer(end: str) -> Callable[[str], None] | None:
    with contextlib.suppress(ImportError):
        from rich.console import Console

        console = Console()
        return lambda text: console.out(text, style="dim", highlight=False, end=end)
    return None


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
