"""The bench, run on small models: that it measures what was asked for, not how fast anything is."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chatglm_cpp import _C, Pipeline
from chatglm_cpp.cli import bench as bench_command
from chatglm_cpp.cli import main

SMALL = ["-p", "3", "-n", "2", "-t", "1", "-r", "2"]

# Values that make a published shape small, by the layout of its config.json.
TINY_REMOTE = {
    "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 4, "kv_channels": 16,
    "padded_vocab_size": 320,
}  # fmt: skip
TINY_HF = {
    "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320,
}  # fmt: skip
TINY_FIRST = {
    "num_layers": 2, "hidden_size": 64, "inner_hidden_size": 96, "num_attention_heads": 4, "vocab_size": 320,
}  # fmt: skip
TINY = {
    "chatglm-6b": TINY_FIRST,
    "chatglm2-6b": TINY_REMOTE,
    "chatglm3-6b": TINY_REMOTE,
    "glm-4-9b": TINY_REMOTE,
    "glm-4-9b-0414": TINY_HF,
    "glm-4-32b-0414": TINY_HF,
    "glm-edge-1.5b": TINY_HF,
    "glm-edge-4b": TINY_HF,
}


@pytest.fixture(scope="module")
def random_model():
    return pytest.importorskip(
        "chatglm_cpp.random_model",
        reason="the converter's dependencies are not installed",
        exc_type=ImportError,
    )


def run(*args: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `chatglm-cpp bench`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(["bench", *map(str, args)])
        except SystemExit as end:  # of argparse
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def report(model_path: Path) -> dict:
    """One report over lists of everything."""
    lists = ["-p", "3,70", "-n", "2", "-d", "0,5", "-b", "1,2", "-t", "1,2", "--kv-dtype", "f16,q8_0,f32"]
    status, out, err = run("-m", model_path, *lists, "-r", "2", "-o", "json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_lists_give_every_combination(report: dict):
    names = ("threads", "kv_dtype", "depth", "test", "batch")
    found = [tuple(row[name] for name in names) for row in report["rows"]]
    tests = [("pp3", 1), ("pp70", 1), ("tg2", 1), ("tg2", 2)]
    expected = [
        (threads, kv_dtype, depth, *test)
        for threads in (1, 2)
        for kv_dtype in ("f16", "q8_0", "f32")
        for depth in (0, 5)
        for test in tests
    ]
    assert found == expected


def test_every_field_is_finite_and_in_its_range(report: dict, shared_pipeline: Pipeline):
    for row in report["rows"]:
        for name, value in row.items():
            assert isinstance(value, str) or (math.isfinite(value) and value >= 0), (name, row)
        assert 0 < row["tokens_per_second_min"] <= row["tokens_per_second"] <= row["tokens_per_second_max"]
        assert row["ms_per_token"] * row["tokens_per_second"] == pytest.approx(1000)
        shares = [row[f"{part}_time_percent"] for part in ("matmul", "attention", "other")]
        assert sum(shares) == pytest.approx(100)
        assert row["gb_per_second"] > 0 and row["gmac_per_second"] > 0
        assert row["ceiling"] in ("memory", "compute")
        assert row["ceiling_percent"] == max(row["memory_percent"], row["compute_percent"]) > 0
        assert row["resident_bytes"] > report["model"]["file_bytes"]
    assert [c["threads"] for c in report["ceilings"]] == [1, 2]
    for ceilings in report["ceilings"]:
        assert ceilings["read_gb_per_second"] > 0 and ceilings["f32_gmac_per_second"] > 0
        assert ceilings["int8"][0]["summed"] == 1
        assert all(way["gmac_per_second"] > 0 for way in ceilings["int8"])
    config = shared_pipeline.config
    assert report["model"]["name"] == config.name
    assert report["model"]["parameters"] == config.n_parameters
    assert report["isa"] == shared_pipeline.isa
    assert all(load["seconds"] > 0 for load in report["loads"])


def test_tables_have_a_line_a_row(model_path: Path):
    status, out, _ = run("-m", model_path, *SMALL, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and [row["test"] for row in rows] == ["pp3", "tg2"]
    assert all(float(row["tokens_per_second"]) > 0 for row in rows)
    status, out, _ = run("-m", model_path, *SMALL, "-o", "md")
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert status == 0 and len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    status, out, _ = run("-m", model_path, *SMALL)
    assert status == 0 and ("pp3" in out and "tg2" in out and "tokens/s" in out)


def test_prompts_or_replies_can_be_left_out(model_path: Path):
    for options, expected in ((["-p", "0"], ["tg2"]), (["-n", "0"], ["pp3"])):
        _, out, _ = run("-m", model_path, *SMALL, *options, "-o", "csv")
        assert [row["test"] for row in csv.DictReader(io.StringIO(out))] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-p", "a"], ["'a'", "128,512"]),
        (["-p", "1,,2"], ["'1,,2'"]),
        (["-p", "-4"], ["prompt", "-4"]),
        (["-p", "0", "-n", "0"], ["Nothing"]),
        (["-b", "0"], ["batch", "1024"]),
        (["-d", "99999999"], ["depth"]),
        (["-d", "1000000"], ["1000000"]),
        (["-t", "5000"], ["threads", "512"]),
        (["-r", "0"], ["repetitions"]),
        (["-r", "9" * 30], ["too large"]),
        (["--kv-dtype", "q9"], ["q9", "f16", "q8_0", "f32"]),
        (["-m", "nowhere.gguf"], ["nowhere.gguf"]),
        (["-o", "xml"], ["xml", "json"]),
        (["--random", "gpt-2"], ["gpt-2", "chatglm2-6b"]),
    ],
)
def test_bad_options_end_in_a_sentence(model_path: Path, options: list[str], words: list[str]):
    status, out, err = run("-m", model_path, *SMALL, *options)
    assert (status, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert all(word in last for word in words), err


def test_single_samples_can_be_taken_in_any_order(model_path: Path):
    bench = _C.Bench(str(model_path), n_threads=1)
    assert bench.n_threads == 1 and bench.load_seconds > 0
    for depth in (0, 65, 3):
        assert bench.prompt(5, depth) > 0
        assert bench.decode(2, depth, batch=3) > 0
    with pytest.raises(ValueError, match="depth"):
        bench.decode(1, bench.config.max_length)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_ends_the_bench(model_path: Path):
    """Ctrl-C after the first row of a bench that would run for hours."""
    command = [sys.executable, "-m", "chatglm_cpp", "bench", "-m", str(model_path)]
    command += ["-p", "1,500", "-n", "0", "-r", "1000", "-t", "1", "-d", ",".join(["1"] * 1000), "-o", "csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as process:
        try:
            assert process.stdout and process.stdout.readline().startswith(b"model,")
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()


def test_the_command_knows_every_random_shape(random_model):
    assert set(bench_command.SHAPES) == set(random_model.SHAPES) == set(TINY)


@pytest.mark.parametrize("shape", TINY)
def test_a_random_model_computes_finite_logits_of_sane_size(random_model, shape: str, tmp_path: Path):
    path = tmp_path / "random.gguf"
    size = random_model.write_random_model(shape, "q4_0", path, config=TINY[shape])
    assert size == path.stat().st_size
    pipeline = Pipeline(path)
    ids = [*pipeline.tokenizer.encode("abc"), 70, 80, 90]
    logits = pipeline.logits(ids)
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 10
    assert len(np.unique(logits[-1])) > 300  # no two rows of the output are copies
    bench = _C.Bench(str(path), n_threads=1)
    assert bench.prompt(600) > 0 and bench.prompt(2, 1) > 0 and bench.decode(2, 3, batch=2) > 0
    reply = pipeline.chat([{"role": "user", "content": "hello"}], max_new_tokens=4, do_sample=False)
    assert reply.role == "assistant"


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_random_weights_have_the_size_that_keeps_activations_alike(random_model, dtype: str, tmp_path: Path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "random.gguf"
    random_model.write_random_model("glm-edge-1.5b", dtype, path, config=TINY_HF)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name in ("blk.0.attn_qkv.weight", "blk.1.ffn_down.weight"):
        tensor = tensors[name]
        assert tensor.tensor_type.name.lower() == dtype
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        assert weights.std() == pytest.approx(1 / math.sqrt(tensor.shape[0]), rel=0.1)
        assert abs(weights.mean()) < 0.1 * weights.std()
    assert (tensors["output_norm.weight"].data == 1).all()


def test_the_same_seed_gives_the_same_bytes(random_model, tmp_path: Path):
    contents = []
    for i, seed in enumerate((0, 0, 1)):
        random_model.write_random_model(
            "chatglm2-6b", "q5_1", tmp_path / str(i), seed=seed, config=TINY_REMOTE
        )
        contents.append((tmp_path / str(i)).read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert len(contents[0]) == len(contents[2])


@pytest.mark.parametrize("shape", sorted(set(TINY) - {"chatglm-6b"}))
def test_llama_cpp_computes_the_same_with_a_random_model(random_model, shape: str, tmp_path: Path):
    llama_cpp = pytest.importorskip("llama_cpp")
    path = tmp_path / "random.gguf"
    random_model.write_random_model(shape, "f32", path, config=TINY[shape])
    ids = [70, 80, 90, 100, 65]
    llama = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False)
    try:
        llama.eval(ids)
        theirs = np.array(llama.scores[: len(ids)])
    finally:
        llama.close()
    ours = Pipeline(path, kv_dtype="f32").logits(ids)
    assert np.abs(ours - theirs).max() < 1e-2 * np.abs(theirs).max()


def test_random_models_are_refused_with_the_reason(
    random_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write, target = random_model.write_random_model, tmp_path / "random.gguf"
    for args, words in (
        (("gpt-2", "q4_0", target), "chatglm2-6b"),
        (("chatglm2-6b", "q3", target), "q4_0"),
        (("chatglm2-6b", "q4_0", tmp_path / "no" / "random.gguf"), "does not exist"),
    ):
        with pytest.raises(ValueError, match=words):
            write(*args)
    with pytest.raises(ValueError, match="seed"):
        write("chatglm2-6b", "q4_0", target, seed=-1)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**9))
        with pytest.raises(ValueError, match=r"needs 3\.5 GB, but only 1\.0 GB"):
            write("chatglm2-6b", "q4_0", target)
    target.write_text("mine")
    with pytest.raises(ValueError, match="there already"):
        write("chatglm2-6b", "q4_0", target, config=TINY_REMOTE)
    assert target.read_text() == "mine"
    assert os.listdir(tmp_path) == ["random.gguf"]


def test_an_interrupted_random_model_leaves_nothing(random_model, tmp_path: Path):
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        random_model.write_random_model(
            "chatglm2-6b", "q4_0", tmp_path / "random.gguf", config=TINY_REMOTE, progress=stop
        )
    assert os.listdir(tmp_path) == []


def test_random_measures_and_keeps_the_file_only_where_it_is_named(
    random_model, tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(random_model.SHAPES, "chatglm2-6b", random_model.SHAPES["chatglm2-6b"] | TINY_REMOTE)
    left_over = cache_folder / "random-killed"
    before = sorted(cache_folder.iterdir())
    left_over.mkdir()
    os.utime(left_over, (0, 0))
    status, out, err = run("--random", "chatglm2-6b", "--type", "q8_0", *SMALL, "-o", "json")
    assert (status, err) == (0, "")
    assert json.loads(out)["model"]["name"] == "chatglm2-6b random"
    assert json.loads(out)["model"]["dtype"] == "q8_0"
    assert sorted(cache_folder.iterdir()) == before
    kept = tmp_path / "kept.gguf"
    assert run("--random", "chatglm2-6b", "-m", kept, "-p", "0", "-n", "0") == (0, "", "")
    assert Pipeline(kept).config.name == "chatglm2-6b random"
    status, _, err = run("--random", "chatglm2-6b", "-m", kept, *SMALL)
    assert status == 2 and "there already" in err
