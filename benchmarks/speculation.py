"""Speed of replies with guessed tokens against the same replies without.

    python benchmarks/speculation.py model.gguf --rounds 5
    python benchmarks/speculation.py model.gguf --draft small.gguf

Both pipelines hold the same file and answer in turn, so that what else the machine does meets both. A
speed is tokens a second after the first one; `gain` is the median of the rounds' ratios, and `cpu` the same
for the processor time of a token, which with --threads 1 says more on a machine that is busy. Prompts are in
the cache. Replies are greedy and checked to be the same. `guessed` and `right` count the tokens that were
computed ahead, and those of the reply among them.

The workloads: `repeat` asks for a text again, `correct` for the same text without its mistakes, `quotes` for
sentences of it; `chat` are questions without a text; `users` is `chat` by four users at once. What a model
writes decides how much it gains: one that does not quote when it is asked to gains nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

from chatglm_cpp import Error, Pipeline

TEXT = (
    "The harbour office opened in 1891. Its first master, Edwin Hale, kept a log of every ship that came in, "
    "and he wrote down the name of the captain, the cargo and the weather of the day. In March 1894 a storm "
    "sank three fishing boats near the old lighthouse, and the town collected money for the families of the "
    "crew. Hale gave his own wages for two months. The log was found in 1953 behind a wall of the customs "
    "house, and it is now in the museum, where visitors can read a copy of it."
)
MISTAKES = (("every ship", "evry ship"), ("wages", "wadges"), ("visitors", "visiters"))


def with_mistakes() -> str:
    text = TEXT
    for right, wrong in MISTAKES:
        text = text.replace(right, wrong)
    return text


WORKLOADS: dict[str, list[str]] = {
    "repeat": ["Repeat the following text word for word.\n\n" + TEXT],
    "correct": ["Correct the spelling of the following text and change nothing else.\n\n" + with_mistakes()],
    "quotes": [
        "Quote word for word the sentences of the following text that name a year.\n\n" + TEXT,
    ],
    "chat": [
        "Why is the sky blue?",
        "Write a short story about a dog who learns to swim.",
        "Explain to a child what a bank does.",
    ],
}


@dataclass(frozen=True)
class Result:
    texts: list[str]
    rate: float  # tokens a second, of all replies together
    drafted: int
    accepted: int
    new: int
    cpu: float  # seconds of the processor


def ask(pipeline: Pipeline, questions: list[str], n_tokens: int, together: bool) -> Result:
    pipeline.clear_cache()
    texts, rates, seconds, drafted, accepted, new = [], 0.0, 0.0, 0, 0, 0
    options = {"do_sample": False, "max_new_tokens": n_tokens, "max_length": 4096}
    for question in questions:
        pipeline.chat([{"role": "user", "content": question}], do_sample=False, max_new_tokens=1)
    start = time.process_time()
    groups = [questions] if together else [[question] for question in questions]
    for group in groups:
        replies = [pipeline.submit([{"role": "user", "content": q}], **options) for q in group]
        for reply in replies:
            texts.append(reply.result().content)
            usage = reply.usage
            drafted += usage.drafted_tokens
            accepted += usage.accepted_tokens
            new += usage.new_tokens
            if usage.new_tokens > 1:  # else it has no speed
                rates += usage.tokens_per_second
                seconds += (usage.new_tokens - 1) / usage.tokens_per_second
    rate = rates if together else (new - len(questions)) / seconds if seconds else 0.0
    return Result(texts, rate, drafted, accepted, new, time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--draft", metavar="FILE", help="a smaller model of the same vocabulary")
    parser.add_argument("--draft_tokens", type=int, default=0, metavar="N", help="0: as many as pay")
    parser.add_argument("--tokens", type=int, default=150, metavar="N", help="most tokens of a reply")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: one per fast physical core")
    parser.add_argument("--workloads", default="repeat,correct,quotes,chat,users", metavar="NAME,...")
    args = parser.parse_args()
    workloads = WORKLOADS | {"users": [*WORKLOADS["chat"], "What do bees eat?"]}
    names = args.workloads.split(",")
    if unknown := [name for name in names if name not in workloads]:
        parser.error(f"there is no workload {unknown[0]!r}; there are {', '.join(workloads)}")
    try:
        without = Pipeline(args.model, n_threads=args.threads, prompt_lookup=False)
        guessing = Pipeline(
            args.model, n_threads=args.threads, draft=args.draft, draft_tokens=args.draft_tokens
        )
        for pipeline in (without, guessing):
            ask(pipeline, ["Hello"], 8, False)  # brings the file into memory
        print("workload    without     with   gain    cpu  tokens  guessed  right")
        for name in names:
            pairs = []
            for _ in range(args.rounds):
                pairs.append(
                    [ask(p, workloads[name], args.tokens, name == "users") for p in (without, guessing)]
                )
                if pairs[-1][0].texts != pairs[-1][1].texts:
                    sys.exit(f"error: the replies of {name!r} differ, which must never be")
            plain, fast = (statistics.median(pair[i].rate for pair in pairs) for i in (0, 1))
            gain = statistics.median(b.rate / a.rate for a, b in pairs if a.rate)
            cpu = statistics.median(a.cpu / b.cpu for a, b in pairs)
            last = pairs[-1][1]
            print(
                f"{name:<10} {plain:>8.1f} {fast:>8.1f} {gain:>5.2f}x {cpu:>5.2f}x {last.new:>7} "
                f"{last.drafted:>8} {last.accepted:>6}"
            )
    except (Error, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
