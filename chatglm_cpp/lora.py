"""LoRA adapters, as a caller names them and as the engine takes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from .model_file import adapter_path
from .options import as_float

# One adapter; several; or each with a scale.
LoraLike = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Mapping[str, float] | None


def to_loras(lora: LoraLike) -> list[tuple[str, float]]:
    """(path, scale) of each adapter. Raises TypeError for anything else than LoraLike."""
    if lora is None:
        return []
    if isinstance(lora, str | os.PathLike):
        lora = [lora]
    if isinstance(lora, bytes) or not isinstance(lora, Iterable):
        raise TypeError(
            f"lora is a {type(lora).__name__}; give the path of an adapter, several, or {{path: scale}}."
        )
    scales = dict(lora) if isinstance(lora, Mapping) else dict.fromkeys(lora, 1.0)
    for path in scales:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"lora holds a {type(path).__name__}; give paths of adapters.")
    return [(adapter_path(path), as_float("the scale of lora", scale)) for path, scale in scales.items()]
