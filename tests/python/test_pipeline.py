"""Chats, completions and streams from Python."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from interrupt import press_ctrl_c

import chatglm_cpp
from chatglm_cpp import ChatMessage, ContextLengthError, DeltaMessage, InvalidArgument, Pipeline

MESSAGES = [{"role": "user", "content": "你好，请介绍一下你自己。"}]
GREEDY = {"do_sample": False, "max_new_tokens": 24}


def test_streamed_pieces_join_to_the_reply(shared_pipeline):
    reply = shared_pipeline.chat(MESSAGES, **GREEDY)
    assert isinstance(reply, ChatMessage) and reply.role == ChatMessage.ROLE_ASSISTANT
    deltas = list(shared_pipeline.chat(MESSAGES, stream=True, **GREEDY))
    assert all(isinstance(d, DeltaMessage) and d.role == "assistant" and d.token_ids for d in deltas)
    assert "".join(d.content for d in deltas) == reply.content
    assert shared_pipeline.merge_streaming_messages(deltas) == reply


def test_generate_continues_a_text_or_ids(shared_pipeline):
    text = shared_pipeline.generate("今天", **GREEDY)
    assert text and text == "".join(shared_pipeline.generate("今天", stream=True, **GREEDY))
    assert text == shared_pipeline.generate(shared_pipeline.tokenizer.encode("今天"), **GREEDY)
    assert text == shared_pipeline.generate(np.array(shared_pipeline.tokenizer.encode("今天")), **GREEDY)


def test_messages_may_be_objects_dicts_or_alternating_texts(shared_pipeline):
    texts = ["你好", "你好！", "再见"]
    roles = ["user", "assistant", "user"]
    dicts = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    objects = [ChatMessage(**d) for d in dicts]
    encode = shared_pipeline.tokenizer.apply_chat_template
    assert encode(dicts) == encode(objects) == encode(texts) == encode([dicts[0], objects[1], dicts[2]])


@pytest.mark.parametrize(
    ("messages", "error", "match"),
    [
        ("你好", TypeError, "is a str"),
        ([1], TypeError, r"messages\[0\] is a int"),
        ([{"role": "user"}], ValueError, r'messages\[0\] has no "content"'),
        ([{"content": "hi"}], ValueError, r'messages\[0\] has no "role"'),
        ([{"role": "user", "content": ["hi"]}], TypeError, r"messages\[0\].content is a list"),
        ([{"role": "user", "content": "hi", "colour": "red"}], ValueError, "colour"),
        ([{"role": "nobody", "content": "hi"}], ValueError, "nobody"),
        (
            [{"role": "assistant", "tool_calls": [{"type": "x"}]}],
            ValueError,
            r"tool_calls\[0\] has the type 'x'",
        ),
        ([{"role": "user", "content": "\ud800"}], ValueError, r"U\+D800"),
        ([], ValueError, "."),
    ],
)
def test_wrong_messages_are_named(shared_pipeline, messages, error, match):
    with pytest.raises(error, match=match):
        shared_pipeline.chat(messages)


def test_tool_calls_may_be_dicts():
    from chatglm_cpp.messages import to_messages

    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    code = {"type": "code", "code": {"input": "print(1)"}}
    (message,) = to_messages([{"role": "assistant", "content": None, "tool_calls": [call, code]}])
    function = chatglm_cpp.FunctionMessage(name="f", arguments='{"a": 1}')
    assert message == ChatMessage(
        role="assistant",
        content="",
        tool_calls=[
            chatglm_cpp.ToolCallMessage(function=function),
            chatglm_cpp.ToolCallMessage(code=chatglm_cpp.CodeMessage(input="print(1)")),
        ],
    )


@pytest.mark.parametrize(
    "option",
    [
        {"max_length": 0},
        {"max_new_tokens": -2},
        {"max_context_length": 0},
        {"top_k": -1},
        {"top_p": 1.5},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"repetition_penalty": 0.0},
        {"top_k": 2**40},
        {"seed": 2**70},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_options_out_of_range_are_named_at_the_call(shared_pipeline, option, stream):
    (name,) = option
    with pytest.raises(InvalidArgument, match=name):
        shared_pipeline.chat(MESSAGES, stream=stream, **option)


def test_options_of_a_wrong_type_are_named(shared_pipeline):
    with pytest.raises(TypeError, match="top_k is a float"):
        shared_pipeline.chat(MESSAGES, top_k=1.5)
    with pytest.raises(TypeError, match="top_p is a str"):
        shared_pipeline.chat(MESSAGES, top_p="0.7")
    for name in ("do_sample", "ignore_eos", "early_stopping", "stream"):
        with pytest.raises((TypeError, InvalidArgument), match=name):
            shared_pipeline.chat(MESSAGES, **{name: "false"})
    with pytest.raises(TypeError, match="normalize is a str"):
        shared_pipeline.embed("a", normalize="false")
    with pytest.raises(TypeError, match="colour"):
        shared_pipeline.chat(MESSAGES, colour="red")


def test_num_threads_of_a_call_is_said_to_have_no_effect(shared_pipeline):
    with pytest.warns(UserWarning, match="num_threads=77"):
        shared_pipeline.chat(MESSAGES, num_threads=77, max_new_tokens=1)
    shared_pipeline.chat(MESSAGES, num_threads=shared_pipeline.n_threads, max_new_tokens=1)


def test_a_prompt_that_is_too_long_says_both_numbers(shared_pipeline):
    n = len(shared_pipeline.tokenizer.apply_chat_template(MESSAGES))
    with pytest.raises(ContextLengthError, match=rf"\b{n}\b.*\b{n - 1}\b"):
        shared_pipeline.chat(MESSAGES, max_length=n - 1)
    with pytest.raises(ContextLengthError, match=rf"\b{n}\b"):
        shared_pipeline.chat(MESSAGES, max_length=n, stream=True)


def test_max_context_length_keeps_the_last_tokens(shared_pipeline):
    ids = shared_pipeline.tokenizer.encode("今天的天气非常好，我们决定去公园散步，顺便喝一杯热茶。")
    prefix = shared_pipeline.tokenizer.prefix_ids
    limit = len(prefix) + 8
    assert len(ids) > limit
    with shared_pipeline.generate(ids, stream=True, max_context_length=limit, **GREEDY) as stream:
        text = "".join(stream)
        assert stream.usage.prompt_tokens == limit
    assert text == shared_pipeline.generate(prefix + ids[-8:], **GREEDY)


def test_lengths_bound_the_reply(shared_pipeline):
    n = len(shared_pipeline.tokenizer.encode("今天"))
    for options in ({"max_new_tokens": 3}, {"max_length": n + 3}):
        with shared_pipeline.generate("今天", stream=True, do_sample=False, **options) as stream:
            for _ in stream:
                pass
        assert stream.usage.new_tokens == 3
        assert stream.usage.finish_reason == "length"
    assert shared_pipeline.generate("今天", max_new_tokens=0) == ""


def test_a_seed_gives_the_same_reply_again(shared_pipeline):
    options = {"temperature": 2.0, "top_p": 1.0, "max_new_tokens": 16}
    replies = [shared_pipeline.generate("今天", seed=seed, **options) for seed in (1, 1, 2, 3)]
    assert replies[0] == replies[1]
    assert len(set(replies)) > 1


def test_temperature_zero_is_greedy(shared_pipeline):
    expected = shared_pipeline.generate("今天", **GREEDY)
    assert shared_pipeline.generate("今天", temperature=0, max_new_tokens=24) == expected


def test_the_next_turn_continues_from_the_cache(pipeline, model_path):
    asked = [*MESSAGES, pipeline.chat(MESSAGES, **GREEDY), {"role": "user", "content": "谢谢"}]
    with pipeline.chat(asked, stream=True, **GREEDY) as stream:
        deltas = list(stream)
    assert stream.usage.cached_tokens > 0
    afresh = Pipeline(model_path)
    assert pipeline.merge_streaming_messages(deltas) == afresh.chat(asked, **GREEDY)


def test_a_dropped_stream_frees_its_work_and_the_pipeline_goes_on(pipeline):
    expected = pipeline.generate("今天", **GREEDY)
    stream = pipeline.generate("明天", stream=True, **GREEDY)
    next(stream)
    generation = weakref.ref(stream._pieces)
    del stream
    gc.collect()
    assert generation() is None
    assert pipeline.generate("今天", **GREEDY) == expected


def test_a_closed_stream_gives_nothing_more(shared_pipeline):
    stream = shared_pipeline.generate("今天", stream=True, **GREEDY)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert stream.usage.finish_reason == "cancelled"
    assert stream.usage.new_tokens >= 1


def test_streams_of_one_pipeline_may_interleave(shared_pipeline):
    prompts = ["今天", "明天", "The weather"]
    alone = [shared_pipeline.generate(prompt, **GREEDY) for prompt in prompts]
    streams = [shared_pipeline.generate(prompt, stream=True, **GREEDY) for prompt in prompts]
    together = ["", "", ""]
    running = set(range(len(prompts)))
    while running:
        for i in sorted(running):
            piece = next(streams[i], None)
            if piece is None:
                running.discard(i)
            else:
                together[i] += piece
    assert together == alone


def test_threads_may_share_a_pipeline(shared_pipeline):
    prompts = ["今天", "明天", "The weather", "春眠"]
    alone = [shared_pipeline.generate(prompt, **GREEDY) for prompt in prompts]
    together = [""] * len(prompts)

    def work(i: int) -> None:
        together[i] = shared_pipeline.generate(prompts[i], **GREEDY)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_ctrl_c_stops_a_reply_and_the_pipeline_goes_on(pipeline):
    expected = pipeline.generate("今天", **GREEDY)
    pressed = press_ctrl_c(pipeline, at_step=3)
    with pytest.raises(KeyboardInterrupt):
        pressed.generate("今天", **GREEDY)
    stream = pressed.generate("今天", stream=True, **GREEDY)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert stream.usage.finish_reason == "cancelled"
    assert pipeline.generate("今天", **GREEDY) == expected


def test_logits_have_a_row_for_each_id(shared_pipeline):
    ids = shared_pipeline.tokenizer.encode("今天")
    logits = shared_pipeline.logits(ids)
    assert logits.shape == (len(ids), shared_pipeline.config.vocab_size) and logits.dtype == np.float32
    assert np.array_equal(shared_pipeline.logits(tuple(ids[:1])), logits[:1])
    for bad in ([], [-1], [shared_pipeline.config.vocab_size], [2**40]):
        with pytest.raises(InvalidArgument):
            shared_pipeline.logits(bad)
    for bad in ([1.5], ["a"], [[1], [2]]):
        with pytest.raises(TypeError):
            shared_pipeline.logits(bad)


def test_config_has_the_names_of_earlier_versions(shared_pipeline):
    config = shared_pipeline.model.config
    assert config == shared_pipeline.config
    assert config.dtype and config.model_type_name
    for name in (
        "vocab_size",
        "hidden_size",
        "num_attention_heads",
        "num_kv_heads",
        "num_hidden_layers",
        "intermediate_size",
        "norm_eps",
        "max_length",
    ):
        assert getattr(config, name) > 0
    ends = [config.eos_token_id, *config.extra_eos_token_ids]
    assert sorted(ends) == sorted(shared_pipeline.tokenizer.eos_ids)


def test_a_pipeline_refuses_wrong_settings(model_path):
    for options in ({"n_threads": -1}, {"num_threads": 10**6}, {"prefill_chunk": 0}, {"kv_dtype": "q9"}):
        (name,) = options
        with pytest.raises(InvalidArgument, match=name.replace("num_", "n_")):
            Pipeline(model_path, **options)
    with pytest.raises(InvalidArgument, match="'q9'; it can be one of 'f16', 'q8_0', 'f32'"):
        Pipeline(model_path, kv_dtype="q9")
    with pytest.raises(ValueError, match="dtype is 'q3'"):
        Pipeline(model_path, dtype="q3")


def test_paths_that_lead_nowhere_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FileNotFoundError, match=r"nothing\.gguf: no such file"):
        Pipeline(tmp_path / "nothing.gguf")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    with pytest.raises(chatglm_cpp.Error, match=r"download .*pip install"):
        Pipeline("THUDM/chatglm2-6b")
    with pytest.raises(FileNotFoundError, match=r"without config\.json"):
        Pipeline(tmp_path)


@pytest.mark.parametrize("content", [b"", b"ggml" + bytes(64), b"GGUF", bytes(range(256))])
def test_a_file_that_is_no_model_is_a_format_error(tmp_path: Path, content: bytes):
    path = tmp_path / "模型.gguf"
    path.write_bytes(content)
    with pytest.raises(chatglm_cpp.FormatError, match="模型"):
        Pipeline(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path, pipeline: Pipeline):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        Pipeline(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        pipeline.set_lora(tmp_path / "pipe")
    with pytest.raises(chatglm_cpp.InvalidArgument, match="folder"):
        pipeline.set_lora(tmp_path)
