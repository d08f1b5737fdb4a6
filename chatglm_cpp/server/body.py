"""Reads the JSON of requests, which is trusted in nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from .errors import ApiError

_MAX_DEPTH = 100
_LARGE = 100_000  # bytes


def read_json(data: bytes) -> Any:
    """The value in `data`. Raises ApiError: it is no UTF-8, no JSON (NaN is none), nested more than
    100 deep, or has a key twice or half of a surrogate pair."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(
            400, f"The body is no UTF-8: byte {error.start} is {data[error.start]:#04x}."
        ) from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ApiError(400, f"The body is no JSON: {error}.") from None
    _check(value)
    return value


def _refuse_constant(name: str) -> Any:
    raise ApiError(400, f"The body is no JSON: {name} is no number of JSON.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ApiError(400, f"The body has the key {twice!r} twice in one object.")
    return found


def _too_deep() -> ApiError:
    return ApiError(400, f"The body is nested more than {_MAX_DEPTH} deep.")


def _check(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item)
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, str):
                try:
                    item.encode("utf-8")
                except UnicodeEncodeError:
                    raise ApiError(
                        400, "The body holds half of a surrogate pair, which is no character."
                    ) from None
        if not inner:
            return
        level = inner
    raise _too_deep()


class _StrictRequest(Request):
    async def body(self) -> bytes:
        try:
            return await super().body()
        except ClientDisconnect:
            raise ApiError(499, "The client went away.") from None

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            data = await self.body()
            # Other requests shall not wait for a large one to be read.
            self._json = await run_in_threadpool(read_json, data) if len(data) > _LARGE else read_json(data)
        return self._json


class StrictRoute(APIRoute):
    """A route whose body is read by `read_json`. A client that goes away meanwhile is no fault."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict
