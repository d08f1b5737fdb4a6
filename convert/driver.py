"""The conversion itself: everything is read and checked first, then the file is written in one pass."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import identify
from .chatglm_cpp_file import is_chatglm_cpp_file
from .chatglm_cpp_model import open_chatglm_cpp_file
from .checkpoint_model import Choices, Model, open_checkpoint, open_vocabulary
from .encode import Findings, encode_tensor
from .errors import ConvertError
from .hub import download, hub_name
from .lora import is_adapter
from .lora_model import open_adapter
from .plan import DTYPES, Plan, count_by_type
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
    is_adapter: bool = False


def convert(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    base: str | os.PathLike[str] | None = None,
    lora: str | os.PathLike[str] | None = None,
    ptuning: str | os.PathLike[str] | None = None,
    name: str | None = None,
    chat_format: str | None = None,
    rope_scaling: str = "auto",
    vocab_only: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
    hub: str = "huggingface",
    revision: str | None = None,
) -> Summary:
    """Converts a Hugging Face checkpoint, a LoRA adapter or a file of chatglm.cpp into one GGUF file.

    Weights, config.json and tokenizer files are read directly; no code of the checkpoint is run. Memory stays
    at a few slabs of 16 MiB, whatever the size of the model. `output` appears, or is replaced, only when it
    is complete.

    Args:
        input: folder of the checkpoint, or of a LoRA adapter (PEFT), which becomes a file of its own to be
            used beside the model's; or, where there is no such folder, its name on a hub, for example
            "THUDM/chatglm3-6b": what is needed of it is downloaded into the cache of the hub's library.
            `base`, `lora` and `ptuning` may be names too. Or a file of chatglm.cpp.
        output: GGUF file to write.
        dtype: type of the matrices: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1. Norms and biases are f32.
            By default q4_0, of an adapter f32, and as they are stored, byte for byte, of a file of
            chatglm.cpp.
        base: for an adapter: folder of the model it was trained on, of which config.json is read.
        lora: folder of a LoRA adapter (PEFT) that is added to the weights.
        ptuning: folder of a P-Tuning v2 prefix, which the file carries along.
        name: general.name of the file; by default the checkpoint's own name, or that of the input file.
        chat_format: chatglm, chatglm2, chatglm3, glm4 or template; by default what the files say.
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
    source = Path(input)
    wanted = hub_name(input)
    try:
        target = _check_paths(None if wanted else source, Path(output), (base, lora, ptuning))
    except ConvertError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise ConvertError(f"{input} -> {output}: not usable as paths: {reason}") from None
    _check_options(dtype, chat_format, rope_scaling, threads)
    quiet = progress is None
    if wanted:
        source = download(wanted, hub, revision, weights=not vocab_only, quiet=quiet)
    elif revision is not None:
        raise ConvertError(f"{source}: is here on disk, which has no revisions; leave {revision!r} out")

    def local(other: str | os.PathLike[str] | None, weights: bool = True) -> Path | None:
        on_hub = None if other is None else hub_name(other)
        if on_hub:
            return download(on_hub, hub, weights=weights, quiet=quiet)
        return None if other is None else Path(other)

    choices = Choices(None if dtype is None else DTYPES[dtype], name, chat_format, rope_scaling)
    opened: contextlib.AbstractContextManager[Model]
    if is_adapter(source):
        if lora is not None or ptuning is not None or vocab_only:
            raise ConvertError(
                f"{source}: is a LoRA adapter: --lora, --ptuning and --vocab-only do not apply to one"
            )
        opened = open_adapter(source, local(base, weights=False), choices)
    elif base is not None:
        raise ConvertError(f"--base belongs to a LoRA adapter, and {source} is none")
    elif vocab_only:
        if lora is not None or ptuning is not None:
            raise ConvertError("--lora and --ptuning change the weights, and --vocab-only leaves them out")
        opened = _without_tensors(source, choices)
    else:
        choices = replace(choices, lora=local(lora), ptuning=local(ptuning))
        opened = (
            open_checkpoint(source, choices) if source.is_dir() else open_chatglm_cpp_file(source, choices)
        )
    with opened as model:
        findings = _write(target, model.plan, model.metadata, threads, progress)
    return Summary(
        path=Path(output),
        name=model.name,
        architecture=model.architecture,
        chat_format=model.chat_format,
        types=dict(count_by_type(model.plan.tensors)),
        source_bytes=model.plan.source_bytes,
        file_bytes=target.stat().st_size,
        seconds=time.perf_counter() - start,
        skipped=model.plan.skipped,
        notes=[*model.notes, *model.plan.notes, *findings],
        is_adapter=model.vocabulary is None,
    )


@contextlib.contextmanager
def _without_tensors(source: Path, choices: Choices) -> Iterator[Model]:
    if source.is_dir():
        yield open_vocabulary(source, choices)
        return
    with open_chatglm_cpp_file(source, choices) as model:
        model.plan = Plan([], [], [])
        yield model


def _check_paths(source: Path | None, output: Path, others: Sequence[str | os.PathLike[str] | None]) -> Path:
    """The real path of the file to write; `source` is None while it is still to be downloaded, `others` are
    what is read besides."""
    read_from = [Path(path) for path in (source, *others) if path is not None]
    if source is not None and not source.exists():
        raise ConvertError(f"{source}: no such file or folder")
    target = output.resolve()
    if source is not None and not source.is_dir():
        if not is_chatglm_cpp_file(source):
            raise ConvertError(
                f"{source}: {_what_else(source)}; expected the folder of a checkpoint, its name on a "
                "hub, or a model file of chatglm.cpp"
            )
        if target == source.resolve():
            raise ConvertError(f"{output}: is the file to convert; choose another output")
    if target.is_dir():
        raise ConvertError(f"{output}: is a folder; name the GGUF file to write")
    if target.exists() and not target.is_file():
        raise ConvertError(f"{output}: is no regular file")
    folders = [folder.resolve() for folder in read_from if folder.is_dir()]
    inside = target.parent in folders or output.parent.resolve() in folders
    if inside and not output.suffix == target.suffix == ".gguf":
        raise ConvertError(
            f"{output}: lies among the files that are read; choose a name that ends in .gguf, or another "
            "folder"
        )
    if not target.parent.is_dir():
        raise ConvertError(f"{output}: the folder {target.parent} does not exist")
    if not os.access(target.parent, os.W_OK):
        raise ConvertError(f"{output}: the folder {target.parent} is not writable")
    return target


def _what_else(source: Path) -> str:
    if not source.is_file():  # opening a pipe would wait for its other end
        return "is neither a folder nor a regular file"
    with open(source, "rb") as file:
        if file.read(4) == b"GGUF":
            return (
                "is a GGUF file already, and runs as it is; for another type convert the original checkpoint"
            )
    return "is a file, but no model"


def _check_options(dtype: str | None, chat_format: str | None, rope_scaling: str, threads: int) -> None:
    if dtype is not None and dtype not in DTYPES:
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


def _write(
    target: Path, plan: Plan, metadata: Metadata, threads: int, progress: Progress | None
) -> list[str]:
    """Writes the file; returns sentences about values that look wrong."""
    free = shutil.disk_usage(target.parent).free
    needed = plan.target_bytes + len(bytes(metadata))
    if needed > free:
        unit, name = (1e9, "GB") if needed >= 1e8 else (1e3, "KB")
        raise ConvertError(
            f"{target}: needs {needed / unit:.1f} {name}, but only {free / unit:.1f} {name} are free there"
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
