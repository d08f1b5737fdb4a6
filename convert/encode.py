"""Conversion of tensor data between types, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .errors import ConvertError
from .plan import PlannedTensor
from .tensor import BLOCK, BLOCK_BYTES, TensorRef, to_float32

# Elements converted at once. As f32 a slab takes 16 MiB: enough to keep every core busy for milliseconds,
# little beside the smallest matrix of a 6B model.
SLAB_ELEMENTS = 4 << 20

# Of each source type: integers of its size, bits of the magnitude, of infinity, of what overflows f16.
_BITS = {
    "f32": (np.uint32, 0x7FFFFFFF, 0x7F800000, 0x477FF000),
    "f16": (np.uint16, 0x7FFF, 0x7C00, 0x7C00),
    "bf16": (np.uint16, 0x7FFF, 0x7F80, 0x4780),
}


@dataclass
class Findings:
    """Values that a tensor should not have."""

    not_finite: int = 0  # NaN or infinite in the checkpoint
    overflowed: int = 0  # finite, but beyond the range of f16


def encode_tensor(
    tensor: PlannedTensor, n_threads: int, findings: Findings
) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces of `tensor` as the file stores it, in order, each with the source bytes it was made of."""
    for source in tensor.sources:
        row_elements = math.prod(source.shape[1:])
        step = max(1, SLAB_ELEMENTS // max(row_elements, 1))
        for start in range(0, source.shape[0], step):
            rows = source.read(start, min(start + step, source.shape[0]))
            _inspect(rows, source, tensor.dtype.name, findings)
            yield _encode(rows, source.dtype, tensor.dtype.name, n_threads), rows.nbytes


def _inspect(rows: np.ndarray, source: TensorRef, target: str, findings: Findings) -> None:
    if source.dtype in BLOCK_BYTES:
        # A block begins with its scale, and in the types _1 its minimum, as f16.
        n_bytes = 4 if source.dtype.endswith("_1") else 2
        heads = np.ascontiguousarray(rows.reshape(-1, BLOCK_BYTES[source.dtype])[:, :n_bytes]).view(
            np.float16
        )
        findings.not_finite += BLOCK * int((~np.isfinite(heads)).any(axis=1).sum())
        return
    bits_type, mask, infinity, f16_overflow = _BITS[source.dtype]
    magnitude = rows.view(bits_type) & bits_type(mask)
    largest = int(magnitude.max(initial=0))
    if largest >= infinity:
        findings.not_finite += int((magnitude >= infinity).sum())
    if target == "f16" and source.dtype != "f16" and largest >= f16_overflow:
        findings.overflowed += int(((magnitude >= f16_overflow) & (magnitude < infinity)).sum())


def _encode(rows: np.ndarray, source: str, target: str, n_threads: int) -> np.ndarray:
    if source == target:
        return rows
    if rows.ndim == 1:  # always to f32, and short
        return to_float32(rows, source)
    try:
        from chatglm_cpp import _C
    except ImportError as error:
        raise ConvertError(
            f"the native module chatglm_cpp._C cannot be loaded ({error}); reinstall chatglm-cpp"
        ) from None
    return _C.quantize(rows, source, target, n_threads)
