"""A checkpoint folder as the file that it will become: everything read and checked, no weights loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import identify
from .architecture import Architecture, Hparams, read_hparams
from .architectures import find_architecture
from .checkpoint import Checkpoint
from .errors import ConvertError
from .hub import checkpoint_name
from .jsonfile import Settings, load_object
from .lora import Adapter, is_adapter, merge_adapter
from .metadata import add_general, add_hparams, add_position_tokens, add_tokenizer
from .plan import DEFAULT_TYPE, DTYPES, DType, Plan, make_plan
from .prequantized import resolve_integers
from .ptuning import Prefix, has_prefix, is_prefix_only, read_prefix
from .tokenizers import load_tokenizer
from .vocabulary import Vocabulary
from .writer import Metadata


@dataclass(frozen=True)
class Choices:
    """What the user may say about a model; None and "auto" leave it to the files."""

    dtype: DType | None = None
    name: str | None = None
    chat_format: str | None = None
    rope_scaling: str = "auto"
    lora: Path | None = None  # adapter to merge
    ptuning: Path | None = None  # folder of a P-Tuning prefix


@dataclass
class Model:
    """A file to be written: what is in it, and what the user should be told."""

    name: str
    architecture: str
    chat_format: str
    metadata: Metadata
    plan: Plan
    hparams: Hparams | None = None
    vocabulary: Vocabulary | None = None
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def open_checkpoint(folder: Path, choices: Choices) -> Iterator[Model]:
    """The model in a checkpoint folder. Its tensors can be read until the block ends.

    Raises ConvertError when something is missing, damaged or not supported.
    """
    config = read_config(folder)
    arch = find_architecture(config)
    hparams = read_hparams(arch, config)
    with contextlib.ExitStack() as stack:
        checkpoint = stack.enter_context(Checkpoint(folder))
        if is_prefix_only(arch, checkpoint.tensors):
            raise ConvertError(
                f"{folder}: holds a P-Tuning prefix and no model; give the model it was trained on as input, "
                "and this folder with --ptuning"
            )
        resolve_integers(checkpoint, config)
        notes = []
        if choices.ptuning is not None and is_adapter(choices.ptuning):
            raise ConvertError(
                f"{choices.ptuning}: is a LoRA adapter, which -l merges; --ptuning takes a prefix"
            )
        if choices.lora is not None:
            adapter = stack.enter_context(Adapter(choices.lora))
            notes.append(f"{merge_adapter(checkpoint, adapter)} tensors were changed by {choices.lora}")
        prefix = _find_prefix(stack, arch, hparams, checkpoint, folder, choices)
        if prefix is not None:
            hparams = replace(hparams, prefix_length=prefix.length)
        model = _describe(folder, choices, arch, hparams, config)
        model.plan = make_plan(arch, hparams, checkpoint, choices.dtype or DTYPES[DEFAULT_TYPE], prefix)
        model.notes = (*model.notes, *notes)
        yield model


def open_vocabulary(folder: Path, choices: Choices) -> Model:
    """The tokenizer of a folder, which may hold nothing else."""
    if (folder / "config.json").is_file():
        config = read_config(folder)
        arch = find_architecture(config)
        return _describe(folder, choices, arch, read_hparams(arch, config), config)
    return _describe(folder, choices, None, None, Settings({}, folder / "config.json"))


def read_config(folder: Path) -> Settings:
    path = folder / "config.json"
    if not path.is_file():
        raise ConvertError(f"{path}: no such file; is {folder} the folder of a checkpoint?")
    return Settings(load_object(path), path)


def _find_prefix(
    stack: contextlib.ExitStack,
    arch: Architecture,
    hparams: Hparams,
    checkpoint: Checkpoint,
    folder: Path,
    choices: Choices,
) -> Prefix | None:
    """The P-Tuning prefix of the folder that the user gave, or else of the checkpoint itself."""
    if choices.ptuning is not None:
        if not choices.ptuning.is_dir():
            raise ConvertError(
                f"{choices.ptuning}: no such folder; expected one with the weights of a prefix"
            )
        source = stack.enter_context(Checkpoint(choices.ptuning))
        return read_prefix(arch, hparams, source.tensors, choices.ptuning)
    if not hparams.prefix_length:
        return None
    if not has_prefix(arch, checkpoint.tensors):
        raise ConvertError(
            f'{folder / "config.json"}: "pre_seq_len" is {hparams.prefix_length}, but the weights here hold '
            "no prefix; give the base model as input and this folder, or where the prefix is, with --ptuning"
        )
    prefix = read_prefix(arch, hparams, checkpoint.tensors, folder)
    if prefix.length != hparams.prefix_length:
        raise ConvertError(
            f'{folder / "config.json"}: "pre_seq_len" is {hparams.prefix_length}, and the prefix has '
            f"{prefix.length} positions"
        )
    return prefix


def _describe(
    folder: Path, choices: Choices, arch: Architecture | None, hparams: Hparams | None, config: Settings
) -> Model:
    """Everything but the tensors."""
    vocabulary, chat_format, template = load_tokenizer(folder, config, choices.chat_format)
    if arch and arch.first_generation and not vocabulary.position_ids:
        raise ConvertError(f"{vocabulary.path}: is not the tokenizer of ChatGLM-6B, ice_text.model")
    if hparams:
        vocabulary.pad_to(hparams.vocab)
    named_ids = (*vocabulary.prefix_ids, *vocabulary.suffix_ids, *vocabulary.eos_ids)
    vocabulary.check_ids(named_ids, str(vocabulary.path))
    name = choices.name or _model_name(folder, config)
    scales_positions = bool(arch) and _scales_positions(arch, folder, chat_format, choices.rope_scaling)
    dtype = choices.dtype or DTYPES[DEFAULT_TYPE]
    return make_model(name, arch, hparams, dtype, scales_positions, vocabulary, chat_format, template)


def make_model(
    name: str,
    arch: Architecture | None,
    hparams: Hparams | None,
    dtype: DType,
    scales_positions: bool,
    vocabulary: Vocabulary,
    chat_format: str,
    template: str,
) -> Model:
    """A model without its tensors. `dtype` is the type of most matrices, `scales_positions` what rope_ratio
    means."""
    gguf_arch = arch.gguf_arch if arch else "chatglm"
    metadata = Metadata()
    add_general(metadata, gguf_arch, "model", name, dtype)
    if arch and hparams:
        add_hparams(metadata, arch, hparams, scales_positions)
        add_position_tokens(metadata, arch, vocabulary)
    add_tokenizer(metadata, vocabulary, chat_format, template)
    return Model(
        name, gguf_arch, chat_format, metadata, Plan([], [], []), hparams, vocabulary, tuple(vocabulary.notes)
    )


def _model_name(folder: Path, config: Settings) -> str:
    return Path(config.text("_name_or_path").replace("\\", "/")).name or checkpoint_name(folder) or "model"


def _scales_positions(arch: Architecture, folder: Path, chat_format: str, rope_scaling: str) -> bool:
    if rope_scaling != "auto":
        return rope_scaling == "position"
    # transformers' "linear" rotary scaling divides positions; the original layout needs a look at the model.
    return arch.rope_ratio_divides_positions or identify.scales_positions(folder, chat_format)
