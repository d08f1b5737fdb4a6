"""What clients talk to: hands each request to a replica, and the answer back as it comes."""

# No postponed annotations: FastAPI reads those of the endpoint, which Ray carries to another process.
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from ray.exceptions import RayActorError, RayTaskError
from ray.serve import ingress
from ray.serve.exceptions import BackPressureError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from .engine import HttpRequest, HttpStart
from .session_key import session_key

logger = logging.getLogger("chatglm_cpp.scaling")

_ATTEMPTS = 4  # replicas that may die under one request
_LOST = "The replica that computed this answer was lost; ask again."
_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade"}

app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)


async def _body(parts: AsyncGenerator[Any, None], streamed: bool) -> AsyncGenerator[bytes, None]:
    """The rest of an answer. A stream of events that breaks ends with an error of OpenAI's form."""
    async with aclosing(parts):
        try:
            async for part in parts:
                yield part
        except (RayActorError, RayTaskError) as error:
            if not streamed:
                raise
            logger.error("%s", error)
            data = json.dumps({"error": _details(502, _LOST)})
            yield f"data: {data}\n\ndata: [DONE]\n\n".encode()


def _error(status: int, message: str, retry_after: int | None = None) -> Response:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return JSONResponse({"error": _details(status, message)}, status, headers)


def _details(status: int, message: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"message": message, "type": kind, "param": None, "code": None}


# Last: Ray copies the class, with what it finds in this module, when it is decorated.
@ingress(app)
class Front:
    """Answers any request with what a replica answers. As long as nothing was sent to the client, a request
    whose replica dies is given to another one.

    Args:
        engine: a handle of the deployment of Engine.
        max_body: bytes of a request.
    """

    def __init__(self, engine: Any, max_body: int) -> None:
        self._engine = engine.options(stream=True)
        self._max_body = max_body

    @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
    async def forward(self, request: Request) -> Response:
        try:
            body = await self._read(request)
        except ClientDisconnect:
            return Response(status_code=499)
        if body is None:
            return _error(413, f"The body is too large: this server takes {self._max_body} bytes.")
        headers = [
            (name, value) for name, value in request.scope["headers"] if name.lower() not in _HOP_BY_HOP
        ]
        client = None if request.client is None else (request.client.host, request.client.port)
        carried = HttpRequest(
            request.method,
            request.scope["path"],
            request.scope["query_string"],
            headers,
            body,
            client,
            request.scope.get("server"),
        )
        parts = self._parts(carried, session_key(headers, body))
        try:
            start = await anext(parts)
        except BackPressureError:
            return _error(503, "Too many requests wait already.", retry_after=1)
        except (RayActorError, RayTaskError) as error:
            logger.error("%s", error)
            return _error(502, _LOST)
        assert isinstance(start, HttpStart)
        streamed = any(
            name.lower() == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in start.headers
        )
        response = StreamingResponse(_body(parts, streamed), status_code=start.status)
        response.raw_headers = [(n, v) for n, v in start.headers if n.lower() not in _HOP_BY_HOP]
        return response

    async def _read(self, request: Request) -> bytes | None:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._max_body:
                return None
        return bytes(body)

    async def _parts(self, request: HttpRequest, key: str) -> AsyncGenerator[HttpStart | bytes, None]:
        """The parts of an answer. Its beginning is held back until there is more of it: a replica that dies
        before it has said anything is replaced."""
        for attempt in range(1, _ATTEMPTS + 1):
            start: HttpStart | None = None
            sent = False
            answer = self._engine.answer.remote(request, key=key)
            try:
                async for part in answer:
                    if isinstance(part, HttpStart):
                        start = part
                        continue
                    if not sent:
                        assert start is not None
                        yield start
                        sent = True
                    yield part
                if not sent and start is not None:
                    yield start
                return
            except RayActorError:
                if sent or attempt == _ATTEMPTS:
                    raise
                logger.warning("A replica was lost; its request goes to another one.")
            finally:
                answer.cancel()
