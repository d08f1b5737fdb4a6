"""The model behind the endpoints: loaded in the background, asked, and given up in order."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from ..options import PROMPT_LOOKUP
from ..pipeline import Pipeline
from ..stream import Stream
from .errors import ApiError
from .metrics import Metrics
from .replies import Reply
from .settings import Settings

logger = logging.getLogger("chatglm_cpp.server")

T = TypeVar("T")
R = TypeVar("R", bound=Reply[Any, Any])

Ask = Callable[[Pipeline], Stream[Any, Any]]


def load_pipeline(settings: Settings) -> Pipeline:
    """The pipeline that the settings ask for; errors are Pipeline's."""
    return Pipeline(
        settings.model,
        dtype=settings.dtype,
        kv_dtype=settings.kv_dtype,
        lora=settings.loras() or None,
        n_threads=settings.threads,
        prompt_lookup=PROMPT_LOOKUP[settings.prompt_lookup],
        draft=settings.draft,
        draft_tokens=settings.draft_tokens,
        max_sequences=settings.max_sequences,
        max_queue=settings.max_queue,
        cache_memory=settings.cache_memory,
        prefill_chunk=settings.prefill_chunk,
    )


class Service:
    """What endpoints share.

    Args:
        settings: of the server.
        pipeline: a model that is loaded already; by default `open` loads the one of the settings.
        on_failure: called, in the thread that loads, when the model cannot be loaded.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics(lambda: None if self._pipeline is None else self._pipeline.stats)
        self.created = int(time.time())
        self.failure: BaseException | None = None
        self._pipeline = pipeline
        self._owned = pipeline is None
        self._on_failure = on_failure
        self._closing = False
        self._computing = anyio.Semaphore(1)  # one of asyncio would belong to the first event loop
        self._n_waiting = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._replies: dict[int, Reply[Any, Any]] = {}  # that are not closed yet, by identity

    # --- life ---

    def open(self) -> None:
        """Begins to load the model. Requests are answered 503 until it is there."""
        self._closing = False
        if self._pipeline is None:
            # A daemon: nobody shall wait for a large model only to end.
            threading.Thread(target=self._load, name="chatglm_cpp load", daemon=True).start()

    def _load(self) -> None:
        start = time.perf_counter()
        try:
            pipeline = load_pipeline(self.settings)
        except Exception as error:
            self.failure = error
            if self._on_failure is None:
                logger.error("The model cannot be loaded: %s", error)
            else:
                self._on_failure(error)
            return
        if self._closing:
            pipeline.close()
            return
        for note in pipeline.notes:
            logger.warning("%s", note)
        logger.info("Loaded %s in %.1f s", pipeline.path, time.perf_counter() - start)
        self._pipeline = pipeline

    def begin_shutdown(self) -> None:
        """Refuses new requests, and cancels the replies that still run in `shutdown_timeout` seconds. To be
        called in the event loop; a second call does nothing."""
        if not self._closing:
            self._closing = True
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self.settings.shutdown_timeout, self._cancel_all)

    def _cancel_all(self) -> None:
        for reply in list(self._replies.values()):
            reply.cancel()

    async def close(self) -> None:
        """Ends all replies and gives the model's memory back, if `open` has loaded it."""
        self._closing = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._cancel_all()
        if self._owned and self._pipeline is not None:
            pipeline, self._pipeline = self._pipeline, None
            await anyio.to_thread.run_sync(pipeline.close)

    # --- the model ---

    @property
    def state(self) -> str:
        if self._closing:
            return "shutting down"
        if self.failure is not None:
            return "failed"
        return "loading" if self._pipeline is None else "ok"

    @property
    def pipeline(self) -> Pipeline:
        """The model. Raises ApiError: it is still loading, cannot be loaded, or the server is ending."""
        if self._closing:
            raise ApiError(503, "The server is shutting down.", code="shutting_down", retry_after=5)
        if self.failure is not None:
            raise ApiError(503, f"The model could not be loaded: {self.failure}", code="model_failed")
        if self._pipeline is None:
            raise ApiError(503, "The model is still loading.", code="model_loading", retry_after=2)
        return self._pipeline

    def check_model(self, name: str | None) -> str:
        """The name to answer with. Raises ApiError when `name` is no name of the model."""
        names = self.settings.names()
        if name is None or name in names:
            return name or names[0]
        raise ApiError(
            404,
            f"The model {name!r} is not here; this server has {', '.join(map(repr, names))}.",
            param="model",
            code="model_not_found",
        )

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt and its reply together."""
        context = self.pipeline.config.max_length
        return min(self.settings.max_length or context, context)

    # --- replies ---

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may compute for a while, from a thread of its own."""
        return await anyio.to_thread.run_sync(work)

    async def compute(self, work: Callable[[], T]) -> T:
        """`run` for what takes long and needs much memory: one at a time, and no more than `max_queue` wait.
        Raises ApiError when they are too many."""
        if self._n_waiting > self.settings.max_queue:
            raise ApiError(503, "Too many requests wait already.", code="queue_full", retry_after=1)
        self._n_waiting += 1
        try:
            await self._computing.acquire()
        finally:
            self._n_waiting -= 1
        task = asyncio.ensure_future(self.run(work))

        def release(_: asyncio.Future[T]) -> None:
            self._computing.release()
            if not task.cancelled():
                task.exception()  # of who asked nobody may be there any more

        task.add_done_callback(release)
        # The next one begins when the thread has ended, not when the client goes away.
        return await asyncio.shield(task)

    @property
    def limits(self) -> dict[str, Any]:
        """Options of Pipeline.submit that the server sets for every reply."""
        limits: dict[str, Any] = {"max_length": self.max_length}
        if self.settings.max_time:
            limits["max_time"] = self.settings.max_time
        return limits

    async def start(self, ask: Ask, make: Callable[[Stream[Any, Any], Metrics], R]) -> R:
        """Begins a reply. `ask` calls the pipeline, in a thread of its own, and `make` makes a Reply of what
        it gives. Close that in the end. Raises what `ask` raises."""
        pipeline = self.pipeline
        stream = await self.run(lambda: ask(pipeline))
        reply = make(stream, self.metrics)
        self._replies[id(reply)] = reply
        reply.on_close = partial(self._replies.pop, id(reply), None)
        return reply

    async def start_all(self, asks: Sequence[Ask], make: Callable[[Stream[Any, Any], Metrics], R]) -> list[R]:
        """Begins several replies, or none of them. Close them in the end."""
        replies: list[R] = []
        try:
            for ask in asks:
                replies.append(await self.start(ask, make))
        except BaseException:
            for reply in replies:
                reply.close()
            raise
        return replies


def service_of(request: Request) -> Service:
    """The service of the application that answers `request`; a dependency of endpoints."""
    service: Service = request.app.state.service
    return service
