"""What a reasoning model thinks, told apart from its answer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from thinking_model import make_checkpoint

from chatglm_cpp import _C, ChatMessage, DeltaMessage, InvalidArgument, Pipeline, Tokenizer
from chatglm_cpp.messages import to_messages

MESSAGES = [{"role": "user", "content": "你好"}]
GREEDY = {"do_sample": False, "max_new_tokens": 24}


def assistant(content: str, reasoning_content: str = "") -> ChatMessage:
    return ChatMessage(role="assistant", content=content, reasoning_content=reasoning_content)


def streamed(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, str]:
    """The answer and the thought in a stream of `ids`, of which no piece shows a part of a mark."""
    streamer = _C.TextStreamer(tokenizer._engine)
    answer = thought = ""
    for i in ids:
        answer += streamer.put(i)
        thought += streamer.reasoning
    answer += streamer.finish()
    return answer, thought + streamer.reasoning


@pytest.fixture(scope="module")
def tokenizer(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer that spells the marks of a thought in ordinary pieces."""
    convert = pytest.importorskip("chatglm_cpp.convert", exc_type=ImportError).convert
    folder = tmp_path_factory.mktemp("thinking")
    make_checkpoint(fixtures / "checkpoints" / "glm-4-9b-0414", folder / "checkpoint")
    convert(folder / "checkpoint", folder / "model.gguf", vocab_only=True)
    return Tokenizer(str(folder / "model.gguf"))


@pytest.fixture(scope="module")
def pipeline(thinking_model: Path) -> Pipeline:
    return Pipeline(thinking_model)


def test_the_thought_is_no_part_of_the_answer(tokenizer):
    ids = tokenizer.encode_plain("\n先想一想。1 < 2\n</think>\n\n答案是 <think>。\n") + tokenizer.eos_ids[:1]
    assert tokenizer.decode_message(ids) == assistant("答案是 <think>。", "先想一想。1 < 2")


def test_a_thought_that_is_cut_has_no_answer(tokenizer):
    ids = tokenizer.encode_plain("先想一想</thin")
    assert tokenizer.decode_message(ids) == assistant("", "先想一想</thin")


def test_tools_are_called_behind_a_thought(tokenizer):
    ids = tokenizer.encode_plain('想\n</think>\nget_weather\n{"city": "北京"}')
    message = tokenizer.decode_message(ids)
    assert (message.content, message.reasoning_content) == ("", "想")
    assert [call.function.name for call in message.tool_calls] == ["get_weather"]


def test_a_reply_has_the_same_texts_however_it_is_cut_into_tokens(tokenizer):
    rng = random.Random(1)
    bodies = ["", "想", "a < b </ c", " \n", "</thin", "<think>", "好的。\n\n再想", "</think", "x</think>y"]
    for _ in range(300):
        text = rng.choice(["", "\n", "<think>", "\n<think>\n"]) + rng.choice(bodies)
        if rng.random() < 0.8:
            text += "</think>" + rng.choice(["", "\n", "\n\n"]) + rng.choice(bodies)
        whole = tokenizer.decode_message(tokenizer.encode_plain(text))
        ids, rest = [], text
        while rest:
            n = rng.randint(1, 6)
            ids += tokenizer.encode_plain(rest[:n])
            rest = rest[n:]
        assert tokenizer.decode_message(ids) == whole, text
        assert streamed(tokenizer, ids) == (whole.content, whole.reasoning_content), text

        body = text.lstrip().removeprefix("<think>")
        thought, _, answer = body.partition("</think>")
        assert whole == assistant(answer.strip(), thought.strip()), text


def test_streamed_pieces_join_to_both_texts(pipeline):
    reply = pipeline.chat(MESSAGES, **GREEDY)
    assert reply.content and reply.reasoning_content
    assert "think>" not in reply.content + reply.reasoning_content
    with pipeline.chat(MESSAGES, stream=True, **GREEDY) as stream:
        deltas = list(stream)
    assert "".join(d.content for d in deltas) == reply.content
    assert "".join(d.reasoning_content for d in deltas) == reply.reasoning_content
    n_thoughts = sum(bool(d.reasoning_content) for d in deltas)
    assert all(d.reasoning_content and not d.content for d in deltas[:n_thoughts])
    assert not any(d.reasoning_content for d in deltas[n_thoughts:])
    assert all(isinstance(d, DeltaMessage) and d.token_ids for d in deltas)
    assert sum(len(d.token_ids) for d in deltas) == stream.usage.new_tokens
    assert pipeline.merge_streaming_messages(deltas) == reply


def test_max_new_tokens_may_cut_the_thought(pipeline):
    whole = pipeline.chat(MESSAGES, **GREEDY)
    cut = pipeline.chat(MESSAGES, do_sample=False, max_new_tokens=2)
    assert cut.content == "" and cut.reasoning_content
    assert whole.reasoning_content.startswith(cut.reasoning_content.rstrip("\ufffd"))


def test_the_next_turn_takes_the_message_as_it_is(pipeline):
    reply = pipeline.chat(MESSAGES, **GREEDY)
    asked = [*MESSAGES, reply, {"role": "user", "content": "谢谢"}]
    without = [*MESSAGES, assistant(reply.content), {"role": "user", "content": "谢谢"}]
    # This template drops the thoughts of earlier turns.
    encode = pipeline.tokenizer.apply_chat_template
    assert encode(asked) == encode(without)
    assert pipeline.chat(asked, **GREEDY).content


def test_a_model_that_does_not_think_spells_the_marks(converted):
    for name in ("glm-4-9b-0414", "chatglm3-6b"):
        tokenizer = Tokenizer(str(converted(name)))
        text = "<think>x</think>a"
        assert tokenizer.decode_message(tokenizer.encode_plain(text)) == assistant(text)


def test_messages_carry_thoughts_in_every_form():
    message = assistant("好", "想")
    assert message != assistant("好")
    assert repr(message).endswith("reasoning_content='想')")
    assert "reasoning_content" not in repr(assistant("好"))
    form = {"role": "assistant", "content": "好", "reasoning_content": "想"}
    assert to_messages([form]) == [message]
    assert to_messages([{**form, "reasoning_content": None}]) == [assistant("好")]
    assert to_messages([{**form, "content": None}]) == [assistant("", "想")]
    with pytest.raises(TypeError, match=r"messages\[0\]\.reasoning_content is a list"):
        to_messages([{**form, "reasoning_content": ["想"]}])


def test_only_the_assistant_thinks(pipeline):
    with pytest.raises(InvalidArgument, match=r"messages\[0\] has reasoning_content"):
        pipeline.chat([{"role": "user", "content": "你好", "reasoning_content": "想"}])


@pytest.mark.parametrize(
    "template", ["{% if %}<think></think>", "{{ raise_exception('no') }}<think></think>"]
)
def test_a_template_that_does_not_work_fails_the_chat_and_not_the_load(fixtures, tmp_path, template):
    convert = pytest.importorskip("chatglm_cpp.convert", exc_type=ImportError).convert
    make_checkpoint(fixtures / "checkpoints" / "glm-4-9b-0414", tmp_path / "checkpoint", template)
    convert(tmp_path / "checkpoint", tmp_path / "model.gguf", vocab_only=True)
    tokenizer = Tokenizer(str(tmp_path / "model.gguf"))
    ids = tokenizer.encode_plain("<think>x</think>a")
    assert tokenizer.decode_message(ids) == assistant("a", "x")
    with pytest.raises(ValueError, match="template"):
        tokenizer.apply_chat_template(MESSAGES)
