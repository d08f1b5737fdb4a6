"""Options that several commands share."""

from __future__ import annotations

import argparse
import time

from ..model_file import DEFAULT_DTYPE, DTYPES
from ..pipeline import Pipeline


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "-m",
        "--model",
        metavar="PATH",
        help="GGUF file, folder of a Hugging Face checkpoint, or file of chatglm.cpp up to 0.4 "
        "(default: the small model of the package)",
    )
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        help=f"type of the matrices when a model is converted (default: {DEFAULT_DTYPE} for a folder; the "
        "types that it has for a file of chatglm.cpp)",
    )
    group.add_argument(
        "--kv_dtype", "--kv-dtype", choices=("f16", "f32"), default="f16",
        help="type of the cache (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "-t", "--threads", type=int, default=0, metavar="N", help="threads (default: one per physical core)"
    )


def load(args: argparse.Namespace) -> tuple[Pipeline, float]:
    """The pipeline that the options ask for, and the seconds it took to load."""
    start = time.perf_counter()
    pipeline = Pipeline(args.model, dtype=args.dtype, kv_dtype=args.kv_dtype, n_threads=args.threads)
    return pipeline, time.perf_counter() - start
