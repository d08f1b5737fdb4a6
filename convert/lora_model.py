"""A LoRA adapter kept apart from its model: a small GGUF file in llama.cpp's conventions, NAME.lora_a and
NAME.lora_b for each matrix NAME.

Our files hold q, k and v as one matrix. Adapters of checkpoints that have them apart are put together
likewise: the A stand one above the other, the B along a diagonal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .architecture import Hparams, Rule, read_hparams
from .architectures import find_architecture
from .checkpoint_model import Choices, Model, read_config
from .errors import ConvertError
from .hub import checkpoint_name
from .lora import Adapter, LowRank
from .metadata import add_general
from .plan import DTYPES, Plan, PlannedTensor, rules_with_layers, type_for
from .tensor import TensorRef, read_float32
from .writer import Metadata


@contextlib.contextmanager
def open_adapter(folder: Path, base: Path | None, choices: Choices) -> Iterator[Model]:
    """The adapter in the PEFT folder `folder` for the model in `base`, of which config.json alone is read.

    Raises ConvertError when it does not fit that model or can only be merged.
    """
    with Adapter(folder) as adapter:
        base = _find_base(adapter, base)
        config = read_config(base)
        arch = find_architecture(config)
        hparams = read_hparams(arch, config)
        if adapter.replaced:
            name = next(iter(adapter.replaced))
            raise _only_merged(adapter, f"replaces {name} whole (modules_to_save)")
        left = dict(adapter.factors)
        tensors: list[PlannedTensor] = []
        alpha = adapter.alpha or 1.0
        for rule, layer in rules_with_layers(arch, hparams.n_layers):
            names = [pattern.format(i=layer) for pattern, _ in rule.sources]
            factors = [left.pop(name, None) for name in names]
            if any(factors):
                _check(adapter, rule, names, factors, hparams)
                tensors += _planned(rule, layer, factors, hparams, alpha, choices, adapter.path)
        if left:
            raise _only_merged(adapter, f"changes {next(iter(left))}")
        metadata = Metadata()
        name = choices.name or checkpoint_name(folder)
        add_general(metadata, arch.gguf_arch, "adapter", name, choices.dtype or DTYPES["f32"])
        metadata.string("adapter.type", "lora")
        metadata.f32("adapter.lora.alpha", alpha)
        yield Model(name, arch.gguf_arch, "", metadata, Plan(tensors, [], []), hparams)


def _find_base(adapter: Adapter, base: Path | None) -> Path:
    if base is not None:
        return base
    if adapter.base and (Path(adapter.base) / "config.json").is_file():
        return Path(adapter.base)
    trained_on = f" ({adapter.base})" if adapter.base else ""
    raise ConvertError(
        f"{adapter.folder}: a LoRA adapter; give the folder of the model it was trained on{trained_on} with "
        "--base to keep it apart, or convert that model with -l to merge the two"
    )


def _only_merged(adapter: Adapter, what: str) -> ConvertError:
    return ConvertError(
        f"{adapter.path}: {what}, which an adapter that is kept apart cannot do for this model; merge it: "
        "convert the model with -l"
    )


def _check(
    adapter: Adapter, rule: Rule, names: list[str], factors: list[LowRank | None], hparams: Hparams
) -> None:
    dims = hparams.dims()
    for name, factor, (_, lengths) in zip(names, factors, rule.sources, strict=True):
        if factor is None:
            continue
        if (
            factor.transposed
            or rule.target.startswith("token_embd")
            or (rule.when == "untied" and hparams.tied)
        ):
            raise _only_merged(adapter, f"changes {name}")
        shape = (factor.b.shape[0], factor.a.shape[1])
        wanted = tuple(dims[n] for n in lengths)
        if shape != wanted:
            raise ConvertError(
                f"{adapter.path}: changes {name} as a matrix {list(shape)}, and the model has "
                f"{list(wanted)}; it was trained on another model"
            )


def _planned(
    rule: Rule,
    layer: int,
    factors: list[LowRank | None],
    hparams: Hparams,
    alpha: float,
    choices: Choices,
    path: Path,
) -> list[PlannedTensor]:
    dims = hparams.dims()
    present = [factor for factor in factors if factor is not None]
    rank = sum(factor.rank for factor in present)
    rows = sum(dims[lengths[0]] for _, lengths in rule.sources)

    def make_a() -> np.ndarray:
        return np.concatenate([read_float32(factor.a) for factor in present])

    def make_b() -> np.ndarray:
        b = np.zeros((rows, rank), np.float32)
        row = column = 0
        for factor, (_, lengths) in zip(factors, rule.sources, strict=True):
            if factor is not None:
                # Readers multiply by alpha / rank, with the alpha of the file.
                weight = np.float32(factor.scale * rank / alpha)
                b[row : row + dims[lengths[0]], column : column + factor.rank] = (
                    read_float32(factor.b) * weight
                )
                column += factor.rank
            row += dims[lengths[0]]
        return b if rule.order is None else b[rule.order(hparams)]

    target = rule.target.format(i=layer)
    return [
        _tensor(f"{target}.lora_a", (rank, present[0].a.shape[1]), make_a, choices, path),
        _tensor(f"{target}.lora_b", (rows, rank), make_b, choices, path),
    ]


def _tensor(
    name: str, shape: tuple[int, int], make: Callable[[], np.ndarray], choices: Choices, path: Path
) -> PlannedTensor:
    """A tensor that is made when it is read, so that one at a time is in memory."""
    ref = TensorRef(name, "f32", shape, path, lambda start, stop: make()[start:stop])
    return PlannedTensor(name, shape, type_for(shape, choices.dtype or DTYPES["f32"]), (ref,))
