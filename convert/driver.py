"""The conversion itself: everything is read and checked first, then the file is written in one pass."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gguf import GGML_QUANT_VERSION
from gguf import GGUFValueType as ValueType

from . import identify
from .architectures import Architecture, Hparams, find_architecture, read_hparams
from .checkpoint import Checkpoint
from .encode import Findings, encode_tensor
from .errors import ConvertError
from .hub import checkpoint_name, download, hub_name
from .jsonfile import Settings, load_object
from .plan import DTYPES, DType, Plan, count_by_type, make_plan
from .tokenizers import load_tokenizer
from .vocabulary import Vocabulary
from .writer import GgufWriter, Metadata

Progress = Callable[[str, int, int], None]

MAX_THREADS = 512  # of the engine's thread pool


@dataclass
class Summary:
    """What a conversion did."""

    path: Path
    name: str
    architecture: str
    chat_format: str
    types: dict[str, tuple[int, int]]  # type name -> (tensors, bytes)
    source_bytes: int
    file_bytes: int
    seconds: float
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def convert(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    dtype: str = "q4_0",
    *,
    name: str | None = None,
    chat_format: str | None = None,
    rope_scaling: str = "auto",
    vocab_only: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
    hub: str = "huggingface",
    revision: str | None = None,
) -> Summary:
    """Converts a Hugging Face checkpoint into one GGUF file.

    Weights, config.json and tokenizer files are read directly; no code of the checkpoint is run. Memory stays
    at a few slabs of 16 MiB, whatever the size of the model. `output` appears, or is replaced, only when it
    is complete.

    Args:
        input: folder of the checkpoint; or, where there is no such folder, its name on a hub, for example
            "THUDM/chatglm3-6b": what is needed of it is downloaded into the cache of the hub's library.
        output: GGUF file to write.
        dtype: type of the matrices: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1. Norms and biases are f32.
        name: general.name of the file; by default the checkpoint's own name.
        chat_format: chatglm2, chatglm3, glm4 or template; by default what the files say.
        rope_scaling: what `rope_ratio` of the original layout scales: "base", "position", or "auto" by model.
        vocab_only: write the tokenizer and metadata without tensors.
        threads: threads of the quantizer, up to 512; 0 for one per core.
        progress: called as progress(tensor, source bytes done, source bytes in all). With it, downloads draw
            their bars on a terminal.
        hub: where a name is looked up, "huggingface" or "modelscope".
        revision: branch, tag or commit on the hub; by default its main branch.

    Raises:
        ConvertError: the checkpoint, an option or the target is not usable; the message says which and why.
    """
    start = time.perf_counter()
    folder = Path(input)
    wanted = hub_name(input)
    try:
        target = _check_paths(None if wanted else folder, Path(output))
    except ConvertError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise ConvertError(f"{input} -> {output}: not usable as paths: {reason}") from None
    chosen = _check_options(dtype, chat_format, rope_scaling, threads)
    if wanted:
        folder = download(wanted, hub, revision, weights=not vocab_only, quiet=progress is None)
    elif revision is not None:
        raise ConvertError(f"{folder}: is a folder here, which has no revisions; leave {revision!r} out")
    arch, hparams, config = _read_config(folder, vocab_only)
    vocabulary, format_name, template = load_tokenizer(folder, config, chat_format)
    if hparams:
        vocabulary.pad_to(hparams.vocab)
    vocabulary.check_ids([*vocabulary.prefix_ids, *vocabulary.eos_ids], str(vocabulary.path))

    model_name = name or _model_name(folder, config)
    metadata = Metadata()
    gguf_arch = arch.gguf_arch if arch else "chatglm"
    _add_general(metadata, gguf_arch, model_name, chosen)
    if arch and hparams:
        positions = _scales_positions(arch, folder, format_name, rope_scaling)
        _add_hparams(metadata, gguf_arch, hparams, positions)
    _add_tokenizer(metadata, vocabulary, format_name, template)

    if vocab_only:
        plan = Plan([], [], [])
        findings = _write(target, plan, metadata, threads, progress)
    else:
        assert arch and hparams
        with Checkpoint(folder) as checkpoint:
            plan = make_plan(arch, hparams, checkpoint, chosen)
            findings = _write(target, plan, metadata, threads, progress)
    return Summary(
        path=Path(output),
        name=model_name,
        architecture=gguf_arch,
        chat_format=format_name,
        types=dict(count_by_type(plan.tensors)),
        source_bytes=plan.source_bytes,
        file_bytes=target.stat().st_size,
        seconds=time.perf_counter() - start,
        skipped=plan.skipped,
        notes=[*vocabulary.notes, *plan.notes, *findings],
    )


def _check_paths(folder: Path | None, output: Path) -> Path:
    """The real path of the file to write; `folder` is None while it is still to be downloaded."""
    if folder is not None and not folder.exists():
        raise ConvertError(f"{folder}: no such folder")
    if folder is not None and not folder.is_dir():
        raise ConvertError(f"{folder}: is a file; expected the folder of a checkpoint")
    target = output.resolve()
    if target.is_dir():
        raise ConvertError(f"{output}: is a folder; name the GGUF file to write")
    if target.exists() and not target.is_file():
        raise ConvertError(f"{output}: is no regular file")
    beside = folder is not None and output.parent.resolve() == folder.resolve()
    if beside and target.exists() and output.suffix != ".gguf":
        raise ConvertError(f"{output}: is a file of the checkpoint itself; choose another output")
    if not target.parent.is_dir():
        raise ConvertError(f"{output}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise ConvertError(f"{output}: the folder {target.parent} is not writable")
    return target


def _check_options(dtype: str, chat_format: str | None, rope_scaling: str, threads: int) -> DType:
    if dtype not in DTYPES:
        raise ConvertError(f"unknown type {dtype!r}; choose one of {', '.join(DTYPES)}")
    if chat_format is not None and chat_format not in identify.CHAT_FORMATS:
        raise ConvertError(
            f"unknown chat format {chat_format!r}; choose one of {', '.join(identify.CHAT_FORMATS)}"
        )
    if rope_scaling not in identify.ROPE_SCALINGS:
        raise ConvertError(
            f"unknown rope scaling {rope_scaling!r}; choose one of {', '.join(identify.ROPE_SCALINGS)}"
        )
    if not 0 <= threads <= MAX_THREADS:
        raise ConvertError(f"threads is {threads}, expected 0 (one per core) to {MAX_THREADS}")
    return DTYPES[dtype]


def _read_config(folder: Path, vocab_only: bool) -> tuple[Architecture | None, Hparams | None, Settings]:
    path = folder / "config.json"
    if not path.is_file():
        if vocab_only:
            return None, None, Settings({}, path)
        if (folder / "adapter_config.json").is_file():
            raise ConvertError(f"{folder}: is a LoRA adapter; convert the model it was merged into")
        raise ConvertError(f"{path}: no such file; is {folder} the folder of a checkpoint?")
    config = Settings(load_object(path), path)
    arch = find_architecture(config)
    return arch, read_hparams(arch, config), config


def _model_name(folder: Path, config: Settings) -> str:
    return Path(config.text("_name_or_path").replace("\\", "/")).name or checkpoint_name(folder) or "model"


def _scales_positions(arch: Architecture, folder: Path, chat_format: str, rope_scaling: str) -> bool:
    if rope_scaling != "auto":
        return rope_scaling == "position"
    # transformers' "linear" rotary scaling divides positions; the original layout needs a look at the model.
    return arch.rope_ratio_divides_positions or identify.scales_positions(folder, chat_format)


def _add_general(metadata: Metadata, arch: str, name: str, dtype: DType) -> None:
    metadata.string("general.architecture", arch)
    metadata.string("general.type", "model")
    metadata.string("general.name", name)
    metadata.u32("general.file_type", dtype.file_type)
    metadata.u32("general.quantization_version", GGML_QUANT_VERSION)


def _add_hparams(metadata: Metadata, arch: str, h: Hparams, scale_positions: bool) -> None:
    metadata.u32(f"{arch}.block_count", h.n_layers)
    metadata.u32(f"{arch}.context_length", h.context)
    metadata.u32(f"{arch}.embedding_length", h.hidden)
    metadata.u32(f"{arch}.feed_forward_length", h.ffn)
    metadata.u32(f"{arch}.vocab_size", h.vocab)
    metadata.u32(f"{arch}.attention.head_count", h.n_heads)
    metadata.u32(f"{arch}.attention.head_count_kv", h.n_kv_heads)
    metadata.u32(f"{arch}.attention.key_length", h.head_dim)
    metadata.u32(f"{arch}.attention.value_length", h.head_dim)
    metadata.f32(f"{arch}.attention.layer_norm_rms_epsilon", h.rms_eps)
    metadata.u32(f"{arch}.rope.dimension_count", h.rope_dims)
    if scale_positions:
        metadata.f32(f"{arch}.rope.freq_base", h.rope_theta)
        if h.rope_ratio != 1:
            metadata.string(f"{arch}.rope.scaling.type", "linear")
            metadata.f32(f"{arch}.rope.scaling.factor", h.rope_ratio)
    else:
        metadata.f32(f"{arch}.rope.freq_base", h.rope_theta * h.rope_ratio)


def _add_tokenizer(metadata: Metadata, v: Vocabulary, chat_format: str, template: str) -> None:
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
    if v.prefix_ids:
        metadata.numbers("chatglm.tokenizer.prefix_ids", v.prefix_ids, ValueType.INT32)
    if v.eos_ids:
        metadata.numbers("chatglm.tokenizer.eos_ids", v.eos_ids, ValueType.INT32)
    if chat_format:
        metadata.string("chatglm.chat_format", chat_format)
    if template:
        metadata.string("tokenizer.chat_template", template)


def _write(
    target: Path, plan: Plan, metadata: Metadata, threads: int, progress: Progress | None
) -> list[str]:
    """Writes the file; returns sentences about values that look wrong."""
    free = shutil.disk_usage(target.parent).free
    needed = plan.target_bytes + len(bytes(metadata))
    if needed > free:
        raise ConvertError(
            f"{target}: needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free there"
        )
    notes: list[str] = []
    total, done = plan.source_bytes, 0
    with GgufWriter(target, [(t.name, t.shape, t.dtype.ggml) for t in plan.tensors], metadata) as writer:
        for tensor in plan.tensors:
            findings = Findings()
            for data, n_bytes in encode_tensor(tensor, threads, findings):
                writer.write(data)
                done += n_bytes
                if progress:
                    progress(tensor.name, done, total)
            if findings.not_finite:
                notes.append(
                    f"{tensor.name}: {findings.not_finite} values are NaN or infinite in the checkpoint"
                )
            if findings.overflowed:
                notes.append(
                    f"{tensor.name}: {findings.overflowed} values are beyond f16 and became infinite"
                )
    return notes
