"""`chatglm-cpp serve`: an HTTP server in OpenAI's protocol."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from .._C import Error
from .options import add_model_options

_LOCAL = ("127.0.0.1", "::1", "localhost")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="answer HTTP requests in OpenAI's protocol",
        description="Serves a model to the clients of OpenAI's API. Options that are not given come from the "
        "environment: --max_queue from CHATGLM_CPP_MAX_QUEUE, and so on; docs/server.md describes them all.",
    )
    add_model_options(parser)
    parser.set_defaults(kv_dtype=None, threads=None, prompt_lookup=None, draft_tokens=None)
    place = parser.add_argument_group("place")
    place.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for other machines too (default: %(default)s)",
    )  # fmt: skip
    place.add_argument("--port", type=int, default=8000, help="port, 0 for a free one (default: %(default)s)")
    place.add_argument("--uds", metavar="PATH", help="listen on a Unix socket instead")
    access = parser.add_argument_group("access")
    access.add_argument(
        "--api_key", "--api-key", action="append", metavar="KEY",
        help="answer only who has this key; may be repeated. Better from CHATGLM_CPP_API_KEY: other users of "
        "the machine can read a command line",
    )  # fmt: skip
    access.add_argument(
        "--cors_origin", "--cors-origin", action="append", metavar="ORIGIN",
        help="web pages that may ask, beside those of this machine; may be repeated",
    )  # fmt: skip
    access.add_argument(
        "--host_name", "--host-name", action="append", metavar="NAME",
        help="a name of this machine that a proxy on it passes on; may be repeated",
    )  # fmt: skip
    access.add_argument("--model_name", "--model-name", metavar="NAME", help="what requests call the model")
    access.add_argument(
        "--model_alias",
        "--model-alias",
        action="append",
        metavar="NAME",
        help="another name; may be repeated",
    )
    limits = parser.add_argument_group("limits")
    for name, kind, text in (
        ("max_sequences", int, "replies computed at a time (default: 16)"),
        ("max_queue", int, "replies that may wait; one more is answered 503 (default: 256)"),
        ("max_length", int, "tokens of prompt and reply together (default: the model's context)"),
        ("max_tokens", int, "tokens of a reply (default: what max_length leaves)"),
        ("max_body", int, "bytes of a request (default: 16 MiB)"),
        ("max_time", float, "seconds of a reply, waiting included (default: no limit)"),
        ("cache_memory", int, "bytes for keys and values (default: 1 GiB or 8192 tokens)"),
        (
            "shutdown_timeout",
            float,
            "seconds for running replies to end after Ctrl-C or SIGTERM (default: 20)",
        ),
    ):
        limits.add_argument(f"--{name}", f"--{name.replace('_', '-')}", type=kind, metavar="N", help=text)
    parser.set_defaults(run=run)


def _log_config(config: dict[str, Any]) -> dict[str, Any]:
    """uvicorn's, with our messages among its own."""
    ours = {"chatglm_cpp": {"handlers": ["default"], "level": "INFO", "propagate": False}}
    return {**config, "loggers": {**config["loggers"], **ours}}


def run(args: argparse.Namespace) -> int:
    try:
        import uvicorn

        from ..server import Settings, make_app
    except ImportError as error:
        raise Error(
            f'A server needs the package {error.name}; install it with: pip install "chatglm-cpp[server]"'
        ) from None
    from_options = {
        name: getattr(args, name)
        for name in Settings.model_fields
        if getattr(args, name, None) is not None and name != "lora"
    }
    lora = [*(f"1:{path}" for path in args.lora), *args.lora_scaled]
    if lora:
        from_options["lora"] = lora
    settings = Settings.from_environment(os.environ, **from_options)

    def stop(error: BaseException) -> None:
        server.should_exit = True

    app = make_app(settings, on_failure=stop)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=args.host,
            port=args.port,
            uds=args.uds,
            # The service ends its replies itself; this is for clients that read nothing.
            timeout_graceful_shutdown=int(settings.shutdown_timeout) + 10,
            log_config=_log_config(uvicorn.config.LOGGING_CONFIG),
        )
    )
    if args.uds is None and args.host not in _LOCAL and not settings.api_key:
        print(
            f"note: whoever reaches {args.host}:{args.port} may ask this server; --api_key keeps others out.",
            file=sys.stderr,
        )
    server.run()
    if app.state.service.failure is not None:
        raise app.state.service.failure
    return 0
