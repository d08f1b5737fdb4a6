"""The programs of benchmarks/, run on small models."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *map(str, args)]
    # The programs share modules of their folder, which a safe path leaves out.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False, env=env)


@pytest.fixture(scope="module")
def compared(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """JSON of compare.py, and what it printed."""
    target = tmp_path_factory.mktemp("compare") / "out.json"
    sizes = ["--prompts", "4,9", "--tokens", "2", "--depths", "0,3", "--batches", "1,2", "--rounds", "2"]
    result = run("compare.py", model_path, "--threads", "1", *sizes, "--json", target)
    assert result.returncode == 0, result.stderr
    return target, result.stdout


def test_compare_measures_every_size_with_every_program(compared: tuple[Path, str]):
    report = json.loads(compared[0].read_text(encoding="utf-8"))
    sizes = [(r["kind"], r["tokens"], r["depth"], r["batch"]) for r in report["results"]]
    replies = [("reply", 2, 0, 1), ("reply", 2, 3, 1), ("reply", 2, 0, 2)]
    assert sizes == [("prompt", 4, 0, 1), ("prompt", 9, 0, 1), *replies]
    programs = {"chatglm_cpp"} | ({"llama.cpp"} if importlib.util.find_spec("llama_cpp") else set())
    assert set(report["programs"]) == programs
    for result in report["results"]:
        assert result["notes"] == {}
        assert set(result["programs"]) == programs
        for rate in [*result["programs"].values(), *result["ratios"].values()]:
            assert 0 < rate["min"] <= rate["median"] <= rate["max"]
        assert set(result["ratios"]) == programs - {"chatglm_cpp"}


def test_a_peer_that_is_missing_is_named(model_path: Path):
    result = run("compare.py", model_path, "--prompts", "2", "--tokens", "1", "--rounds", "1",
                 "--llama-python", "no-such-python")  # fmt: skip
    assert result.returncode == 1
    assert "error: " in result.stderr and "no-such-python" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["nowhere.gguf"],
        ["a.gguf", "--prompts", "0"],
        ["a.gguf", "--threads", "1,2"],
        ["a.gguf", "--old-python", "python"],
    ],
)
def test_compare_refuses_with_a_sentence(args: list[str]):
    result = run("compare.py", *args)
    assert result.returncode in (1, 2) and "Traceback" not in result.stderr
    assert "error: " in result.stderr.strip().splitlines()[-1]


def test_compare_keeps_what_it_measured_before_an_error(model_path: Path, tmp_path: Path):
    target = tmp_path / "out.json"
    target.write_text("an earlier result", encoding="utf-8")
    fixed = ["--threads", "1", "--tokens", "1", "--rounds", "1", "--json", target]
    assert run("compare.py", "nowhere.gguf", *fixed).returncode == 1
    assert target.read_text(encoding="utf-8") == "an earlier result"
    result = run("compare.py", model_path, "--prompts", "4", "--depths", 1 << 20, *fixed)
    assert result.returncode == 1 and "beyond" in result.stderr
    report = json.loads(target.read_text(encoding="utf-8"))
    assert [(r["kind"], r["tokens"]) for r in report["results"]] == [("prompt", 4)]


def test_plot_draws_what_compare_wrote(compared: tuple[Path, str], tmp_path: Path):
    result = run("plot.py", compared[0], tmp_path / "out.png")
    if importlib.util.find_spec("matplotlib"):
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert result.returncode == 1 and "pip install matplotlib" in result.stderr
    for content in ("", "[]", '{"results": []}'):
        (tmp_path / "bad.json").write_text(content)
        result = run("plot.py", tmp_path / "bad.json", tmp_path / "bad.png")
        assert result.returncode == 1 and "is no JSON of compare.py" in result.stderr


def test_random_model_prints_sizes_and_refuses_with_a_sentence(tmp_path: Path):
    pytest.importorskip("gguf")
    result = run("random_model.py", "chatglm2-6b", "sizes")
    assert "chatglm2-6b f16: 12.49 GB" in result.stdout, result.stderr  # as the published checkpoint
    result = run("random_model.py", "chatglm2-6b", "q4_0", tmp_path / "no" / "file.gguf")
    assert result.returncode == 1 and result.stderr.startswith("error: ")


def test_old_model_file_refuses_a_file_that_is_cut_short(model_path: Path, tmp_path: Path):
    pytest.importorskip("gguf")
    pytest.importorskip("sentencepiece")
    for size in (0, 100, 1000):
        (tmp_path / "cut.gguf").write_bytes(model_path.read_bytes()[:size])
        result = run("old_model_file.py", tmp_path / "cut.gguf", tmp_path / "old.bin")
        assert result.returncode == 1 and result.stderr.startswith("error: "), result.stderr
        assert not (tmp_path / "old.bin").exists()


def test_users_prints_a_row_for_each_number_of_users(model_path: Path, tmp_path: Path):
    target = tmp_path / "users.json"
    sizes = ["--users", "1,3", "--prompt", "5", "--tokens", "4", "--rounds", "1", "--threads", "1"]
    result = run("users.py", model_path, *sizes, "--json", target)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["users", "1", "3"]
    assert [r["users"] for r in json.loads(target.read_text(encoding="utf-8"))] == [1, 3]


def test_speculation_compares_each_workload_with_and_without_guesses(model_path: Path):
    result = run(
        "speculation.py", model_path, "--rounds", "1", "--tokens", "8", "--workloads", "repeat,users"
    )
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["workload", "repeat", "users"]
    result = run("speculation.py", model_path, "--workloads", "none")
    assert result.returncode == 2 and "no workload 'none'" in result.stderr


def test_cache_types_are_measured_in_turn(model_path: Path):
    result = run("cache_types.py", model_path, "--depths", "0,3", "--tokens", "2", "--rounds", "2")
    assert result.returncode == 0, result.stderr
    rows = [line.split()[:3] for line in result.stdout.splitlines()[1:]]
    assert rows == [["depth", depth, kind] for depth in ("0", "3") for kind in ("f16", "q8_0")]
    refused = run("cache_types.py", model_path, "--types", "q9")
    assert refused.returncode == 1
    assert "'q9'" in refused.stderr
