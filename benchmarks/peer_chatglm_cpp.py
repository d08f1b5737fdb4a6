"""Our side of compare.py: peer_chatglm_cpp.py MODEL THREADS KV_TYPE."""

from __future__ import annotations

import sys

from peer import serve

from chatglm_cpp import _C


def main() -> None:
    bench = _C.Bench(sys.argv[1], n_threads=int(sys.argv[2]), kv_dtype=sys.argv[3])
    serve(
        {
            "describe": lambda: {
                "model": bench.config.name,
                "dtype": bench.config.dtype,
                "threads": bench.n_threads,
                "isa": bench.isa,
                "load_seconds": bench.load_seconds,
            },
            "prompt": lambda tokens: bench.prompt(tokens),
            "decode": lambda tokens, depth, batch: bench.decode(tokens, depth, batch),
        }
    )


if __name__ == "__main__":
    main()
