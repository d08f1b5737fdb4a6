"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
import sys
import time

from .._C import InvalidArgument
from ..model_file import DEFAULT_DTYPE, DTYPES
from ..options import PROMPT_LOOKUP
from ..pipeline import Pipeline

MODEL_VARIABLE = "CHATGLM_CPP_MODEL"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        "--model",
        metavar="PATH",
        default=os.environ.get(MODEL_VARIABLE) or None,
        help="GGUF file; a Hugging Face checkpoint: its folder, or its name on the Hub, such as "
        f"THUDM/chatglm3-6b; or a file of chatglm.cpp up to 0.4 (default: ${MODEL_VARIABLE}, or else the "
        "small model of the package)",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help=f"type of the matrices when a model is converted (default: {DEFAULT_DTYPE} for a folder; the "
        "types that it has for a file of chatglm.cpp)",
    )
    group.add_argument(
        "--kv_dtype", "--kv-dtype", choices=("f16", "q8_0", "f32"), default="f16",
        help="type of the cache of keys and values; q8_0 takes half the memory (default: f16)",
    )  # fmt: skip
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE",
        help="LoRA adapter (GGUF) to use; may be repeated",
    )
    group.add_argument(
        "--lora_scaled",
        "--lora-scaled",
        action="append",
        default=[],
        metavar="SCALE:FILE",
        help="the same with a scale of its own, for example 0.5:poet.gguf",
    )
    group.add_argument(
        "-t", "--threads", type=int, default=0, metavar="N", help="threads (default: one per fast core)"
    )
    group.add_argument(
        "--prompt_lookup", "--prompt-lookup", choices=PROMPT_LOOKUP, default="auto",
        help="guess tokens of a reply from what its text has already; no reply changes by that (default: "
        "when it is faster)",
    )  # fmt: skip
    group.add_argument(
        "--draft", metavar="PATH",
        help="smaller model with the same vocabulary, named as by -m, that guesses tokens where the text has "
        "nothing alike",
    )  # fmt: skip
    group.add_argument(
        "--draft_tokens", "--draft-tokens", type=int, default=0, metavar="N",
        help="tokens that it guesses each time (default: as many as make replies faster)",
    )  # fmt: skip


def load(args: argparse.Namespace) -> tuple[Pipeline, float]:
    """The pipeline that the options ask for, and the seconds it took to load. What the pipeline says about
    its file goes to stderr."""
    start = time.perf_counter()
    lora: dict[str, float] = {}
    for value in [*(f"1:{path}" for path in args.lora), *args.lora_scaled]:
        scale, _, path = value.partition(":")
        if path in lora:
            raise InvalidArgument(f"The adapter {path!r} is named twice.")
        try:
            lora[path] = float(scale)
        except ValueError:
            path = ""
        if not path:
            raise InvalidArgument(f"--lora-scaled is {value!r}; it must be SCALE:FILE.")
    pipeline = Pipeline(
        args.model,
        dtype=args.dtype,
        kv_dtype=args.kv_dtype,
        n_threads=args.threads,
        lora=lora,
        prompt_lookup=PROMPT_LOOKUP[args.prompt_lookup],
        draft=args.draft,
        draft_tokens=args.draft_tokens,
        expected_length=getattr(args, "max_length", 2048),
    )
    seconds = time.perf_counter() - start
    for note in pipeline.notes:
        print(f"note: {note}", file=sys.stderr)
    return pipeline, seconds
