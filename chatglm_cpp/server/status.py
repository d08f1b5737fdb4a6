"""What a server has, and how it is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .. import __version__
from .schemas import ERRORS
from .service import Service, service_of

router = APIRouter(tags=["status"])

TheService = Annotated[Service, Depends(service_of)]


class Health(BaseModel):
    status: Literal["ok", "loading", "failed", "shutting down"]
    version: str
    error: str | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int  # tokens of prompt and reply together


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


@router.get("/", response_class=PlainTextResponse, responses={401: ERRORS[401]})
async def greeting(request: Request, service: TheService) -> Response:
    """For people who open the address in a browser: what it is for."""
    address = str(request.base_url).rstrip("/")
    return PlainTextResponse(
        f"chatglm_cpp {__version__} answers programs here, with the model {service.settings.names()[0]}.\n\n"
        f"Base URL of OpenAI's clients: {address}/v1\n"
        f"Base URL of Anthropic's clients: {address}\n"
        f"All endpoints: {address}/openapi.json\n\n"
        "`chatglm-cpp web` serves a page to chat in.\n"
    )


@router.get("/health", response_model=Health, responses={503: {"model": Health}})
async def health(service: TheService) -> Response:
    """200 when questions are answered, else 503."""
    state = service.state
    body: dict[str, Any] = {"status": state, "version": __version__}
    if service.failure is not None:
        body["error"] = str(service.failure)
    return JSONResponse(body, 200 if state == "ok" else 503)


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, 401: ERRORS[401]}
)
async def metrics(service: TheService) -> Response:
    """Figures for Prometheus."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models", response_model=ModelList, responses=ERRORS)
async def list_models(service: TheService) -> Response:
    """The model, under each of its names."""
    models = [_model(service, name) for name in service.settings.names()]
    return JSONResponse({"object": "list", "data": models})


# A name may have slashes, as on the Hugging Face Hub.
@router.get("/v1/models/{model:path}", response_model=Model, responses=ERRORS)
async def get_model(model: str, service: TheService) -> Response:
    return JSONResponse(_model(service, service.check_model(model)))


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "chatglm_cpp",
        "max_model_len": service.max_length,
    }
