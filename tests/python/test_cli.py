"""The command line, run as its users run it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from golden import load_json
from interrupt import press_ctrl_c

import chatglm_cpp
from chatglm_cpp import Pipeline
from chatglm_cpp.cli import main
from chatglm_cpp.cli.terminal import printable

HERE = Path(__file__).parent  # no folder named as the package, which would hide the installed one
GREEDY = ["--greedy", "--max_new_tokens", "16"]
OPTIONS = {"do_sample": False, "max_new_tokens": 16}


def run(*args, stdin: bytes | None = None, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "chatglm_cpp", *map(str, args)],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        cwd=HERE,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )


def assert_sentence(result: subprocess.CompletedProcess, *words: str) -> None:
    """Exit status 2 and one sentence on stderr."""
    error = result.stderr.decode()
    assert result.returncode == 2, error
    assert "Traceback" not in error and len(error.strip().splitlines()) == 1, error
    for word in words:
        assert word in error
    assert result.stdout == b""


@pytest.fixture
def reply(shared_pipeline: Pipeline) -> str:
    return shared_pipeline.chat([{"role": "user", "content": "你好"}], **OPTIONS).content


def test_chat_prints_the_reply_and_nothing_else(model_path: Path, reply: str):
    result = run("chat", "-m", model_path, "-p", "你好", *GREEDY)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode() == reply + "\n"
    assert run("chat", "-m", model_path, "-p", "你好", "--sync", *GREEDY).stdout == result.stdout


@pytest.mark.parametrize("locale", [{"LANG": "C", "LC_ALL": ""}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}])
def test_output_is_utf8_in_every_locale(model_path: Path, reply: str, locale: dict[str, str]):
    result = run("chat", "-m", model_path, *GREEDY, stdin="你好\n".encode(), **locale)
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode() == reply + "\n"


def test_chat_reads_a_pipe(model_path: Path, reply: str):
    assert run("chat", "-m", model_path, *GREEDY, stdin="你好\n".encode()).stdout.decode() == reply + "\n"


def test_chat_reads_files(model_path: Path, shared_pipeline: Pipeline, tmp_path: Path):
    (tmp_path / "prompt.txt").write_text("再见", encoding="utf-8-sig")
    (tmp_path / "system.txt").write_text("You are polite.", encoding="utf-8")
    messages = [{"role": "system", "content": "You are polite."}, {"role": "user", "content": "再见"}]
    args = ["--pp", tmp_path / "prompt.txt", "--sp", tmp_path / "system.txt", *GREEDY]
    result = run("chat", "-m", model_path, *args)
    assert result.stdout.decode() == shared_pipeline.chat(messages, **OPTIONS).content + "\n"


def test_a_pipe_gets_the_answer_without_the_thought(thinking_model: Path):
    message = Pipeline(thinking_model).chat(["你好"], **OPTIONS)
    assert message.reasoning_content and message.content
    args = ["chat", "-m", thinking_model, *GREEDY]
    for more in ([], ["--sync"]):
        result = run(*args, *more, stdin="你好\n".encode())
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout.decode() == message.content + "\n"
    cut = run("chat", "-m", thinking_model, "--greedy", "--max_new_tokens", "2", "-p", "你好")
    assert (cut.returncode, cut.stdout) == (0, b"\n")
    assert "thought" in cut.stderr.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("more", [[], ["--sync"]])
def test_a_terminal_shows_the_thought_dimmed_above_the_answer(thinking_model: Path, more: list[str]):
    import pty

    message = Pipeline(thinking_model).chat(["你好"], **OPTIONS)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "chatglm_cpp",
            "chat",
            "-m",
            str(thinking_model),
            "-p",
            "你好",
            "--no_markdown",
            *GREEDY,
            *more,
        ],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        cwd=HERE,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        shown = b""
        with open(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # EIO at the end
            while data := terminal.read(4096):
                shown += data
        assert process.wait(timeout=60) == 0
    text = shown.decode().replace("\r\n", "\n")
    plain = re.sub("\x1b\\[[0-9;]*m", "", text)
    assert plain == f"{message.reasoning_content}\n\n{message.content}\n"
    if importlib.util.find_spec("rich"):
        thought, answer = text.split("\n\n" + message.content)
        assert "\x1b[2m" in thought and "\x1b" not in answer


def test_a_stop_text_ends_the_printed_reply(model_path: Path, reply: str, capsys):
    stop = reply[3:5]
    assert main(["chat", "-m", str(model_path), "-p", "你好", "--stop", stop, *GREEDY]) == 0
    assert capsys.readouterr().out == reply[: reply.index(stop)] + "\n"


def test_a_reply_of_a_format_is_printed_as_it_is(model_path: Path, tmp_path: Path, capsys):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array", "items": {"enum": ["晴", "雨"]}, "minItems": 1, "maxItems": 2}')
    chat = ["chat", "-m", str(model_path), "-p", "天气？", "--greedy"]
    assert main([*chat, "--json_schema", str(schema)]) == 0
    assert set(json.loads(capsys.readouterr().out)) <= {"晴", "雨"}
    assert main([*chat, "--regex", "[0-9]{3}"]) == 0
    assert re.fullmatch(r"[0-9]{3}\n", capsys.readouterr().out)


def test_generate_continues_the_prompt(model_path: Path, shared_pipeline: Pipeline):
    result = run("chat", "-m", model_path, "--mode", "generate", "-p", "今天", *GREEDY)
    continued = shared_pipeline.generate("今天", **OPTIONS) + "\n"
    assert result.stdout.decode() == continued
    assert run("generate", "-m", model_path, *GREEDY, stdin="今天".encode()).stdout.decode() == continued
    echoed = run("generate", "-m", model_path, "-p", "今天", "--echo", *GREEDY)
    assert echoed.stdout.decode() == "今天" + continued


def test_a_conversation_remembers_and_forgets(model_path: Path, shared_pipeline: Pipeline, reply: str):
    turns = "\n".join(["你好", "", "再见", "clear", "你好", "stop", "not read"])
    result = run("chat", "-i", "-m", model_path, *GREEDY, stdin=turns.encode())
    assert result.returncode == 0, result.stderr
    second = shared_pipeline.chat(["你好", reply, "再见"], **OPTIONS).content
    assert result.stdout.decode() == f"{reply}\n{second}\n{reply}\n"


def test_a_conversation_survives_a_prompt_that_is_too_long(model_path: Path, reply: str):
    turns = "\n".join(["长" * 500, "你好"])
    result = run("chat", "-i", "-m", model_path, "-l", "100", *GREEDY, stdin=turns.encode())
    assert result.returncode == 0
    assert result.stdout.decode() == reply + "\n"
    assert "100" in result.stderr.decode()


def test_verbose_says_what_was_computed(model_path: Path):
    result = run("chat", "-m", model_path, "-p", "你好", "-v", *GREEDY)
    said = result.stderr.decode()
    assert str(model_path) in said and "prompt:" in said and "tokens/s" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["chat", "-m", "nothing.gguf", "-p", "hi"], ["nothing.gguf"]),
        (["chat", "-m", "MODEL", "-p", ""], ["empty"]),
        (["chat", "-m", "MODEL", "-p", "hi", "--top_p", "7"], ["top_p", "7"]),
        (["chat", "-m", "MODEL", "-p", "hi", "-l", "1"], ["max_length", "1"]),
        (["chat", "-m", "MODEL", "-p", "hi", "--min_p", "7"], ["min_p", "7"]),
        (["chat", "-m", "MODEL", "-p", "hi", "--logit_bias", "5"], ["--logit_bias", "ID:X"]),
        (["chat", "-m", "MODEL", "-p", "hi", "--json_schema", "nothing.json"], ["nothing.json"]),
        (["chat", "-m", "MODEL", "-p", "hi", "--json_schema", "MODEL"], ["UTF-8"]),
        (["chat", "-m", "MODEL", "--pp", "nothing.txt"], ["nothing.txt"]),
        (["chat", "-m", "MODEL", "-p", "hi", "-t", "-3"], ["-3"]),
        (["chat", "-m", "MODEL", "-i", "--mode", "generate"], ["generate"]),
        (["info", "nothing.gguf"], ["nothing.gguf"]),
        (["info", "MODEL/.."], ["config.json"]),
        (["perplexity", "-m", "MODEL", "-f", "nothing.txt"], ["nothing.txt"]),
        (["convert", "-i", "nothing", "-o", "x.gguf"], ["nothing"]),
    ],
)
def test_bad_input_is_one_sentence(model_path: Path, tmp_path: Path, capsys, args, words):
    os.symlink(model_path, tmp_path / "model.gguf")
    args = [arg.replace("MODEL/..", str(tmp_path)).replace("MODEL", str(model_path)) for arg in args]
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.strip().splitlines()) == 1
    for word in words:
        assert word in said.err


@pytest.mark.parametrize(
    "args",
    [["chat", "--colour"], ["chat", "--top_k", "many"], ["chat", "-p", "a", "--pp", "b"], ["sing"], []],
)
def test_wrong_options_show_the_usage(args: list[str], capsys):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [[], ["chat"], ["generate"], ["convert"], ["serve"], ["info"], ["perplexity"]]
)
def test_help(command: list[str], capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert not end.value.code
    said = capsys.readouterr().out
    assert f"usage: {' '.join(['chatglm-cpp', *command])} " in said
    assert "default: None" not in said


def test_stdin_that_is_no_utf8_is_refused(model_path: Path):
    assert_sentence(run("chat", "-m", model_path, stdin=b"abc\xff"), "UTF-8", "0xff", "3")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(("closed", "word"), [("-p hi >&-", "output"), ("<&-", "input"), ("-i <&-", "input")])
def test_closed_streams_are_one_sentence(model_path: Path, closed: str, word: str):
    command = f'"$0" -m chatglm_cpp chat -m "$1" --greedy --max_new_tokens 1 {closed}'
    result = subprocess.run(
        ["sh", "-c", command, sys.executable, model_path],
        capture_output=True,
        cwd=HERE,
        timeout=60,
        check=False,
    )
    assert_sentence(result, word, "closed")


def test_control_characters_do_not_reach_the_terminal(capsys):
    assert printable("a\x1b]0;b\x07\x9b\n你") == r"a\u001b]0;b\u0007\u009b\u000a你"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_path_that_is_no_utf8_is_one_sentence(model_path: Path, tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/x\xff.gguf"
    os.symlink(model_path, path)
    assert_sentence(run("chat", "-m", os.fsdecode(path), "-p", "hi"), "UTF-8")
    assert_sentence(run("info", os.fsdecode(path)), "UTF-8")


def test_version():
    result = run("--version")
    assert (result.returncode, result.stdout.decode()) == (0, f"chatglm-cpp {chatglm_cpp.__version__}\n")


def test_info_of_a_file(model_path: Path, shared_pipeline: Pipeline):
    config = shared_pipeline.config
    text = run("info", model_path).stdout.decode()
    for word in (config.name, config.architecture, config.chat_format, str(config.max_length), config.dtype):
        assert word in text
    described = json.loads(run("info", model_path, "--json", "--tensors").stdout)
    assert described["parameters"] == config.n_parameters
    assert described["layers"] == config.num_hidden_layers
    cache = 2 * 2 * config.num_hidden_layers * config.num_kv_heads * config.head_dim * 2048
    assert described["cache_bytes"] == cache
    in_blocks = json.loads(run("info", model_path, "--json", "--kv-dtype", "q8_0").stdout)["cache_bytes"]
    blocks = -(-config.head_dim // 32)
    assert in_blocks == 2 * 34 * blocks * config.num_hidden_layers * config.num_kv_heads * 2048
    assert sum(t["bytes"] for t in described["tensors"]) == described["weight_bytes"]
    listed = run("info", model_path, "--tensors").stdout.decode()
    assert all(t["name"] in listed for t in described["tensors"])


def test_info_takes_the_model_as_other_commands_do(model_path: Path):
    text = run("info", model_path).stdout
    free = b"\nfree"  # the last row, which changes
    for found in (run("info", "-m", model_path), run("info", CHATGLM_CPP_MODEL=str(model_path))):
        assert found.stdout.split(free)[0] == text.split(free)[0]
    assert b"default" in run("info", CHATGLM_CPP_MODEL="").stdout


def test_info_of_a_checkpoint(fixtures: Path, converted, tmp_path: Path):
    folder = fixtures / "checkpoints" / "glm-edge-1.5b-chat"
    file = json.loads(run("info", converted("glm-edge-1.5b-chat", "q4_0"), "--json").stdout)
    described = json.loads(run("info", folder, "--json").stdout)
    for key in ("architecture", "parameters", "types", "layers", "vocabulary", "chat_format", "cache_bytes"):
        assert described[key] == file[key], key
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    assert_sentence(run("info", tmp_path), "config.json")


def test_perplexity_of_a_text(model_path: Path, shared_pipeline: Pipeline, tmp_path: Path):
    text = "今天的天气非常好，我们决定去公园散步。\r\nThe quick brown fox jumps over the lazy dog.\n" * 20
    (tmp_path / "text.txt").write_bytes(text.encode())
    args = ["-m", model_path, "-f", tmp_path / "text.txt", "--window", "32", "--windows", "3"]
    result = run("perplexity", *args)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.decode().splitlines()
    assert len(lines) == 4

    ids = shared_pipeline.tokenizer.encode_plain(text)[:96]
    nll = 0.0
    for begin in (0, 32, 64):
        window = ids[begin : begin + 32]
        logits = shared_pipeline.logits(window).astype("float64")
        for i in range(1, 32):
            row = logits[i - 1] - logits[i - 1].max()
            nll += math.log(sum(math.exp(x) for x in row)) - row[window[i]]
    expected = math.exp(nll / (3 * 31))
    assert float(lines[-1].split()[1].rstrip(":")) == pytest.approx(expected, rel=1e-5)

    too_short = run("perplexity", "-m", model_path, "-f", tmp_path / "text.txt", "--window", "8000")
    assert_sentence(too_short, "8000")


def test_the_default_model_answers(cache_folder: Path):
    from chatglm_cpp.model_file import DEFAULT_MODEL

    if not (DEFAULT_MODEL / "config.json").is_file():
        pytest.skip("this checkout has no default model")
    result = run("chat", "-p", "你好", *GREEDY)
    assert result.returncode == 0 and result.stderr == b""
    assert result.stdout.decode().strip()


def test_a_reader_that_leaves_is_no_error(model_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "chatglm_cpp", "info", str(model_path), "--tensors"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=HERE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=60)
    assert error == b""


def test_ctrl_c_ends_one_reply_with_130(shared_pipeline: Pipeline, monkeypatch, capsys):
    pressed = press_ctrl_c(shared_pipeline, at_step=5)
    monkeypatch.setattr("chatglm_cpp.cli.generate.load", lambda args: (pressed, 0.0))
    assert main(["chat", "--mode", "generate", "-p", "今天", *GREEDY]) == 130
    shown = capsys.readouterr()
    assert shown.err == ""
    whole = shared_pipeline.generate("今天", **OPTIONS)
    assert len(shown.out) > 1 and whole.startswith(shown.out.rstrip("\n"))


def test_ctrl_c_in_a_conversation_stops_the_reply_only(shared_pipeline: Pipeline, monkeypatch, capsys):
    pressed = press_ctrl_c(shared_pipeline, at_step=5)
    monkeypatch.setattr("chatglm_cpp.cli.chat.load", lambda args: (pressed, 0.0))
    monkeypatch.setattr("sys.stdin", io.StringIO("你好\n再见\n"))
    assert main(["chat", "-i", *GREEDY]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


@pytest.mark.skipif(
    not os.environ.get("CHATGLM_TEST_SMOL"), reason="CHATGLM_TEST_SMOL names no SmolLM checkpoint"
)
def test_perplexity_of_a_real_model(fixtures: Path):
    """Some seconds: the first window of the golden text with real weights."""
    reference = load_json(fixtures / "smol" / "reference.json")["perplexity"]
    result = run(
        *["perplexity", "-m", os.environ["CHATGLM_TEST_SMOL"], "--dtype", "f32", "--kv-dtype", "f32"],
        *["-f", fixtures / "smol" / "text.txt", "--windows", "1"],
    )
    expected = math.exp(reference["nll_per_window"][0] / (reference["window"] - 1))
    assert float(result.stdout.splitlines()[-1].split()[1].rstrip(b":")) == pytest.approx(expected, rel=1e-3)


def test_info_says_how_to_use_what_is_added_to_models(fixtures, tmp_path):
    pytest.importorskip("torch", reason="PyTorch checkpoints need torch")
    folders = fixtures / "checkpoints"
    assert "rank 8, alpha 32" in run("info", folders / "chatglm3-6b-lora").stdout.decode()
    prefix = run("info", folders / "chatglm2-6b-ptuning-v2").stdout.decode()
    assert "P-Tuning prefix" in prefix and "--ptuning" in prefix
    adapter = tmp_path / "adapter.gguf"
    base = str(folders / "chatglm3-6b")
    assert run("convert", "-i", folders / "chatglm3-6b-lora", "--base", base, "-o", adapter).returncode == 0
    described = json.loads(run("info", "--json", adapter).stdout)
    assert (described["kind"], described["ranks"], described["alpha"]) == ("LoRA adapter", [8], 32)
    assert "--lora" in run("info", adapter).stdout.decode()
    refused = run("chat", "-m", adapter, "-p", "hi")
    assert refused.returncode == 2 and b"adapter" in refused.stderr and b"Traceback" not in refused.stderr
