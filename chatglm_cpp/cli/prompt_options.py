"""Where a prompt of the command line comes from."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._C import InvalidArgument
from ..messages import check_text
from .terminal import read_stdin, read_text


def add_prompt_options(group: argparse._ArgumentGroup) -> None:
    prompt = group.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="answer this and exit")
    prompt.add_argument(
        "--pp", "--prompt_path", "--prompt-path", type=Path, metavar="FILE", help="the same from a file"
    )


def add_system_options(group: argparse._ArgumentGroup) -> None:
    system = group.add_mutually_exclusive_group()
    system.add_argument(
        "-s", "--system", metavar="TEXT", help="system message: how the assistant should behave"
    )
    system.add_argument(
        "--sp", "--system_path", "--system-path", type=Path, metavar="FILE", help="the same from a file"
    )


def read_prompt(args: argparse.Namespace, *, from_stdin: bool) -> str | None:
    """The text of -p, --pp or, `from_stdin`, of standard input without its last line end.

    Raises:
        InvalidArgument: it is empty, or no UTF-8.
        OSError: the file cannot be read.
    """
    prompt: str | None = read_text(args.pp) if args.pp else args.prompt
    if prompt is None and from_stdin:
        prompt = read_stdin().rstrip("\r\n")
    if prompt is None:
        return None
    if not prompt:
        raise InvalidArgument("The prompt is empty.")
    return check_text(prompt, "the prompt")


def read_system(args: argparse.Namespace) -> str | None:
    """The text of -s or --sp. Raises as read_prompt."""
    system: str | None = read_text(args.sp) if args.sp else args.system
    return None if system is None else check_text(system, "the system message")
