"""How a reply looks: plain in a pipe, with its thought dimmed and its Markdown drawn on a terminal."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from .terminal import is_terminal

if TYPE_CHECKING:
    from rich.console import Console

_REDRAW_SECONDS = 0.08
_ROWS_BELOW = 3  # of the screen that the part which is still being written leaves free


class Printer(Protocol):
    def put(self, content: str, reasoning_content: str = "") -> None:
        """Prints a piece of a reply."""

    def put_line(self, text: str) -> None:
        """Prints what stands on a line of its own, such as a call of a tool."""

    def finish(self) -> None:
        """Ends the reply, also one that was stopped."""


def make_printer(sync: bool, markdown: bool) -> Printer:
    """The printer for standard output.

    Args:
        sync: print a reply when it is complete.
        markdown: draw Markdown, where standard output is a terminal and rich is installed.
    """
    console = _rich_console() if is_terminal(sys.stdout) else None
    printer: Printer
    if console is None:
        printer = PlainPrinter(is_terminal(sys.stdout))
    elif markdown and not console.is_dumb_terminal:
        printer = MarkdownPrinter(console)
    else:
        printer = PlainPrinter(True, lambda text: console.out(text, style="dim", highlight=False, end=""))
    return _Held(printer) if sync else printer


def note_printer() -> Callable[[str], None]:
    """Prints what the program itself says, apart from replies: dimmed where rich is installed."""
    console = _rich_console() if is_terminal(sys.stdout) else None
    if console is None:
        return lambda text: print(text, file=sys.stderr)
    return lambda text: console.out(text, style="dim", highlight=False)


class PlainPrinter:
    """Prints the text as it comes. A terminal gets the thought of a reasoning model first, and a blank line
    before the answer; elsewhere the answer stands alone."""

    def __init__(self, terminal: bool, print_thought: Callable[[str], None] | None = None) -> None:
        self._terminal = terminal
        self._print_thought = print_thought or _print_now
        self._after_thought = False
        self._in_line = False

    def put(self, content: str, reasoning_content: str = "") -> None:
        if self._terminal:
            content, reasoning_content = harmless(content), harmless(reasoning_content)
            if reasoning_content:
                self._print_thought(reasoning_content)
                self._after_thought = True
        if content:
            _print_now("\n\n" + content if self._after_thought else content)
            self._after_thought, self._in_line = False, True

    def put_line(self, text: str) -> None:
        self.put(("\n" if self._in_line else "") + text)

    def finish(self) -> None:
        print(flush=True)


class MarkdownPrinter:
    """Draws each block of a reply (a paragraph, a list, code) when it is complete, and meanwhile the last
    lines of the one that is being written."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False, vertical_overflow="crop")
        self._blocks = Blocks()
        self._drawn = time.monotonic()
        self._thought = self._any = False

    def put(self, content: str, reasoning_content: str = "") -> None:
        if thought := harmless(reasoning_content):
            self._console.out(thought, style="dim", highlight=False, end="")
            self._thought = True
        if not content:
            return
        self._end_thought()
        self._live.start()
        for block in self._blocks.put(harmless(content)):
            self._draw(block)
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._live.update(_Tail(self._blocks.rest), refresh=True)
            self._drawn = time.monotonic()

    def put_line(self, text: str) -> None:
        self._end_thought()
        self._flush()
        self._space()
        self._console.out(harmless(text), highlight=False)

    def finish(self) -> None:
        self._end_thought(blank=False)
        self._flush()
        if not self._any:
            self._console.out("")

    def _end_thought(self, blank: bool = True) -> None:
        if self._thought:
            self._console.out("\n" if blank else "", highlight=False)
            self._thought = False

    def _flush(self) -> None:
        if rest := self._blocks.take():
            self._draw(rest)
        self._live.update("")
        self._live.stop()

    def _space(self) -> None:
        if self._any:
            self._console.out("")
        self._any = True

    def _draw(self, block: str) -> None:
        self._live.update("")
        self._space()
        self._console.print(_markdown(block))


class Blocks:
    """Markdown that comes in pieces, cut where one block ends for good: at a blank line with nothing indented
    behind it, and after the fence that closes code."""

    def __init__(self) -> None:
        self._block = ""  # whole lines
        self._line = ""
        self._fence: str | None = None
        self._gap = False

    @property
    def rest(self) -> str:
        """The block that is not complete yet."""
        return self._block + self._line

    def put(self, text: str) -> Iterator[str]:
        """The blocks that are complete now."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            yield from self._put_line(line + "\n")

    def take(self) -> str:
        """The rest, which is complete as it is."""
        rest = self.rest.rstrip("\n")
        self._block, self._line, self._fence, self._gap = "", "", None, False
        return rest

    def _put_line(self, line: str) -> Iterator[str]:
        blank = not line.strip()
        if self._fence is None:
            if self._gap and not blank and not line[0].isspace():
                yield from self._end()
            opened = re.match(r"\s*(`{3,}|~{3,})", line)
            if opened:
                if self._block.strip() and not line[0].isspace():
                    yield from self._end()
                self._fence = opened[1]
            self._gap = blank and bool(self._block)
            if blank and not self._block:
                return
            self._block += line
            return
        self._block += line
        stripped = line.strip()
        if stripped.startswith(self._fence) and not stripped.strip(self._fence[0]):
            self._fence = None
            if not self._block[0].isspace() and self._block.startswith(stripped[0]):
                yield from self._end()

    def _end(self) -> Iterator[str]:
        block, self._block, self._gap = self._block.rstrip("\n"), "", False
        if block:
            yield block


class _Tail:
    """The last lines of a text in Markdown, as many as the screen has room for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: object) -> Iterator[object]:
        from rich.segment import Segment

        lines = console.render_lines(_markdown(self._text), pad=False)
        for line in lines[-max(1, console.height - _ROWS_BELOW) :]:
            yield from line
            yield Segment.line()


class _Held:
    """Prints nothing before the reply is complete."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._calls: list[Callable[[], None]] = []

    def put(self, content: str, reasoning_content: str = "") -> None:
        self._calls.append(lambda: self._printer.put(content, reasoning_content))

    def put_line(self, text: str) -> None:
        self._calls.append(lambda: self._printer.put_line(text))

    def finish(self) -> None:
        for call in self._calls:
            call()
        self._printer.finish()


def _markdown(text: str) -> object:
    from rich.markdown import Heading, Markdown

    class LeftHeading(Heading):
        """A heading at the left edge, without a frame."""

        def __rich_console__(self, console: Console, options: object) -> Iterator[object]:
            self.text.justify = "left"
            self.text.stylize("bold")
            yield self.text

    class LeftMarkdown(Markdown):
        elements = {**Markdown.elements, "heading_open": LeftHeading}  # noqa: RUF012

    return LeftMarkdown(text, code_theme="ansi_dark", justify="left")


def harmless(text: str) -> str:
    """A reply without the control characters with which it could rewrite what the terminal shows."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def _print_now(text: str) -> None:
    print(text, end="", flush=True)


def _rich_console() -> Console | None:
    with contextlib.suppress(ImportError):
        from rich.console import Console

        return Console(highlight=False)
    return None
