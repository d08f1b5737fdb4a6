"""Writes model files as chatglm.cpp up to 0.4 does, from its layout and not from our reader."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from convert_helpers import REMOTE_CONFIG, remote_weights, sentencepiece_bytes, tiktoken_bytes
from gguf.quants import quantize

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}
FLOATS = ("norm_eps", "rope_theta")
V1 = "dtype vocab hidden heads layers ffn max_len bos eos pad sep"
V2 = "dtype vocab hidden heads kv_heads layers ffn norm_eps virtual rope_theta max_len eos pad"

Tensor = tuple[str, np.ndarray, str]  # name, values, type


def field_names(model_type: int, version: int) -> list[str]:
    if version == 2:
        return V2.split()
    return V1.split() + (["kv_heads"] if model_type in (2, 3) else [])


class OldFile:
    """A file in the making. `marks` are the places where something begins: (offset, what)."""

    def __init__(
        self,
        model_type: int,
        version: int,
        header: dict[str, Any],
        tokenizer: bytes,
        tensors: Iterable[Tensor],
    ) -> None:
        self.data = bytearray()
        self.marks: list[tuple[int, str]] = []
        self.put("magic", b"ggml")
        self.put("model_type", struct.pack("<i", model_type))
        self.put("version", struct.pack("<i", version))
        for name in field_names(model_type, version):
            self.put(name, struct.pack("<f" if name in FLOATS else "<i", header[name]))
        self.put("tokenizer size", struct.pack("<i", len(tokenizer)))
        self.put("tokenizer", tokenizer)
        for name, values, kind in tensors:
            self.put_tensor(name, values.shape, TYPES[kind], stored(values, kind))

    def put(self, what: str, data: bytes) -> None:
        self.marks.append((len(self.data), what))
        self.data += data

    def put_tensor(
        self, name: str, shape: tuple[int, ...], type_number: int, data: bytes, aligned: bool = True
    ) -> None:
        self.put(f"{name}: name length", struct.pack("<i", len(name)))
        self.put(f"{name}: name", name.encode())
        self.put(f"{name}: ndim", struct.pack("<i", len(shape)))
        for i, n in enumerate(shape):
            self.put(f"{name}: dim {i}", struct.pack("<i", n))
        self.put(f"{name}: dtype", struct.pack("<i", type_number))
        if aligned:
            self.put(f"{name}: padding", bytes(-len(self.data) % 16))
        self.put(f"{name}: data", data)

    def at(self, what: str) -> int:
        return next(offset for offset, name in self.marks if name == what)

    def with_int(self, what: str, value: int) -> bytes:
        """The file with another number at a place."""
        data = bytearray(self.data)
        struct.pack_into("<i", data, self.at(what), value)
        return bytes(data)


def stored(values: np.ndarray, kind: str) -> bytes:
    values = np.ascontiguousarray(values, np.float32)
    if kind == "f32":
        return values.tobytes()
    if kind == "f16":
        return values.astype(np.float16).tobytes()
    return np.ascontiguousarray(quantize(values, gguf.GGMLQuantizationType[kind.upper()])).tobytes()


def tiny(
    model_type: int,
    version: int = 2,
    kind: str = "q4_0",
    change: Callable[[list[Tensor]], object] = lambda tensors: None,
    **header: Any,
) -> OldFile:
    """A model of a few kilobytes; `change` edits the list of its tensors, `header` fields of the header."""
    if model_type == 1:
        weights, values, tokenizer = _tiny_first_generation()
    else:
        config = REMOTE_CONFIG | {"padded_vocab_size": 320 if model_type == 4 else 64}
        weights = remote_weights(config)
        del weights["transformer.rotary_pos_emb.inv_freq"]
        tokenizer = tiktoken_bytes() if model_type == 4 else sentencepiece_bytes()
        values = {
            "vocab": config["padded_vocab_size"], "hidden": 64, "heads": 2, "kv_heads": 1, "layers": 2,
            "ffn": 96, "max_len": 8192, "bos": 1, "eos": 263 if model_type == 4 else 2, "pad": 0, "sep": -1,
        }  # fmt: skip
    tensors = [(n, w.astype(np.float32), kind if w.ndim > 1 else "f32") for n, w in weights.items()]
    change(tensors)
    implied = {"dtype": TYPES[kind], "norm_eps": 1e-5, "virtual": 0, "rope_theta": 10000.0}
    return OldFile(model_type, version, implied | values | header, tokenizer, tensors)


def _tiny_first_generation() -> tuple[dict[str, np.ndarray], dict[str, Any], bytes]:
    tokenizer = sentencepiece_bytes(extra=("[gMASK]", "<sop>", "<eop>", "<pad>"))
    rng = np.random.default_rng(2)
    shapes: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (64, 32)}
    matrices = {
        "attention.query_key_value": (96, 32), "attention.dense": (32, 32), "mlp.dense_h_to_4h": (128, 32),
        "mlp.dense_4h_to_h": (32, 128), "input_layernorm": (32,), "post_attention_layernorm": (32,),
    }  # fmt: skip
    for name, shape in matrices.items():
        shapes |= {
            f"transformer.layers.0.{name}.weight": shape,
            f"transformer.layers.0.{name}.bias": shape[:1],
        }
    shapes |= {f"transformer.final_layernorm.{part}": (32,) for part in ("weight", "bias")}
    header = {
        "vocab": 64, "hidden": 32, "heads": 2, "kv_heads": 2, "layers": 1, "ffn": 128, "max_len": 2048,
        "bos": 41, "eos": 42, "pad": 43, "sep": -1,
    }  # fmt: skip
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}, header, tokenizer


def golden_weights(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a golden checkpoint, as f32."""
    import torch
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    for path in sorted(folder.glob("pytorch_model*.bin")):
        state |= torch.load(path, map_location="cpu", weights_only=True)
    return {n: w.float().numpy() for n, w in state.items() if not n.endswith(("inv_freq", "lm_head.weight"))}


def golden(
    folder: Path, version: int, kind: str, types: dict[str, str] | None = None, prefix: Path | None = None
) -> OldFile:
    """A golden checkpoint as chatglm.cpp's converter writes it. `types` (ends of names -> type) makes single
    matrices of another type; `prefix` is the folder of a P-Tuning prefix."""
    config = json.loads((folder / "config.json").read_text())
    weights, model_type = golden_weights(folder), model_type_of(folder)
    tensors: list[Tensor] = []
    length = 0
    if prefix is not None:
        (embedding,) = golden_weights(prefix).values()
        length, layers = len(embedding), config["num_layers"]
        heads, dim = config["multi_query_group_num"], config["kv_channels"]
        keys_and_values = embedding.reshape(length, 2 * layers, heads, dim).transpose(1, 2, 0, 3)
        tensors.append(("past_key_values", keys_and_values, "f16"))
    for name, values in weights.items():
        chosen = next((t for end, t in (types or {}).items() if name.endswith(end)), kind)
        tensors.append((name, values, chosen if values.ndim > 1 else "f32"))
    end = config.get("eos_token_id")
    header = {
        "dtype": TYPES[kind],
        "vocab": config.get("padded_vocab_size", config.get("vocab_size")),
        "hidden": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "kv_heads": config.get("multi_query_group_num", config["num_attention_heads"]),
        "layers": config["num_layers"],
        "ffn": config.get("ffn_hidden_size", config.get("inner_hidden_size")),
        "norm_eps": config["layernorm_epsilon"],
        "virtual": length,
        "rope_theta": 10000.0 * config.get("rope_ratio", 1),
        "max_len": config.get("seq_length", config.get("max_sequence_length")),
        "bos": config.get("bos_token_id", -1),
        "eos": end[0] if isinstance(end, list) else -1 if end is None else end,
        "pad": config.get("pad_token_id", -1),
        "sep": -1,
    }
    tokenizer = next(p for p in (folder / "tokenizer.model", folder / "ice_text.model") if p.is_file())
    return OldFile(model_type, version, header, tokenizer.read_bytes(), tensors)


def model_type_of(folder: Path) -> int:
    names = {"chatglm-": 1, "chatglm2": 2, "codegeex2": 2, "chatglm3": 3, "glm-4": 4}
    return next(number for start, number in names.items() if folder.name.startswith(start))
