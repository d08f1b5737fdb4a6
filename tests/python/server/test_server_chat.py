"""Chats over OpenAI's protocol, asked by its official client."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from served import ENDLESS, HELLO, Server, events, httpx, serving

from chatglm_cpp import Pipeline

openai = pytest.importorskip("openai", reason="openai is not installed")

GREEDY = {"temperature": 0, "max_tokens": 24}
OPTIONS = {"do_sample": False, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def ask(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        yield client


def test_the_reply_is_the_pipelines(ask, server, shared_pipeline):
    expected = shared_pipeline.chat(HELLO, **OPTIONS)
    reply = ask.chat.completions.create(model="small", messages=HELLO, **GREEDY)
    (choice,) = reply.choices
    assert choice.message.content == expected.content
    assert choice.message.role == "assistant" and choice.message.tool_calls is None
    assert choice.finish_reason == expected.finish_reason
    assert reply.model == "small" and reply.object == "chat.completion" and reply.id.startswith("chatcmpl-")
    usage = reply.usage
    assert usage.prompt_tokens == len(shared_pipeline.tokenizer.apply_chat_template(HELLO))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    again = ask.chat.completions.create(model="tiny", messages=HELLO, **GREEDY)
    assert again.model == "tiny"
    assert again.choices[0].message.content == expected.content
    assert again.usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_a_stream_has_the_same_text_and_ends_in_order(ask):
    whole = ask.chat.completions.create(model="small", messages=HELLO, **GREEDY)
    chunks = list(
        ask.chat.completions.create(
            model="small", messages=HELLO, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_without_the_option_has_no_usage(client):
    body = {"messages": HELLO, "stream": True, "max_tokens": 2, "temperature": 0}
    found = events(client.post("/v1/chat/completions", json=body))
    assert all("usage" not in chunk for chunk in found)
    assert found[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}


def test_alternatives_have_seeds_of_their_own(ask, shared_pipeline):
    messages = [{"role": "user", "content": "讲个笑话"}]
    options = {"temperature": 1.5, "top_p": 1.0, "seed": 7, "max_tokens": 12}
    reply = ask.chat.completions.create(model="small", messages=messages, n=3, **options)
    expected = [
        shared_pipeline.chat(messages, temperature=1.5, top_p=1.0, seed=7 + i, max_new_tokens=12).content
        for i in range(3)
    ]
    assert [choice.message.content for choice in reply.choices] == expected
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.prompt_tokens == len(shared_pipeline.tokenizer.apply_chat_template(messages))
    texts = ["", "", ""]
    for chunk in ask.chat.completions.create(model="small", messages=messages, n=3, stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == expected


def test_logprobs_are_the_pipelines(ask, shared_pipeline):
    expected = shared_pipeline.chat(HELLO, logprobs=3, **OPTIONS).logprobs
    reply = ask.chat.completions.create(
        model="small", messages=HELLO, logprobs=True, top_logprobs=3, **GREEDY
    )
    content = reply.choices[0].logprobs.content
    assert [one.logprob for one in content] == [one.logprob for one in expected]
    assert [[top.logprob for top in one.top_logprobs] for one in content] == [
        [logprob for _, logprob in one.top] for one in expected
    ]
    assert bytes(b for one in content for b in one.bytes).decode().strip().startswith("你好")
    streamed = ask.chat.completions.create(
        model="small", messages=HELLO, logprobs=True, top_logprobs=3, stream=True, **GREEDY
    )
    parts = [chunk.choices[0].logprobs for chunk in streamed]
    assert [one for part in parts if part for one in part.content] == content


def test_texts_and_biases_bound_a_reply(ask, shared_pipeline):
    whole = shared_pipeline.chat(HELLO, **OPTIONS).content
    stop = whole[3:5]
    reply = ask.chat.completions.create(model="small", messages=HELLO, stop=[stop], **GREEDY)
    assert reply.choices[0].message.content == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"
    first = shared_pipeline.chat(HELLO, logprobs=True, **OPTIONS).logprobs[0].token_id
    reply = ask.chat.completions.create(
        model="small", messages=HELLO, logit_bias={str(first): -100}, logprobs=True, **GREEDY
    )
    expected = shared_pipeline.chat(HELLO, logit_bias={first: -100}, **OPTIONS)
    assert reply.choices[0].message.content == expected.content


def test_messages_in_every_form_are_understood(ask, shared_pipeline):
    plain = [
        {"role": "system", "content": "你是助手。"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "再见"},
    ]
    parts = [
        {"role": "developer", "content": "你是助手。"},
        {"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]},
        {"role": "assistant", "content": "你好！", "refusal": None, "annotations": []},
        {"role": "user", "content": "再见", "name": "Li"},
    ]
    expected = shared_pipeline.chat(plain, **OPTIONS).content
    for messages in (plain, parts):
        reply = ask.chat.completions.create(model="small", messages=messages, user="u", store=False, **GREEDY)
        assert reply.choices[0].message.content == expected


def test_formats_are_held_to(ask):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    reply = ask.chat.completions.create(model="small", messages=HELLO, response_format=form, temperature=0)
    found = json.loads(reply.choices[0].message.content)
    assert set(found) == {"name", "age"} and found["age"] <= 99
    reply = ask.chat.completions.create(
        model="small", messages=HELLO, extra_body={"regex": "[ab]{3}"}, temperature=0
    )
    assert set(reply.choices[0].message.content) <= {"a", "b"}
    reply = ask.chat.completions.create(
        model="small", messages=HELLO, response_format={"type": "json_object"}, max_tokens=200, seed=1
    )
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(reply.choices[0].message.content), dict)


def test_a_thought_is_kept_apart(thinking_model):
    with (
        Pipeline(thinking_model) as pipeline,
        serving(pipeline) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as ask,
    ):
        expected = pipeline.chat(HELLO, **OPTIONS)
        assert expected.reasoning_content and expected.content
        reply = ask.chat.completions.create(model="default", messages=HELLO, **GREEDY)
        message = reply.choices[0].message
        assert (message.reasoning_content, message.content) == (expected.reasoning_content, expected.content)
        assert 0 < reply.usage.completion_tokens_details.reasoning_tokens < reply.usage.completion_tokens
        thought = ""
        for chunk in ask.chat.completions.create(model="default", messages=HELLO, stream=True, **GREEDY):
            thought += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
        assert thought == expected.reasoning_content


def test_a_stream_that_is_closed_stops_the_work(ask, server):
    server.wait_until_idle()
    extra = {name: ENDLESS[name] for name in ("repetition_penalty", "ignore_eos")}
    with ask.chat.completions.create(
        model="small", messages=HELLO, temperature=0, stream=True, extra_body=extra
    ) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
    server.wait_until_idle()


def test_a_client_that_leaves_before_a_whole_reply_stops_the_work(server):
    server.wait_until_idle()
    with server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json={**ENDLESS, "n": 32}, timeout=0.1)
    server.wait_until_idle()


def test_coroutines_ask_too(server):
    import asyncio

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as ask:

            async def read() -> str:
                stream = await ask.chat.completions.create(
                    model="small", messages=HELLO, stream=True, **GREEDY
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*(read() for _ in range(5)))

    assert len(set(asyncio.run(main()))) == 1
