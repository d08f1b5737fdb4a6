"""Makes the application: settings and a model in, an ASGI application out."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from .. import __version__
from ..pipeline import Pipeline
from . import chat, chatglm2, completions, embeddings, messages, responses, status, tokens
from .errors import add_error_handlers
from .middleware import BodyLimit, HostCheck, KeyCheck, RequestCounter
from .response_store import ResponseStore
from .service import Service
from .settings import Settings

_LOCAL_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"

# One router for each group of endpoints.
_ROUTERS = [
    status.router,
    chat.router,
    completions.router,
    responses.router,
    messages.router,
    embeddings.router,
    tokens.router,
    chatglm2.router,
]


def make_app(
    settings: Settings,
    pipeline: Pipeline | None = None,
    on_failure: Callable[[BaseException], None] | None = None,
) -> FastAPI:
    """The server as an ASGI application. Its `state.service` is the Service that the endpoints share.

    Args:
        settings: see there.
        pipeline: a model that is loaded already, and stays open; by default the settings' is loaded in the
            background as soon as the application starts.
        on_failure: called when the model cannot be loaded.
    """
    service = Service(settings, pipeline, on_failure)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.open()
        with _on_termination(service.begin_shutdown):
            yield
        await service.close()

    middleware = [Middleware(RequestCounter, metrics=service.metrics)]
    middleware.append(
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_origin_regex=_LOCAL_ORIGIN,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
        )
    )
    if settings.api_key:
        middleware.append(Middleware(KeyCheck, keys=settings.api_key))
    else:  # a key is more than such a page has
        middleware.append(Middleware(HostCheck, known=settings.host_name))
    middleware.append(Middleware(BodyLimit, limit=settings.max_body))
    # No page of documentation: it would load scripts from elsewhere.
    app = FastAPI(
        title="chatglm_cpp",
        version=__version__,
        lifespan=lifespan,
        middleware=middleware,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.state.responses = ResponseStore()
    add_error_handlers(app)
    for router in _ROUTERS:
        app.include_router(router)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Leaves FastAPI's own answer to invalid requests out of the description, since they get a 400."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = describe()
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schema.get("components", {}).get("schemas", {}).pop(name, None)
        return app.openapi_schema or describe()

    app.openapi = openapi  # type: ignore[method-assign]


@contextlib.contextmanager
def _on_termination(callback: Callable[[], None]) -> Iterator[None]:
    """Calls `callback` in the event loop when SIGINT or SIGTERM ends the server, beside the server's own
    handler. ASGI tells an application of its end only after the last answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)
        old = previous[signal.Signals(number)]
        assert callable(old)
        old(number, frame)

    ours = [number for number, old in previous.items() if callable(old)]
    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, previous[number])
