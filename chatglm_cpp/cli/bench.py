"""`chatglm-cpp bench`: how fast a model runs here, and how near that comes to what the machine can do."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import _C
from ..model_file import DEFAULT_DTYPE, DTYPES, cache_folder, engine_path, expand_user, find_model
from .terminal import format_bytes, is_terminal

# Of random_model, which needs the converter's packages; a test keeps the two the same.
SHAPES = (
    "chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-4-9b", "glm-4-9b-0414", "glm-4-32b-0414",
    "glm-edge-1.5b", "glm-edge-4b",
)  # fmt: skip

DAY = 24 * 60 * 60  # seconds


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure how fast a model runs here",
        description="Measures how fast prompts are read and replies written, and how near that comes to what "
        "the machine can do. Lists with commas give every combination.",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "-m",
        "--model",
        metavar="PATH",
        help="as for chat: GGUF file, checkpoint or file of chatglm.cpp up to 0.4 (default: the small model "
        "of the package); with --random: the file to write and keep (default: a temporary one)",
    )
    model.add_argument(
        "--random",
        choices=SHAPES,
        metavar="SHAPE",
        help=f"measure a model of this size with random weights: {', '.join(SHAPES)}",
    )
    model.add_argument(
        "--type",
        "--dtype",
        dest="dtype",
        choices=DTYPES,
        help="type of the matrices of a random model, or when a model is converted (default: "
        f"{DEFAULT_DTYPE}; the types that it has for a file of chatglm.cpp)",
    )
    model.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights (default: 0)")
    sizes = parser.add_argument_group("sizes")
    for names, default, text in (
        (("-p", "--prompts"), [128, 512], "tokens of a prompt; 0: no prompts (default: 128,512)"),
        (("-n", "--tokens"), [32], "tokens of a reply; 0: no replies (default: 32)"),
        (("-d", "--depths"), [0], "tokens that are in the cache before (default: 0)"),
        (("-b", "--batches"), [1], "replies that are computed together (default: 1)"),
        (("-t", "--threads"), [0], "threads (default: one per fast core)"),
    ):
        sizes.add_argument(*names, type=numbers, default=default, metavar="N,...", help=text)
    sizes.add_argument(
        "--kv_dtype",
        "--kv-dtype",
        type=lambda text: text.split(","),
        default=["f16"],
        metavar="f16,q8_0,f32",
        help="types of the cache (default: f16)",
    )
    sizes.add_argument(
        "-r", "--repetitions", type=int, default=5, metavar="N", help="runs of each size (default: 5)"
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("text", "json", "csv", "md"),
        default="text",
        help="what is printed (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def numbers(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 128,512") from None


def run(args: argparse.Namespace) -> int:
    write_only = bool(args.random and args.model) and not any(args.prompts + args.tokens)
    options = None if write_only else options_of(args)
    with model_file(args) as path:
        if options is not None:
            _C.run_bench(engine_path(path), options, args.output, print_now)
    return 0


def options_of(args: argparse.Namespace) -> _C.BenchOptions:
    try:
        return _C.BenchOptions(
            prompts=args.prompts,
            tokens=args.tokens,
            depths=args.depths,
            batches=args.batches,
            threads=args.threads,
            kv_dtypes=args.kv_dtype,
            repetitions=args.repetitions,
        )
    except TypeError:  # a number that the engine's do not hold
        raise _C.InvalidArgument("One of the numbers is far too large.") from None


@contextlib.contextmanager
def model_file(args: argparse.Namespace) -> Iterator[Path]:
    if not args.random:
        yield find_model(args.model, args.dtype)
    elif args.model:
        yield write_random(args, expand_user(args.model))
    else:
        # Not among the temporary files of the system, which may be kept in memory.
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        remove_left_over(cache)
        with tempfile.TemporaryDirectory(prefix="random-", dir=cache) as folder:
            yield write_random(args, Path(folder) / "random.gguf")


def remove_left_over(cache: Path) -> None:
    """Deletes random models that a killed bench has left: they are large."""
    for folder in cache.glob("random-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > DAY:
                shutil.rmtree(folder)


def write_random(args: argparse.Namespace, path: Path) -> Path:
    try:
        from ..random_model import write_random_model
    except ImportError as error:
        raise _C.Error(
            f"random models need the package {error.name}; run: pip install 'chatglm-cpp[convert]'"
        ) from None
    start = time.perf_counter()
    size = write_random_model(args.random, args.dtype or DEFAULT_DTYPE, path, seed=args.seed)
    if is_terminal(sys.stderr):
        print(f"{path}: {format_bytes(size)} in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return path


def print_now(text: str) -> None:
    print(text, end="", flush=True)
