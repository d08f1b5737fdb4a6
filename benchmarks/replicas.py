"""Speed of one GGUF file with one and more engines on this machine, behind one address by Ray Serve.

    python benchmarks/replicas.py model.gguf --replicas 1,2 --threads 1 --users 8

Every user asks for replies of the same length one after the other, each to a question of its own. `tokens/s`
is what all of them get together, `gain` compares it with the first line. More replicas help as far as there
are cores and memory bandwidth for them: `replicas` times `threads` should be no more than the cores.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import logging
import os
import sys
import time
import urllib.request
import warnings

from chatglm_cpp import Error


def ask(port: int, text: str, n_tokens: int) -> int:
    """The tokens of a reply."""
    body = {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": n_tokens,
        "ignore_eos": True,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=600) as answer:
        return int(json.load(answer)["usage"]["completion_tokens"])


def measure(port: int, n_users: int, n_replies: int, n_tokens: int) -> float:
    """Tokens a second of all users."""

    def talk(user: int) -> int:
        return sum(ask(port, f"{user} 加 {i} 等于多少？", n_tokens) for i in range(n_replies))

    with concurrent.futures.ThreadPoolExecutor(n_users) as pool:
        list(pool.map(lambda user: ask(port, f"{user}?", 2), range(n_users)))  # brings the file into memory
        begin = time.perf_counter()
        total = sum(pool.map(talk, range(n_users)))
        return total / (time.perf_counter() - begin)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--replicas", type=numbers, default=[1, 2], metavar="N,N,...")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each engine")
    parser.add_argument("--users", type=int, default=8, metavar="N")
    parser.add_argument("--replies", type=int, default=4, metavar="N", help="of each user")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="of a reply")
    parser.add_argument("--port", type=int, default=8000, metavar="N")
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    warnings.simplefilter("ignore")
    try:
        import ray
        from ray import serve

        from chatglm_cpp.ray_app import build
    except ImportError as error:
        sys.exit(f'error: {error.name} is missing; install it with: pip install "chatglm-cpp[ray]"')
    ray.init(
        num_cpus=max(args.replicas) * args.threads,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(http_options={"host": "127.0.0.1", "port": args.port})
        print(f"{'replicas':>8} {'tokens/s':>9} {'gain':>6}")
        first = 0.0
        for n in args.replicas:
            serve.run(build({"model": os.path.abspath(args.model), "replicas": n, "threads": args.threads}))
            speed = measure(args.port, args.users, args.replies, args.tokens)
            serve.delete("default")
            first = first or speed
            print(f"{n:>8} {speed:>9.1f} {speed / first:>6.2f}", flush=True)
    except (Error, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
