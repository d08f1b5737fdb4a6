"""Times the choice of one token, with random logits of a vocabulary's size.

    python benchmarks/sampling.py

The times include a copy of the logits, which a reply does not need.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np

from chatglm_cpp import _C, GenerationConfig

SETTINGS = {
    "default (top_p=0.7)": {},
    "greedy": {"do_sample": False},
    "top_k=50": {"top_k": 50},
    "top_p=1": {"top_p": 1.0},
    "min_p=0.05": {"min_p": 0.05},
    "typical_p=0.9": {"typical_p": 0.9},
    "logprobs=5": {"logprobs": 5},
}
N = 50  # draws at a time, of which the mean counts
REPEATS = 7  # of which the best counts


def milliseconds(logits: np.ndarray, settings: dict) -> float:
    config = GenerationConfig(seed=1, **settings)
    best = float("inf")
    for _ in range(REPEATS):
        start = perf_counter()
        _C.draw_tokens(logits, config, N)
        best = min(best, perf_counter() - start)
    return best / N * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab_size", type=int, default=151552, metavar="N", help="default: GLM-4's")
    size = parser.parse_args().vocab_size
    deviations = (1.0, 2.5, 5.0)
    print(f"| ms a token of {size} | " + " | ".join(f"deviation {d}" for d in deviations) + " |")
    print("|---|" + "---|" * len(deviations))
    random = np.random.default_rng(0)
    rows = [random.normal(0, d, size).astype(np.float32) for d in deviations]
    for name, settings in SETTINGS.items():
        print(f"| {name} | " + " | ".join(f"{milliseconds(row, settings):.2f}" for row in rows) + " |")


if __name__ == "__main__":
    main()
