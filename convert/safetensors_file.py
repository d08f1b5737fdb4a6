"""Reader of one safetensors file.

Tensors are read by plain file reads into fresh buffers rather than through a memory map, so that the memory
of a conversion is the slab at hand, and a file that shrinks meanwhile is an error message, not a bus error.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import ConvertError
from .jsonfile import shown
from .reading import read_exactly
from .tensor import TensorRef

MAX_DIMS = 8
MAX_SIZE = 1 << 62
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself

# Bytes of one element. A type of this table that is no float is an error only if the tensor is needed.
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
# What TensorRef calls them, and the elements that rows are read as.
KNOWN_TYPES = {"F32": ("f32", "<f4"), "F16": ("f16", "<f2"), "BF16": ("bf16", "<u2"), "I8": ("i8", "<i1")}


class SafetensorsFile:
    """One file; `tensors` describes what is in it and reads rows on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        except FileNotFoundError:
            raise ConvertError(f"{path}: no such file") from None
        except OSError as error:
            raise ConvertError(f"{path}: cannot be opened: {error.strerror or error}") from None
        try:
            self.tensors = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _read_header(self) -> dict[str, TensorRef]:
        size = self.path.stat().st_size
        if size < 8:
            raise ConvertError(f"{self.path}: {size} bytes is too short for a safetensors file")
        (header_bytes,) = struct.unpack("<Q", self._file.read(8))
        if header_bytes > MAX_HEADER_BYTES or header_bytes > size - 8:
            raise ConvertError(
                f"{self.path}: the header claims {header_bytes} bytes in a file of {size}; "
                "it is truncated or no safetensors file"
            )
        try:
            header = json.loads(self._read(8, header_bytes, "the header"), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise ConvertError(f"{self.path}: the safetensors header is not valid JSON: {error}") from None
        if not isinstance(header, dict):
            raise ConvertError(f"{self.path}: the safetensors header is no JSON object")

        self._data_start = 8 + header_bytes
        data_bytes = size - self._data_start
        tensors: dict[str, TensorRef] = {}
        spans: list[tuple[int, int, str]] = []
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            ref, begin, end = self._entry(name, entry, data_bytes)
            tensors[name] = ref
            if end > begin:
                spans.append((begin, end, name))
        spans.sort()
        for (_, end, name), (begin, _, other) in itertools.pairwise(spans):
            if begin < end:
                raise ConvertError(f"{self.path}: tensors {name} and {other} overlap in the file")
        return tensors

    def _entry(self, name: str, entry: Any, data_bytes: int) -> tuple[TensorRef, int, int]:
        where = f"{self.path}: tensor {name}"
        if not isinstance(entry, dict):
            raise ConvertError(f"{where}: its header entry is no JSON object")
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise ConvertError(f"{where}: unknown element type {dtype!r:.40}")
        if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(_is_size(n) for n in shape):
            raise ConvertError(f"{where}: the shape {shown(shape)} is no list of at most {MAX_DIMS} sizes")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
            raise ConvertError(f"{where}: the offsets {shown(offsets)} are no pair of positions")
        begin, end = offsets
        if begin > end or end > data_bytes:
            raise ConvertError(
                f"{where}: its data at {begin}..{end} lies outside the {data_bytes} bytes of the file; "
                "the file is truncated or damaged"
            )
        if math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
            raise ConvertError(
                f"{where}: {end - begin} bytes of data do not fit the shape {shape} of {dtype}"
            )

        name_of, numpy_type = KNOWN_TYPES.get(dtype, (dtype, None))

        def read_rows(start: int, stop: int) -> np.ndarray:
            row_bytes = math.prod(shape[1:]) * ITEM_BYTES[dtype]
            raw = self._read(
                self._data_start + begin + start * row_bytes, (stop - start) * row_bytes, f"tensor {name}"
            )
            return np.frombuffer(raw, dtype=numpy_type).reshape(stop - start, *shape[1:])

        return TensorRef(name, name_of, tuple(shape), self.path, read_rows), begin, end

    def _read(self, offset: int, n_bytes: int, what: str) -> bytearray:
        return read_exactly(self._file, self.path, offset, n_bytes, what)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result
