"""A tensor that lies in a checkpoint file and has not been read yet, and what can be made of one without
reading it: another order of its rows, a sum with low-rank matrices, the floats that packed integers stand
for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as GgmlType
from gguf.quants import dequantize

FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
BLOCK = 32  # values of a row that share a scale
BLOCK_BYTES = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34}


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor is and how to read some of its rows.

    `dtype` is "f32", "f16", "bf16", "i8", a key of BLOCK_BYTES, or the file's own name of a type that cannot
    be converted. `read(start, stop)` gives rows start..stop as an array of shape (stop - start, *shape[1:]);
    bf16 comes as uint16 bit patterns, and a row of blocks as its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    read: Callable[[int, int], np.ndarray]

    @property
    def nbytes(self) -> int:
        count = math.prod(self.shape)
        if self.dtype in BLOCK_BYTES:
            return count // BLOCK * BLOCK_BYTES[self.dtype]
        return count * FLOAT_BYTES.get(self.dtype, 1)


def to_float32(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Rows of type `dtype` (f32, f16, bf16) as f32."""
    if dtype == "bf16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32, copy=False)


def read_float32(ref: TensorRef) -> np.ndarray:
    """The whole tensor as f32: for small ones."""
    return to_float32(ref.read(0, ref.shape[0]), ref.dtype)


def select_rows(ref: TensorRef, order: np.ndarray) -> TensorRef:
    """The rows `order` of `ref`, in that order."""

    def read(start: int, stop: int) -> np.ndarray:
        wanted = order[start:stop]
        rows = np.unique(wanted)
        # Neighbours are read together.
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        parts = [ref.read(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
        if not parts:
            return ref.read(0, 0)
        return np.concatenate(parts)[np.searchsorted(rows, wanted)]

    return replace(ref, shape=(len(order), *ref.shape[1:]), read=read)


def add_low_rank(ref: TensorRef, a: np.ndarray, b: np.ndarray, scale: float) -> TensorRef:
    """ref + scale * b @ a, as f32: ref (rows, cols), b (rows, rank), a (rank, cols)."""

    def read(start: int, stop: int) -> np.ndarray:
        base = to_float32(ref.read(start, stop), ref.dtype)
        return base + np.float32(scale) * (b[start:stop] @ a)

    return replace(ref, dtype="f32", read=read)


def scale_integers(ref: TensorRef, scale: TensorRef, bits: int) -> TensorRef:
    """The floats that the rows of 8-bit integers `ref` stand for, with one scale a row.

    With 4 bits each byte holds two columns in two's complement, the first in its high half: the shape
    doubles. The product is f32, as the exact values of both need no more.
    """
    columns = ref.shape[1] * (2 if bits == 4 else 1)

    def read(start: int, stop: int) -> np.ndarray:
        packed = ref.read(start, stop)
        if bits == 4:
            halves = np.stack([packed >> 4, (packed << 4) >> 4], axis=-1)  # int8: shifts keep the sign
            packed = halves.reshape(len(packed), columns)
        factors = to_float32(scale.read(start, stop), scale.dtype)
        return packed * factors[:, None]

    return replace(ref, dtype="f32", shape=(ref.shape[0], columns), read=read)


def dequantized(ref: TensorRef) -> TensorRef:
    """The floats that the blocks of `ref` stand for, as f32."""
    kind = GgmlType[ref.dtype.upper()]
    return replace(ref, dtype="f32", read=lambda start, stop: dequantize(ref.read(start, stop), kind))
