"""From the tensors of a checkpoint to the tensors of the file: names, shapes, types and what is stacked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as GgmlType

from .architecture import Architecture, Hparams, Rule
from .errors import ConvertError
from .ptuning import Prefix
from .tensor import BLOCK_BYTES, FLOAT_BYTES, TensorRef, select_rows
from .writer import tensor_bytes


class Weights(Protocol):
    """Tensors by name, wherever they lie."""

    tensors: dict[str, TensorRef]
    sizes_from: str  # what says how large the model is, for messages

    def where(self, tensor: str) -> Path:
        """The file that should hold `tensor`."""
        ...


@dataclass(frozen=True)
class DType:
    """A weight type that the user can ask for."""

    name: str
    ggml: GgmlType
    file_type: LlamaFileType


DTYPES = {
    d.name: d
    for d in (
        DType("f32", GgmlType.F32, LlamaFileType.ALL_F32),
        DType("f16", GgmlType.F16, LlamaFileType.MOSTLY_F16),
        DType("bf16", GgmlType.BF16, LlamaFileType.MOSTLY_BF16),
        DType("q8_0", GgmlType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
        DType("q4_0", GgmlType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
        DType("q4_1", GgmlType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
        DType("q5_0", GgmlType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
        DType("q5_1", GgmlType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    )
}

DEFAULT_TYPE = "q4_0"  # of a checkpoint's matrices


@dataclass(frozen=True)
class PlannedTensor:
    name: str
    shape: tuple[int, ...]
    dtype: DType
    sources: tuple[TensorRef, ...]

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.shape, self.dtype.ggml)


@dataclass
class Plan:
    tensors: list[PlannedTensor]
    skipped: list[str]  # tensors of the checkpoint that nothing is made of
    notes: list[str]

    @property
    def source_bytes(self) -> int:
        return sum(ref.nbytes for tensor in self.tensors for ref in tensor.sources)

    @property
    def target_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def make_plan(
    arch: Architecture,
    hparams: Hparams,
    checkpoint: Weights,
    dtype: DType | None,
    prefix: Prefix | None = None,
) -> Plan:
    """Checks every tensor's presence, type and shape. Raises ConvertError that names file and tensor.

    `dtype` None leaves every matrix in the type that it is stored in.
    """
    notes: list[str] = []
    conditions = {
        "": True,
        "qkv_bias": hparams.qkv_bias,
        "untied": not _is_tied(arch, hparams, checkpoint, notes),
    }
    dims = hparams.dims()
    tensors: list[PlannedTensor] = []
    used: set[str] = set()
    narrow: list[str] = []
    for rule, layer in rules_with_layers(arch, hparams.n_layers):
        if not conditions[rule.when]:
            _refuse_unexpected_bias(checkpoint, rule, layer)
            continue
        sources = []
        for pattern, shape in rule.sources:
            name = pattern.format(i=layer)
            used.add(name)
            ref = _checked(checkpoint, name, tuple(dims[d] for d in shape))
            sources.append(select_rows(ref, rule.order(hparams)) if rule.order else ref)
        shape = (sum(ref.shape[0] for ref in sources), *sources[0].shape[1:])
        name = rule.target.format(i=layer)
        wanted = dtype or DTYPES[sources[0].dtype]
        chosen = type_for(shape, wanted)
        if len(shape) > 1 and chosen is not wanted:
            narrow.append(name)
        tensors.append(PlannedTensor(name, shape, chosen, tuple(sources)))
    if narrow and dtype:
        more = f" and {len(narrow) - 1} more" if len(narrow) > 1 else ""
        notes.append(
            f"{narrow[0]}{more}: rows are no multiple of 32 long, stored as f16 instead of {dtype.name}"
        )
    if prefix is not None:
        # Small, and the beginning of every conversation: not worth quantizing.
        kind = dtype if dtype and dtype.name == "f32" else DTYPES["f16"]
        tensors += [PlannedTensor(name, ref.shape, kind, (ref,)) for name, ref in prefix.tensors]
    rest = sorted(name for name in checkpoint.tensors if name not in used)
    skipped = [name for name in rest if not name.endswith(arch.ignored)]
    if prefix is not None:
        skipped = [name for name in skipped if not name.startswith(f"{arch.prefix_tensors}.")]
    return Plan(tensors, skipped, notes)


def rules_with_layers(arch: Architecture, n_layers: int):  # type: ignore[no-untyped-def]
    """Rules with their layer, as the forward pass meets them; those outside the layers have layer 0."""
    first_layer = next(i for i, rule in enumerate(arch.rules) if "{i}" in rule.target)
    yield from ((rule, 0) for rule in arch.rules[:first_layer])
    per_layer = [rule for rule in arch.rules if "{i}" in rule.target]
    for layer in range(n_layers):
        yield from ((rule, layer) for rule in per_layer)
    yield from ((rule, 0) for rule in arch.rules[first_layer:] if "{i}" not in rule.target)


def _is_tied(arch: Architecture, hparams: Hparams, checkpoint: Weights, notes: list[str]) -> bool:
    output = next(name for rule in arch.rules if rule.when == "untied" for name, _ in rule.sources)
    if hparams.tied is None:
        return output not in checkpoint.tensors
    if hparams.tied and output in checkpoint.tensors:
        notes.append(f"{output} is not stored: the output matrix is the embedding (tie_word_embeddings)")
    return hparams.tied


def _refuse_unexpected_bias(checkpoint: Weights, rule: Rule, layer: int) -> None:
    """A bias that the configuration denies would be left out: the model would be another one."""
    if rule.when != "qkv_bias":
        return
    for pattern, _ in rule.sources:
        name = pattern.format(i=layer)
        if name in checkpoint.tensors:
            raise ConvertError(
                f"{checkpoint.tensors[name].path}: there is a tensor {name}, but {checkpoint.sizes_from} "
                "says there is no such bias; one of the two belongs to another model."
            )


def _checked(checkpoint: Weights, name: str, shape: tuple[int, ...]) -> TensorRef:
    ref = checkpoint.tensors.get(name)
    if ref is None:
        raise ConvertError(f"{checkpoint.where(name)}: tensor {name} is missing")
    if ref.dtype not in FLOAT_BYTES and (ref.dtype not in BLOCK_BYTES or len(shape) == 1):
        raise ConvertError(
            f"{ref.path}: tensor {name} has elements of type {ref.dtype}; f32, f16 or bf16 is expected"
        )
    if ref.shape != shape:
        raise ConvertError(
            f"{ref.path}: tensor {name} has the shape {list(ref.shape)}, "
            f"{checkpoint.sizes_from} makes it {list(shape)}"
        )
    return ref


def type_for(shape: tuple[int, ...], dtype: DType) -> DType:
    if len(shape) == 1:  # norms and biases are small and sensitive
        return DTYPES["f32"]
    if shape[-1] % GGML_QUANT_SIZES[dtype.ggml][0]:
        return DTYPES["f16"]
    return dtype


def count_by_type(tensors: list[PlannedTensor]) -> Mapping[str, tuple[int, int]]:
    """type name -> (tensors, bytes), in order of appearance."""
    counts: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        n, n_bytes = counts.get(tensor.dtype.name, (0, 0))
        counts[tensor.dtype.name] = (n + 1, n_bytes + tensor.nbytes)
    return counts
