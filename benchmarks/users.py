"""Speed of one GGUF file with several users at once, who ask through Pipeline.submit.

    python benchmarks/users.py model.gguf --users 1,2,3,4,8,16 --prompt 64 --tokens 32

Every user asks for a greedy reply to a prompt of random ids of its own, all at the same moment. `all` is what
they read together, in tokens a second after the first one, `each` what the slowest of them reads, `first` the
longest wait for a first token; medians of the rounds. `gain` compares `all` with one user.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from dataclasses import asdict, dataclass

from chatglm_cpp import Error, Pipeline


@dataclass(frozen=True)
class Result:
    users: int
    all: float  # tokens a second
    each: float
    first: float  # seconds


def measure(pipeline: Pipeline, n_users: int, n_prompt: int, n_tokens: int, seed: int) -> Result:
    dice = random.Random(seed)
    prompts = [
        [dice.randrange(pipeline.tokenizer.vocab_size) for _ in range(n_prompt)] for _ in range(n_users)
    ]
    pipeline.clear_cache()
    replies = [pipeline.submit(prompt=p, do_sample=False, max_new_tokens=n_tokens) for p in prompts]
    for reply in replies:
        reply.result()
    # A reply may end by itself, at once even; then it has no speed.
    rates = [reply.usage.tokens_per_second for reply in replies if reply.usage.new_tokens > 1]
    return Result(
        n_users, sum(rates), min(rates, default=0.0), max(reply.usage.prompt_seconds for reply in replies)
    )


def numbers(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise ValueError
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--users", type=numbers, default=[1, 2, 3, 4, 8, 16], metavar="N,N,...")
    parser.add_argument("--prompt", type=int, default=64, metavar="N", help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="most tokens of a reply")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: one per fast physical core")
    parser.add_argument("--json", metavar="FILE", help="write the results here, too")
    args = parser.parse_args()
    try:
        # Without guesses, which the replies of random weights, with their repetitions, would make too easy.
        pipeline = Pipeline(
            args.model, n_threads=args.threads, max_sequences=max(args.users), prompt_lookup=False
        )
        measure(pipeline, 1, args.prompt, 2, 0)  # brings the file into memory
        results: list[Result] = []
        print(f"{'users':>5} {'all':>8} {'each':>8} {'first':>8} {'gain':>6}")
        for n_users in args.users:
            rounds = [measure(pipeline, n_users, args.prompt, args.tokens, s) for s in range(args.rounds)]
            middle = {
                key: statistics.median(getattr(r, key) for r in rounds) for key in ("all", "each", "first")
            }
            r = Result(n_users, **middle)
            results.append(r)
            one = next((r.all for r in results if r.users == 1), 0.0)
            gain = f"{r.all / one:.2f}" if one else "-"
            print(f"{r.users:>5} {r.all:>8.2f} {r.each:>8.2f} {r.first:>7.2f}s {gain:>6}", flush=True)
    except (Error, OSError) as error:
        sys.exit(f"error: {error}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump([asdict(r) for r in results], file, indent=1)


if __name__ == "__main__":
    main()
