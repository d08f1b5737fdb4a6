"""`chatglm-cpp batch`: a file of requests, answered many at a time."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .._C import Error, InvalidArgument
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
        "--parallel", type=positive, default=None, metavar="N",
        help=f"requests at a time (default: {PARALLEL})",
    )  # fmt: skip
    group.add_argument(
        "--model_name", "--model-name", metavar="NAME",
        help='what requests call the model in "model" (default: the name that `chatglm-cpp serve` '
        "gives it)",
    )  # fmt: skip
    group.add_argument(
        "--ray", action="store_true",
        help="let the engines of a Ray cluster answer: $RAY_ADDRESS, or this machine's, or one for the while",
    )  # fmt: skip
    group.add_argument(
        "--replicas", type=positive, default=None, metavar="N",
        help="engines on the cluster, of --threads each (default: one for each of its machines)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of requests")
    return int(text)


def run(args: argparse.Namespace) -> int:
    try:
        importlib.import_module("chatglm_cpp.batch.endpoints")
    except ImportError as error:
        raise Error(
            f'A batch needs the package {error.name}; install it with: pip install "chatglm-cpp[server]"'
        ) from None
    if args.replicas and not args.ray:
        raise InvalidArgument("--replicas is for engines on a cluster: add --ray.")
    if args.parallel and args.ray:
        raise InvalidArgument("--parallel is for the engine of this program: leave it out with --ray.")
    answer_file = _answer_on_cluster if args.ray else _answer_here
    try:
        with _progress() as show:
            outcome = answer_file(args, show)
    except KeyboardInterrupt:
        _say("Stopped. Run the same command again to go on.")
        return EXIT_INTERRUPTED
    _say(_summary(outcome, args.output))
    if outcome.interrupted:
        _say("Stopped. Run the same command again to go on.")
        return EXIT_INTERRUPTED
    return EXIT_FAILURES if outcome.failed else 0


def _opened(args: argparse.Namespace) -> contextlib.AbstractContextManager[Endpoints]:
    from ..batch.endpoints import opened
    from ..server import Settings

    return opened(load(args)[0], args.model_name or Settings.make(model=args.model).names()[0])


def _answer_here(args: argparse.Namespace, show: Callable[[Outcome], None]) -> Outcome:
    parallel = args.parallel or PARALLEL
    return run_batch(args.input, args.output, partial(_opened, args), parallel=parallel, on_progress=show)


def _answer_on_cluster(args: argparse.Namespace, show: Callable[[Outcome], None]) -> Outcome:
    try:
        from ..batch.ray_data import run_batch_on_ray
    except ImportError as error:
        raise Error(
            f'--ray needs the package {error.name}; install it with: pip install "chatglm-cpp[ray]"'
        ) from None
    given = vars(args)
    # Engines work in other folders.
    if args.model and os.path.exists(args.model):
        given["model"] = os.path.abspath(args.model)
    given["lora"] = [os.path.abspath(path) for path in args.lora]
    scaled = [value.partition(":") for value in args.lora_scaled]
    given["lora_scaled"] = [
        f"{scale}{colon}{path and os.path.abspath(path)}" for scale, colon, path in scaled
    ]
    del given["run"]  # a function, which other processes need not know

    def load_with(threads: int) -> contextlib.AbstractContextManager[Endpoints]:
        return _opened(argparse.Namespace(**{**given, "threads": threads}))

    return run_batch_on_ray(
        args.input,
        args.output,
        load_with,
        replicas=args.replicas or 0,
        threads=args.threads,
        on_progress=show,
    )


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
