"""Responses over OpenAI's protocol, asked by its official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import scripted
from served import ENDLESS, HELLO, TIMEOUT, Server, serving

from chatglm_cpp import Pipeline
from chatglm_cpp.server.response_store import ResponseStore, StoredResponse

openai = pytest.importorskip("openai", reason="openai is not installed")

GREEDY = {"model": "glm", "temperature": 0, "max_output_tokens": 24}
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "?",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["北京", "上海"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALLS = '好的。<|assistant|>get_weather\n{"city": "北京"}<|assistant|>get_weather\n{"city": "上海"}'


@pytest.fixture(scope="module")
def pipeline(converted: Any) -> Iterator[Pipeline]:
    with Pipeline(converted("glm-4-9b-chat")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, model_name="glm") as server:
        yield server


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0, timeout=TIMEOUT)


@pytest.fixture(scope="module")
def ask(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def check(events: list[Any]) -> Any:
    """Checks the order of a stream's events and that they amount to the response at its end, which is the
    result."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    response = events[-1].response
    assert events[-1].type == f"response.{response.status}"
    items: list[Any] = []
    text, state = "", "closed"
    for event in events[2:-1]:
        kind = event.type.removeprefix("response.")
        if kind == "output_item.added":
            assert state == "closed" and event.output_index == len(items)
            assert event.item.status == "in_progress"
            items.append(event.item)
            text, state = "", "item"
        elif kind == "output_item.done":
            assert state in ("item", "part done")
            assert event.item == response.output[event.output_index]
            state = "closed"
        elif kind == "content_part.added":
            assert (state, event.part.text) == ("item", "")
            state = "part"
        elif kind == "content_part.done":
            assert (state, event.part.text) == ("text done", text)
            state = "part done"
        else:
            assert event.item_id == items[-1].id and event.output_index == len(items) - 1
            if kind.endswith(".delta"):
                assert state in ("part", "item")
                text += event.delta
            elif kind == "function_call_arguments.done":
                assert (state, event.arguments) == ("item", text)
            else:
                assert kind in ("output_text.done", "reasoning_text.done")
                assert (state, event.text) == ("part", text)
                state = "text done"
    assert state == "closed"
    assert [item.id for item in items] == [item.id for item in response.output]
    return response


def test_the_response_is_the_pipelines(ask: openai.OpenAI, pipeline: Pipeline) -> None:
    expected = pipeline.chat(
        [{"role": "system", "content": "简短。"}, *HELLO], do_sample=False, max_new_tokens=24
    )
    response = ask.responses.create(input="你好", instructions="简短。", **GREEDY)
    assert response.output_text == expected.content
    assert response.id.startswith("resp_") and response.object == "response"
    assert response.model == "glm" and response.instructions == "简短。"
    assert response.status == ("incomplete" if expected.finish_reason == "length" else "completed")
    assert response.error is None and response.store is True
    (message,) = response.output
    assert message.role == "assistant" and message.status == response.status
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    again = ask.responses.create(
        input=[{"role": "developer", "content": "简短。"}, {"role": "user", "content": "你好"}], **GREEDY
    )
    assert again.output_text == expected.content
    assert again.usage.input_tokens_details.cached_tokens == usage.input_tokens - 1


def test_tokens_that_run_out_are_told(ask: openai.OpenAI) -> None:
    options = {**GREEDY, "max_output_tokens": 2, "extra_body": {"ignore_eos": True}}
    response = ask.responses.create(input="你好", **options)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert check(list(ask.responses.create(input="你好", stream=True, **options))).status == "incomplete"


def test_a_stream_amounts_to_the_response(ask: openai.OpenAI) -> None:
    whole = ask.responses.create(input="你好", **GREEDY)
    events = list(ask.responses.create(input="你好", stream=True, **GREEDY))
    response = check(events)
    assert response.output_text == whole.output_text


def test_the_client_adds_a_stream_up(ask: openai.OpenAI, pipeline: Pipeline) -> None:
    with scripted(pipeline, CALLS), ask.responses.stream(model="glm", input="天气？", tools=[TOOL]) as stream:
        response = stream.get_final_response()
    assert [item.type for item in response.output] == ["message", "function_call", "function_call"]
    assert response.output[1].parsed_arguments == {"city": "北京"}


def test_calls_are_items_and_their_outputs_go_back(ask: openai.OpenAI, pipeline: Pipeline) -> None:
    with scripted(pipeline, CALLS, "\n晴", "\n晴") as prompts:
        response = ask.responses.create(model="glm", input="天气？", tools=[TOOL])
        message, first, second = response.output
        assert message.content[0].text.strip() == "好的。"
        assert [json.loads(call.arguments)["city"] for call in (first, second)] == ["北京", "上海"]
        assert response.status == first.status == "completed"
        assert response.tools[0].strict is False  # the model was free to write anything
        outputs = [
            {"type": "function_call_output", "call_id": call.call_id, "output": word}
            for call, word in ((second, "雨"), (first, "雪"))
        ]
        sent_back = ask.responses.create(
            model="glm",
            input=[{"role": "user", "content": "天气？"}, *response.output, *outputs],
            tools=[TOOL],
        )
        continued = ask.responses.create(
            model="glm", input=outputs, previous_response_id=response.id, tools=[TOOL]
        )
    assert sent_back.output_text == continued.output_text == "晴"
    assert prompts[1] == prompts[2]
    assert prompts[2].index("雪") < prompts[2].index("雨")  # in the order of the calls
    assert continued.previous_response_id == response.id


def test_calls_are_streamed(ask: openai.OpenAI, pipeline: Pipeline) -> None:
    with scripted(pipeline, CALLS):
        events = list(ask.responses.create(model="glm", input="天气？", tools=[TOOL], stream=True))
    response = check(events)
    assert [item.type for item in response.output] == ["message", "function_call", "function_call"]
    kinds = [event.type for event in events]
    assert kinds.count("response.function_call_arguments.done") == 2


def test_a_call_can_be_asked_for(ask: openai.OpenAI) -> None:
    choice = {"type": "function", "name": "get_weather"}
    response = ask.responses.create(
        model="glm", input="天气？", tools=[TOOL], tool_choice=choice, max_output_tokens=200
    )
    (call,) = response.output
    assert json.loads(call.arguments)["city"] in ("北京", "上海")
    assert response.tools[0].strict is True


def test_a_thought_is_an_item(thinking_model: Path) -> None:
    with Pipeline(thinking_model) as pipeline, serving(pipeline, model_name="glm") as server:
        expected = pipeline.chat(HELLO, do_sample=False, max_new_tokens=24)
        with client_of(server) as ask:
            response = check(list(ask.responses.create(input="你好", stream=True, **GREEDY)))
            thought, message = response.output
            assert thought.type == "reasoning" and thought.content[0].text == expected.reasoning_content
            assert message.content[0].text == expected.content
            assert response.usage.output_tokens_details.reasoning_tokens > 0
            earlier = [{"role": "user", "content": "你好"}, *response.output]
            more = {"role": "user", "content": "再说"}
            again = ask.responses.create(input=[*earlier, more], **GREEDY)
            continued = ask.responses.create(input=[more], previous_response_id=response.id, **GREEDY)
            assert again.output_text == continued.output_text


def test_a_format_is_held_to(ask: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    form = {
        "type": "json_schema",
        "name": "n",
        "schema": {**schema, "additionalProperties": False},
        "strict": True,
    }
    response = ask.responses.create(model="glm", input="你好", text={"format": form}, max_output_tokens=100)
    assert json.loads(response.output_text)["n"] in (1, 2)
    assert response.text.format.name == "n"
    response = ask.responses.create(
        model="glm", input="你好", text={"format": {"type": "json_object"}}, max_output_tokens=8
    )
    assert response.output_text.startswith("{")
    assert response.text.format.type == "json_object"


def test_logprobs_are_included(ask: openai.OpenAI) -> None:
    include = ["message.output_text.logprobs"]
    response = ask.responses.create(input="你好", include=include, top_logprobs=2, **GREEDY)
    logprobs = response.output[0].content[0].logprobs
    assert len(logprobs) >= response.usage.output_tokens - 1
    assert all(len(one.top_logprobs) == 2 for one in logprobs)
    events = list(ask.responses.create(input="你好", include=include, stream=True, **GREEDY))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert sum(len(event.logprobs) for event in deltas) == len(logprobs)


def test_a_conversation_goes_on_from_what_is_stored(ask: openai.OpenAI, pipeline: Pipeline) -> None:
    first = ask.responses.create(input="你好", instructions="简短。", **GREEDY)
    second = ask.responses.create(input="再说", previous_response_id=first.id, **GREEDY)
    turns = [*HELLO, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "再说"}]
    expected = pipeline.chat(turns, do_sample=False, max_new_tokens=24)
    assert second.output_text == expected.content  # the instructions are those of one response
    assert ask.responses.retrieve(first.id).output_text == first.output_text
    ask.responses.delete(first.id)
    for gone in (first.id, "resp_x"):
        with pytest.raises(openai.NotFoundError, match="not stored, or forgotten"):
            ask.responses.retrieve(gone)
        with pytest.raises(openai.NotFoundError, match="not stored, or forgotten"):
            ask.responses.create(input="再说", previous_response_id=gone, **GREEDY)
    again = ask.responses.create(input="三", previous_response_id=second.id, **GREEDY)
    assert again.status in ("completed", "incomplete")


def test_a_response_that_shall_not_be_stored_is_not(ask: openai.OpenAI) -> None:
    response = ask.responses.create(input="你好", store=False, **GREEDY)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        ask.responses.retrieve(response.id)


def test_the_store_is_bounded() -> None:
    def response(name: str, text: str = "") -> StoredResponse:
        return StoredResponse({"id": name}, [{"role": "user", "content": text}])

    store = ResponseStore(max_responses=3, max_bytes=1000)
    for name in "abc":
        store.put(response(name))
    assert store.get("a")
    store.put(response("d"))
    assert [name for name in "abcd" if store.get(name)] == ["a", "c", "d"]
    store.put(response("e", "x" * 940))
    assert [name for name in "acde" if store.get(name)] == ["e"]
    store.put(response("f", "x" * 2000))  # more than there is room for at all
    assert [name for name in "ef" if store.get(name)] == []
    store.put(response("g"))
    assert store.remove("g") and not store.remove("g")
    for name in "hij":
        store.put(response(name, "x" * 200))
    assert [name for name in "hij" if store.get(name)] == ["h", "i", "j"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "required"),
        ({"input": []}, "input", ""),
        ({"input": 5}, "input", ""),
        ({"input": "x", "colour": 1}, "colour", "not supported"),
        ({"input": [{"type": "image", "id": "x"}]}, "input[0]", ""),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, None, "input[0].content"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
            None,
            "no function_call",
        ),
        ({"input": "x", "tools": [{"type": "web_search"}]}, None, "tools[0]"),
        ({"input": "x", "tool_choice": "required"}, "tool_choice", "requests with tools"),
        ({"input": "x", "top_logprobs": 2}, "top_logprobs", "include"),
        ({"input": "x", "background": True}, "background", "False"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens", "greater"),
        ({"input": "x", "text": {"format": {"type": "xml"}}}, None, "text.format"),
        ({"input": "x", "model": "gpt-9"}, "model", "'glm'"),
    ],
)
def test_what_is_wrong_is_a_sentence(server: Server, body: Any, param: str | None, words: str) -> None:
    with server.client() as client:
        response = client.post("/v1/responses", json=body)
    error = response.json()["error"]
    assert response.status_code == (404 if param == "model" else 400), error
    assert words in error["message"] and error["message"].endswith(".")
    assert param is None or error["param"].startswith(param)


def test_a_long_conversation_can_be_cut(pipeline: Pipeline) -> None:
    old = [{"role": role, "content": "你好 " * 300} for role in ("user", "assistant")]
    items = [*old, {"role": "user", "content": "你好"}]
    with serving(pipeline, model_name="glm", max_length=400) as server, client_of(server) as ask:
        with pytest.raises(openai.BadRequestError) as caught:
            ask.responses.create(input=items, **GREEDY)
        assert caught.value.code == "context_length_exceeded"
        assert ask.responses.create(input=items, truncation="auto", **GREEDY).truncation == "auto"


def test_an_error_in_the_middle_ends_the_stream(
    ask: openai.OpenAI, server: Server, pipeline: Pipeline
) -> None:
    body = {"ignore_eos": True, "repetition_penalty": ENDLESS["repetition_penalty"]}
    stream = ask.responses.create(model="glm", input="你好", temperature=0, stream=True, extra_body=body)
    events = [next(iter(stream))]
    server.loop.call_soon_threadsafe(server.service._cancel_all)
    events += stream
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert "shut down" in events[-1].response.error.message
    server.wait_until_idle()


def test_a_client_that_goes_frees_its_place(server: Server, ask: openai.OpenAI) -> None:
    body = {"ignore_eos": True, "repetition_penalty": ENDLESS["repetition_penalty"]}
    with ask.responses.create(
        model="glm", input="你好", temperature=0, stream=True, extra_body=body
    ) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    server.wait_until_idle()
