"""Errors as clients of OpenAI's API expect them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException, RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, Response

from .._C import Busy, ContextLengthError, Error, InvalidArgument

logger = logging.getLogger("chatglm_cpp.server")

_LONGEST = 1000
_KINDS = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class ApiError(HTTPException):
    """An answer other than 2xx.

    Args:
        status: of HTTP.
        message: a sentence: what was wrong, and what to do.
        param: the field of the request, such as "messages[0].content".
        code: a word for programs, such as "context_length_exceeded".
        kind: OpenAI's `type`; by default it follows from the status.
        retry_after: seconds after which another try makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.message = _shortened(message)
        self.param = None if param is None else _shortened(param)
        self.code = code
        self.kind = kind or _KINDS.get(status, "invalid_request_error")


def _shortened(text: str) -> str:
    """Without the middle of what a client has sent to be repeated."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


Shape = Callable[[ApiError], Mapping[str, Any]]


def openai_shape(error: ApiError) -> dict[str, Any]:
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


# Endpoints of other protocols say their errors in a shape of their own.
_shapes: dict[str, Shape] = {}


def use_shape(path_prefix: str, shape: Shape) -> None:
    """Errors of paths that begin with `path_prefix` have this shape from now on."""
    _shapes[path_prefix] = shape


def to_response(error: ApiError, path: str) -> Response:
    shape = next((shape for prefix, shape in _shapes.items() if path.startswith(prefix)), openai_shape)
    return JSONResponse(shape(error), error.status_code, error.headers)


_PARAM = re.compile(
    r"((?:messages|tools|prompt|stop|logit_bias)(?:\[[^\]]*\]|\.\w+)*|[a-z]+(?:_[a-z]+)*)"
    r" (?:is|has|holds|names|cannot) "
)


# What is too long at a path that takes no `messages`.
_LONG_FIELDS = {
    "/": "prompt",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/responses": "input",
}


def to_api_error(error: BaseException) -> ApiError:
    """The answer to an exception. What nobody foresaw is logged, and its text kept from the client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(503, str(error), code="queue_full", retry_after=1)
    if isinstance(error, ContextLengthError):
        # The option that the sentence goes on with is one of the library.
        message = str(error).partition(", or set max_context_length")[0].rstrip(".") + "."
        return ApiError(400, message, param="messages", code="context_length_exceeded")
    if isinstance(error, InvalidArgument):
        named = _PARAM.match(str(error))
        return ApiError(400, str(error), param=named[1] if named else None)
    if isinstance(error, MemoryError):
        return ApiError(503, str(error) or "Out of memory.", code="out_of_memory", retry_after=5)
    if isinstance(error, Error):
        return ApiError(500, str(error))
    logger.error("unexpected error", exc_info=error)
    return _fault()


def _fault() -> ApiError:
    return ApiError(500, "The server has a fault; its log says more.")


def _path(location: Sequence[int | str], body: Any, missing: bool) -> str:
    """The place in `body`, in which the last part may be missing. Of a union pydantic names the alternative,
    too, which is no part of the request."""
    path = ""
    for i, part in enumerate(location):
        if isinstance(part, int):
            path += f"[{part}]"
            body = body[part] if isinstance(body, list) and part < len(body) else None
        elif (isinstance(body, dict) and part in body) or (missing and i == len(location) - 1):
            path += f".{part}" if path else part
            body = body.get(part) if isinstance(body, dict) else None
    return path


def _from_validation(error: RequestValidationError) -> ApiError:
    # Of the alternatives of a union, the one that went furthest is the one that was meant, and one whose type
    # was right rather than others.
    first = max(error.errors(), key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    place, *location = first["loc"]
    kind = first["type"]
    path = _path(location, error.body, missing=kind == "missing")
    if kind == "json_invalid":
        return ApiError(400, f"The body is no JSON: {first['ctx']['error']}.")
    if kind == "extra_forbidden":
        return ApiError(
            400, f"Unknown field: {path!r} is not supported.", param=path, code="unknown_parameter"
        )
    if kind == "missing":
        what = f"{path!r} is required." if path else "The request has no JSON body."
        return ApiError(400, what, param=path or None, code="missing_required_parameter")
    if not path:
        return ApiError(400, f"The {place} must be a JSON object, sent as application/json.")
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{path}: {message.rstrip('.')}.", param=path, code="invalid_value")


def add_error_handlers(app: FastAPI) -> None:
    """Every answer that is no success has the shape of its protocol."""

    async def answer(request: Request, error: Exception) -> Response:
        found = to_api_error(error)
        if isinstance(error, ContextLengthError):
            found.param = _LONG_FIELDS.get(request.url.path, found.param)
        return to_response(found, request.url.path)

    async def answer_fault(request: Request, error: Exception) -> Response:
        # The exception goes on to the web server, which logs it.
        return to_response(_fault(), request.url.path)

    async def answer_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return to_response(_from_validation(error), request.url.path)

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        if not isinstance(error, ApiError):
            texts = {
                404: f"There is nothing at {request.url.path}.",
                405: f"{request.url.path} does not answer {request.method}.",
            }
            found = ApiError(error.status_code, texts.get(error.status_code, str(error.detail)))
            found.headers = error.headers
            error = found
        return to_response(error, request.url.path)

    app.add_exception_handler(RequestValidationError, answer_validation)
    app.add_exception_handler(StarletteHTTPException, answer_http)
    app.add_exception_handler(Error, answer)
    app.add_exception_handler(MemoryError, answer)
    app.add_exception_handler(Exception, answer_fault)
