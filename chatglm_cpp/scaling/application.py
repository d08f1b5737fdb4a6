"""The Ray Serve application: a front and replicas of the engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from .._C import InvalidArgument
from ..server import Settings
from .engine import Engine
from .front import Front


def build(arguments: Mapping[str, Any] | None = None) -> Any:
    """The application for `serve run` and for programs.

    Args:
        arguments: settings of the server (see Settings; those that are missing come from the environment),
            and

            - `replicas`: engines, or `"MIN-MAX"` to add and remove them with the queue (default: 1);
            - `cpus`: cores that Ray reserves for each (default: `threads`, or else all of this machine's
              divided by the replicas); an engine computes with as many threads when `threads` is not set;
            - `target_requests`: requests for each engine that autoscaling aims at (default: half of
              `max_sequences`);
            - `downscale_seconds`: how long an engine must have been unused before it is given up (600).

    Raises:
        InvalidArgument: an argument is unknown or out of its range.
    """
    given = dict(arguments or {})
    own = {
        name: given.pop(name, None) for name in ("replicas", "cpus", "target_requests", "downscale_seconds")
    }
    unknown = [name for name in given if name not in Settings.model_fields]
    if unknown:
        known = ", ".join([*own, *Settings.model_fields])
        raise InvalidArgument(f"There is no argument {unknown[0]!r}; the arguments are {known}.")
    settings = Settings.from_environment(**given)
    least, most = _range(1 if own["replicas"] is None else own["replicas"])
    cpus = _number("cpus", own["cpus"]) or settings.threads or max(1, (os.cpu_count() or 1) // most)
    if not settings.threads:
        settings = settings.model_copy(update={"threads": max(1, int(cpus))})
    target = _number("target_requests", own["target_requests"]) or max(1, settings.max_sequences / 2)
    patience = _number("downscale_seconds", own["downscale_seconds"]) or 600
    scaling: dict[str, Any] = {"num_replicas": most}
    if least != most:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=least,
                max_replicas=most,
                target_ongoing_requests=target,
                downscale_delay_s=patience,
            )
        }
    engine = serve.deployment(Engine).options(
        name="Engine",
        # What waits does so in the front, where it survives the death of a replica.
        max_ongoing_requests=settings.max_sequences,
        max_queued_requests=max(1, settings.max_queue),
        ray_actor_options={"num_cpus": cpus},
        request_router_config=RequestRouterConfig(
            request_router_class="chatglm_cpp.scaling.sticky_router:StickyRouter"
        ),
        graceful_shutdown_timeout_s=settings.shutdown_timeout,
        health_check_period_s=5,
        **scaling,
    )
    front = serve.deployment(Front).options(
        name="Front", max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0}
    )
    replica: DeploymentHandle = engine.bind(settings.model_dump())
    return front.bind(replica, settings.max_body)


def _range(value: Any) -> tuple[int, int]:
    """2 or "2-8" as (least, most)."""
    low, dash, high = str(value).partition("-")
    try:
        least, most = int(low), int(high) if dash else int(low)
    except ValueError:
        least = most = 0
    if not 1 <= least <= most:
        raise InvalidArgument(f'replicas is {value!r}; give a number such as 2, or a range such as "1-4".')
    return least, most


def _number(name: str, value: Any) -> float:
    if value is None:
        return 0
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1
    if not number > 0:
        raise InvalidArgument(f"{name} is {value!r}; it must be a number above 0.")
    return number
