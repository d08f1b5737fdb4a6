"""Tiny checkpoints made on the spot, and an independent reading of the files that come out."""

from __future__ import annotations

import base64
import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

FIXTURES = Path(__file__).resolve().parents[4] / "shared" / "fixtures"
N_PIECES = 40

REMOTE_CONFIG = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "ffn_hidden_size": 96,
    "hidden_size": 64,
    "kv_channels": 32,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 1,
    "num_attention_heads": 2,
    "num_layers": 2,
    "padded_vocab_size": 64,
    "rmsnorm": True,
    "seq_length": 8192,
}

GLM_CONFIG = {
    "model_type": "glm",
    "architectures": ["GlmForCausalLM"],
    "attention_bias": False,
    "eos_token_id": [300, 307, 309],
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 8192,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 320,
}

GLM4_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
GLM4_SPECIALS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
    "<|end_of_video|>",
)  # fmt: skip


def sentencepiece_bytes(n_pieces: int = N_PIECES, extra: tuple[str, ...] = ()) -> bytes:
    """A SentencePiece model file: <unk> <s> </s> and letters, and then the pieces `extra`."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    pieces += [(chr(0x4E00 + i), 1) for i in range(n_pieces - len(pieces))]
    pieces += [(text, 4) for text in extra]
    parts = []
    for i, (text, kind) in enumerate(pieces):
        score = b"\x15" + struct.pack("<f", -float(i))
        parts.append(field(1, field(1, text.encode()) + score + bytes([3 << 3, kind])))
    trainer = bytes([3 << 3, 2])  # model_type = BPE
    normalizer = field(1, b"identity") + bytes([4 << 3, 0])  # remove_extra_whitespaces = false
    return b"".join(parts) + field(2, trainer) + field(3, normalizer)


def tokenizer_json() -> dict[str, Any]:
    """A byte-level BPE tokenizer of 300 pieces and GLM-4's special tokens."""
    from chatglm_cpp.convert.bpe import BYTE_ALPHABET

    vocab = {c: i for i, c in enumerate(BYTE_ALPHABET)}
    merges = []
    for a in "abcdefghijklmnopqrstuvwxyz":
        for b in "eo":
            if len(vocab) < 300:
                vocab[a + b] = len(vocab)
                merges.append([a, b])
    added = [{"id": 300 + i, "content": t, "special": True} for i, t in enumerate(GLM4_SPECIALS)]
    return {
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": GLM4_REGEX}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def tiktoken_bytes() -> bytes:
    tokens = [bytes([i]) for i in range(256)] + [b"he", b"ll", b"llo", b"hello", b" w", b"or", b" wor"]
    return b"\n".join(base64.b64encode(t) + f" {i}".encode() for i, t in enumerate(tokens)) + b"\n"


def remote_weights(config: dict[str, Any], dtype: Any = np.float16, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    h, ffn, vocab = config["hidden_size"], config["ffn_hidden_size"], config["padded_vocab_size"]
    q = config["num_attention_heads"] * config["kv_channels"]
    qkv = q + 2 * config["multi_query_group_num"] * config["kv_channels"]
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (vocab, h),
        "transformer.rotary_pos_emb.inv_freq": (8,),
        "transformer.encoder.final_layernorm.weight": (h,),
        "transformer.output_layer.weight": (vocab, h),
    }
    for i in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{i}."
        shapes |= {
            layer + "input_layernorm.weight": (h,),
            layer + "self_attention.query_key_value.weight": (qkv, h),
            layer + "self_attention.query_key_value.bias": (qkv,),
            layer + "self_attention.dense.weight": (h, q),
            layer + "post_attention_layernorm.weight": (h,),
            layer + "mlp.dense_h_to_4h.weight": (2 * ffn, h),
            layer + "mlp.dense_4h_to_h.weight": (h, ffn),
        }
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def glm_weights(config: dict[str, Any], dtype: Any = np.float16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    h, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, h), "model.norm.weight": (h,)}
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, h)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for part, rows in (("q", q), ("k", kv), ("v", kv)):
            shapes[f"{layer}self_attn.{part}_proj.weight"] = (rows, h)
            if config["attention_bias"]:
                shapes[f"{layer}self_attn.{part}_proj.bias"] = (rows,)
        shapes |= {
            layer + "input_layernorm.weight": (h,),
            layer + "self_attn.o_proj.weight": (h, q),
            layer + "post_attention_layernorm.weight": (h,),
            layer + "mlp.gate_up_proj.weight": (2 * ffn, h),
            layer + "mlp.down_proj.weight": (h, ffn),
        }
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def make_remote(folder: Path, weights: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A ChatGLM3 checkpoint of a few kilobytes; `config` overrides keys, None removes them."""
    values = {k: v for k, v in (REMOTE_CONFIG | config).items() if v is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.model").write_bytes(sentencepiece_bytes())
    save_file(
        remote_weights(REMOTE_CONFIG | config) if weights is None else weights, folder / "model.safetensors"
    )
    return folder


def make_glm(folder: Path, weights: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """A transformers `glm` checkpoint of a few kilobytes."""
    values = {k: v for k, v in (GLM_CONFIG | config).items() if v is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|endoftext|>", "chat_template": "x"})
    )
    save_file(glm_weights(GLM_CONFIG | config) if weights is None else weights, folder / "model.safetensors")
    return folder


def append_zeros(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Adds f16 tensors of zeros to a safetensors file; they take no room on disk."""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header, end = json.loads(data[8 : 8 + n]), len(data) - 8 - n
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n :])
    os.truncate(path, 8 + len(text) + end)


class Gguf:
    """What the gguf package reads from a file."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.metadata = {name: field.contents() for name, field in reader.fields.items()}
        # Copies, so that nothing keeps the file mapped.
        self.tensors = {
            t.name: (t.tensor_type.name.lower(), [int(n) for n in reversed(t.shape)], np.array(t.data))
            for t in reader.tensors
        }
        self.version = reader.fields["GGUF.version"].contents()

    def floats(self, name: str) -> np.ndarray:
        kind, shape, data = self.tensors[name]
        return dequantize(data, gguf.GGMLQuantizationType[kind.upper()]).reshape(shape)


def expected_bytes(values: np.ndarray, kind: str) -> np.ndarray:
    """Bytes of `values` (f32) in type `kind`, by the gguf package's own quantizers."""
    return (
        np.ascontiguousarray(quantize(values, gguf.GGMLQuantizationType[kind.upper()])).view(np.uint8).ravel()
    )
