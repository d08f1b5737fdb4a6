"""The native program, from its arguments to what it prints, against the original model code.

CHATGLM_TEST_NATIVE is the command that runs it: build/native/chatglm, or an emulator before the program of
another processor (scripts/check_aarch64.sh). Without it these tests are skipped.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from golden import as_chat, load_json
from test_goldens import CHATS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def program() -> list[str]:
    command = shlex.split(os.environ.get("CHATGLM_TEST_NATIVE", ""))
    if not command:
        pytest.skip("CHATGLM_TEST_NATIVE names no program")
    return command


def run(program: list[str], *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
    command = [*program, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin.encode(), capture_output=True, cwd=ROOT, timeout=300, check=False
    )


def arguments_of(messages: list[dict[str, str]]) -> list[str] | None:
    """The program's arguments for a conversation that one call can hold: a question, and a system message."""
    if [m["role"] for m in messages] == ["user"]:
        return ["-p", messages[0]["content"]]
    if [m["role"] for m in messages] == ["system", "user"]:
        return ["-s", messages[0]["content"], "-p", messages[1]["content"]]
    return None


def reply_of(case: dict[str, Any]) -> str:
    return case.get("content", case.get("text", case["raw_text"].strip()))


@pytest.mark.parametrize("name", CHATS)
def test_replies_of_the_originals(program, fixtures, converted, name):
    reference = load_json(fixtures / "checkpoints" / name / "reference_chat.json")
    options = ["--greedy", "--kv_dtype", "f32", "--max_new_tokens", reference["max_new_tokens"]]
    n_cases = 0
    for case in reference["cases"]:
        arguments = arguments_of(as_chat(case["messages"]))
        if arguments is None:
            continue
        result = run(program, "-m", converted(name), *options, *arguments)
        assert (result.returncode, result.stderr.decode()) == (0, "")
        assert result.stdout.decode().replace(os.linesep, "\n") == reply_of(case) + "\n"
        n_cases += 1
    assert n_cases >= 3


def test_a_question_from_standard_input(program, fixtures, converted):
    case = load_json(fixtures / "checkpoints" / "chatglm3-6b" / "reference_chat.json")["cases"][0]
    (message,) = case["messages"]
    options = ["--greedy", "--kv_dtype", "f32", "--max_new_tokens", 32]
    result = run(program, "-m", converted("chatglm3-6b"), *options, stdin=message["content"] + "\n")
    assert result.stdout.decode().replace(os.linesep, "\n") == reply_of(case) + "\n"


def test_a_missing_file_is_a_sentence(program, tmp_path):
    result = run(program, "-m", tmp_path / "没有.gguf", "-p", "hi")
    assert (result.returncode, result.stdout) == (2, b"")
    error = result.stderr.decode()
    assert error.startswith("error: ") and "没有.gguf" in error and error.count("\n") == 1


def test_guesses_and_a_draft_model_change_no_reply(program, converted):
    path = converted("chatglm3-6b")
    options = ["-m", path, "-p", "你好", "--greedy", "--max_new_tokens", 24, "--prompt_lookup"]
    expected = run(program, *options, "never")
    drafted = run(program, *options, "always", "--draft", path, "--draft_tokens", 3)
    assert (drafted.returncode, drafted.stdout) == (0, expected.stdout)
    assert b"--prompt_lookup is 'maybe'" in run(program, *options, "maybe").stderr
