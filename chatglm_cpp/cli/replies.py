"""A reply on its way to the terminal: the prompt's progress, the pieces, and what it took."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from .._C import ToolCallMessage
from ..messages import ToolCallDelta
from ..pipeline import Pipeline
from ..stream import Stream, Usage
from .render import make_printer
from .terminal import format_count, is_terminal, printable

EXIT_INTERRUPTED = 130


def print_reply(
    stream: Stream[Any, Any], *, sync: bool, markdown: bool, verbose: bool
) -> tuple[bool, list[Any]]:
    """Prints the reply. Returns whether it is complete, else Ctrl-C has stopped it, and its pieces."""
    complete = True
    pieces: list[Any] = []
    printer = make_printer(sync, markdown)
    with stream:
        try:
            _show_progress(stream)
            for piece in stream:
                pieces.append(piece)
                if isinstance(piece, str):
                    printer.put(piece)
                else:
                    printer.put(piece.content, piece.reasoning_content)
                    for call in piece.tool_calls:
                        printer.put_line(format_call(call))
        except KeyboardInterrupt:
            complete = False
        finally:
            printer.finish()
    if verbose:
        print_usage(stream.usage)
    return complete, pieces


def _show_progress(stream: Stream[Any, Any]) -> None:
    """Waits for the first piece; a prompt of several parts has a bar on a terminal meanwhile."""
    if not is_terminal(sys.stderr):
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return
    with contextlib.ExitStack() as stack:
        bar, task = None, None
        for usage in stream.prefill():
            if usage.computed_tokens >= usage.prompt_tokens:
                continue
            if bar is None:
                columns = (
                    TextColumn("{task.completed:.0f} of {task.total:.0f} tokens read"),
                    BarColumn(),
                    TimeRemainingColumn(),
                )
                bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
                task = bar.add_task("", total=usage.prompt_tokens, completed=usage.cached_tokens)
            assert task is not None
            bar.update(task, completed=usage.computed_tokens)


def format_call(call: ToolCallMessage | ToolCallDelta) -> str:
    if call.type == ToolCallMessage.TYPE_CODE:
        return f"```python\n{call.code.input}\n```"
    return printable(f"{call.function.name}({call.function.arguments})")


def print_model(pipeline: Pipeline, seconds: float) -> None:
    config = pipeline.config
    print(
        f"{printable(pipeline.path)}: {printable(config.name)}, {config.dtype}, "
        f"{format_count(config.n_parameters)} parameters, "
        f"loaded in {seconds:.2f} s; {pipeline.isa}, {pipeline.n_threads} threads, {pipeline.kv_dtype} cache",
        file=sys.stderr,
    )


def print_usage(usage: Usage) -> None:
    # The first token of the reply comes with the prompt's last chunk.
    computed = usage.prompt_tokens - usage.cached_tokens
    reply_seconds = usage.seconds - usage.prompt_seconds
    print(
        f"prompt: {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached, "
        f"{usage.prompt_seconds:.2f} s ({_rate(computed, usage.prompt_seconds)}); "
        f"reply: {usage.new_tokens} tokens, {reply_seconds:.2f} s "
        f"({_rate(usage.new_tokens - 1, reply_seconds)}); ended by {usage.finish_reason}",
        file=sys.stderr,
    )


def summary(usage: Usage) -> str:
    """What a reply took, in a few words."""
    tokens = "1 token" if usage.new_tokens == 1 else f"{usage.new_tokens} tokens"
    if usage.new_tokens < 2:
        return f"{tokens}, the first after {usage.prompt_seconds:.1f} s"
    return f"{tokens}, {usage.tokens_per_second:.1f} tokens/s, the first after {usage.prompt_seconds:.1f} s"


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f} tokens/s" if tokens > 0 and seconds > 0 else "-"
