"""`chatglm-cpp info`: what a model file, an older one, or a checkpoint folder holds."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import _C
from ..model_file import DEFAULT_DTYPE, DTYPES, engine_path, is_old_model
from .terminal import format_bytes, format_count, printable

CONTEXT = 2048  # tokens that the memory is stated for: the default max_length
CACHE_ELEMENT_BYTES = 2  # f16, the default kv_dtype


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="show what a model file or a checkpoint folder holds",
        description="For a GGUF file: what it holds and the memory it needs. For a folder of a Hugging "
        "Face checkpoint, or a model file of chatglm.cpp up to 0.4: what it is and whether it converts.",
    )
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="GGUF file, folder of a checkpoint, or file of chatglm.cpp"
    )
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help=f"type to convert to (default: {DEFAULT_DTYPE} for a folder; the types that it has for a file "
        "of chatglm.cpp)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.path.is_dir():
        described = describe_checkpoint(args.path, args.dtype or DEFAULT_DTYPE)
    elif is_old_model(args.path):
        described = describe_old_file(args.path, args.dtype)
    else:
        described = describe_file(args.path)
    tensors = described.pop("tensors")
    if args.json:
        if args.tensors:
            described["tensors"] = tensors
        text = json.dumps(described, ensure_ascii=False, indent=2)
        print("\n".join(map(printable, text.split("\n"))))
        return 0
    print(format_description(described))
    if args.tensors:
        print(format_tensors(tensors))
    return 0


def describe_file(path: Path) -> dict[str, Any]:
    """What is in a GGUF file, from its metadata and its table of tensors alone."""
    content = _C.read_gguf(engine_path(path))
    metadata, lengths = content["metadata"], content["array_lengths"]
    tensors = [
        {"name": t["name"], "type": t["type"], "shape": list(t["shape"]), "bytes": t["n_bytes"]}
        for t in content["tensors"]
    ]
    arch = metadata.get("general.architecture")
    used = {t["type"]: t["used_as"] for t in content["tensors"]}
    return {
        "path": str(path),
        "name": metadata.get("general.name"),
        "architecture": arch,
        **_sizes(_with_defaults({key: metadata.get(f"{arch}.{name}") for key, name in _GGUF_SIZES.items()})),
        "vocabulary": lengths.get("tokenizer.ggml.tokens"),
        "tokenizer": metadata.get("tokenizer.ggml.model"),
        **_chat_format(path, metadata),
        **_weights(tensors),
        "memory_bytes": sum(t["n_bytes_used"] or t["n_bytes"] for t in content["tensors"]),
        "repacked_types": {name: used[name] for name in sorted(used) if used[name] not in (name, None)},
        "unsupported_types": sorted(name for name in used if used[name] is None),
        "file_bytes": content["file_size"],
        "problem": _problem(path),
        "tensors": tensors,
    }


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


def describe_checkpoint(folder: Path, dtype: str) -> dict[str, Any]:
    """What the folder of a checkpoint would become. Reads the headers of its weights, and no weights."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: is a folder without config.json, so no checkpoint.")
    with _missing_package(folder):
        from ..convert.checkpoint_model import Choices, open_checkpoint
        from ..convert.plan import DTYPES as CONVERT_DTYPES
    with open_checkpoint(folder, Choices(CONVERT_DTYPES[dtype])) as model:
        return _describe(folder, model, dtype)


def describe_old_file(path: Path, dtype: str | None) -> dict[str, Any]:
    """What a model file of chatglm.cpp would become; `dtype` None keeps the types that it has."""
    with _missing_package(path):
        from ..convert.chatglm_cpp_model import open_chatglm_cpp_file
        from ..convert.checkpoint_model import Choices
        from ..convert.plan import DTYPES as CONVERT_DTYPES
    with open_chatglm_cpp_file(path, Choices(CONVERT_DTYPES[dtype] if dtype else None)) as model:
        described = _describe(path, model, dtype or "the types that it has")
    return {**described, "format": "chatglm.cpp up to 0.4"}


@contextlib.contextmanager
def _missing_package(path: Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise _C.Error(
            f"{path}: looking into it needs the package {error.name}; run: pip install 'chatglm-cpp[convert]'"
        ) from None


def _describe(path: Path, model: Any, converts_to: str) -> dict[str, Any]:
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
        **_sizes(
            {
                "context": hparams.context,
                "layers": hparams.n_layers,
                "hidden": hparams.hidden,
                "ffn": hparams.ffn,
                "heads": hparams.n_heads,
                "kv_heads": hparams.n_kv_heads,
                "head_dim": hparams.head_dim,
            }
        ),
        "vocabulary": hparams.vocab,
        "tokenizer": model.vocabulary.model,
        "chat_format": model.chat_format or None,
        **_weights(tensors),
        "source_bytes": model.plan.source_bytes,
        "tensors": tensors,
    }


def _sizes(sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes, and the bytes that the cache of CONTEXT tokens takes where they tell."""
    needed = [sizes[key] for key in ("layers", "kv_heads", "head_dim")]
    cache = None
    if all(isinstance(n, int) and n > 0 for n in needed):
        cache = 2 * math.prod(needed) * CONTEXT * CACHE_ELEMENT_BYTES  # keys and values
    return {**sizes, "cache_bytes": cache}


def _weights(tensors: list[dict[str, Any]]) -> dict[str, Any]:
    counts, n_bytes = Counter(t["type"] for t in tensors), Counter[str]()
    for t in tensors:
        n_bytes[t["type"]] += t["bytes"]
    return {
        "parameters": sum(math.prod(t["shape"]) for t in tensors),
        "weight_bytes": n_bytes.total(),
        "types": {name: {"tensors": n, "bytes": n_bytes[name]} for name, n in counts.most_common()},
    }


def format_description(d: dict[str, Any]) -> str:
    def known(value: object) -> str:
        return "unknown" if value is None else str(value)

    types = ", ".join(
        f"{name} ({t['tensors']} tensors, {format_bytes(t['bytes'])})" for name, t in d["types"].items()
    )
    rows = [
        ("model", known(d["name"])),
        ("architecture", known(d["architecture"])),
        ("parameters", format_count(d["parameters"])),
        ("types", types or "no tensors"),
        ("layers", known(d["layers"])),
        ("hidden size", f"{known(d['hidden'])}, feed-forward {known(d['ffn'])}"),
        ("heads", f"{known(d['heads'])}, of keys and values {known(d['kv_heads'])}"),
        ("context", f"{known(d['context'])} tokens"),
        ("vocabulary", f"{known(d['vocabulary'])} tokens, tokenizer {known(d['tokenizer'])}"),
        ("chat format", _format_chat(d)),
    ]
    if d.get("problem"):
        rows.append(("runs", f"no: {d['problem']}"))
    if "file_bytes" in d:
        rows.append(("file", f"{d['path']}, {format_bytes(d['file_bytes'])}"))
    else:
        place, origin = ("file", f", of {d['format']}") if "format" in d else ("folder", "")
        rows.append((place, f"{d['path']}{origin}, {format_bytes(d['source_bytes'])} of weights"))
        rows.append(("converts", f"to {d['converts_to']}, {format_bytes(d['weight_bytes'])}"))
    if d["cache_bytes"] is not None:
        weights = d.get("memory_bytes", d["weight_bytes"])
        total = weights + d["cache_bytes"]
        rows.append(
            (
                "memory",
                f"{format_bytes(total)} for {CONTEXT} tokens: weights {format_bytes(weights)}, "
                f"cache {format_bytes(d['cache_bytes'])}",
            )
        )
    if d.get("unsupported_types"):
        rows.append(("note", f"this version cannot use {', '.join(d['unsupported_types'])}"))
    elif d.get("repacked_types"):
        repacked = ", ".join(f"{stored} as {used}" for stored, used in d["repacked_types"].items())
        rows.append(("note", f"runs; repacked at load, which takes time and memory: {repacked}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {printable(value)}" for name, value in rows)


def _format_chat(d: dict[str, Any]) -> str:
    if not d["chat_format"]:
        return "none: use generate"
    return d["chat_format"] + (", told from its tokens and template" if d.get("chat_format_guessed") else "")


def format_tensors(tensors: list[dict[str, Any]]) -> str:
    rows = [
        (printable(t["name"]), t["type"], str(tuple(t["shape"])), format_bytes(t["bytes"])) for t in tensors
    ]
    rows.insert(0, ("tensor", "type", "shape", "size"))
    name, kind, shape, size = (max(len(row[i]) for row in rows) for i in range(4))
    return "\n".join(f"{a:<{name}}  {b:<{kind}}  {c:<{shape}}  {d:>{size}}" for a, b, c, d in rows)
