"""The key-value part of a file; docs/file-format.md describes every key."""

from __future__ import annotations

from gguf import GGML_QUANT_VERSION
from gguf import GGUFValueType as ValueType

from .architecture import Architecture, Hparams
from .plan import DType
from .vocabulary import Vocabulary
from .writer import Metadata


def add_general(metadata: Metadata, arch: str, kind: str, name: str, dtype: DType) -> None:
    """`kind` is "model" or "adapter"."""
    metadata.string("general.architecture", arch)
    metadata.string("general.type", kind)
    metadata.string("general.name", name)
    metadata.u32("general.file_type", dtype.file_type)
    metadata.u32("general.quantization_version", GGML_QUANT_VERSION)


def add_hparams(metadata: Metadata, arch: Architecture, h: Hparams, scale_positions: bool) -> None:
    key = arch.gguf_arch
    metadata.u32(f"{key}.block_count", h.n_layers)
    metadata.u32(f"{key}.context_length", h.context)
    metadata.u32(f"{key}.embedding_length", h.hidden)
    metadata.u32(f"{key}.feed_forward_length", h.ffn)
    metadata.u32(f"{key}.vocab_size", h.vocab)
    metadata.u32(f"{key}.attention.head_count", h.n_heads)
    metadata.u32(f"{key}.attention.head_count_kv", h.n_kv_heads)
    metadata.u32(f"{key}.attention.key_length", h.head_dim)
    metadata.u32(f"{key}.attention.value_length", h.head_dim)
    epsilon = "layer_norm_epsilon" if arch.first_generation else "layer_norm_rms_epsilon"
    metadata.f32(f"{key}.attention.{epsilon}", h.norm_eps)
    metadata.u32(f"{key}.rope.dimension_count", h.rope_dims)
    if scale_positions:
        metadata.f32(f"{key}.rope.freq_base", h.rope_theta)
        if h.rope_ratio != 1:
            metadata.string(f"{key}.rope.scaling.type", "linear")
            metadata.f32(f"{key}.rope.scaling.factor", h.rope_ratio)
    else:
        metadata.f32(f"{key}.rope.freq_base", h.rope_theta * h.rope_ratio)
    if h.residual_scale:
        metadata.f32(f"{key}.residual_scale", h.residual_scale)
    if h.prefix_length:
        metadata.u32(f"{key}.prefix_length", h.prefix_length)


def add_position_tokens(metadata: Metadata, arch: Architecture, v: Vocabulary) -> None:
    """ChatGLM-6B tells positions by where two of its tokens stand."""
    for name, i in v.position_ids.items():
        metadata.u32(f"{arch.gguf_arch}.{name}_token_id", i)


def add_tokenizer(metadata: Metadata, v: Vocabulary, chat_format: str, template: str) -> None:
    metadata.string("tokenizer.ggml.model", v.model)
    metadata.string("tokenizer.ggml.pre", v.pre or "default")
    metadata.strings("tokenizer.ggml.tokens", v.tokens)
    if v.scores is not None:
        metadata.numbers("tokenizer.ggml.scores", v.scores, ValueType.FLOAT32)
    metadata.numbers("tokenizer.ggml.token_type", v.types, ValueType.INT32)
    if v.merges is not None:
        metadata.strings("tokenizer.ggml.merges", v.merges)
    for name, i in v.ids.items():
        metadata.u32(f"tokenizer.ggml.{name}_token_id", i)
    # The prefix is [gMASK] sop, which llama.cpp has no key for; its own begin-of-text would be wrong.
    metadata.boolean("tokenizer.ggml.add_bos_token", False)
    metadata.boolean("tokenizer.ggml.add_eos_token", False)
    metadata.boolean("tokenizer.ggml.add_space_prefix", v.add_space_prefix)
    if v.model == "llama":
        metadata.boolean("tokenizer.ggml.remove_extra_whitespaces", v.remove_extra_whitespaces)
        metadata.numbers("chatglm.tokenizer.sentencepiece", v.sentencepiece, ValueType.UINT8)
    else:
        metadata.boolean("chatglm.tokenizer.merge_by_rank", v.merge_by_rank)
        metadata.boolean("chatglm.tokenizer.ignore_merges", v.ignore_merges)
    if v.num_image_tokens:
        metadata.u32("chatglm.tokenizer.num_image_tokens", v.num_image_tokens)
    for name, ids in (("prefix_ids", v.prefix_ids), ("suffix_ids", v.suffix_ids), ("eos_ids", v.eos_ids)):
        if ids:
            metadata.numbers(f"chatglm.tokenizer.{name}", ids, ValueType.INT32)
    if chat_format:
        metadata.string("chatglm.chat_format", chat_format)
    if template:
        metadata.string("tokenizer.chat_template", template)
