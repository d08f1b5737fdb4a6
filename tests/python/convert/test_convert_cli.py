"""The command line: options, output, exit status."""

from __future__ import annotations

import subprocess
import sys

import pytest
from chatglm_cpp.convert import DTYPES, ConvertError, convert, supported
from chatglm_cpp.convert.cli import main
from convert_helpers import REMOTE_CONFIG, Gguf, make_remote, remote_weights


def test_list_names_every_architecture(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    for name, title, example in supported():
        assert f"{name} " in out and title in out and example in out


def test_types_are_the_engines():
    assert list(DTYPES) == ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]


@pytest.mark.parametrize("arguments", [[], ["-i", "x"], ["-o", "x"], ["-i", "x", "-o", "y", "-t", "q2_k"]])
def test_wrong_options_are_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_summary_has_the_types_the_sizes_and_the_notes(tmp_path, capsys):
    weights = remote_weights(REMOTE_CONFIG)
    weights["extra"] = weights["transformer.output_layer.weight"]
    folder = make_remote(tmp_path / "in", weights)
    assert main(["-i", str(folder), "-o", str(tmp_path / "m.gguf")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["type", "tensors", "size"]
    assert lines[1].split()[:2] == ["q4_0", "10"] and lines[2].split()[:2] == ["f32", "7"]
    assert lines[3].split()[:2] == ["total", "17"]
    assert "chatglm3-6b (chatglm, chat format chatglm3)" in captured.out
    assert "1 tensors of the checkpoint are not used: extra" in captured.out
    assert lines[-1] == f"wrote {tmp_path / 'm.gguf'}"
    assert captured.err == ""  # no progress bar without a terminal


def test_quiet_prints_nothing(tmp_path, capsys):
    assert main(["-i", str(make_remote(tmp_path / "in")), "-o", str(tmp_path / "m.gguf"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_options_reach_the_file(tmp_path):
    folder = make_remote(tmp_path / "in", rope_ratio=4)
    options = [
        "--name",
        "mine",
        "--chat-format",
        "chatglm2",
        "--rope-scaling",
        "position",
        "-t",
        "q5_0",
        "-q",
    ]
    assert main(["-i", str(folder), "-o", str(tmp_path / "m.gguf"), *options]) == 0
    file = Gguf(tmp_path / "m.gguf")
    assert file.metadata["general.name"] == "mine"
    assert file.metadata["general.file_type"] == 8
    assert file.metadata["chatglm.chat_format"] == "chatglm2"
    assert file.metadata["chatglm.rope.scaling.factor"] == 4.0
    assert file.tensors["output.weight"][0] == "q5_0"


def test_the_module_runs_as_a_program_without_torch_and_transformers(tmp_path):
    folder = make_remote(tmp_path / "in")
    code = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['transformers'] = None; "
        f"sys.argv = ['convert', '-i', {str(folder)!r}, '-o', {str(tmp_path / 'm.gguf')!r}]; "
        "runpy.run_module('chatglm_cpp.convert', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "wrote " in done.stdout


def test_a_progress_bar_is_drawn_on_a_terminal(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tqdm", reason="the progress bar's library is not installed")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["-i", str(make_remote(tmp_path / "in")), "-o", str(tmp_path / "m.gguf")]) == 0
    err = capsys.readouterr().err
    assert "B/s" in err and "weight" in err


def test_progress_reaches_the_end(tmp_path):
    steps: list[tuple[str, int, int]] = []
    summary = convert(
        make_remote(tmp_path / "in"), tmp_path / "m.gguf", progress=lambda *step: steps.append(step)
    )
    assert steps[0][0] == "token_embd.weight" and steps[-1][0] == "output.weight"
    done = [step[1] for step in steps]
    assert done == sorted(done) and done[-1] == steps[-1][2] == summary.source_bytes


def test_unknown_type_is_an_error_of_the_function(tmp_path):
    with pytest.raises(ConvertError, match="q4_0"):
        convert(make_remote(tmp_path / "in"), tmp_path / "m.gguf", "q3_k")
