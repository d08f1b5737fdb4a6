"""Command line of the converter."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from .architectures import supported
from .driver import convert
from .errors import ConvertError
from .hub import HUBS
from .identify import CHAT_FORMATS, ROPE_SCALINGS
from .plan import DEFAULT_TYPE, DTYPES
from .report import ProgressBar, format_summary

EXIT_BAD_INPUT = 2  # argparse uses the same for a wrong option
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # as of a program that SIGPIPE ends

PROGRAM = "python -m chatglm_cpp.convert"


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Convert a Hugging Face checkpoint of the GLM family, or a model file of chatglm.cpp up "
        "to 0.4, to one GGUF file.",
    )
    parser.add_argument(
        "-i",
        "--input",
        metavar="MODEL",
        help="folder of the checkpoint or of a LoRA adapter, its name on a hub, such as THUDM/chatglm3-6b, "
        "or a file of chatglm.cpp",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="GGUF file to write")
    parser.add_argument(
        "-t",
        "--type",
        type=str.lower,
        choices=list(DTYPES),
        help=f"type of the matrices (default: {DEFAULT_TYPE}; f32 for an adapter; those that a file of "
        "chatglm.cpp has)",
    )
    parser.add_argument("-l", "--lora", metavar="MODEL", help="LoRA adapter (PEFT) to add to the weights")
    parser.add_argument(
        "--base", metavar="MODEL", help="with a LoRA adapter as input: the model it was trained on"
    )
    parser.add_argument("--ptuning", metavar="MODEL", help="P-Tuning v2 prefix to carry in the file")
    parser.add_argument(
        "--hub", choices=HUBS, default=HUBS[0], help="where a name is looked up (default: %(default)s)"
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit on the hub (default: the main branch)"
    )
    parser.add_argument("--name", help="name of the model in the file (default: the checkpoint's own)")
    parser.add_argument(
        "--chat-format",
        choices=CHAT_FORMATS,
        help="how conversations become prompts (default: what the files say)",
    )
    parser.add_argument(
        "--rope-scaling",
        choices=ROPE_SCALINGS,
        default="auto",
        help="what rope_ratio scales: rotary base, or positions as in ChatGLM2-6B-32k (default: by model)",
    )
    parser.add_argument("--vocab-only", action="store_true", help="write the tokenizer without the weights")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads (default: one per core)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("--list", action="store_true", help="list the supported architectures and exit")
    return parser


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Runs the command, which calls itself `program`; returns its exit status: 0, or one of the EXIT_
    constants above."""
    parser = build_parser(program)
    args = parser.parse_args(argv)
    if args.list:
        lines = (f"{name:<8} {title}\n         for example {example}" for name, title, example in supported())
        return _print("\n".join(lines))
    if not args.input or not args.output:
        parser.error("the options -i/--input and -o/--output are required")
    previous = _catch_signals()
    try:
        with ProgressBar(args.quiet) as progress:
            summary = convert(
                args.input,
                args.output,
                args.type,
                base=args.base,
                lora=args.lora,
                ptuning=args.ptuning,
                name=args.name,
                chat_format=args.chat_format,
                rope_scaling=args.rope_scaling,
                vocab_only=args.vocab_only,
                threads=args.threads,
                progress=None if args.quiet else progress,
                hub=args.hub,
                revision=args.revision,
            )
    except ConvertError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail(f"{args.input}: not enough memory for the conversion")
    except KeyboardInterrupt as interrupt:
        _complain(str(interrupt) or "interrupted; nothing was written")
        return EXIT_INTERRUPTED
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0 if args.quiet else _print(format_summary(summary))


def _print(text: str) -> int:
    """Prints to stdout; returns the exit status."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        _drop_stdout()
        return _fail(f"standard output cannot be written: {error.strerror or error}")
    return 0


def _drop_stdout() -> None:
    """Python flushes stdout once more at exit, which must not fail again."""
    with contextlib.suppress(OSError, ValueError):  # no real file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody is left to tell
        print(text, file=sys.stderr, flush=True)


def _fail(message: str) -> int:
    _complain(f"error: {message}")
    return EXIT_BAD_INPUT


def _catch_signals() -> dict[int, Any]:
    """Makes the signals that ask a program to end do so cleanly; returns the handlers of before."""
    previous: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        # One that is ignored stays so: that is how nohup works. None: a handler that Python cannot restore.
        if number is None or signal.getsignal(number) in (signal.SIG_IGN, None):
            continue
        with contextlib.suppress(ValueError):  # not in the main thread
            previous[number] = signal.signal(number, _terminate)
    return previous


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    """Lets the temporary file be removed before the process ends."""
    raise SystemExit(128 + number)
