"""llama.cpp's side of compare.py, through the low-level interface of llama-cpp-python:
peer_llama_cpp.py MODEL THREADS CONTEXT SEQUENCES KV_TYPE.

Several contexts share the model's weights: with flash attention and without, with the cache in f16, and with
flash attention and the cache in KV_TYPE, "q8_0", if that is asked for.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import llama_cpp
from peer import ids_of, serve

CHUNK = 512  # tokens of a prompt at once, its default


class Context:
    def __init__(self, model: Any, n_threads: int, size: int, n_sequences: int, setting: str) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = size
        params.n_batch = params.n_ubatch = CHUNK
        params.n_seq_max = n_sequences
        params.n_threads = params.n_threads_batch = n_threads
        params.kv_unified = True
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
            if setting == "plain"
            else llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        )
        if setting == "q8_0":
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_Q8_0
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError("no context could be made: is there enough memory?")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._batch = llama_cpp.llama_batch_init(max(CHUNK, n_sequences), 0, 1)
        self._depth = -1  # tokens that the cache keeps between measurements, in sequence 0; -1: unknown

    def prompt(self, tokens: int) -> float:
        self._clear()
        self._depth = -1
        start = time.perf_counter()
        self._read(0, tokens)
        return time.perf_counter() - start

    def decode(self, tokens: int, depth: int, batch: int) -> float:
        if batch > 1 and depth > 0:
            raise ValueError("several sequences are compared from an empty cache only")
        if not 0 <= self._depth <= depth:
            self._clear()
        if depth > self._depth:
            self._read(self._depth, depth)
            self._depth = depth
        start = time.perf_counter()
        for position in range(depth, depth + tokens):
            token = ids_of(1, self._vocab, position)[0]
            self._compute([(token, position, sequence, True) for sequence in range(batch)])
        seconds = time.perf_counter() - start
        for sequence in range(batch):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, depth, -1)
        return seconds

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)
        self._depth = 0

    def _read(self, begin: int, end: int) -> None:
        ids = ids_of(end - begin, self._vocab, begin)
        for first in range(begin, end, CHUNK):
            last = min(end, first + CHUNK)
            self._compute([(ids[i - begin], i, 0, i == end - 1) for i in range(first, last)])

    def _compute(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants_logits) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wants_logits
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self._context)


def features() -> str:
    """The instruction sets that it was built for and uses, as it names them."""
    parts = llama_cpp.llama_print_system_info().decode().replace(":", "|").split("|")
    return " ".join(part.split("=")[0].strip() for part in parts if part.strip().endswith("= 1"))


def main() -> None:
    path, n_threads, size, n_sequences = sys.argv[1], *map(int, sys.argv[2:5])
    llama_cpp.llama_backend_init()
    start = time.perf_counter()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    load_seconds = time.perf_counter() - start
    settings = ["plain", "flash"] + (["q8_0"] if sys.argv[5] == "q8_0" else [])
    contexts = {name: Context(model, n_threads, size, n_sequences, name) for name in settings}
    serve(
        {
            "describe": lambda: {
                "version": llama_cpp.__version__,
                "load_seconds": load_seconds,
                "system": features(),
            },
            "prompt": lambda setting, **sizes: contexts[setting].prompt(**sizes),
            "decode": lambda setting, **sizes: contexts[setting].decode(**sizes),
        }
    )


if __name__ == "__main__":
    main()
