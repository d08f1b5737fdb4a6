"""`chatglm-cpp generate`: the continuation of a text, for base and code models."""

from __future__ import annotations

import argparse
from typing import Any

from .generation_options import add_generation_options, generation_options
from .options import add_model_options, load
from .prompt_options import add_prompt_options, read_prompt
from .replies import EXIT_INTERRUPTED, print_model, print_reply


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="continue a text, with base and code models",
        description="Continues a text (-p, --pp or standard input) as it is, without a chat format.",
    )
    add_model_options(parser)
    add_prompt_options(parser.add_argument_group("text"))
    add_reply_options(parser)
    parser.add_argument("--echo", action="store_true", help="print the text itself before its continuation")
    add_generation_options(parser)
    parser.set_defaults(run=run)


def add_reply_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sync", action="store_true", help="print a reply when it is complete")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say on stderr what is loaded and how fast it is"
    )


def run(args: argparse.Namespace) -> int:
    prompt = read_prompt(args, from_stdin=True)
    assert prompt is not None
    options = generation_options(args)
    pipeline, seconds = load(args)
    if args.verbose:
        print_model(pipeline, seconds)
    stream = pipeline.generate(prompt, stream=True, **options)
    if getattr(args, "echo", False):
        print(prompt, end="", flush=True)
    complete, _ = print_reply(stream, sync=args.sync, markdown=False, verbose=args.verbose)
    return 0 if complete else EXIT_INTERRUPTED
