"""ChatGLM-6B's forward pass written out in numpy from its description, for cases that no golden covers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def first_generation_logits(
    weights: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    ids: list[int],
    prefix: np.ndarray | None = None,
) -> np.ndarray:
    """Logits (n, vocab) of all positions.

    `weights` is the original state dict as f32; `prefix` is (P, 2 * layers, heads, head_dim): keys and values
    before the first token.
    """
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    d, n = hidden // heads, len(ids)
    context = ids.index(config["bos_token_id"])
    mask_at = ids.index(config["gmask_token_id"])
    position = np.where(np.arange(n) < context, np.arange(n), mask_at)
    block = np.maximum(np.arange(n) - context + 1, 0)
    visible = np.tri(n, dtype=bool)
    visible[:, :context] = True
    alpha = np.sqrt(2 * 28)
    x = weights["transformer.word_embeddings.weight"][ids]
    for i in range(config["num_layers"]):
        name = f"transformer.layers.{i}."

        def linear(x: np.ndarray, part: str, name: str = name) -> np.ndarray:
            return x @ weights[f"{name}{part}.weight"].T + weights[f"{name}{part}.bias"]

        normed = _layer_norm(x, weights, name + "input_layernorm", config)
        qkv = linear(normed, "attention.query_key_value").reshape(n, heads, 3, d)
        q, k, v = (qkv[:, :, j] for j in range(3))
        q, k = (_turn(_turn(t, position, 0, d // 2), block, d // 2, d) for t in (q, k))
        seen = visible
        if prefix is not None:
            k = np.concatenate([prefix[:, 2 * i], k])
            v = np.concatenate([prefix[:, 2 * i + 1], v])
            seen = np.concatenate([np.ones((n, len(prefix)), bool), visible], axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(d)
        scores = np.where(seen, scores, -np.inf)
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", weight, v).reshape(n, hidden)
        x = normed * alpha + linear(attended, "attention.dense")
        normed = _layer_norm(x, weights, name + "post_attention_layernorm", config)
        x = normed * alpha + linear(_gelu(linear(normed, "mlp.dense_h_to_4h")), "mlp.dense_4h_to_h")
    x = _layer_norm(x, weights, "transformer.final_layernorm", config)
    return x @ weights["lm_head.weight"].T


def _layer_norm(
    x: np.ndarray, weights: Mapping[str, np.ndarray], name: str, config: Mapping[str, Any]
) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config["layernorm_epsilon"])
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _turn(t: np.ndarray, position: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Rotates the dimensions [begin, end): each in the first half with its partner in the second."""
    half = (end - begin) // 2
    frequency = (1.0 / 10000.0 ** (np.arange(half) / half)).astype(np.float16).astype(np.float64)
    angle = (position[:, None] * frequency)[:, None, :]
    a, b = t[..., begin : begin + half], t[..., begin + half : end]
    turned = t.copy()
    turned[..., begin : begin + half] = a * np.cos(angle) - b * np.sin(angle)
    turned[..., begin + half : end] = b * np.cos(angle) + a * np.sin(angle)
    return turned


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(0.7978845608028654 * x * (1 + 0.044715 * x * x)))
