"""Speed of replies of one GGUF file with each type of the cache of keys and values, in turn.

    python benchmarks/random_model.py chatglm2-6b q4_0 part.gguf --layers 4
    python benchmarks/cache_types.py part.gguf --depths 0,4096,16384 --threads 2 --rounds 9

Every round measures all types one after another, at each depth. Printed are milliseconds a token: the median
of the rounds and in brackets the best. Then how many times faster than the first type each is: the median of
the ratios of the rounds, which compare neighbours in time.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from chatglm_cpp import Error
from chatglm_cpp._C import Bench


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="GGUF file")
    parser.add_argument(
        "--types",
        type=lambda text: text.split(","),
        default=["f16", "q8_0"],
        metavar="T,T,...",
        help="default: f16,q8_0",
    )
    parser.add_argument(
        "--depths",
        type=numbers,
        default=[0, 4096],
        metavar="N,N,...",
        help="tokens in the cache (default: 0,4096)",
    )
    parser.add_argument("--tokens", type=int, default=8, metavar="N", help="of a reply (default: 8)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: one per fast physical core")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    args = parser.parse_args()
    try:
        benches = {name: Bench(args.model, n_threads=args.threads, kv_dtype=name) for name in args.types}
        some = next(iter(benches.values()))
        print(f"{some.isa}, {some.n_threads} threads")
        for depth in args.depths:
            for bench in benches.values():
                bench.decode(1, depth)
            rounds = [
                [bench.decode(args.tokens, depth) / args.tokens * 1e3 for bench in benches.values()]
                for _ in range(args.rounds)
            ]
            for i, name in enumerate(benches):
                times = [times[i] for times in rounds]
                ratio = statistics.median(times[0] / times[i] for times in rounds)
                print(
                    f"depth {depth:>6}  {name:<5} {statistics.median(times):8.2f} ms ({min(times):.2f})"
                    f"  x{ratio:.2f}",
                    flush=True,
                )
    except (Error, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
