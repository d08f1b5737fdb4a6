"""The protocol of ChatGLM2-6B's `api.py`: a question and the history in, the answer and the history out."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response

from .body import StrictRoute, read_json
from .calls import ChatCall, start_chat
from .replies import while_connected
from .schemas import ERRORS, check_max_tokens
from .service import Service, service_of

router = APIRouter(tags=["chatglm2"], route_class=StrictRoute)

MAX_LENGTH = 2048

Turn = Annotated[list[str], Field(min_length=2, max_length=2, description="a question and its answer")]


class Question(BaseModel):
    """What a client sends. As in the original, a value that is missing, null or 0 is the default."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)  # the original never looks at other fields

    prompt: str
    history: list[Turn] | None = None
    max_length: int | None = Field(None, ge=0, lt=2**31, description="tokens of prompt and reply; 2048")
    top_p: float | None = Field(None, ge=0, le=1, description="0.7")
    temperature: float | None = Field(None, ge=0, description="0.95")

    def messages(self) -> list[dict[str, str]]:
        """The conversation as Pipeline.chat takes it."""
        turns = [text for pair in self.history or [] for text in pair]
        roles = ("user", "assistant")
        return [{"role": roles[i % 2], "content": text} for i, text in enumerate([*turns, self.prompt])]


class Answer(BaseModel):
    response: str
    history: list[Turn]
    status: int
    time: str


# The original reads JSON whatever the content type says, and many clients name none.
_BODY = {"required": True, "content": {"application/json": {"schema": Question.model_json_schema()}}}


@router.post("/", response_model=Answer, responses=ERRORS, openapi_extra={"requestBody": _BODY})
async def answer(request: Request, service: Annotated[Service, Depends(service_of)]) -> Response:
    """The answer to a question, as ChatGLM2-6B's api.py gives it."""
    question = _question(await request.body())
    settings = service.settings
    options = {
        "max_length": min(question.max_length or MAX_LENGTH, service.max_length),
        "max_new_tokens": check_max_tokens(settings, None, "max_length"),
        "top_p": question.top_p or settings.top_p,
        "temperature": question.temperature or settings.temperature,
    }
    replies = await start_chat(service, ChatCall(question.messages(), options))
    (reply,) = await while_connected(request, [reply.whole() for reply in replies], replies)
    result: dict[str, Any] = {
        "response": reply.content,
        "history": [*(question.history or []), (question.prompt, reply.content)],
        "status": 200,
        "time": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
    }
    # A header holds ASCII and must not end in a space; odd names come as JSON writes them.
    ignored = ", ".join(
        name if name.isascii() and name.isidentifier() else json.dumps(name)
        for name in question.model_extra or {}
    )
    return JSONResponse(result, headers={"X-Ignored-Fields": ignored[:1000].rstrip()} if ignored else None)


def _question(body: bytes) -> Question:
    value = read_json(body)
    try:
        return Question.model_validate(value)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(found, body=value) from None
