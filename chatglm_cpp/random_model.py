"""Model files of full size with random weights: what a model does on this machine, before it is downloaded.

The sizes are those of the published config.json files. The weights are blocks of the chosen type, cut from a
few megabytes of quantized normal numbers at random places, so that a file of any size is written as fast as
the disk takes it. Its tokenizer knows bytes only, and its replies are noise.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES

from . import _C
from .convert.architecture import Architecture, Hparams, read_hparams
from .convert.architectures import find_architecture
from .convert.errors import ConvertError
from .convert.jsonfile import Settings
from .convert.metadata import add_general, add_hparams, add_position_tokens, add_tokenizer
from .convert.plan import DTYPES, DType, rules_with_layers, type_for
from .convert.sentencepiece_model import CHATGLM3_SPECIALS, CHATGLM_SPECIALS
from .convert.vocabulary import BYTE, CONTROL, SCORE_OF_NO_PIECE, UNKNOWN, Vocabulary
from .convert.writer import GgufWriter, Metadata, tensor_bytes

_CHATGLM2 = {
    "model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "ffn_hidden_size": 13696,
    "num_attention_heads": 32, "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2,
    "padded_vocab_size": 65024, "seq_length": 32768, "layernorm_epsilon": 1e-5, "add_qkv_bias": True,
    "tie_word_embeddings": False,
}  # fmt: skip
_GLM_4_0414 = {
    "model_type": "glm4", "num_hidden_layers": 40, "hidden_size": 4096, "intermediate_size": 13696,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 151552,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5, "attention_bias": True, "tie_word_embeddings": False,
}  # fmt: skip
_GLM_EDGE = {
    "model_type": "glm", "num_hidden_layers": 28, "hidden_size": 2048, "intermediate_size": 6144,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 59264,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0, "attention_bias": False, "tie_word_embeddings": False,
}  # fmt: skip

# Of config.json what the converter reads.
SHAPES: dict[str, dict[str, Any]] = {
    "chatglm-6b": {
        "model_type": "chatglm", "num_layers": 28, "hidden_size": 4096, "inner_hidden_size": 16384,
        "num_attention_heads": 32, "vocab_size": 130528, "max_sequence_length": 2048,
        "layernorm_epsilon": 1e-5, "position_encoding_2d": True,
    },
    "chatglm2-6b": _CHATGLM2,
    "chatglm3-6b": {**_CHATGLM2, "seq_length": 8192},
    "glm-4-9b": {
        **_CHATGLM2, "num_layers": 40, "padded_vocab_size": 151552, "seq_length": 131072,
        "layernorm_epsilon": 1.5625e-7, "rope_ratio": 500,
    },
    "glm-4-9b-0414": _GLM_4_0414,
    "glm-4-32b-0414": {
        **_GLM_4_0414, "num_hidden_layers": 61, "hidden_size": 6144, "intermediate_size": 23040,
        "num_attention_heads": 48, "attention_bias": False,
    },
    "glm-edge-1.5b": _GLM_EDGE,
    "glm-edge-4b": {
        **_GLM_EDGE, "num_hidden_layers": 40, "hidden_size": 3072, "intermediate_size": 8192,
        "num_attention_heads": 24, "num_key_value_heads": 6,
    },
}  # fmt: skip

# Numbers that the weights are cut from: 32 MiB as f32, and of each width of the matrices one quantized copy.
SLAB_ELEMENTS = 8 << 20


def write_random_model(
    shape: str,
    dtype: str,
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes the file `path`, which must not be there yet; returns its size in bytes.

    The same arguments give the same bytes. An interrupted call leaves nothing behind.

    Args:
        shape: a key of SHAPES.
        dtype: type of the matrices: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1 or q4_0. Norms and biases are f32.
        seed: a number from 0 on; other numbers, other weights.
        config: values that take the place of the published ones, for example {"num_layers": 2}.
        progress: called as progress(bytes written, bytes in all).

    Raises:
        ConvertError: an argument is unknown or out of its range, or the file cannot be written.
    """
    if not 0 <= seed < 1 << 63:
        raise ConvertError(f"the seed is {seed}; it must be 0 or more, and below 2^63")
    tensors, metadata = _plan(shape, dtype, config or {})
    total = sum(tensor_bytes(dims, kind.ggml) for _, dims, kind in tensors)
    target = _check_target(Path(path), total + len(bytes(metadata)))
    weights = _Weights(seed)
    done = 0
    with GgufWriter(target, [(name, dims, kind.ggml) for name, dims, kind in tensors], metadata) as writer:
        for name, dims, kind in tensors:
            for piece in _pieces(weights, name, dims, kind):
                writer.write(piece)
                done += piece.nbytes
                if progress:
                    progress(done, total)
    return target.stat().st_size


def tensor_bytes_of(shape: str, dtype: str) -> int:
    """Bytes of all tensors of a file; nothing is written. Raises as write_random_model."""
    tensors, _ = _plan(shape, dtype, {})
    return sum(tensor_bytes(dims, kind.ggml) for _, dims, kind in tensors)


def _plan(
    shape: str, dtype: str, config: Mapping[str, Any]
) -> tuple[list[tuple[str, tuple[int, ...], DType]], Metadata]:
    if shape not in SHAPES:
        raise ConvertError(f"unknown model {shape!r}; choose one of {', '.join(SHAPES)}")
    if dtype not in DTYPES:
        raise ConvertError(f"unknown type {dtype!r}; choose one of {', '.join(DTYPES)}")
    settings = Settings({**SHAPES[shape], **config}, Path(shape))
    arch = find_architecture(settings)
    hparams = read_hparams(arch, settings)
    return _tensors(arch, hparams, DTYPES[dtype]), _metadata(f"{shape} random", arch, hparams, DTYPES[dtype])


def _check_target(path: Path, n_bytes: int) -> Path:
    target = path.resolve()
    if target.exists():
        raise ConvertError(f"{path}: is there already; delete it, or measure it as it is")
    if not target.parent.is_dir():
        raise ConvertError(f"{path}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise ConvertError(f"{path}: the folder {target.parent} is not writable")
    free = shutil.disk_usage(target.parent).free
    if n_bytes > free:
        raise ConvertError(
            f"{path}: needs {n_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there; "
            "choose another folder, a smaller model or a smaller type"
        )
    return target


def _tensors(arch: Architecture, h: Hparams, dtype: DType) -> list[tuple[str, tuple[int, ...], DType]]:
    """(name, shape, type) of every tensor, as the converter orders them."""
    dims, tensors = h.dims(), []
    conditions = {"": True, "qkv_bias": h.qkv_bias, "untied": not h.tied}
    for rule, layer in rules_with_layers(arch, h.n_layers):
        if conditions[rule.when]:
            shapes = [tuple(dims[name] for name in shape) for _, shape in rule.sources]
            shape = (sum(s[0] for s in shapes), *shapes[0][1:])
            tensors.append((rule.target.format(i=layer), shape, type_for(shape, dtype)))
    return tensors


def _metadata(name: str, arch: Architecture, h: Hparams, dtype: DType) -> Metadata:
    metadata = Metadata()
    add_general(metadata, arch.gguf_arch, "model", name, dtype)
    add_hparams(metadata, arch, h, scale_positions=False)
    vocabulary = _vocabulary(arch)
    vocabulary.pad_to(h.vocab)
    add_position_tokens(metadata, arch, vocabulary)
    add_tokenizer(metadata, vocabulary, "chatglm" if arch.first_generation else "chatglm3", "")
    return metadata


def _vocabulary(arch: Architecture) -> Vocabulary:
    """A SentencePiece vocabulary of single bytes and the special tokens of the chat format."""
    special = tuple(CHATGLM_SPECIALS.values()) if arch.first_generation else CHATGLM3_SPECIALS
    n_plain = 3 + 256
    ids = {token: n_plain + i for i, token in enumerate(special)}
    vocabulary = Vocabulary(
        path=Path("random model"),
        model="llama",
        tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *special],
        types=[UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[CONTROL] * len(special)],
        scores=[*[0.0] * n_plain, *[SCORE_OF_NO_PIECE] * len(special)],
        ids={"unknown": 0, "bos": 1, "eos": 2, "padding": 0},
        eos_ids=[2],
    )
    if arch.first_generation:
        vocabulary.position_ids = {
            name: ids[token] for name, token in CHATGLM_SPECIALS.items() if name != "eop"
        }
        vocabulary.suffix_ids = [ids["[gMASK]"], ids["<sop>"]]
        vocabulary.eos_ids = [ids["<eop>"]]
    else:
        vocabulary.prefix_ids = [ids["[gMASK]"], ids["sop"]]
    return vocabulary


class _Weights:
    """Random blocks of weights whose standard deviation is 1 / sqrt(columns), so that activations keep their
    size from layer to layer."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._normal = self._rng.standard_normal((SLAB_ELEMENTS // 256, 256), dtype=np.float32)
        self._slabs: dict[tuple[str, int], npt.NDArray[np.uint8]] = {}

    def pieces(self, n_bytes: int, cols: int, dtype: DType) -> Iterator[npt.NDArray[np.uint8]]:
        slab = self._slab(cols, dtype)
        block_bytes = GGML_QUANT_SIZES[dtype.ggml][1]
        most = slab.size // 2 // block_bytes * block_bytes
        while n_bytes > 0:
            size = min(n_bytes, most)
            # Blocks, not rows, are where a piece may begin: no row is a copy of another one.
            start = int(self._rng.integers((slab.size - size) // block_bytes + 1)) * block_bytes
            yield slab[start : start + size]
            n_bytes -= size

    def _slab(self, cols: int, dtype: DType) -> npt.NDArray[np.uint8]:
        key = (dtype.name, cols)
        if key not in self._slabs:
            scaled = self._normal * np.float32(1 / math.sqrt(cols))
            stored = scaled if dtype.name == "f32" else _C.quantize(scaled, "f32", dtype.name)
            self._slabs[key] = stored.view(np.uint8).reshape(-1)
        return self._slabs[key]


def _pieces(
    weights: _Weights, name: str, shape: tuple[int, ...], dtype: DType
) -> Iterator[npt.NDArray[np.generic]]:
    if len(shape) == 1:
        yield np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
    else:
        yield from weights.pieces(tensor_bytes(shape, dtype.ggml), shape[-1], dtype)
