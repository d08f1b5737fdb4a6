"""The command `chatglm-cpp`, also `python -m chatglm_cpp`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from .._C import Error
from . import batch, bench, chat, generate, info, perplexity, serve, web
from .terminal import use_utf8

EXIT_BAD_INPUT = 2  # argparse uses the same for a wrong option
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # as a program that SIGPIPE ends


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatglm-cpp",
        description="Run the ChatGLM / GLM family from one GGUF file.",
        epilog="chatglm-cpp COMMAND --help says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"chatglm-cpp {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chat.add_parser(commands)
    generate.add_parser(commands)
    commands.add_parser(
        "convert",
        help="convert a Hugging Face checkpoint, or a file of chatglm.cpp up to 0.4, to GGUF",
        add_help=False,
    )
    serve.add_parser(commands)
    batch.add_parser(commands)
    info.add_parser(commands)
    bench.add_parser(commands)
    perplexity.add_parser(commands)
    web.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 2 for bad input, 130 when interrupted."""
    use_utf8()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["convert"]:
            return _convert(arguments[1:])
        if sys.stdout is None:
            return _fail("standard output is closed, so there is nowhere to print.")
        args = build_parser().parse_args(arguments)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone. Python flushes stdout once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except MemoryError as error:
        return _fail(str(error) or "out of memory")
    except (Error, ValueError, OSError) as error:
        return _fail(str(error))


def _convert(arguments: list[str]) -> int:
    try:
        from ..convert.cli import main as convert_main
    except ImportError as error:
        return _fail(f"converting needs the package {error.name}; run: pip install 'chatglm-cpp[convert]'")
    return convert_main(arguments, "chatglm-cpp convert")


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_BAD_INPUT
