"""Anthropic's protocol, asked by its official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import scripted
from served import HELLO, TIMEOUT, Server, serving

from chatglm_cpp import Pipeline

anthropic = pytest.importorskip("anthropic", reason="anthropic is not installed")

# The client knows no temperature since its second version; the protocol does.
GREEDY = {"model": "glm", "max_tokens": 24, "extra_body": {"temperature": 0}}
TOOL = {
    "name": "get_weather",
    "description": "?",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["北京", "上海"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALLS = '好的。<|assistant|>get_weather\n{"city": "北京"}<|assistant|>get_weather\n{"city": "上海"}'


@pytest.fixture(scope="module")
def pipeline(converted: Any) -> Iterator[Pipeline]:
    with Pipeline(converted("glm-4-9b-chat")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, model_name="glm", max_length=2000) as server:
        yield server


def client_of(server: Server, key: str = "-") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0, timeout=TIMEOUT)


@pytest.fixture(scope="module")
def ask(server: Server) -> Iterator[anthropic.Anthropic]:
    with client_of(server) as client:
        yield client


def check(events: list[Any]) -> None:
    """Checks the order of a stream's events."""
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert events[0].message.content == [] and events[0].message.stop_reason is None
    is_open, index = False, -1
    for event in events[1:-2]:
        if event.type == "content_block_start":
            assert not is_open
            is_open, index = True, index + 1
        else:
            assert is_open
            is_open = event.type == "content_block_delta"
        assert event.index == index
    assert not is_open


def test_the_message_is_the_pipelines(ask: anthropic.Anthropic, pipeline: Pipeline) -> None:
    asked = [{"role": "system", "content": "简短。\n请。"}, *HELLO]
    expected = pipeline.chat(asked, do_sample=False, max_new_tokens=24)
    system = [{"type": "text", "text": text} for text in ("简短。", "请。")]
    message = ask.messages.create(messages=HELLO, system=system, **GREEDY)
    assert message.id.startswith("msg_") and message.type == "message" and message.role == "assistant"
    (block,) = message.content
    assert (block.type, block.text) == ("text", expected.content)
    reason = "max_tokens" if expected.finish_reason == "length" else "end_turn"
    assert (message.model, message.stop_reason, message.stop_sequence) == ("glm", reason, None)
    n_tokens = len(pipeline.tokenizer.apply_chat_template(asked))
    content = [{"type": "text", "text": "你好", "cache_control": {"type": "ephemeral"}}]
    messages = [{"role": "user", "content": content}]
    again = ask.messages.create(messages=messages, system=system, **GREEDY)
    assert again.content[0].text == expected.content
    assert again.usage.cache_read_input_tokens == n_tokens - 1 and again.usage.input_tokens == 1
    assert ask.messages.count_tokens(model="glm", messages=messages, system=system).input_tokens == n_tokens


def test_a_stream_amounts_to_the_message(ask: anthropic.Anthropic) -> None:
    whole = ask.messages.create(messages=HELLO, **GREEDY)
    events = list(ask.messages.create(messages=HELLO, stream=True, **GREEDY))
    check(events)
    with ask.messages.stream(messages=HELLO, **GREEDY) as stream:  # the client adds the events up itself
        message = stream.get_final_message()
    assert message.content[0].text == whole.content[0].text
    assert message.stop_reason == whole.stop_reason
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert message.usage.cache_read_input_tokens > 0


def test_what_ended_a_reply_is_told(ask: anthropic.Anthropic, pipeline: Pipeline) -> None:
    with scripted(pipeline, "\n一二三四五", "\n一二三四五", "\n一二三四五"):
        ended = ask.messages.create(messages=HELLO, **GREEDY)
        assert (ended.content[0].text, ended.stop_reason) == ("一二三四五", "end_turn")
        options = {**GREEDY, "stop_sequences": ["六", "四五", "四"]}
        stopped = ask.messages.create(messages=HELLO, **options)
        assert stopped.content[0].text == "一二三"
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "四")
        with ask.messages.stream(messages=HELLO, **options) as stream:
            message = stream.get_final_message()
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stopped.stop_sequence)
    cut = ask.messages.create(model="glm", messages=HELLO, max_tokens=1)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 1)


def test_tools_are_used_and_their_results_go_back(ask: anthropic.Anthropic, pipeline: Pipeline) -> None:
    asked = {"role": "user", "content": "天气？"}
    options = {"model": "glm", "max_tokens": 100, "tools": [TOOL]}
    with scripted(pipeline, CALLS, "\n晴", CALLS) as prompts:
        message = ask.messages.create(messages=[asked], **options)
        assert message.stop_reason == "tool_use"
        text, first, second = message.content
        assert text.text.strip() == "好的。"
        assert (first.input, second.input) == ({"city": "北京"}, {"city": "上海"})
        results = [
            {"type": "tool_result", "tool_use_id": second.id, "content": "雨"},
            {"type": "tool_result", "tool_use_id": first.id, "content": [{"type": "text", "text": "雪"}]},
            {"type": "text", "text": "请说。"},
        ]
        turns = [
            asked,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": results},
        ]
        assert ask.messages.create(messages=turns, **options).content[0].text == "晴"
        prompt = prompts[1]
        assert prompt.index("雪") < prompt.index("雨") < prompt.index("请说。")
        events = list(ask.messages.create(messages=[asked], stream=True, **options))
    check(events)
    parts = [event.delta for event in events if event.type == "content_block_delta"]
    inputs = [json.loads(part.partial_json) for part in parts if part.type == "input_json_delta"]
    assert inputs == [{"city": "北京"}, {"city": "上海"}]
    assert events[-2].delta.stop_reason == "tool_use"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_tool_can_be_asked_for(ask: anthropic.Anthropic, choice: dict[str, str]) -> None:
    message = ask.messages.create(
        model="glm", messages=HELLO, max_tokens=200, tools=[TOOL], tool_choice=choice
    )
    (use,) = message.content
    assert use.type == "tool_use" and use.input["city"] in ("北京", "上海")


def test_one_call_at_a_time(ask: anthropic.Anthropic, pipeline: Pipeline) -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    with scripted(pipeline, CALLS):
        message = ask.messages.create(
            model="glm", messages=HELLO, max_tokens=100, tools=[TOOL], tool_choice=choice
        )
    assert [block.type for block in message.content] == ["text", "tool_use"]


def test_no_tools_are_offered_where_none_shall_be_used(ask: anthropic.Anthropic, pipeline: Pipeline) -> None:
    with scripted(pipeline, "\n好") as prompts:
        ask.messages.create(
            model="glm", messages=HELLO, max_tokens=9, tools=[TOOL], tool_choice={"type": "none"}
        )
    assert "get_weather" not in prompts[0]


def test_a_thought_comes_to_those_who_ask(thinking_model: Path) -> None:
    with Pipeline(thinking_model) as pipeline, serving(pipeline, model_name="glm") as server:
        expected = pipeline.chat(HELLO, do_sample=False, max_new_tokens=24)
        with client_of(server) as ask:
            options = {**GREEDY, "messages": HELLO}
            (text,) = ask.messages.create(**options).content
            assert (text.type, text.text) == ("text", expected.content)
            thinking = {"type": "enabled", "budget_tokens": 1024}
            message = ask.messages.create(thinking=thinking, **options)
            thought, text = message.content
            assert (thought.thinking, text.text) == (expected.reasoning_content, expected.content)
            events = list(ask.messages.create(thinking=thinking, stream=True, **options))
            check(events)
            parts = [event.delta for event in events if event.type == "content_block_delta"]
            said = "".join(part.thinking for part in parts if part.type == "thinking_delta")
            assert said == expected.reasoning_content
            turns = [*HELLO, {"role": "assistant", "content": message.content}, *HELLO]
            assert ask.messages.create(**{**options, "messages": turns}).usage.output_tokens == 24


def test_a_format_is_held_to(ask: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    message = ask.messages.create(model="glm", messages=HELLO, max_tokens=100, output_config=config)
    assert json.loads(message.content[0].text)["n"] in (1, 2)


def test_who_has_no_key_is_kept_out(pipeline: Pipeline) -> None:
    with serving(pipeline, model_name="glm", api_key=["secret"]) as server:
        with client_of(server, "secret") as ask:
            assert ask.messages.create(messages=HELLO, **GREEDY).content
        with client_of(server, "other") as ask, pytest.raises(anthropic.AuthenticationError) as caught:
            ask.messages.create(messages=HELLO, **GREEDY)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "authentication_error"


IMAGE = {"type": "image", "source": {"type": "url", "url": "x"}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "x"}


@pytest.mark.parametrize(
    ("change", "status", "kind", "words"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"messages": []}, 400, "invalid_request_error", "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, 400, "invalid_request_error", "content[0]"),
        ({"messages": [{"role": "user", "content": [RESULT]}]}, 400, "invalid_request_error", "no tool_use"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, 400, "invalid_request_error", "last"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "invalid_request_error", "messages[0]"),
        ({"messages": [{"role": "user", "content": "x " * 4000}]}, 400, "invalid_request_error", "tokens"),
        ({"colour": 1}, 400, "invalid_request_error", "'colour' is not supported"),
        ({"temperature": 2}, 400, "invalid_request_error", "temperature"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, 400, "invalid_request_error", "tools[0]"),
        ({"tool_choice": {"type": "any"}}, 400, "invalid_request_error", "requests with tools"),
        ({"model": "claude"}, 404, "not_found_error", "'glm'"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    server: Server, change: dict[str, Any], status: int, kind: str, words: str
) -> None:
    body = {"messages": HELLO, "model": "glm", "max_tokens": 24, **change}
    with server.client() as client:
        response = client.post(
            "/v1/messages", json={name: value for name, value in body.items() if value is not None}
        )
    assert response.status_code == status
    answer = response.json()
    assert answer["type"] == "error" and answer["error"]["type"] == kind
    assert words in answer["error"]["message"] and answer["error"]["message"].endswith(".")


def test_an_error_in_the_middle_ends_the_stream(pipeline: Pipeline, server: Server) -> None:
    with scripted(pipeline, "\n一"), client_of(server) as ask:
        stream = ask.messages.create(messages=HELLO, stream=True, **GREEDY)
        assert next(iter(stream)).type == "message_start"
        stream.close()
    # A reply that the server cancels.
    with pytest.MonkeyPatch.context() as patch, client_of(server) as ask:
        start = server.service.start

        async def cancelled(*args: Any) -> Any:
            reply = await start(*args)
            reply.cancel()
            return reply

        patch.setattr(server.service, "start", cancelled)
        with pytest.raises(anthropic.APIStatusError, match="shut down"):
            list(ask.messages.create(messages=HELLO, stream=True, **{**GREEDY, "max_tokens": 1000}))


def test_a_client_that_goes_frees_its_place(ask: anthropic.Anthropic, server: Server) -> None:
    with ask.messages.create(model="glm", messages=HELLO, max_tokens=1900, stream=True) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                break
    server.wait_until_idle()
