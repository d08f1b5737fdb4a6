"""`chatglm-cpp web`: a page to chat on."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from .._C import InvalidArgument
from .options import add_model_options, load
from .terminal import read_text

AUTH_VARIABLE = "CHATGLM_CPP_WEB_AUTH"
_LOCAL = ("127.0.0.1", "localhost", "::1")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "web",
        help="serve a web page to chat on",
        description="Serves a web page to chat on, for this machine alone unless --host or --share say "
        "otherwise. Conversations are kept in the browser.",
    )
    add_model_options(parser)
    network = parser.add_argument_group("network")
    network.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 lets other machines in (default: %(default)s, this machine only)",
    )  # fmt: skip
    network.add_argument(
        "--port", type=int, metavar="N", help="port (default: the first free one from 7860 on)"
    )
    network.add_argument(
        "--auth", action="append", default=[], metavar="USER:PASSWORD",
        help=f"ask for a user and a password; may be repeated. ${AUTH_VARIABLE} does the same, and does not "
        "show in the list of processes",
    )  # fmt: skip
    network.add_argument(
        "--share", action="store_true",
        help="a public address for some days, by way of Gradio's servers, which see everything; needs --auth",
    )  # fmt: skip
    network.add_argument("--open", action="store_true", help="show the page in the browser")

    replies = parser.add_argument_group("replies")
    replies.add_argument(
        "-l", "--max_length", "--max-length", type=int, default=8192, metavar="N",
        help="tokens of a conversation and its reply together, as far as the model goes; a setting of the "
        "page (default: %(default)s)",
    )  # fmt: skip
    system = replies.add_mutually_exclusive_group()
    system.add_argument("-s", "--system", metavar="TEXT", help="system prompt of new conversations")
    system.add_argument(
        "--sp", "--system_path", "--system-path", type=Path, metavar="FILE", help="the same from a file"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    auth = read_auth(args.auth or list(filter(None, [os.environ.get(AUTH_VARIABLE)])))
    if args.share and not auth:
        raise InvalidArgument(
            "--share makes the page public: give --auth USER:PASSWORD, so that not everyone may use it."
        )
    if args.port is not None and not 0 < args.port < 65536:
        raise InvalidArgument(f"--port is {args.port}; it must be between 1 and 65535.")
    if args.max_length < 64:
        raise InvalidArgument(f"--max_length is {args.max_length}; it must be at least 64.")
    system = read_text(args.sp) if args.sp else args.system or ""
    try:
        from ..web import serve
    except ImportError as error:
        raise InvalidArgument(
            f"The web page needs the package {error.name}; run: pip install 'chatglm-cpp[web]'"
        ) from None
    pipeline, _ = load(args)
    with (
        pipeline,
        serve(
            pipeline,
            host=args.host,
            port=args.port,
            share=args.share,
            auth=auth,
            max_length=args.max_length,
            system=system,
            open_browser=args.open,
        ) as address,
    ):
        print(f"The page is at {address.url} (Ctrl-C ends it)", flush=True)
        if address.share_url:
            print(f"and, for everyone who has the password, at {address.share_url}", flush=True)
        elif args.host not in _LOCAL and not auth:
            print(
                "note: everyone who reaches this machine can use the page; --auth asks for a password.",
                file=sys.stderr,
            )
        wait_for_signal()
    return 0


def read_auth(values: list[str]) -> list[tuple[str, str]]:
    """Users and passwords from texts USER:PASSWORD."""
    pairs = []
    for value in values:
        user, _, password = value.partition(":")
        if not user or not password:
            raise InvalidArgument("--auth must be USER:PASSWORD.")
        pairs.append((user, password))
    return pairs


def wait_for_signal() -> None:
    """Waits for Ctrl-C or, as service managers send, SIGTERM."""
    ended = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while not ended.wait(3600):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
