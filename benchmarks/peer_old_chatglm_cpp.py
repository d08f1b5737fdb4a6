"""The earlier chatglm-cpp's side of compare.py: peer_old_chatglm_cpp.py MODEL.bin THREADS.

It computes one sequence at a time, with as many threads as OMP_NUM_THREADS says.
"""

from __future__ import annotations

import os
import sys
import time

from peer import ids_of, serve


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = sys.argv[2]  # read when the library is loaded
    import chatglm_cpp
    from chatglm_cpp import _C

    start = time.perf_counter()
    pipeline = chatglm_cpp.Pipeline(sys.argv[1])
    load_seconds = time.perf_counter() - start
    model, vocab = pipeline.model, pipeline.model.config.vocab_size
    greedy = _C.GenerationConfig(do_sample=False)
    read = 0  # tokens that the cache holds

    def compute(n_past: int, n_tokens: int, n_context: int) -> None:
        nonlocal read
        model.generate_next_token(ids_of(n_tokens, vocab), None, greedy, n_past, n_context)
        read = n_tokens

    def prompt(tokens: int) -> float:
        start = time.perf_counter()
        compute(0, tokens, tokens)
        return time.perf_counter() - start

    def decode(tokens: int, depth: int, batch: int) -> float:
        if batch > 1:
            raise ValueError("it computes one sequence at a time")
        if depth > read:
            compute(0, depth, depth)  # it reads several tokens from the start only
        start = time.perf_counter()
        for position in range(depth, depth + tokens):
            compute(position, position + 1, max(depth, 1))
        return time.perf_counter() - start

    serve(
        {
            "describe": lambda: {"version": chatglm_cpp.__version__, "load_seconds": load_seconds},
            "prompt": prompt,
            "decode": decode,
        }
    )


if __name__ == "__main__":
    main()
