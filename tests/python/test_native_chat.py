"""Sessions and tools of the native program.

CHATGLM_TEST_NATIVE is the command that runs it, for example build/native/chatglm; without it these tests are
skipped.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess

import pytest

import chatglm_cpp
from chatglm_cpp import Pipeline

QUESTION = "请用三句话介绍一下北京，再说说那里的天气。" * 8


@pytest.fixture(scope="module")
def program() -> list[str]:
    command = shlex.split(os.environ.get("CHATGLM_TEST_NATIVE", ""))
    if not command:
        pytest.skip("CHATGLM_TEST_NATIVE names no program")
    return command


def run(program: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*program, *map(str, arguments)]
    return subprocess.run(command, input="", capture_output=True, encoding="utf-8", timeout=120, check=False)


def test_a_session_goes_on_in_another_run(program, converted, tmp_path):
    model, file = converted("chatglm3-6b"), tmp_path / "talk.session"
    options = ["-m", model, "--greedy", "--max_new_tokens", 16, "-v", "--session", file]
    first = run(program, *options, "-p", QUESTION)
    assert first.returncode == 0
    second = run(program, *options, "-p", "还有呢？")
    assert second.returncode == 0
    (cached,) = re.findall(r"(\d+) of them cached", second.stderr)
    assert int(cached) >= 64
    messages = chatglm_cpp.read_session(file).messages
    assert [m.role for m in messages] == ["user", "assistant"] * 2
    assert second.stdout.strip() == messages[3].content.strip()
    assert Pipeline(model).chat(messages[:3], do_sample=False, max_new_tokens=16) == messages[3]
    refused = run(program, *options, "-p", "a", "-s", "Be kind.")
    assert refused.returncode == 2
    assert "has begun already" in refused.stderr


def test_tools_are_told_and_kept(program, converted, tmp_path):
    model, file = converted("chatglm3-6b"), tmp_path / "talk.session"
    tools = [{"name": "get_weather", "description": "d", "parameters": {"type": "object", "properties": {}}}]
    (tmp_path / "tools.json").write_text(json.dumps(tools), encoding="utf-8")
    options = ["-m", model, "--greedy", "--max_new_tokens", 8, "-p", "你好", "--session", file]
    assert run(program, *options, "--tools", tmp_path / "tools.json").returncode == 0
    session = chatglm_cpp.read_session(file)
    assert session.tools == tools
    expected = Pipeline(model).chat(["你好"], tools=tools, do_sample=False, max_new_tokens=8)
    assert session.messages[1] == expected
    (tmp_path / "tools.json").write_text('{"name": 1}', encoding="utf-8")
    result = run(program, *options, "--tools", tmp_path / "tools.json")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
