"""The architectures that can be converted, as data.

To add one, add an entry to ARCHITECTURES. A tensor rule stacks its sources along the rows, so separate q, k
and v projections become one matrix: the rows stay as they are, and the engine does one product.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .architecture import Architecture, Field, Fixed, Hparams, Rule
from .errors import ConvertError
from .jsonfile import Settings, shown


def _matrix(target: str, source: str, rows: str, cols: str, when: str = "") -> Rule:
    return Rule(f"{target}.weight", ((f"{source}.weight", (rows, cols)),), when)


def _vector(target: str, source: str, length: str, when: str = "") -> Rule:
    return Rule(target, ((source, (length,)),), when)


def _qkv(suffix: str, shape_tail: tuple[str, ...], when: str = "") -> Rule:
    parts = (("q_proj", "q"), ("k_proj", "kv"), ("v_proj", "kv"))
    sources = tuple((f"model.layers.{{i}}.self_attn.{p}.{suffix}", (rows, *shape_tail)) for p, rows in parts)
    return Rule(f"blk.{{i}}.attn_qkv.{suffix}", sources, when)


_REMOTE_LAYER = "transformer.encoder.layers.{i}"
REMOTE_RULES = (
    _matrix("token_embd", "transformer.embedding.word_embeddings", "vocab", "hidden"),
    _vector("blk.{i}.attn_norm.weight", f"{_REMOTE_LAYER}.input_layernorm.weight", "hidden"),
    _matrix("blk.{i}.attn_qkv", f"{_REMOTE_LAYER}.self_attention.query_key_value", "qkv", "hidden"),
    _vector(
        "blk.{i}.attn_qkv.bias", f"{_REMOTE_LAYER}.self_attention.query_key_value.bias", "qkv", "qkv_bias"
    ),
    _matrix("blk.{i}.attn_output", f"{_REMOTE_LAYER}.self_attention.dense", "hidden", "q"),
    _vector("blk.{i}.ffn_norm.weight", f"{_REMOTE_LAYER}.post_attention_layernorm.weight", "hidden"),
    _matrix("blk.{i}.ffn_up", f"{_REMOTE_LAYER}.mlp.dense_h_to_4h", "gate_up", "hidden"),
    _matrix("blk.{i}.ffn_down", f"{_REMOTE_LAYER}.mlp.dense_4h_to_h", "hidden", "ffn"),
    _vector("output_norm.weight", "transformer.encoder.final_layernorm.weight", "hidden"),
    _matrix("output", "transformer.output_layer", "vocab", "hidden", "untied"),
)

_HF_LAYER = "model.layers.{i}"
_HF_EMBEDDING = (_matrix("token_embd", "model.embed_tokens", "vocab", "hidden"),)
_HF_ATTENTION = (
    _vector("blk.{i}.attn_norm.weight", f"{_HF_LAYER}.input_layernorm.weight", "hidden"),
    _qkv("weight", ("hidden",)),
    _qkv("bias", (), "qkv_bias"),
    _matrix("blk.{i}.attn_output", f"{_HF_LAYER}.self_attn.o_proj", "hidden", "q"),
)
_HF_MLP = (
    _vector("blk.{i}.ffn_norm.weight", f"{_HF_LAYER}.post_attention_layernorm.weight", "hidden"),
    _matrix("blk.{i}.ffn_up", f"{_HF_LAYER}.mlp.gate_up_proj", "gate_up", "hidden"),
    _matrix("blk.{i}.ffn_down", f"{_HF_LAYER}.mlp.down_proj", "hidden", "ffn"),
)
_HF_OUTPUT = (
    _vector("output_norm.weight", "model.norm.weight", "hidden"),
    _matrix("output", "lm_head", "vocab", "hidden", "untied"),
)
GLM_RULES = _HF_EMBEDDING + _HF_ATTENTION + _HF_MLP + _HF_OUTPUT
GLM4_RULES = (
    _HF_EMBEDDING
    + _HF_ATTENTION
    + (
        _vector(
            "blk.{i}.post_attention_norm.weight", f"{_HF_LAYER}.post_self_attn_layernorm.weight", "hidden"
        ),
    )
    + _HF_MLP
    + (_vector("blk.{i}.post_ffw_norm.weight", f"{_HF_LAYER}.post_mlp_layernorm.weight", "hidden"),)
    + _HF_OUTPUT
)

# In ChatGLM-6B the rows of query, key and value stand together head by head, and a head is two halves of
# which each turns its dimensions (j, j + quarter) as a pair. The engine wants all queries, all keys, all
# values, and neighbours as pairs.


def glm1_head_order(head_dim: int) -> np.ndarray:
    """(head_dim,): the dimension of a ChatGLM-6B head that goes to each place."""
    quarter = head_dim // 4
    pairs = np.stack([np.arange(quarter), np.arange(quarter) + quarter], axis=1).ravel()
    return np.concatenate([pairs, pairs + head_dim // 2])


def glm1_qkv_rows(h: Hparams) -> np.ndarray:
    """(3 * heads * head_dim,): the row of ChatGLM-6B's query_key_value that goes to each place."""
    head_starts = np.arange(h.n_heads)[:, None] * 3 * h.head_dim
    turned = glm1_head_order(h.head_dim)
    parts = (turned, h.head_dim + turned, 2 * h.head_dim + np.arange(h.head_dim))
    return np.concatenate([(head_starts + part).ravel() for part in parts])


_GLM1_LAYER = "transformer.layers.{i}"


def _both(target: str, source: str, rows: str, cols: str = "") -> tuple[Rule, Rule]:
    """Weight and bias: of a matrix (rows, cols), or of a LayerNorm."""
    shape = (rows, cols) if cols else (rows,)
    return (
        Rule(f"{target}.weight", ((f"{source}.weight", shape),)),
        Rule(f"{target}.bias", ((f"{source}.bias", (rows,)),)),
    )


GLM1_RULES = (
    _matrix("token_embd", "transformer.word_embeddings", "vocab", "hidden"),
    *_both("blk.{i}.attn_norm", f"{_GLM1_LAYER}.input_layernorm", "hidden"),
    *(
        replace(rule, order=glm1_qkv_rows)
        for rule in _both("blk.{i}.attn_qkv", f"{_GLM1_LAYER}.attention.query_key_value", "qkv", "hidden")
    ),
    *_both("blk.{i}.attn_output", f"{_GLM1_LAYER}.attention.dense", "hidden", "q"),
    *_both("blk.{i}.ffn_norm", f"{_GLM1_LAYER}.post_attention_layernorm", "hidden"),
    *_both("blk.{i}.ffn_up", f"{_GLM1_LAYER}.mlp.dense_h_to_4h", "ffn", "hidden"),
    *_both("blk.{i}.ffn_down", f"{_GLM1_LAYER}.mlp.dense_4h_to_h", "hidden", "ffn"),
    *_both("output_norm", "transformer.final_layernorm", "hidden"),
    _matrix("output", "lm_head", "vocab", "hidden", "untied"),
)
GLM1_FIELDS = {
    "n_layers": Field(("num_layers",), int),
    "hidden": Field(("hidden_size",), int),
    "ffn": Field(("inner_hidden_size",), int, lambda h: 4 * h["hidden"]),
    "n_heads": Field(("num_attention_heads",), int),
    "n_kv_heads": Field((), int, lambda h: h["n_heads"]),
    "head_dim": Field((), int, lambda h: h["hidden"] // max(h["n_heads"], 1)),
    "vocab": Field(("vocab_size",), int),
    "context": Field(("max_sequence_length",), int, 2048),
    "norm_eps": Field(("layernorm_epsilon",), float, 1e-5),
    "rope_theta": Field((), float, 10000.0),
    "rope_dims": Field((), int, lambda h: h["head_dim"]),
    "rope_ratio": Field((), float, 1.0),
    "qkv_bias": Field((), bool, True),
    "tied": Field(("tie_word_embeddings",), bool, True),
    # The original takes 28 layers for this constant whatever their number is.
    "residual_scale": Field((), float, math.sqrt(2 * 28)),
    "prefix_length": Field(("pre_seq_len",), int, 0),
}

REMOTE_FIELDS = {
    "n_layers": Field(("num_layers", "num_hidden_layers"), int),
    "hidden": Field(("hidden_size",), int),
    "ffn": Field(("ffn_hidden_size",), int),
    "n_heads": Field(("num_attention_heads",), int),
    "multi_query": Field(("multi_query_attention",), bool, False),
    "groups": Field(("multi_query_group_num",), int, 1),
    "head_dim": Field(("kv_channels",), int, lambda h: h["hidden"] // max(h["n_heads"], 1)),
    "vocab": Field(("padded_vocab_size", "vocab_size"), int),
    "context": Field(("seq_length", "max_position_embeddings"), int),
    "norm_eps": Field(("layernorm_epsilon",), float, 1e-5),
    "rope_ratio": Field(("rope_ratio",), float, 1.0),
    "qkv_bias": Field(("add_qkv_bias",), bool, False),
    "tied": Field(("tie_word_embeddings",), bool, False),
    "n_kv_heads": Field((), int, lambda h: h["groups"] if h["multi_query"] else h["n_heads"]),
    "rope_theta": Field((), float, 10000.0),
    # Half of each head is rotated; the rest passes through.
    "rope_dims": Field((), int, lambda h: h["head_dim"] // 2),
    "prefix_length": Field(("pre_seq_len",), int, 0),
}
_PREQUANTIZED = "weights of this quantization are not supported; convert the full-precision checkpoint"
_OWN_QUANTIZATION = (
    Fixed("quantization_bit", (0, None, 4, 8), "the models were published with 4 and 8 bits"),
    Fixed("quantization_config", (None,), _PREQUANTIZED),
)
GLM1_FIXED = (
    Fixed("position_encoding_2d", (True,), "only two-dimensional positions are supported"),
    *_OWN_QUANTIZATION,
)
REMOTE_FIXED = (
    Fixed("rmsnorm", (True,), "only RMSNorm models are supported"),
    Fixed("post_layer_norm", (True,), "a final norm is expected"),
    Fixed("apply_residual_connection_post_layernorm", (False,), "only pre-norm residuals are supported"),
    Fixed("add_bias_linear", (False,), "linear layers with bias are not supported"),
    Fixed("interleaved_qkv", (False,), "interleaved q/k/v rows are not supported"),
    Fixed("original_rope", (True,), "only the original rotary embedding is supported"),
    Fixed("rotary_percent", (0.5,), "only half-rotary heads are supported"),
    *_OWN_QUANTIZATION,
)

# The two ways that transformers has written the rotary settings: flat (4.x) and nested (5.x).
_ROPE_TYPES = ("default", "linear", None)
HF_FIELDS = {
    "n_layers": Field(("num_hidden_layers",), int),
    "hidden": Field(("hidden_size",), int),
    "ffn": Field(("intermediate_size",), int),
    "n_heads": Field(("num_attention_heads",), int),
    "n_kv_heads": Field(("num_key_value_heads",), int, lambda h: h["n_heads"]),
    "head_dim": Field(("head_dim",), int, lambda h: h["hidden"] // max(h["n_heads"], 1)),
    "vocab": Field(("vocab_size",), int),
    "context": Field(("max_position_embeddings",), int),
    "norm_eps": Field(("rms_norm_eps",), float, 1.5625e-07),
    "rope_theta": Field(("rope_parameters.rope_theta", "rope_theta"), float, 10000.0),
    "partial_rotary": Field(("rope_parameters.partial_rotary_factor", "partial_rotary_factor"), float, 0.5),
    "rope_dims": Field((), int, lambda h: int(h["head_dim"] * h["partial_rotary"])),
    "rope_ratio": Field(("rope_parameters.factor", "rope_scaling.factor"), float, 1.0),
    "qkv_bias": Field(("attention_bias",), bool, False),
    # save_pretrained may leave the key out when the value is a default, and defaults have changed.
    "tied": Field(("tie_word_embeddings",), bool, None),
}
HF_FIXED = (
    Fixed("hidden_act", ("silu", "swish"), "only SwiGLU models are supported"),
    Fixed("rope_parameters.rope_type", _ROPE_TYPES, "this kind of rotary scaling is not supported"),
    Fixed("rope_scaling.rope_type", _ROPE_TYPES, "this kind of rotary scaling is not supported"),
    Fixed("rope_scaling.type", _ROPE_TYPES, "this kind of rotary scaling is not supported"),
    Fixed("quantization_config", (None,), _PREQUANTIZED),
)

ARCHITECTURES = (
    Architecture(
        id="chatglm1",
        title="ChatGLM-6B, the first generation, int4 and int8 too",
        example="THUDM/chatglm-6b",
        gguf_arch="chatglm1",
        model_type="chatglm",
        class_name="ChatGLMModel",
        fields=GLM1_FIELDS,
        rules=GLM1_RULES,
        fixed=GLM1_FIXED,
        ignored=("rotary_emb.inv_freq",),
        marks=("position_encoding_2d", "inner_hidden_size"),
        absent={"image_size": "a vision model", "vision_config": "a vision model"},
        first_generation=True,
        prefix_tensors="transformer.prefix_encoder",
        head_order=glm1_head_order,
    ),
    Architecture(
        id="chatglm",
        title="ChatGLM2-6B, ChatGLM3-6B, CodeGeeX2-6B, GLM-4-9B, CodeGeeX4 in the original layout; "
        "int4, 32K, 128K, 1M too",
        example="THUDM/chatglm3-6b",
        gguf_arch="chatglm",
        model_type="chatglm",
        class_name="ChatGLMModel",
        fields=REMOTE_FIELDS,
        rules=REMOTE_RULES,
        fixed=REMOTE_FIXED,
        rope_ratio_divides_positions=False,
        ignored=("rotary_pos_emb.inv_freq",),
        absent={"vision_config": "a vision model"},
        prefix_tensors="transformer.prefix_encoder",
    ),
    Architecture(
        id="glm",
        title="GlmForCausalLM: GLM-4-9B in transformers' layout (-hf), GLM-Edge",
        example="zai-org/glm-edge-1.5b-chat",
        gguf_arch="chatglm",
        model_type="glm",
        class_name="GlmForCausalLM",
        fields=HF_FIELDS,
        rules=GLM_RULES,
        fixed=HF_FIXED,
        ignored=("rotary_emb.inv_freq",),
        absent={"vision_config": "a vision model"},
    ),
    Architecture(
        id="glm4",
        title="Glm4ForCausalLM: GLM-4-0414, GLM-Z1-0414",
        example="zai-org/GLM-4-9B-0414",
        gguf_arch="glm4",
        model_type="glm4",
        class_name="Glm4ForCausalLM",
        fields=HF_FIELDS,
        rules=GLM4_RULES,
        fixed=HF_FIXED,
        ignored=("rotary_emb.inv_freq",),
        absent={"vision_config": "a vision model"},
    ),
)


def supported() -> list[tuple[str, str, str]]:
    """(id, models, a checkpoint on the hub) of every architecture that can be converted."""
    return [(arch.id, arch.title, arch.example) for arch in ARCHITECTURES]


def find_architecture(config: Settings) -> Architecture:
    """The entry for this config.json. Raises ConvertError that lists what is supported."""
    model_type = config.text("model_type")
    classes = config.get("architectures")
    classes = [c for c in classes if isinstance(c, str)] if isinstance(classes, list) else []
    for arch in ARCHITECTURES:
        if arch.marks and not any(config.has(key) for key in arch.marks):
            continue
        if model_type == arch.model_type or (not model_type and arch.class_name in classes):
            for key, what in arch.absent.items():
                if config.has(key):
                    raise ConvertError(
                        f'{config.path}: "{key}" says that this is {what}, which is not supported'
                    )
            return arch
    names = ", ".join(dict.fromkeys(f"{a.model_type} ({a.class_name})" for a in ARCHITECTURES))
    raise ConvertError(
        f'{config.path}: unknown architecture (model_type "{model_type:.40}", '
        f"architectures {shown(classes)}); supported: {names}"
    )
