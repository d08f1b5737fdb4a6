"""Which replica gets a request: the one that has the beginning of its conversation in its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


def rank(key: str, replicas: Sequence[str]) -> list[str]:
    """The replicas in the order in which the requests of a conversation prefer them. When one comes or goes
    only the conversations that prefer it move (rendezvous hashing: Thaler and Ravishankar, 1998)."""

    def weight(replica: str) -> bytes:
        return hashlib.blake2b(f"{key}\0{replica}".encode(), digest_size=8).digest()

    return sorted(replicas, key=weight, reverse=True)


class StickyRouter(RequestRouter):
    """Prefers the same replica for all requests with the same `key`, and another one only while that is
    full. Requests without a key go anywhere."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        key = _key_of(pending_request)
        if not key:
            return [candidate_replicas]
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        return [[by_name[name]] for name in rank(key, list(by_name))]


def _key_of(request: PendingRequest | None) -> str:
    kwargs: dict[Any, Any] = {} if request is None else request.kwargs
    return str(kwargs.get("key", ""))
