"""`chatglm-cpp batch` with a model, as a program that is killed and run again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from chatglm_cpp import Pipeline
from chatglm_cpp.batch import Line, answer_lines
from chatglm_cpp.cli import main

for needed in ("fastapi", "sse_starlette", "prometheus_client"):
    pytest.importorskip(needed)


def request(custom_id: str, url: str = "/v1/chat/completions", **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + "\n"


def question(i: int, max_tokens: int = 16) -> dict[str, Any]:
    content = f"{i} 加 {i} 等于多少？"
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": max_tokens}


def command(model: Path, source: Path, target: Path) -> list[str]:
    return ["-m", str(model), "-i", str(source), "-o", str(target), "-t", "1"]


def records(path: Path) -> dict[str, Any]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_id = {record["custom_id"]: record for record in found}
    assert len(by_id) == len(found)
    return by_id


def test_the_model_has_the_name_that_the_server_gives_it(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(request("default", model="default", **question(1)))
    assert main(["batch", "-i", str(source), "-o", str(target), "-t", "1"]) == 0
    assert records(target)["default"]["response"]["body"]["model"] == "default"


def test_bodies_are_answered_as_by_the_server(
    model_path: Path, shared_pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bad = {"messages": [{"role": "user", "content": "x"}], "colour": "red"}
    source.write_text(
        "".join(request(f"q{i}", **question(i)) for i in range(40))
        + request("text", "/v1/completions", prompt="你好", max_tokens=4, temperature=0)
        + request("response", "/v1/responses", input="你好", max_output_tokens=4, temperature=0)
        + request("vector", "/v1/embeddings", input=["你好", "再见"])
        + request("named", model=model_path.stem, **question(1))
        + request("other", model="gpt-9", **question(1))
        + request("bad", **bad)
        + request("surrogate", messages=[{"role": "user", "content": "\ud800"}])
    )
    assert main(["batch", *command(model_path, source, target)]) == 1
    assert "47 of 47 requests are answered, 3 with errors" in capsys.readouterr().err
    answers = records(target)
    for i in range(40):
        body = answers[f"q{i}"]["response"]["body"]
        assert body["object"] == "chat.completion"
        expected = shared_pipeline.chat([f"{i} 加 {i} 等于多少？"], do_sample=False, max_new_tokens=16)
        assert body["choices"][0]["message"]["content"] == expected.content
    text = answers["text"]["response"]["body"]["choices"][0]["text"]
    assert text == shared_pipeline.generate("你好", do_sample=False, max_new_tokens=4)
    (item,) = answers["response"]["response"]["body"]["output"]
    expected = shared_pipeline.chat(["你好"], do_sample=False, max_new_tokens=4)
    assert item["content"][0]["text"] == expected.content
    assert len(answers["vector"]["response"]["body"]["data"]) == 2
    named = answers["named"]["response"]["body"]["choices"]
    assert named == answers["q1"]["response"]["body"]["choices"]
    for name, status, words in (
        ("other", 404, model_path.stem),
        ("bad", 400, "'colour' is not supported"),
        ("surrogate", 400, "surrogate"),
    ):
        assert answers[name]["response"]["status_code"] == status
        assert words in answers[name]["response"]["body"]["error"]["message"]
        assert answers[name]["error"] is None


def test_lines_are_answered_by_the_same_endpoints_again(model_path: Path) -> None:
    from chatglm_cpp.batch.endpoints import opened

    lines = [Line(i, request(f"v{i}", "/v1/embeddings", input=["你好" * 50] * 8).encode()) for i in range(20)]
    with opened(Pipeline(model_path, n_threads=1)) as endpoints:
        for _ in range(2):  # each in an event loop of its own
            assert [record.status for record in answer_lines(endpoints, lines)] == [200] * 20


def wait_for_records(process: subprocess.Popen[Any], target: Path, n: int) -> None:
    """Waits until a run has written `n` records, or has ended."""
    pause = threading.Event()
    while process.poll() is None and not (target.exists() and target.read_bytes().count(b"\n") >= n):
        pause.wait(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_ctrl_c_says_how_to_go_on(model_path: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(request(f"q{i}", **question(i, 500), ignore_eos=True) for i in range(400)))
    program = [sys.executable, "-m", "chatglm_cpp.batch", *command(model_path, source, target)]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    wait_for_records(process, target, 1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"{len(records(target))} of 400 requests are answered" in errors
    assert errors.endswith("Stopped. Run the same command again to go on.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_program_goes_on(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, whole = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "whole.jsonl"))
    source.write_text("".join(request(f"q{i}", **question(i, 60)) for i in range(60)))
    program = [sys.executable, "-m", "chatglm_cpp.batch", *command(model_path, source, target)]
    for n in (1, 20):
        process = subprocess.Popen(program, stderr=subprocess.DEVNULL)
        wait_for_records(process, target, n)
        process.kill()
        process.wait()
    assert main(["batch", *command(model_path, source, target)]) == 0
    assert main(["batch", *command(model_path, source, whole)]) == 0
    assert "60 of 60 requests are answered, " in capsys.readouterr().err

    def texts(path: Path) -> dict[str, Any]:
        return {name: record["response"]["body"]["choices"] for name, record in records(path).items()}

    assert texts(target) == texts(whole)


def test_files_that_cannot_be_used_are_sentences(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    assert main(["batch", *command(model_path, source, target)]) == 2
    assert "there is no such file" in capsys.readouterr().err
    source.write_text(request("a") + request("a"))
    assert main(["batch", *command(model_path, source, target)]) == 2
    assert "the same custom_id 'a'" in capsys.readouterr().err
    source.write_text(request("a"))
    assert main(["batch", *command(tmp_path / "none.gguf", source, target)]) == 2
    assert "none.gguf" in capsys.readouterr().err
    assert target.read_bytes() == b""
