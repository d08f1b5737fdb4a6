"""/v1/embeddings"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from ..messages import to_token_ids
from ..tokenizer import Tokenizer
from .body import StrictRoute
from .errors import ApiError
from .replies import while_connected
from .schemas import ERRORS, TextsOrTokens, Unused, as_list
from .service import Service, service_of

router = APIRouter(tags=["embeddings"], route_class=StrictRoute)

TheService = Annotated[Service, Depends(service_of)]

_MAX_TEXTS = 2048  # OpenAI's


class EmbeddingRequest(Unused):
    """`pooling` and `normalize` are this server's own; see Pipeline.embed."""

    model: str | None = None
    input: TextsOrTokens
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, lt=2**31)
    pooling: Literal["mean", "last"] | None = None
    normalize: bool | None = None


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


@router.post("/v1/embeddings", response_model=EmbeddingResponse, responses=ERRORS)
async def create_embeddings(body: EmbeddingRequest, request: Request, service: TheService) -> Response:
    """A vector for each text."""
    model = service.check_model(body.model)
    pipeline = service.pipeline
    size = pipeline.config.hidden_size
    if body.dimensions not in (None, size):
        raise ApiError(
            400, f"dimensions: vectors of this model have {size}; leave it out.", param="dimensions"
        )
    given = as_list(body.input)
    if len(given) > _MAX_TEXTS:
        raise ApiError(
            400, f"input has {len(given)} texts; send at most {_MAX_TEXTS} at once.", param="input"
        )
    rows = await service.run(lambda: [_ids(one, pipeline.tokenizer) for one in given])

    def embed() -> npt.NDArray[np.float32]:
        return pipeline.embed(rows, pooling=body.pooling or "mean", normalize=body.normalize is not False)

    (vectors,) = await while_connected(request, [service.compute(embed)])
    n_tokens = sum(map(len, rows))
    write = _base64 if body.encoding_format == "base64" else np.ndarray.tolist
    data = [{"object": "embedding", "index": i, "embedding": write(row)} for i, row in enumerate(vectors)]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return JSONResponse({"object": "list", "model": model, "data": data, "usage": usage})


def _ids(given: str | list[int], tokenizer: Tokenizer) -> list[int]:
    if isinstance(given, str):
        return tokenizer.encode(given)
    return to_token_ids(given, tokenizer.vocab_size, "input")


def _base64(vector: npt.NDArray[np.float32]) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
