"""Serves the page."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..host_check import foreign_host
from ..pipeline import Pipeline
from .documents import MAX_BYTES

# Nothing but this server may be asked for anything, whatever a reply makes the page show. Gradio's own
# scripts stand in its HTML.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
_PORTS = range(7860, 7960)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a running page is."""

    url: str
    share_url: str | None  # the public one, when it was asked for


class _HostCheck:
    """Refuses what a page asks that has given its own name this machine's address (DNS rebinding)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = foreign_host(scope)
        if name is None:
            await self._app(scope, receive, send)
        else:
            text = f"This page is not at {name}. Ask for it by localhost, or protect it with --auth."
            await PlainTextResponse(text, 421)(scope, receive, send)


class _SafeHeaders:
    """Adds `_HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


@contextmanager
def serve(
    pipeline: Pipeline,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    auth: Sequence[tuple[str, str]] = (),
    max_length: int = 8192,
    system: str = "",
    open_browser: bool = False,
) -> Iterator[Address]:
    """Serves the page in other threads until the block ends.

        with serve(Pipeline("model.gguf")) as address:
            print(address.url)
            input("Enter ends it.")

    Args:
        host: address to listen on; "0.0.0.0" for all of the machine.
        port: by default the first free one from 7860 on; 0 for any.
        share: ask Gradio's servers for a public address that leads here. Everything then passes them.
        auth: users and their passwords; without them whoever reaches the page may use it.
        max_length: tokens of a conversation and its reply at first; the user may change it.
        system: system prompt of new conversations.
        open_browser: show the page in the user's browser.

    Raises:
        OSError: there is no such address here, or the port is taken or not to be had.
    """
    port = _free_port(host, _PORTS if port is None else [port])
    with tempfile.TemporaryDirectory(prefix="chatglm_cpp-web-") as uploads, _environment(uploads):
        # Gradio reads its environment when it is imported, and when a page is built.
        from .page import THEME, TRANSLATIONS, build_page, page_head

        page = build_page(pipeline, max_length=max_length, system=system)
        # A shared page loads scripts of Gradio's from elsewhere.
        middleware = [] if share else [Middleware(_SafeHeaders)]
        if not (share or auth):  # a password is more than such a page has
            middleware.append(Middleware(_HostCheck))
        try:
            _, url, share_url = page.queue(default_concurrency_limit=None).launch(
                server_name=host,
                server_port=port,
                share=share,
                auth=list(auth) or None,
                inbrowser=open_browser,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=MAX_BYTES,
                footer_links=[],
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                app_kwargs={
                    "middleware": middleware,
                    "docs_url": None,
                    "redoc_url": None,
                    "openapi_url": None,
                },
                i18n=TRANSLATIONS,
                theme=THEME,
                head=page_head(),
            )
            yield Address(url, share_url)
        finally:
            page.close(verbose=False)


def _free_port(host: str, ports: Sequence[int]) -> int:
    """The first of `ports` that is free; for 0, which stands for any, its number."""
    for port in ports:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # where it means what a server that was just ended needs
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return int(probe.getsockname()[1])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise type(error)(
                    f"The page cannot be served at {host}, port {port}: {error.strerror}."
                ) from None
    if len(ports) == 1:
        raise OSError(f"Port {ports[0]} is taken at {host}: choose another one with --port.")
    raise OSError(f"The ports {ports[0]} to {ports[-1]} are all taken at {host}: choose one with --port.")


@contextmanager
def _environment(uploads: str) -> Iterator[None]:
    """Environment variables for Gradio: nothing is reported, files lie in `uploads`, and this machine is not
    reached through a proxy."""
    no_proxy = ",".join(
        filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "localhost,127.0.0.1"])
    )
    values = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": uploads,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
