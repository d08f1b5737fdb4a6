"""Models larger than the machine: files that are almost all holes, which take no room on the disk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chatglm_cpp import Pipeline

gguf = pytest.importorskip("gguf")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="files with holes need a file system for them"
)

HIDDEN, VOCABULARY, FFN = 256, 40, 256


def all_memory() -> int:
    """Bytes of this machine's memory and swap."""
    numbers = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
    return 1024 * (int(numbers["MemTotal"]) + int(numbers["SwapTotal"]))


def write_model(path: Path, kind: gguf.GGMLQuantizationType, n_bytes: int) -> Path:
    """A model of zeros with one more matrix, which nothing uses, of about `n_bytes`."""
    writer = gguf.GGUFWriter(path, "chatglm")
    for key, number in {
        "block_count": 1, "embedding_length": HIDDEN, "feed_forward_length": FFN, "context_length": 4096,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 64,
        "rope.dimension_count": 32,
    }.items():  # fmt: skip
        writer.add_uint32(f"chatglm.{key}", number)
    writer.add_float32("chatglm.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(chr(ord("A") + i) for i in range(VOCABULARY - 3))])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3] + [1] * (VOCABULARY - 3))
    writer.add_eos_token_id(2)

    def add(name: str, *shape: int, kind: gguf.GGMLQuantizationType | None = None) -> int:
        size = 4 * int(np.prod(shape))
        if kind is None:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size)
        else:
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            stored = (shape[0], shape[1] // block * block_bytes)
            size = stored[0] * stored[1]
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), size, raw_dtype=kind)
        return size

    columns = 1 << 16
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    total = add("unused.weight", n_bytes // (columns // block * block_bytes), columns, kind=kind)
    for name in ("token_embd", "output"):
        total += add(f"{name}.weight", VOCABULARY, HIDDEN)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        total += add(f"{name}.weight", HIDDEN)
    for name, rows, width in (
        ("attn_qkv", 8 * 64, HIDDEN), ("attn_output", HIDDEN, 4 * 64), ("ffn_up", 2 * FFN, HIDDEN),
        ("ffn_down", HIDDEN, FFN),
    ):  # fmt: skip
        total += add(f"blk.0.{name}.weight", rows, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    try:
        os.truncate(path, path.stat().st_size + total + (1 << 16))  # room for padding
    except OSError:
        pytest.skip("this file system has no files so large")
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chatglm_cpp", *map(str, arguments)]
    # No folder named as the package, which would hide the installed one.
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)


def test_a_model_larger_than_the_machine_says_so_and_works(tmp_path: Path) -> None:
    path = write_model(tmp_path / "large.gguf", gguf.GGMLQuantizationType.Q4_0, 2 * all_memory())
    pipeline = Pipeline(path)
    (note,) = pipeline.notes
    assert "2048 tokens" in note and "all there is" in note
    assert pipeline.logits([5, 6]).shape == (2, VOCABULARY)
    info = run("info", path, "-l", "4096")
    assert info.returncode == 0 and "4096 tokens of context need" in info.stdout
    chat = run("chat", "-m", path, "-p", "A", "-l", "1024", "--max_new_tokens", "1")
    assert chat.returncode == 0 and "1024 tokens of context need" in chat.stderr


def test_weights_that_cannot_be_repacked_here_are_refused_before_it_begins(tmp_path: Path) -> None:
    path = write_model(tmp_path / "repacked.gguf", gguf.GGMLQuantizationType.Q4_K, 2 * all_memory())
    with pytest.raises(MemoryError, match="repacked at load"):
        Pipeline(path)
    result = run("chat", "-m", path, "-p", "A")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "repacked at load" in result.stderr


def test_a_small_model_has_no_note(tmp_path: Path) -> None:
    path = write_model(tmp_path / "small.gguf", gguf.GGMLQuantizationType.Q4_0, 1 << 16)
    assert Pipeline(path).notes == []
    assert " on this machine\n" in run("info", path).stdout
