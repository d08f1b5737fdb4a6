"""/tokenize and /detokenize, in the form of vLLM."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from ..messages import to_token_ids
from .body import StrictRoute
from .chat_schemas import Message, Tool, to_pipeline
from .errors import ApiError
from .schemas import ERRORS, Strict, TokenId
from .service import Service, service_of

router = APIRouter(tags=["tokens"], route_class=StrictRoute)

TheService = Annotated[Service, Depends(service_of)]


class TokenizeRequest(Strict):
    """Either a plain text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None  # those that every prompt begins with; by default true
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]


class DetokenizeRequest(Strict):
    model: str | None = None
    tokens: list[TokenId]


class DetokenizeResponse(BaseModel):
    prompt: str


@router.post("/tokenize", response_model=TokenizeResponse, responses=ERRORS)
async def tokenize(body: TokenizeRequest, service: TheService) -> Response:
    """The tokens of a text, or of the whole prompt of a conversation."""
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "Give either prompt or messages.", param="prompt")
    if body.messages is None and body.tools is not None:
        raise ApiError(400, "tools go with messages.", param="tools")
    if body.messages is not None and body.add_special_tokens is not None:
        raise ApiError(400, "add_special_tokens goes with prompt.", param="add_special_tokens")
    tokenizer = service.pipeline.tokenizer

    def encode() -> list[int]:
        if body.messages is not None:
            tools = [tool.model_dump(exclude_none=True) for tool in body.tools or []]
            return tokenizer.apply_chat_template(list(map(to_pipeline, body.messages)), tools=tools)
        assert body.prompt is not None
        if body.add_special_tokens is False:
            return tokenizer.encode_plain(body.prompt)
        return tokenizer.encode(body.prompt)

    ids = await service.run(encode)
    return JSONResponse({"count": len(ids), "max_model_len": service.max_length, "tokens": ids})


@router.post("/detokenize", response_model=DetokenizeResponse, responses=ERRORS)
async def detokenize(body: DetokenizeRequest, service: TheService) -> Response:
    """The text of tokens."""
    service.check_model(body.model)
    tokenizer = service.pipeline.tokenizer
    ids = to_token_ids(body.tokens, tokenizer.vocab_size, "tokens")
    return JSONResponse({"prompt": await service.run(lambda: tokenizer.decode(ids))})
