"""Options of the command line that shape a reply, and the keywords of Pipeline that they stand for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .._C import InvalidArgument
from .terminal import read_text


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    lengths = parser.add_argument_group("lengths, in tokens")
    lengths.add_argument(
        "-l", "--max_length", "--max-length", type=int, default=2048, metavar="N",
        help="prompt and reply together (default: %(default)s)",
    )  # fmt: skip
    lengths.add_argument(
        "--max_new_tokens", "--max-new-tokens", type=int, default=-1, metavar="N",
        help="the reply (default: bounded by --max_length only)",
    )  # fmt: skip
    lengths.add_argument(
        "-c", "--max_context_length", "--max-context-length", type=int, default=-1, metavar="N",
        help="keep the last N of a longer prompt (default: a prompt that does not fit is an error)",
    )  # fmt: skip

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--greedy", action="store_true", help="take the likeliest token each time")
    sampling.add_argument(
        "--top_k", "--top-k", type=int, default=0, metavar="K",
        help="draw among the K likeliest tokens, 0 for all (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--top_p", "--top-p", type=float, default=0.7, metavar="P",
        help="draw among the likeliest tokens that have the probability P together (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--temp", "--temperature", type=float, default=0.95, metavar="T",
        help="0 is --greedy; above 1 flattens the probabilities (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--repeat_penalty", "--repeat-penalty", type=float, default=1.0, metavar="R",
        help="above 1 makes tokens less likely that were there already (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--min_p", "--min-p", type=float, default=0.0, metavar="P",
        help="draw among tokens of at least P times the likeliest one's probability (default: off)",
    )  # fmt: skip
    sampling.add_argument(
        "--typical", "--typical_p", "--typical-p", type=float, default=1.0, metavar="P",
        help="draw among the most typical tokens that have the probability P together (default: off)",
    )  # fmt: skip
    sampling.add_argument(
        "--xtc_probability", "--xtc-probability", type=float, default=0.0, metavar="P",
        help="leave out the top choices but the last of them, for this share of tokens (default: off)",
    )  # fmt: skip
    sampling.add_argument(
        "--xtc_threshold", "--xtc-threshold", type=float, default=0.1, metavar="P",
        help="probability of a top choice (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--presence_penalty", "--presence-penalty", type=float, default=0.0, metavar="X",
        help="taken from the logits of tokens that the reply has (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--frequency_penalty", "--frequency-penalty", type=float, default=0.0, metavar="X",
        help="the same for each time that it has them (default: %(default)s)",
    )  # fmt: skip
    sampling.add_argument(
        "--repeat_last_n", "--repeat-last-n", type=int, default=-1, metavar="N",
        help="tokens that the penalties look back on (default: all)",
    )  # fmt: skip
    sampling.add_argument(
        "--logit_bias", "--logit-bias", action="append", default=[], metavar="ID:X",
        help="added to the logit of a token, for example 30910:-5; -inf rules it out; may be repeated",
    )  # fmt: skip
    sampling.add_argument(
        "--seed", type=int, default=-1, metavar="N", help="same seed, same reply (default: a new one)"
    )

    ends = parser.add_argument_group("ends and formats")
    ends.add_argument(
        "--stop", action="append", default=[], metavar="TEXT",
        help="end the answer before this text; may be repeated",
    )  # fmt: skip
    ends.add_argument(
        "--min_new_tokens", "--min-new-tokens", type=int, default=0, metavar="N",
        help="do not end a reply before N tokens (default: %(default)s)",
    )  # fmt: skip
    ends.add_argument(
        "--num_beams", "--num-beams", type=int, default=1, metavar="N",
        help="search for the likeliest reply with N beams, and draw nothing (default: off)",
    )  # fmt: skip
    ends.add_argument(
        "--ignore_eos", "--ignore-eos", action="store_true",
        help="never choose the token that ends a reply",
    )  # fmt: skip
    form = ends.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="answer with a JSON object")
    form.add_argument(
        "--json_schema", "--json-schema", type=Path, metavar="FILE",
        help="answer with JSON that follows the JSON Schema in a file",
    )  # fmt: skip
    form.add_argument("--regex", metavar="REGEX", help="answer with a full match of a regular expression")
    form.add_argument(
        "--grammar", type=Path, metavar="FILE",
        help="answer with a text of the grammar in a file: Lark's notation, or llama.cpp's GBNF",
    )  # fmt: skip


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of Pipeline.chat and Pipeline.generate. Raises InvalidArgument, OSError."""
    return {
        "max_length": args.max_length,
        "max_new_tokens": args.max_new_tokens,
        "max_context_length": args.max_context_length,
        "do_sample": not args.greedy,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "temperature": args.temp,
        "repetition_penalty": args.repeat_penalty,
        "seed": args.seed,
        "min_p": args.min_p,
        "typical_p": args.typical,
        "xtc_probability": args.xtc_probability,
        "xtc_threshold": args.xtc_threshold,
        "presence_penalty": args.presence_penalty,
        "frequency_penalty": args.frequency_penalty,
        "penalty_last_n": args.repeat_last_n,
        "logit_bias": _biases(args.logit_bias),
        "stop": args.stop,
        "min_new_tokens": args.min_new_tokens,
        "num_beams": args.num_beams,
        "ignore_eos": args.ignore_eos,
        "response_format": _response_format(args),
        "regex": args.regex,
        "grammar": read_text(args.grammar) if args.grammar else None,
    }


def asks_for_format(args: argparse.Namespace) -> bool:
    """Whether the reply is to have a given format."""
    return bool(args.json or args.json_schema or args.regex is not None or args.grammar)


def read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: is no JSON: {error}.") from None


def _biases(values: list[str]) -> dict[int, float]:
    biases = {}
    for value in values:
        token, _, bias = value.partition(":")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise InvalidArgument(f"--logit_bias is {value!r}; it must be ID:X, such as 30910:-5.") from None
    return biases


def _response_format(args: argparse.Namespace) -> dict[str, Any] | None:
    if args.json:
        return {"type": "json_object"}
    if args.json_schema is None:
        return None
    return {"type": "json_schema", "json_schema": read_json(args.json_schema)}
