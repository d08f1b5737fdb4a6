"""The protocol of ChatGLM2-6B's `api.py`: one question and the history in, the answer and the new history out.

    CHATGLM_CPP_MODEL=model.gguf uvicorn chatglm_cpp.langchain_api:app --host 127.0.0.1 --port 8000
    python -m chatglm_cpp.langchain_api -m model.gguf
    curl http://127.0.0.1:8000 -d '{"prompt": "你好", "history": []}'

For programs that were written against it, such as LangChain's ChatGLM client; new ones do better with the
OpenAI-compatible server. docs/langchain.md has the fields.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import datetime
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ._C import Busy, ChatMessage, Error
from .pipeline import Pipeline

MODEL_VARIABLE = "CHATGLM_CPP_MODEL"
MAX_BODY_BYTES = 16 * 2**20  # a context of a million tokens has some 4 MiB of text
SHUTDOWN_SECONDS = 30  # for replies that are being written when the server is stopped
CLIENT_CLOSED_REQUEST = 499  # nginx's status; nobody reads it


class Question(BaseModel):
    """What a client sends. As in the original, a value that is missing, null or 0 is the default."""

    model_config = ConfigDict(extra="allow")  # the original never looked at other fields

    prompt: str
    history: list[tuple[str, str]] | None = Field(default=None, description="pairs of question and answer")
    max_length: int | None = Field(default=None, description="tokens of prompt and reply together; 2048")
    top_p: float | None = Field(default=None, description="0.7")
    temperature: float | None = Field(default=None, description="0.95")

    def conversation(self) -> list[ChatMessage]:
        messages = []
        for question, answer in self.history or []:
            messages.append(ChatMessage(role=ChatMessage.ROLE_USER, content=question))
            messages.append(ChatMessage(role=ChatMessage.ROLE_ASSISTANT, content=answer))
        return [*messages, ChatMessage(role=ChatMessage.ROLE_USER, content=self.prompt)]

    def options(self) -> dict[str, Any]:
        """The options of Pipeline.chat."""
        return {
            "max_length": self.max_length or 2048,
            "top_p": self.top_p or 0.7,
            "temperature": self.temperature or 0.95,
        }


class Answer(BaseModel):
    response: str
    history: list[tuple[str, str]]
    status: int
    time: str


def create_app(pipeline: Pipeline | None = None) -> FastAPI:
    """The application. Without a pipeline it loads the model that $CHATGLM_CPP_MODEL names, or else the small
    one of the package, when the server starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if pipeline is not None:
            app.state.pipeline = pipeline
            yield
            return
        with await run_in_threadpool(Pipeline, os.environ.get(MODEL_VARIABLE) or None) as loaded:
            app.state.pipeline = loaded
            yield

    app = FastAPI(title="chatglm_cpp, the protocol of ChatGLM2-6B's api.py", lifespan=lifespan)
    # The original reads JSON whatever the content type says, and many clients name none.
    body = {"required": True, "content": {"application/json": {"schema": Question.model_json_schema()}}}
    app.post("/", response_model=Answer, openapi_extra={"requestBody": body})(answer)
    return app


async def answer(request: Request) -> Response:
    """Answers the prompt."""
    try:
        question = Question.model_validate_json(await _body(request))
    except ValidationError as error:
        return _refusal(400, _sentence(error))
    except _TooLarge:
        return _refusal(413, f"The request has more than {MAX_BODY_BYTES} bytes; send a shorter history.")
    try:
        # Tokens of a long history are a matter of milliseconds, which other clients would feel.
        stream = await run_in_threadpool(
            request.app.state.pipeline.submit, question.conversation(), **question.options()
        )
        reply = await _unless_disconnected(request, stream)
    except Busy as error:
        return _refusal(503, str(error), {"Retry-After": "1"})
    except (Error, ValueError, TypeError) as error:
        return _refusal(400, str(error))
    except MemoryError as error:
        return _refusal(503, str(error) or "There is not enough memory for this reply.")
    if reply is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    history = [*(question.history or []), (question.prompt, reply.content)]
    result = Answer(response=reply.content, history=history, status=200, time=_now())
    headers = {}
    if unknown := sorted(question.model_extra or {}):
        headers["X-Ignored-Fields"] = ", ".join(ascii(name)[1:-1] for name in unknown)[:1000]
    return JSONResponse(result.model_dump(), headers=headers)


class _TooLarge(Exception):
    pass


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _TooLarge
    return bytes(body)


async def _unless_disconnected(request: Request, reply: Awaitable[Any]) -> Any:
    """The reply, or None when its client has gone; then the reply is cancelled."""

    async def wait_for(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work, watch = asyncio.create_task(wait_for(reply)), asyncio.create_task(gone())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.wait({work, watch})


def _sentence(error: ValidationError) -> str:
    """The first of what is wrong with a body, and where."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}." if place else f"The body cannot be read: {first['msg']}."


def _refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"error": sentence, "status": status, "time": _now()}
    return JSONResponse(body, status_code=status, headers=headers)


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")


app = create_app()


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is interrupted."""
    import uvicorn

    from .cli.options import add_model_options, load

    parser = argparse.ArgumentParser(
        prog="python -m chatglm_cpp.langchain_api",
        description="Serves a model with the protocol of ChatGLM2-6B's api.py.",
    )
    add_model_options(parser)
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    server.add_argument("--port", type=int, default=8000, metavar="N", help="port (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        pipeline, _ = load(args)
    except (Error, ValueError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with pipeline:
        uvicorn.run(
            create_app(pipeline), host=args.host, port=args.port, timeout_graceful_shutdown=SHUTDOWN_SECONDS
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
