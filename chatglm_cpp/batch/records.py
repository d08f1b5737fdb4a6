"""Lines of OpenAI's batch format: requests, and the records that answer them."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

from .._C import InvalidArgument
from ..messages import check_text

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_LINE_BYTES = 16 * 2**20  # a context of a million tokens has some 4 MiB of text

# A record begins like this, as `Record.to_line` writes it.
_RECORD = re.compile(
    rb'\{"id": "(?P<id>batch_req_[0-9a-f]{32})", "custom_id": (?:null|"(?:[^"\\]|\\.)*"), '
    rb'"response": (?:null|\{"status_code": (?P<status>[0-9]{3}),)'
)
RECORD_START = b'{"id": "batch_req_'


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the input: its number, from 1, and its bytes without the line break."""

    number: int
    data: bytes

    @property
    def id(self) -> str:
        """Of the record that answers it. It stands for the line's place and bytes, so that a record tells
        whether the input still has the line that it answers."""
        return "batch_req_" + hashlib.sha256(b"%d:%b" % (self.number, self.data)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Request:
    custom_id: str
    url: str  # one of URLS
    body: dict[str, Any]


class BadLine(InvalidArgument):
    """A line that is no request; `custom_id` is what it calls itself, if that can be read."""

    def __init__(self, sentence: str, custom_id: str | None = None) -> None:
        super().__init__(sentence)
        self.custom_id = custom_id


def parse_request(line: Line) -> Request:
    """The request of a line.

    Raises:
        BadLine: it is none.
    """

    def bad(sentence: str) -> BadLine:
        return BadLine(f"Line {line.number}: {sentence}", custom_id)

    custom_id = None
    if len(line.data) > MAX_LINE_BYTES:
        raise bad(f"has more than {MAX_LINE_BYTES} bytes.")
    try:
        item = json.loads(line.data.decode("utf-8-sig" if line.number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise bad(f"is no JSON: {error}.") from None
    if not isinstance(item, dict):
        raise bad('is no JSON object; give {"custom_id": ..., "method": "POST", "url": ..., "body": {...}}.')
    try:
        custom_id = check_text(item.get("custom_id"), "custom_id")
    except (TypeError, InvalidArgument):
        raise bad('needs a "custom_id", a text that no other line has.') from None
    if item.get("method") != "POST":
        raise bad('needs "method": "POST".')
    if item.get("url") not in URLS:
        raise bad(f'needs a "url", one of {", ".join(URLS)}.')
    if not isinstance(item.get("body"), dict):
        raise bad('needs a "body", the JSON object of the request.')
    if unknown := [name for name in item if name not in ("custom_id", "method", "url", "body")]:
        raise bad(f"has the unknown field {unknown[0]!r}; fields of the request belong into its body.")
    return Request(custom_id, item["url"], item["body"])


@dataclass(frozen=True, slots=True)
class Record:
    """What answers a line: a response with an HTTP status and a body, or the error that kept it from one."""

    id: str
    custom_id: str | None
    status: int | None = None
    body: dict[str, Any] | None = None
    error: dict[str, str] | None = None

    @property
    def succeeded(self) -> bool:
        return self.status == 200

    def to_json(self) -> dict[str, Any]:
        """The record in OpenAI's format."""
        response = None
        if self.status is not None:
            request_id = f"req_{uuid.uuid4().hex}"
            response = {"status_code": self.status, "request_id": request_id, "body": self.body}
        return {"id": self.id, "custom_id": self.custom_id, "response": response, "error": self.error}

    def to_line(self) -> bytes:
        """Its line of the output, with the line break."""
        # Half of a surrogate pair, which UTF-8 cannot carry, becomes the escape that JSON has for it.
        text = json.dumps(self.to_json(), ensure_ascii=False)
        return text.encode("utf-8", errors="backslashreplace") + b"\n"


def read_record(line: bytes) -> tuple[str, bool] | None:
    """The id of a record and whether it succeeded, from its line; None when it is none."""
    found = _RECORD.match(line)
    if found is None or not line.endswith(b"}\n"):
        return None
    return found["id"].decode(), found["status"] == b"200"
