"""Replicas of the OpenAI server on Ray Serve:

serve run chatglm_cpp.ray_app:build model=model.gguf replicas=2 threads=4
CHATGLM_CPP_MODEL=model.gguf serve run chatglm_cpp.ray_app:app
"""

from __future__ import annotations

from typing import Any

from .scaling.application import build

__all__ = ["build"]


def __getattr__(name: str) -> Any:
    # Made when it is asked for: importing this module must not read the environment.
    if name == "app":
        return build()
    raise AttributeError(name)
