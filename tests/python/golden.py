"""Golden data as the tests use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def load_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz file. NumPy's own object keeps the file open until it is collected."""
    with np.load(path) as arrays:
        return dict(arrays)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference in units of the largest expected value."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def as_chat(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The originals' messages as ours.

    ChatGLM3 appends the description of tools to the system message, and keeps the name of a called tool
    (`metadata`) apart from what the model wrote; a tool's name is the first line of the reply as generated.
    """
    result = []
    for message in messages:
        content = message["content"]
        if message.get("tools"):
            content += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
        if message.get("metadata"):
            content = f"{message['metadata']}\n{content}"
        result.append({"role": message["role"], "content": content})
    return result
