"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from .. import _C
from ..stream import Usage

_WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters and histograms of one server, in a registry of its own. `stats` gives what the engine says
    now, or None while there is none."""

    def __init__(self, stats: Callable[[], _C.PipelineStats | None]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "chatglm_requests", "Requests answered", ["path", "status"], registry=self.registry
        )
        self.replies = Counter("chatglm_replies", "Replies ended", ["reason"], registry=self.registry)
        self.prompt_tokens = Counter("chatglm_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.cached_tokens = Counter(
            "chatglm_cached_tokens", "Tokens of prompts found in the cache", registry=self.registry
        )
        self.reply_tokens = Counter("chatglm_reply_tokens", "Tokens of replies", registry=self.registry)
        self.first_token = Histogram(
            "chatglm_time_to_first_token_seconds",
            "Seconds from a request to its first token",
            buckets=_WAITS,
            registry=self.registry,
        )
        self.between_tokens = Histogram(
            "chatglm_time_between_tokens_seconds",
            "Seconds between the tokens of a reply",
            buckets=_STEPS,
            registry=self.registry,
        )
        self.seconds = Histogram(
            "chatglm_reply_seconds",
            "Seconds from a request to the end of its reply",
            buckets=_WAITS,
            registry=self.registry,
        )
        self.registry.register(_Engine(stats))

    def count_reply(self, usage: Usage) -> None:
        """Counts a reply that has ended."""
        self.replies.labels(usage.finish_reason or "error").inc()
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.cached_tokens.inc(usage.cached_tokens)
        self.reply_tokens.inc(usage.new_tokens)
        self.seconds.observe(usage.seconds)


class _Engine:
    """Reads the engine's numbers when they are asked for."""

    def __init__(self, stats: Callable[[], _C.PipelineStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        replies = GaugeMetricFamily("chatglm_engine_replies", "Replies in the engine", labels=["state"])
        memory = GaugeMetricFamily("chatglm_engine_cache_bytes", "Keys and values", labels=["state"])
        if stats is not None:
            replies.add_metric(["running"], stats.running)
            replies.add_metric(["waiting"], stats.waiting)
            memory.add_metric(["used"], stats.used_bytes)
            memory.add_metric(["kept"], stats.cached_bytes)
            memory.add_metric(["allocated"], stats.allocated_bytes)
        yield replies
        yield memory
