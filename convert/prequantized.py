"""Checkpoints that were published with 4- or 8-bit integers (chatglm-6b-int4, chatglm2-6b-int4, ...): each
matrix of integers has a tensor of scales beside it, one a row. They become the floats that they stand for,
exactly.
"""

from __future__ import annotations

from .checkpoint import Checkpoint
from .errors import ConvertError
from .jsonfile import Settings
from .tensor import FLOAT_BYTES, scale_integers


def resolve_integers(checkpoint: Checkpoint, config: Settings) -> None:
    """Replaces the pairs of integers and scales in `checkpoint.tensors` by matrices of f32.

    Raises ConvertError when a matrix lacks its scales, or config.json does not say how many bits it has.
    """
    bits = config.get("quantization_bit")
    tensors = checkpoint.tensors
    for name in [name for name, ref in tensors.items() if ref.dtype == "i8"]:
        ref, scale = tensors[name], tensors.pop(f"{name}_scale", None)
        if bits not in (4, 8):
            raise ConvertError(
                f'{ref.path}: tensor {name} holds integers, but {config.path.name} has no "quantization_bit" '
                "(4 or 8) that says what they mean"
            )
        if scale is None:
            raise ConvertError(f"{ref.path}: tensor {name} holds integers, and {name}_scale is missing")
        if len(ref.shape) != 2 or scale.shape != ref.shape[:1] or scale.dtype not in FLOAT_BYTES:
            raise ConvertError(
                f"{scale.path}: tensor {name}_scale has the type {scale.dtype} and the shape "
                f"{list(scale.shape)}; one float for each row of {name} {list(ref.shape)} is expected"
            )
        tensors[name] = scale_integers(ref, scale, bits)
