"""`chatglm-cpp info`: what a model file, an older one, or a checkpoint folder holds."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ..model_file import DEFAULT_DTYPE, DEFAULT_MODEL, DTYPES
from .describe import ADDITIONS, CACHE_BLOCKS, CONTEXT, describe
from .options import MODEL_VARIABLE
from .terminal import format_bytes, format_count, printable


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="show what a model file or a folder holds, and whether it runs",
        description="For a GGUF file: what it holds, the memory it needs and whether it runs. For a folder "
        "of a Hugging Face checkpoint, or a model file of chatglm.cpp up to 0.4: what it is and whether it "
        "converts. For a LoRA adapter or a P-Tuning prefix: what it is and how to use it.",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "path", nargs="?", type=Path, metavar="PATH",
        help=f"GGUF file, folder of a checkpoint, or file of chatglm.cpp (default: ${MODEL_VARIABLE}, or "
        "else the small model of the package)",
    )  # fmt: skip
    place.add_argument("-m", "--model", type=Path, metavar="PATH", help="the same, as other commands say it")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help=f"type to convert to (default: {DEFAULT_DTYPE} for a folder; the types that it has for a file "
        "of chatglm.cpp)",
    )
    parser.add_argument(
        "-l", "--max_length", "--max-length", type=tokens, default=CONTEXT, metavar="N",
        help="tokens of prompt and reply together that the memory is stated for (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--kv_dtype", "--kv-dtype", choices=tuple(CACHE_BLOCKS), default="f16",
        help="type of the cache that the memory is stated for (default: %(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def tokens(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens")
    return int(text)


def run(args: argparse.Namespace) -> int:
    path = args.path or args.model or Path(os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL)
    described = describe(path, args.dtype, args.max_length, args.kv_dtype)
    tensors = described.pop("tensors")
    if args.json:
        if args.tensors:
            described["tensors"] = tensors
        text = json.dumps(described, ensure_ascii=False, indent=2)
        print("\n".join(map(printable, text.split("\n"))))
        return 0
    is_addition = described["kind"] in ADDITIONS
    print(format_addition(described) if is_addition else format_description(described))
    if args.tensors:
        print(format_tensors(tensors))
    return 0


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
    if d["prefix"]:
        rows.append(("prefix", f"{d['prefix']} positions, learnt by P-Tuning"))
    if "runs" in d:
        rows.append(("runs", _format_runs(d)))
    if "file_bytes" in d:
        rows.append(("file", f"{d['path']}, {format_bytes(d['file_bytes'])}"))
    else:
        place = "folder" if d["kind"] == "checkpoint" else "file"
        rows.append((place, f"{d['path']}, {d['kind']}, {format_bytes(d['source_bytes'])} of weights"))
        rows.append(("converts", f"to {d['converts_to']}, {format_bytes(d['weight_bytes'])}"))
    if d["cache_bytes"] is not None:
        weights = d.get("memory_bytes", d["weight_bytes"])
        total = weights + d["cache_bytes"]
        rows.append(
            (
                "memory",
                f"{format_bytes(total)} for {d['cache_tokens']} tokens: weights {format_bytes(weights)}, "
                f"cache ({d['cache_type']}) {format_bytes(d['cache_bytes'])}",
            )
        )
        if d["machine_bytes"] and d["free_bytes"]:
            rows.append(("free", _format_free(d)))
    return _format_rows(rows)


def format_addition(d: dict[str, Any]) -> str:
    rows = [("kind", d["kind"])]
    for key in ("name", "architecture", "base"):
        if d.get(key):
            rows.append((key, d[key]))
    if "positions" in d:
        rows.append(("positions", str(d["positions"])))
    else:
        ranks = ", ".join(map(str, d["ranks"])) or "none"
        rows.append(("changes", f"{d['matrices']} matrices; rank {ranks}, alpha {d['alpha'] or 0:g}"))
    rows.append(("size", format_bytes(d.get("file_bytes") or d["source_bytes"])))
    rows.append(("use", d["use"]))
    return _format_rows(rows)


def _format_rows(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {printable(value)}" for name, value in rows)


def _format_runs(d: dict[str, Any]) -> str:
    if d["problem"]:
        return f"no: {d['problem']}"
    if d["unsupported_types"]:
        return f"no: this version cannot use {', '.join(d['unsupported_types'])}"
    if d["repacked_types"]:
        repacked = ", ".join(f"{stored} as {used}" for stored, used in d["repacked_types"].items())
        return f"yes; repacked at load, which takes time and memory: {repacked}"
    return "yes"


def _format_free(d: dict[str, Any]) -> str:
    free = f"{format_bytes(d['free_bytes'])} of {format_bytes(d['machine_bytes'])} on this machine"
    return f"{free}. {d['memory_note']}" if d["memory_note"] else free


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
