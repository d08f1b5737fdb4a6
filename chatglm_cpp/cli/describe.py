"""What a path holds, for `chatglm-cpp info`: model files, checkpoints, and what is added to models."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import _C
from ..model_file import DEFAULT_DTYPE, engine_path, is_old_model

CONTEXT = 2048  # tokens that the memory is stated for by default: the default max_length
# Elements and bytes of a block of each type of the cache; a head's row is filled up to whole blocks.
CACHE_BLOCKS = {"f16": (1, 2), "q8_0": (32, 34), "f32": (1, 4)}

_INT64_MAX = 2**63 - 1

ADDITIONS = ("LoRA adapter", "P-Tuning prefix")  # kinds that are no models themselves


def describe(
    path: Path, dtype: str | None = None, context: int = CONTEXT, kv_dtype: str = "f16"
) -> dict[str, Any]:
    """What is at `path`: "kind" says which of the other keys there are. `dtype` is what a checkpoint or an
    older file would be converted to; None is the default. The memory is stated for `context` tokens in a
    cache of the type `kv_dtype`.

    Raises:
        FileNotFoundError: there is nothing at `path`, or it is a folder without a checkpoint.
        Error, ValueError: it is damaged, or nothing that is known.
    """
    described = _describe(path, dtype)
    if described["kind"] in ADDITIONS:
        return described
    return {**described, **_memory(described, context, kv_dtype)}


def _describe(path: Path, dtype: str | None) -> dict[str, Any]:
    if path.is_dir():
        return _describe_folder(path, dtype or DEFAULT_DTYPE)
    if is_old_model(path):
        return _describe_old_file(path, dtype)
    if not path.exists() and len(path.parts) == 2:
        raise FileNotFoundError(
            f"{path}: no such file or folder. Names on a hub are not looked up here; "
            "convert and chat take them."
        )
    return _describe_file(path)


def _describe_file(path: Path) -> dict[str, Any]:
    """What is in a GGUF file, from its metadata and its table of tensors alone."""
    content = _C.read_gguf(engine_path(path))
    metadata, lengths = content["metadata"], content["array_lengths"]
    if metadata.get("general.type") == "adapter":
        return _describe_adapter_file(path, content)
    tensors = _tensors(content)
    arch = metadata.get("general.architecture")
    used = {t["type"]: t["used_as"] for t in content["tensors"]}
    unsupported = sorted(name for name in used if used[name] is None)
    problem = _problem(path)
    return {
        "path": str(path),
        "kind": "model",
        "name": metadata.get("general.name"),
        "architecture": arch,
        **_with_defaults({key: metadata.get(f"{arch}.{name}") for key, name in _GGUF_SIZES.items()}),
        "vocabulary": lengths.get("tokenizer.ggml.tokens"),
        "tokenizer": metadata.get("tokenizer.ggml.model"),
        **_chat_format(path, metadata),
        "prefix": metadata.get(f"{arch}.prefix_length"),
        **_weights(tensors),
        "memory_bytes": sum(t["n_bytes_used"] or t["n_bytes"] for t in content["tensors"]),
        "repacked_types": {name: used[name] for name in sorted(used) if used[name] not in (name, None)},
        "unsupported_types": unsupported,
        "runs": problem is None and not unsupported,
        "problem": problem,
        "file_bytes": content["file_size"],
        "tensors": tensors,
    }


def _tensors(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": t["name"], "type": t["type"], "shape": list(t["shape"]), "bytes": t["n_bytes"]}
        for t in content["tensors"]
    ]


_GGUF_SIZES = {
    "context": "context_length",
    "layers": "block_count",
    "hidden": "embedding_length",
    "ffn": "feed_forward_length",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
}


def _with_defaults(sizes: dict[str, Any]) -> dict[str, Any]:
    """What the engine takes for sizes that a file leaves out."""
    hidden, heads = sizes["hidden"], sizes["heads"]
    if sizes["kv_heads"] is None:
        sizes["kv_heads"] = heads
    if sizes["head_dim"] is None and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        sizes["head_dim"] = hidden // heads
    return sizes


def _chat_format(path: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """The chat format that the engine uses, and whether it is guessed because the file does not say."""
    said = used = metadata.get("chatglm.chat_format")
    with contextlib.suppress(_C.Error):  # without a tokenizer there is nothing to guess from
        used = _C.load_tokenizer(engine_path(path)).chat_format or None
    return {"chat_format": used, "chat_format_guessed": used is not None and said is None}


def _problem(path: Path) -> str | None:
    """Why the engine refuses the file, as far as its metadata tell."""
    try:
        _C.check_model(engine_path(path))
    except _C.Error as error:
        return str(error)
    return None


def _describe_folder(folder: Path, dtype: str) -> dict[str, Any]:
    """What the folder of a checkpoint would become. Reads the headers of its weights, and no weights."""
    with _missing_package(folder):
        from ..convert.checkpoint_model import Choices, open_checkpoint
        from ..convert.lora import is_adapter
        from ..convert.plan import DTYPES as CONVERT_DTYPES
        from ..convert.ptuning import find_prefix
    if is_adapter(folder):
        return _describe_adapter_folder(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: is a folder without config.json, so no checkpoint.")
    if (prefix := find_prefix(folder)) is not None:
        return {
            "path": str(folder),
            "kind": "P-Tuning prefix",
            "positions": prefix.shape[0],
            "source_bytes": prefix.nbytes,
            "use": f"convert the model it was trained on with --ptuning {folder}",
            "tensors": [],
        }
    with open_checkpoint(folder, Choices(CONVERT_DTYPES[dtype])) as model:
        return {"kind": "checkpoint", **_describe_model(folder, model, dtype)}


def _describe_adapter_folder(folder: Path) -> dict[str, Any]:
    with _missing_package(folder):
        from ..convert.lora import Adapter
    with Adapter(folder) as adapter:
        factors = adapter.factors
        return {
            "path": str(folder),
            "kind": "LoRA adapter",
            "base": adapter.base or None,
            "alpha": adapter.alpha,
            "ranks": sorted({factor.rank for factor in factors.values()}),
            "matrices": len(factors) + len(adapter.replaced),
            "source_bytes": adapter.path.stat().st_size,
            "use": f"merge it: convert its model with -l {folder}; or keep it apart: convert it with --base",
            "tensors": [],
        }


def _describe_adapter_file(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    metadata = content["metadata"]
    shapes = [t["shape"] for t in content["tensors"] if t["name"].endswith(".lora_a")]
    return {
        "path": str(path),
        "kind": "LoRA adapter",
        "name": metadata.get("general.name"),
        "architecture": metadata.get("general.architecture"),
        "alpha": metadata.get("adapter.lora.alpha"),
        "ranks": sorted({shape[0] for shape in shapes}),
        "matrices": len(shapes),
        "file_bytes": content["file_size"],
        "use": f"with a model: chatglm-cpp chat -m MODEL --lora {path}",
        "tensors": _tensors(content),
    }


def _describe_old_file(path: Path, dtype: str | None) -> dict[str, Any]:
    """What a model file of chatglm.cpp would become; `dtype` None keeps the types that it has."""
    with _missing_package(path):
        from ..convert.chatglm_cpp_model import open_chatglm_cpp_file
        from ..convert.checkpoint_model import Choices
        from ..convert.plan import DTYPES as CONVERT_DTYPES
    with open_chatglm_cpp_file(path, Choices(CONVERT_DTYPES[dtype] if dtype else None)) as model:
        described = _describe_model(path, model, dtype or "the types that it has")
    return {"kind": "file of chatglm.cpp up to 0.4", **described}


@contextlib.contextmanager
def _missing_package(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise _C.Error(
            f"{path}: looking into it needs the package {error.name}; run: pip install 'chatglm-cpp[convert]'"
        ) from None


def _describe_model(path: Path, model: Any, converts_to: str) -> dict[str, Any]:
    """`model` as the converter opened it."""
    tensors = [
        {"name": t.name, "type": t.dtype.name, "shape": list(t.shape), "bytes": t.nbytes}
        for t in model.plan.tensors
    ]
    hparams = model.hparams
    return {
        "path": str(path),
        "name": model.name,
        "architecture": model.architecture,
        "converts_to": converts_to,
        "context": hparams.context,
        "layers": hparams.n_layers,
        "hidden": hparams.hidden,
        "ffn": hparams.ffn,
        "heads": hparams.n_heads,
        "kv_heads": hparams.n_kv_heads,
        "head_dim": hparams.head_dim,
        "vocabulary": hparams.vocab,
        "tokenizer": model.vocabulary.model,
        "chat_format": model.chat_format or None,
        "prefix": hparams.prefix_length or None,
        **_weights(tensors),
        "source_bytes": model.plan.source_bytes,
        "tensors": tensors,
    }


def _memory(described: dict[str, Any], context: int, kv_dtype: str) -> dict[str, Any]:
    """What the cache of `context` tokens takes where the sizes tell, and what this machine has for it all."""
    needed = [described[key] for key in ("layers", "kv_heads", "head_dim")]
    state = _C.memory_state()
    memory: dict[str, Any] = {
        "cache_type": kv_dtype,
        "cache_tokens": context,
        "cache_bytes": None,
        "machine_bytes": state["total"] or None,
        "free_bytes": state["available"] or None,
        "memory_note": None,
    }
    if all(isinstance(n, int) and n > 0 for n in needed):
        layers, kv_heads, head_dim = needed
        block, block_bytes = CACHE_BLOCKS[kv_dtype]
        rows = 2 * layers * kv_heads * context  # keys and values
        memory["cache_bytes"] = cache = rows * -(-head_dim // block) * block_bytes
        total = described.get("memory_bytes", described["weight_bytes"]) + cache
        memory["memory_note"] = _C.memory_note(min(total, _INT64_MAX), context) or None
    return memory


def _weights(tensors: list[dict[str, Any]]) -> dict[str, Any]:
    counts, n_bytes = Counter(t["type"] for t in tensors), Counter[str]()
    for t in tensors:
        n_bytes[t["type"]] += t["bytes"]
    return {
        "parameters": sum(math.prod(t["shape"]) for t in tensors),
        "weight_bytes": n_bytes.total(),
        "types": {name: {"tensors": n, "bytes": n_bytes[name]} for name, n in counts.most_common()},
    }
