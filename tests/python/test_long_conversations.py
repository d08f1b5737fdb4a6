"""What gives way when a conversation does not fit into the context."""

from __future__ import annotations

import pytest
from scripted import scripted

from chatglm_cpp import ContextLengthError, InvalidArgument, Pipeline
from chatglm_cpp.cli import main

GREEDY = {"do_sample": False, "max_new_tokens": 8}
SYSTEM = {"role": "system", "content": "系统"}


def rounds(n: int) -> list[dict[str, str]]:
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"第{i}句"} for i in range(2 * n - 1)]
    return [SYSTEM, *turns]


@pytest.fixture(scope="module")
def pipeline(converted) -> Pipeline:
    return Pipeline(converted("chatglm3-6b"))


def prompt_length(pipeline: Pipeline, messages: list[dict[str, str]]) -> int:
    return len(pipeline.tokenizer.apply_chat_template(messages))


def test_an_error_is_the_default(pipeline):
    messages = rounds(40)
    length = prompt_length(pipeline, messages)
    for options in ({}, {"when_full": "error"}):
        with pytest.raises(ContextLengthError, match=f"The prompt has {length} tokens"):
            pipeline.chat(messages, max_length=length, **options)
        assert pipeline.chat(messages, max_length=length + 1, **options, **GREEDY).dropped_messages == 0
    with pytest.raises(InvalidArgument, match='when_full is "later"'):
        pipeline.chat(messages, when_full="later")


@pytest.mark.parametrize(("policy", "head"), [("drop_oldest", 1), ("keep_head", 3)])
def test_turns_go_whole_and_the_result_says_how_many(pipeline, policy, head):
    messages = rounds(40)
    max_length = prompt_length(pipeline, messages) // 2
    with scripted(pipeline, "\n好") as prompts:
        reply = pipeline.chat(messages, when_full=policy, max_length=max_length, max_new_tokens=8)
    n = reply.dropped_messages
    assert 0 < n < len(messages) - head and n % 2 == 0
    kept = [*messages[:head], *messages[head + n :]]
    assert prompts == [pipeline.tokenizer.decode(pipeline.tokenizer.apply_chat_template(kept), False)]
    # The next turn less would have left too little room for the reply.
    more = [*messages[:head], *messages[head + n - 2 :]]
    assert prompt_length(pipeline, kept) <= max_length - 8 < prompt_length(pipeline, more)


def test_a_stream_says_what_was_dropped(pipeline):
    messages = rounds(40)
    options = {"when_full": "drop_oldest", "max_length": 200, **GREEDY}
    reply = pipeline.chat(messages, **options)
    with pipeline.chat(messages, stream=True, **options) as stream:
        deltas = list(stream)
    assert stream.usage.dropped_messages == reply.dropped_messages > 0
    assert stream.usage.finish_reason == "stop" or stream.usage.new_tokens == 8
    assert pipeline.merge_streaming_messages(deltas) == reply


def test_a_reply_without_a_limit_has_a_quarter_of_the_context(pipeline):
    with pipeline.chat(rounds(40), stream=True, when_full="drop_oldest", max_length=200) as stream:
        assert 100 < stream.usage.prompt_tokens <= 150


def test_a_last_turn_that_is_too_long_is_an_error_and_one_that_just_fits_is_not(pipeline):
    messages = [*rounds(3), {"role": "assistant", "content": "好"}, {"role": "user", "content": "长" * 300}]
    length = prompt_length(pipeline, [SYSTEM, messages[-1]])
    reply = pipeline.chat(messages, when_full="drop_oldest", max_length=length + 1, do_sample=False)
    assert reply.dropped_messages == 6
    with pytest.raises(ContextLengthError, match=f"The prompt has {length} tokens"):
        pipeline.chat(messages, when_full="drop_oldest", max_length=length)


def test_max_context_length_drops_turns_before_it_cuts_them(pipeline):
    options = {"when_full": "drop_oldest", "max_context_length": 60, **GREEDY}
    with pipeline.chat(rounds(40), stream=True, **options) as stream:
        assert stream.usage.prompt_tokens <= 60
        assert stream.usage.dropped_messages > 60


def test_the_command_line_says_what_was_left_out(pipeline, monkeypatch, capsys):
    lines = iter([*["你好"] * 6, "clear", "你好", "exit"])
    monkeypatch.setattr("chatglm_cpp.cli.options.Pipeline", lambda *args, **options: pipeline)
    monkeypatch.setattr("chatglm_cpp.cli.chat.question_reader", lambda remember: lambda label: next(lines))
    args = ["chat", "-m", "model.gguf", "-i", "--when_full", "drop_oldest", "-l", "60"]
    with scripted(pipeline, *["\n你好你好"] * 7):
        assert main(args) == 0
    out, err = capsys.readouterr()
    assert out == "你好你好\n" * 7
    notes = err.splitlines()
    assert notes and all("left out of what the model reads" in note for note in notes)
    assert notes[0].endswith("2 messages are left out of what the model reads.")
