"""A server that the tests ask over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatglm_cpp import Pipeline

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
for package in ("fastapi", "sse_starlette", "prometheus_client"):
    pytest.importorskip(package, reason=f"{package} is not installed")

from chatglm_cpp.server import Settings, make_app  # noqa: E402

HELLO = [{"role": "user", "content": "你好"}]
# A request whose reply runs for longer than any test.
ENDLESS = {"messages": HELLO, "temperature": 0, "repetition_penalty": 0.5, "ignore_eos": True}
TIMEOUT = 120.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits until `condition` holds."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"{what} has not happened"
        time.sleep(0.005)


class Server(uvicorn.Server):
    """A server in a thread."""

    def __init__(self, settings: Settings, pipeline: Pipeline | None = None) -> None:
        self.app = make_app(settings, pipeline)
        super().__init__(uvicorn.Config(self.app, port=0, log_level="critical", timeout_graceful_shutdown=60))
        self.service = self.app.state.service
        self.thread = threading.Thread(target=self.run)
        self.loop: asyncio.AbstractEventLoop

    async def serve(self, sockets: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().serve(sockets)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT, trust_env=False, **options)

    def n_tasks(self) -> int:
        """Tasks of the event loop."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(TIMEOUT)

    def terminate(self) -> None:
        """What a signal does to a server in the main thread."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(self.service.begin_shutdown)
        self.should_exit = True

    def wait_until_idle(self) -> None:
        """Waits until no reply runs or waits."""

        def idle() -> bool:
            stats = self.service.pipeline.stats
            return stats.running == stats.waiting == 0

        until(idle, "idleness")


@contextlib.contextmanager
def serving(pipeline: Pipeline | None = None, **settings: Any) -> Iterator[Server]:
    server = Server(Settings.make(**settings), pipeline)
    server.thread.start()
    try:
        until(lambda: server.started or not server.thread.is_alive(), "the start of the server")
        yield server
    finally:
        server.terminate()
        server.thread.join(TIMEOUT)
        assert not server.thread.is_alive()


def events(response: httpx.Response) -> list[Any]:
    """The JSON of a stream's events, which must end with [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines), lines
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[len("data: ") :]) for line in lines[:-1]]


def error_of(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The error of an answer, which must have this status, OpenAI's shape and this code."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    if code is not None:
        assert body["error"]["code"] == code
    return body["error"]
