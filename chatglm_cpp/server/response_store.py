"""Responses that later requests may go on from."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MAX_RESPONSES = 1000
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class StoredResponse:
    body: dict[str, Any]  # as it was answered
    conversation: list[dict[str, Any]]  # up to it and with it, as Pipeline.chat takes it


class ResponseStore:
    """Keeps the last responses in memory, within bounds: what went unused for the longest time is forgotten.

    Nothing outlives the server, and nothing is written anywhere.
    """

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        self._bytes = 0

    def put(self, response: StoredResponse) -> None:
        size = len(json.dumps([response.body, response.conversation]))
        self._kept[response.body["id"]] = (response, size)
        self._bytes += size
        while self._kept and (len(self._kept) > self._max_responses or self._bytes > self._max_bytes):
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed

    def get(self, response_id: str) -> StoredResponse | None:
        if response_id not in self._kept:
            return None
        self._kept.move_to_end(response_id)
        return self._kept[response_id][0]

    def remove(self, response_id: str) -> bool:
        """Whether it was there."""
        if response_id not in self._kept:
            return False
        self._bytes -= self._kept.pop(response_id)[1]
        return True
