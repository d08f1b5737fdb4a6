"""What an architecture is to the converter: how config.json names its sizes, which values of it the engine
can compute, and which checkpoint tensors become which GGUF tensors. `architectures` has the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import ConvertError
from .jsonfile import Settings, shown


@dataclass(frozen=True)
class Hparams:
    """The sizes and constants of a model, named as in the engine."""

    n_layers: int
    hidden: int
    ffn: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    context: int
    norm_eps: float
    rope_theta: float
    rope_dims: int
    rope_ratio: float
    qkv_bias: bool
    tied: bool | None  # None: config.json does not say; the presence of the output matrix does
    residual_scale: float = 0.0  # of ChatGLM-6B, whose norms and residuals differ; 0 for all others
    prefix_length: int = 0  # positions of a P-Tuning prefix

    def dims(self) -> dict[str, int]:
        """The lengths that tensor rules refer to."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        return {
            "vocab": self.vocab, "hidden": self.hidden, "q": q, "kv": kv, "qkv": q + 2 * kv,
            "ffn": self.ffn, "gate_up": 2 * self.ffn,
        }  # fmt: skip


class _Required:
    pass


REQUIRED = _Required()


@dataclass(frozen=True)
class Field:
    """One entry of Hparams: the keys of config.json that may hold it, the first present one counts.

    `default` is a value or a function of the entries read before it.
    """

    keys: tuple[str, ...]
    kind: type
    default: Any = REQUIRED


@dataclass(frozen=True)
class Fixed:
    """A config key that must have one of these values when present; anything else is another computation."""

    key: str
    allowed: tuple[Any, ...]
    reason: str


@dataclass(frozen=True)
class Rule:
    """One GGUF tensor: `sources` are (checkpoint name, shape) pairs that are stacked along the rows.

    "{i}" stands for the layer. `when` names a condition: "qkv_bias" or "untied". `order` gives the rows of
    the source in the order that the engine wants, where that is another one.
    """

    target: str
    sources: tuple[tuple[str, tuple[str, ...]], ...]
    when: str = ""
    order: Callable[[Hparams], np.ndarray] | None = None


@dataclass(frozen=True)
class Architecture:
    id: str
    title: str
    example: str  # name of a checkpoint on the hub
    gguf_arch: str
    model_type: str
    class_name: str  # an entry of config.json's "architectures", used when "model_type" is absent
    fields: Mapping[str, Field]
    rules: tuple[Rule, ...]
    fixed: tuple[Fixed, ...] = ()
    # True: rope_ratio divides positions. False: identify.scales_positions decides.
    rope_ratio_divides_positions: bool = True
    ignored: tuple[str, ...] = ()  # suffixes of tensors that are recomputed, not stored
    marks: tuple[str, ...] = ()  # config keys of which one must be there, where model_type serves two models
    absent: Mapping[str, str] = field(default_factory=dict)  # config keys that mark something else, and what
    first_generation: bool = False  # LayerNorm with bias; positions hang on where [gMASK] and <sop> stand
    prefix_tensors: str = ""  # where a P-Tuning prefix lies in a checkpoint; empty: there is none
    # The order of a head's dimensions in the file, where it is another one: of query, key and prefix.
    head_order: Callable[[int], np.ndarray] | None = None


def read_hparams(arch: Architecture, config: Settings) -> Hparams:
    """Reads and checks the sizes. Raises ConvertError that names the key."""
    for rule in arch.fixed:
        value = config.get(rule.key)
        if value is not None and value not in rule.allowed:
            raise ConvertError(f'{config.path}: "{rule.key}" is {shown(value)}: {rule.reason}')
    values: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name, entry in arch.fields.items():
        key = next((k for k in entry.keys if config.has(k)), None)
        if key is not None:
            values[name] = config.number(key, entry.kind)
        elif entry.default is REQUIRED:
            raise ConvertError(f'{config.path}: "{entry.keys[0]}" is missing')
        else:
            default: Any | Callable[[dict[str, Any]], Any] = entry.default
            values[name] = default(values) if callable(default) else default
        named[name] = key or (entry.keys[0] if entry.keys else name)
    if arch.head_order is not None and values["head_dim"] % 4:
        raise ConvertError(
            f"{config.path}: heads of {values['head_dim']} dimensions; a multiple of 4 is needed"
        )
    hparams = Hparams(**{k: v for k, v in values.items() if k in Hparams.__dataclass_fields__})
    _check(hparams, named, config)
    return hparams


# The engine's own limits, far above every published model.
_LIMITS = {
    "n_layers": 1024, "hidden": 1 << 17, "ffn": 1 << 20, "n_heads": 4096, "n_kv_heads": 4096,
    "head_dim": 1024, "vocab": 1 << 24, "context": 1 << 27,
}  # fmt: skip


def _check(h: Hparams, named: Mapping[str, str], config: Settings) -> None:
    def fail(name: str, problem: str) -> ConvertError:
        return ConvertError(f'{config.path}: "{named[name]}" is {getattr(h, name)}, {problem}')

    for name, limit in _LIMITS.items():
        if not 0 < getattr(h, name) <= limit:
            raise fail(name, f"expected 1..{limit}")
    if h.n_heads % h.n_kv_heads:
        raise fail("n_heads", f"which {h.n_kv_heads} key/value heads do not divide")
    if h.head_dim % 2:
        raise fail("head_dim", "but a head needs an even number of dimensions")
    if not 0 < h.rope_dims <= h.head_dim or h.rope_dims % 2:
        name = "partial_rotary" if "partial_rotary" in named else "head_dim"
        raise ConvertError(
            f'{config.path}: "{named[name]}" gives {h.rope_dims} rotary dimensions, '
            f"expected an even number in 2..{h.head_dim}"
        )
    if not 0 <= h.prefix_length <= 1 << 16:
        raise fail("prefix_length", "expected 0..65536")
    if not 1e-20 < h.norm_eps < 1:
        raise fail("norm_eps", "expected a small positive number")
    if not 0 < h.rope_theta < 1e15:
        raise fail("rope_theta", "expected a positive number")
    if not 1e-6 < h.rope_ratio < 1e6:
        raise fail("rope_ratio", "expected a number between 1e-6 and 1e6")
