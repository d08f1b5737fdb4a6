"""`chatglm-cpp batch`: a file of requests, answered many at a time."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .._C import Error
from ..batch import Endpoints, Outcome, run_batch
from ..batch.answers import PARALLEL
from .options import add_model_options, load
from .terminal import is_terminal

EXIT_FAILURES = 1
EXIT_INTERRUPTED = 130


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "batch",
        help="answer a file of requests in OpenAI's batch format",
        description="Answers each request of a JSONL file in OpenAI's batch format with a line of another "
        "one. Run it again after an interruption of any kind: it goes on where it was.",
        epilog="Exit status: 0 all are answered, 1 some with errors, 2 a file cannot be used, 130 stopped.",
    )
    add_model_options(parser)
    group = parser.add_argument_group("batch")
    group.add_argument(
        "-i", "--input", type=Path, required=True, metavar="FILE",
        help='requests: {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}',
    )  # fmt: skip
    group.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE",
        help="records: what is in the file is kept, and what it lacks is added",
    )  # fmt: skip
    group.add_argument(
        "--parallel", type=positive, default=PARALLEL, metavar="N",
        help="requests at a time (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--model_name", "--model-name", metavar="NAME",
        help='what requests call the model in "model" (default: the name that `chatglm-cpp serve` '
        "gives it)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of requests")
    return int(text)


def run(args: argparse.Namespace) -> int:
    try:
        from ..batch.endpoints import opened
        from ..server import Settings
    except ImportError as error:
        raise Error(
            f'A batch needs the package {error.name}; install it with: pip install "chatglm-cpp[server]"'
        ) from None

    def endpoints() -> contextlib.AbstractContextManager[Endpoints]:
        name = args.model_name or Settings.make(model=args.model).names()[0]
        return opened(load(args)[0], name)

    try:
        with _progress() as show:
            outcome = run_batch(args.input, args.output, endpoints, parallel=args.parallel, on_progress=show)
    except KeyboardInterrupt:
        _say("Stopped. Run the same command again to go on.")
        return EXIT_INTERRUPTED
    _say(_summary(outcome, args.output))
    if outcome.interrupted:
        _say("Stopped. Run the same command again to go on.")
        return EXIT_INTERRUPTED
    return EXIT_FAILURES if outcome.failed else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _summary(outcome: Outcome, output: Path) -> str:
    text = f"{output}: {outcome.answered} of {outcome.total} requests are answered"
    if outcome.before:
        text += f", {outcome.before} of them before"
    if outcome.failed:
        text += f", {outcome.failed} with errors"
    if outcome.tokens and outcome.seconds:
        text += f"; {outcome.tokens} tokens in {outcome.seconds:.1f} s"
        text += f" ({outcome.tokens / outcome.seconds:.1f} tokens/s)"
    return text + "."


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Outcome], None]]:
    """Shows how far a batch is: on a terminal, and where rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda outcome: None
        return
    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} with errors, {task.fields[speed]:.1f} tokens/s"),
        TimeRemainingColumn(),
    )
    disable = not is_terminal(sys.stderr)
    with Progress(*columns, console=Console(stderr=True), disable=disable, transient=True) as progress:
        task = progress.add_task("batch", total=None, failed=0, speed=0.0)

        def show(outcome: Outcome) -> None:
            speed = outcome.tokens / outcome.seconds if outcome.seconds else 0.0
            progress.update(
                task, total=outcome.total, completed=outcome.answered, failed=outcome.failed, speed=speed
            )

        yield show
