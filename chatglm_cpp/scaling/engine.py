"""One replica: the whole server of one machine, asked through Ray in place of a socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from ..server import Settings, make_app


@dataclass(frozen=True)
class HttpRequest:
    """A request as Ray carries it from the front to a replica."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None  # the address that the client asked


@dataclass(frozen=True)
class HttpStart:
    """What an answer begins with; the parts of its body follow as bytes."""

    status: int
    headers: list[tuple[bytes, bytes]]


class Engine:
    """A pipeline and the endpoints of `make_app` over it.

    Args:
        settings: keywords of Settings. Its queue stays empty: Ray sends no more requests than run at a time.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._failure: BaseException | None = None
        self._app = make_app(Settings.make(**settings), on_failure=self._fail)
        self._opened: contextlib.AsyncExitStack | None = None

    def _fail(self, error: BaseException) -> None:
        self._failure = error

    async def _open(self) -> None:
        if self._opened is None:
            self._opened = contextlib.AsyncExitStack()
            await self._opened.enter_async_context(self._app.router.lifespan_context(self._app))

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica that raises. One that still loads is well."""
        await self._open()
        if self._failure is not None:
            raise self._failure

    async def __del__(self) -> None:
        """Called by Ray before the replica ends."""
        if self._opened is not None:
            await self._opened.aclose()

    async def answer(self, request: HttpRequest, key: str = "") -> AsyncGenerator[HttpStart | bytes, None]:
        """The answer to `request`. Dropping this cancels the reply. The `key` is for the router."""
        await self._open()
        await self._loaded()
        messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(maxsize=64)
        received = False
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal received
            if not received:
                received = True
                return {"type": "http.request", "body": request.body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app(_scope(request), receive, messages.put)
            finally:
                await messages.put(None)

        task = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                if message["type"] == "http.response.start":
                    yield HttpStart(message["status"], list(message.get("headers", [])))
                elif body := message.get("body", b""):
                    yield body
            await task
        finally:
            gone.set()
            task.cancel()

    async def _loaded(self) -> None:
        """A request that Ray has sent is not answered 503 while the model is being loaded."""
        service = self._app.state.service
        while service.state == "loading":
            await asyncio.sleep(0.05)


def _scope(request: HttpRequest) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": request.client,
        "server": request.server,
    }
