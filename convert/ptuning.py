"""P-Tuning v2: learnt keys and values that stand before every conversation.

The original computes them from an embedding (positions, width), directly or through a small network. Each row
then holds, for every layer, the keys of all heads and the values of all heads. They are stored as computed,
so the engine needs neither embedding nor network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .architecture import Architecture, Hparams
from .architectures import find_architecture
from .checkpoint import Checkpoint
from .errors import ConvertError
from .jsonfile import Settings, load_object
from .tensor import FLOAT_BYTES, TensorRef, read_float32, to_float32

MAX_POSITIONS = 1 << 16  # the engine's limit; published ones have 64 to 256
_ROWS_AT_ONCE = 1024  # of a network's matrix


@dataclass(frozen=True)
class Prefix:
    length: int  # positions
    tensors: tuple[tuple[str, TensorRef], ...]  # (name in the file, values (length, kv))


def has_prefix(arch: Architecture, tensors: Mapping[str, TensorRef]) -> bool:
    return bool(arch.prefix_tensors) and f"{arch.prefix_tensors}.embedding.weight" in tensors


def is_prefix_only(arch: Architecture, tensors: Mapping[str, TensorRef]) -> bool:
    """Whether there is nothing but a prefix, which is what the official fine-tuning script saves."""
    return has_prefix(arch, tensors) and all(name.startswith(f"{arch.prefix_tensors}.") for name in tensors)


def find_prefix(folder: Path) -> TensorRef | None:
    """The table of a folder that holds a prefix and no model; None for any other folder with a config.json.

    Raises ConvertError when its weights are damaged.
    """
    config = Settings(load_object(folder / "config.json"), folder / "config.json")
    if not config.has("pre_seq_len"):
        return None
    arch = find_architecture(config)
    with Checkpoint(folder) as checkpoint:
        if not is_prefix_only(arch, checkpoint.tensors):
            return None
        return checkpoint.tensors[f"{arch.prefix_tensors}.embedding.weight"]


def read_prefix(
    arch: Architecture, hparams: Hparams, tensors: Mapping[str, TensorRef], where: Path
) -> Prefix:
    """The prefix in `tensors`, for a model of the sizes `hparams`.

    Raises ConvertError when there is none in `where`, or it belongs to a model of other sizes.
    """
    if not arch.prefix_tensors:
        raise ConvertError(f"{where}: P-Tuning prefixes are known for ChatGLM-6B, ChatGLM2 and ChatGLM3 only")
    kv = hparams.n_kv_heads * hparams.head_dim
    width = 2 * hparams.n_layers * kv
    table = _tensor(arch, tensors, "embedding.weight", where, (None, None))
    length = table.shape[0]
    if not 0 < length <= MAX_POSITIONS:
        raise ConvertError(f"{table.path}: the prefix has {length} positions, expected 1..{MAX_POSITIONS}")
    if f"{arch.prefix_tensors}.trans.0.weight" in tensors:
        columns = _through_network(arch, tensors, where, table, width)
    else:
        if table.shape[1] != width:
            raise ConvertError(
                f"{table.path}: each position of the prefix has {table.shape[1]} values, and this model "
                f"needs {width} ({hparams.n_layers} layers of {kv} keys and {kv} values); it was made for "
                "another model"
            )
        values = read_float32(table)

        def columns(start: int, stop: int) -> np.ndarray:
            return values[:, start:stop]

    order = np.arange(kv)
    if arch.head_order is not None:
        heads = np.arange(hparams.n_kv_heads)[:, None] * hparams.head_dim
        order = (heads + arch.head_order(hparams.head_dim)).ravel()
    parts: list[tuple[str, TensorRef]] = []
    for layer in range(hparams.n_layers):
        for at, kind in ((2 * layer, "k"), (2 * layer + 1, "v")):
            chosen = order if kind == "k" else np.arange(kv)
            name = f"blk.{layer}.attn_prefix_{kind}.weight"
            read = _reader(columns, at * kv, kv, chosen)
            parts.append((name, TensorRef(name, "f32", (length, kv), table.path, read)))
    return Prefix(length, tuple(parts))


def _reader(
    columns: Callable[[int, int], np.ndarray], start: int, kv: int, order: np.ndarray
) -> Callable[[int, int], np.ndarray]:
    return lambda begin, end: np.ascontiguousarray(columns(start, start + kv)[begin:end, order])


def _through_network(
    arch: Architecture, tensors: Mapping[str, TensorRef], where: Path, table: TensorRef, width: int
) -> Callable[[int, int], np.ndarray]:
    """columns(start, stop) of tanh(table W0^T + b0) W2^T + b2, (positions, width)."""
    first = _tensor(arch, tensors, "trans.0.weight", where, (None, table.shape[1]))
    hidden = first.shape[0]
    first_bias = read_float32(_tensor(arch, tensors, "trans.0.bias", where, (hidden,)))
    second = _tensor(arch, tensors, "trans.2.weight", where, (width, hidden))
    second_bias = read_float32(_tensor(arch, tensors, "trans.2.bias", where, (width,)))
    values = read_float32(table)
    activated = np.tanh(_product(values, first, 0, hidden) + first_bias)

    def columns(start: int, stop: int) -> np.ndarray:
        return _product(activated, second, start, stop) + second_bias[start:stop]

    return columns


def _product(x: np.ndarray, matrix: TensorRef, start: int, stop: int) -> np.ndarray:
    """x @ matrix[start:stop].T, some rows of the matrix at a time."""
    parts = []
    for begin in range(start, stop, _ROWS_AT_ONCE):
        rows = matrix.read(begin, min(begin + _ROWS_AT_ONCE, stop))
        parts.append(x @ to_float32(rows, matrix.dtype).T)
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(x), 0), np.float32)


def _tensor(
    arch: Architecture,
    tensors: Mapping[str, TensorRef],
    name: str,
    where: Path,
    shape: tuple[int | None, ...],
) -> TensorRef:
    full = f"{arch.prefix_tensors}.{name}"
    ref = tensors.get(full)
    if ref is None:
        raise ConvertError(f"{where}: tensor {full} is missing; is this the folder of a P-Tuning prefix?")
    if ref.dtype not in FLOAT_BYTES:
        raise ConvertError(f"{ref.path}: tensor {full} has elements of type {ref.dtype}; floats are expected")
    if len(ref.shape) != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, ref.shape, strict=True)
    ):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ConvertError(
            f"{ref.path}: tensor {full} has the shape {list(ref.shape)}, and this model needs [{wanted}]; "
            "it was made for another model"
        )
    return ref
