"""Conversations that go on after a restart."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import chatglm_cpp
from chatglm_cpp import ChatMessage, FormatError, FunctionMessage, InvalidArgument, Pipeline, ToolCallMessage

OPTIONS = {"do_sample": False, "ignore_eos": True, "max_new_tokens": 24}
QUESTION = "请用三句话介绍一下北京，再说说那里的天气。" * 8
NEXT = {"role": "user", "content": "还有呢？"}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]

RESUME = """
import sys, chatglm_cpp
pipeline = chatglm_cpp.Pipeline(sys.argv[1], kv_dtype=sys.argv[3])
session = pipeline.load_session(sys.argv[2])
messages = [*session.messages, {"role": "user", "content": "还有呢？"}]
reply = pipeline.submit(messages, do_sample=False, ignore_eos=True, max_new_tokens=24)
ids = [i for delta in reply for i in delta.token_ids]
print(session.cached_tokens, reply.usage.cached_tokens, ids)
"""


@pytest.fixture(scope="module")
def adapter(fixtures, tmp_path_factory) -> Path:
    convert = pytest.importorskip(
        "chatglm_cpp.convert", reason="the converter's dependencies are not installed", exc_type=ImportError
    ).convert
    path = tmp_path_factory.mktemp("adapters") / "adapter.gguf"
    checkpoints = fixtures / "checkpoints"
    convert(checkpoints / "chatglm3-6b-lora", path, base=checkpoints / "chatglm3-6b")
    return path


def talk(pipeline: Pipeline) -> list[ChatMessage | dict[str, str]]:
    messages = [{"role": "user", "content": QUESTION}]
    return [*messages, pipeline.chat(messages, **OPTIONS)]


@pytest.mark.parametrize(
    ("name", "kv_dtype"),
    [
        ("chatglm2-6b", "f16"),
        ("chatglm2-6b-ptuning-v2", "f16"),
        ("chatglm3-6b", "f32"),
        ("glm-4-9b-0414", "f16"),
    ],
)
def test_the_next_turn_after_a_restart(converted, tmp_path, name, kv_dtype):
    path, file = converted(name), tmp_path / "talk.session"
    pipeline = Pipeline(path, kv_dtype=kv_dtype)
    messages = talk(pipeline)
    saved = pipeline.save_session(file, messages)
    assert saved >= 64
    pipeline.clear_cache()
    expected = [i for d in pipeline.submit([*messages, NEXT], **OPTIONS) for i in d.token_ids]
    found = subprocess.run(
        [sys.executable, "-c", RESUME, str(path), str(file), kv_dtype],
        capture_output=True, text=True, timeout=120, check=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    loaded, cached, ids = found.stdout.split(" ", 2)
    assert int(loaded) == saved
    assert int(cached) >= saved
    assert ids.strip() == str(expected)


def test_the_first_generation_saves_the_text_alone(converted, tmp_path):
    pipeline = Pipeline(converted("chatglm-6b"))
    messages = talk(pipeline)
    assert pipeline.save_session(tmp_path / "a", messages) == 0
    session = pipeline.load_session(tmp_path / "a")
    assert session.cached_tokens == 0
    assert [m.content for m in session.messages] == [QUESTION, messages[1].content]


def test_calls_thoughts_and_tools_come_back(converted, tmp_path):
    pipeline = Pipeline(converted("chatglm3-6b"))
    call = ToolCallMessage(function=FunctionMessage("f", '{"x": 1}'), id="call_7")
    messages = [
        ChatMessage("system", "S"),
        ChatMessage("user", "你好 \U0001f600\n"),
        ChatMessage("assistant", "", [call], reasoning_content="thought"),
        ChatMessage("observation", "42"),
        ChatMessage("assistant", "done"),
    ]
    pipeline.save_session(tmp_path / "a", messages, tools=TOOLS)
    for session in (pipeline.load_session(tmp_path / "a"), chatglm_cpp.read_session(tmp_path / "a")):
        assert session.messages == messages
        assert session.messages[2].tool_calls[0].id == "call_7"
        assert session.tools == TOOLS
        assert session.model == pipeline.config.name


def test_what_differs_is_said(converted, adapter, tmp_path):
    path, file = converted("chatglm3-6b"), tmp_path / "a"
    pipeline = Pipeline(path)
    messages = talk(pipeline)
    pipeline.save_session(file, messages)
    with pytest.raises(InvalidArgument, match="another model file"):
        Pipeline(converted("chatglm3-6b", "q8_0")).load_session(file)
    with pytest.raises(InvalidArgument, match="kv_dtype to f16"):
        Pipeline(path, kv_dtype="f32").load_session(file)
    adapted = Pipeline(path)
    adapted.attach_lora(adapter, 0.5)
    with pytest.raises(InvalidArgument, match=r"adapters: none; in use are '.*gguf' at 0\.5"):
        adapted.load_session(file)
    adapted.detach_lora(adapter)
    assert adapted.load_session(file).cached_tokens >= 64
    assert chatglm_cpp.read_session(file).messages[1] == messages[1]


def test_adapters_are_known_by_what_is_in_them(converted, adapter, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(adapter.read_bytes())
    pipeline = Pipeline(converted("chatglm3-6b"), lora=adapter)
    saved = pipeline.save_session(tmp_path / "a", talk(pipeline))
    assert Pipeline(pipeline.path, lora=copy).load_session(tmp_path / "a").cached_tokens == saved
    with pytest.raises(InvalidArgument, match="at 2"):
        Pipeline(pipeline.path, lora={copy: 2.0}).load_session(tmp_path / "a")


def test_attach_and_detach(converted, adapter):
    pipeline = Pipeline(converted("chatglm3-6b"))
    plain = pipeline.embed("a")
    pipeline.attach_lora(adapter)
    assert pipeline.lora == {str(adapter): 1.0}
    assert not (pipeline.embed("a") == plain).all()
    pipeline.attach_lora(adapter, scale=0)
    assert pipeline.lora == {str(adapter): 0.0}
    assert (pipeline.embed("a") == plain).all()
    pipeline.detach_lora(adapter)
    assert pipeline.lora == {}
    with pytest.raises(InvalidArgument, match="is not in use; in use: none"):
        pipeline.detach_lora(adapter)
    with pytest.raises(FileNotFoundError):
        pipeline.attach_lora("missing.gguf")


def test_damaged_files_are_refused(pipeline, tmp_path):
    file = tmp_path / "a"
    pipeline.save_session(file, talk(pipeline))
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], whole + b"\0", b"GGUF" + whole[4:]):
        file.write_bytes(damaged)
        with pytest.raises(FormatError, match="session"):
            pipeline.load_session(file)
        with pytest.raises(FormatError, match="session"):
            chatglm_cpp.read_session(file)
    file.write_bytes(whole[:-20] + b"?" + whole[-19:])
    with pytest.raises(FormatError, match="keys and values"):
        pipeline.load_session(file)
    assert chatglm_cpp.read_session(file).messages[0].content == QUESTION


def test_paths_that_are_no_sessions(pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match="no session"):
        pipeline.load_session(tmp_path / "missing")
    with pytest.raises(OSError, match="folder"):
        pipeline.load_session(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder"):
        pipeline.save_session(tmp_path / "no" / "a", ["hi"])
    with pytest.raises(InvalidArgument, match="NUL"):
        pipeline.save_session("a\0b", ["hi"])
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # opening one would wait for its other end
        with pytest.raises(OSError, match="device"):
            pipeline.load_session(tmp_path / "pipe")


def test_beside_replies(pipeline, tmp_path):
    messages = talk(pipeline)
    file = tmp_path / "a"
    pipeline.save_session(file, messages)
    long = {**OPTIONS, "max_new_tokens": 200}
    expected = pipeline.chat([NEXT], **long).content
    replies = [pipeline.submit([NEXT], **long) for _ in range(3)]
    errors: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(5):
                pipeline.save_session(tmp_path / str(i), messages)
                assert pipeline.load_session(file).messages[1] == messages[1]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    assert [reply.result().content for reply in replies] == [expected] * 3
    for thread in threads:
        thread.join()
    assert errors == []
    assert pipeline.stats.used_bytes == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "a"]
