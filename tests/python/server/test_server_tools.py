"""Tools over OpenAI's protocol: asked for by its client, and by LangChain."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from scripted import scripted
from served import HELLO, Server, error_of, serving

from chatglm_cpp import Pipeline

openai = pytest.importorskip("openai", reason="openai is not installed")

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "?",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["北京", "上海"]}, "days": {"enum": [1, 2, 3]}},
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("get_weather", "get_traffic")
]
CALLS = 'get_weather\n{"city": "北京", "days": 3}<|assistant|>get_traffic\n{"city": "上海", "days": 1}'
CHOSEN = {"type": "function", "function": {"name": "get_traffic"}}


@pytest.fixture(scope="module")
def pipeline(converted) -> Iterator[Pipeline]:
    with Pipeline(converted("glm-4-9b-chat")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def server(pipeline: Pipeline) -> Iterator[Server]:
    with serving(pipeline, model_name="glm") as server:
        yield server


@pytest.fixture(scope="module")
def ask(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        yield client


def test_calls_are_read_and_their_results_go_back(ask, pipeline):
    with scripted(pipeline, CALLS, "\n晴"):
        reply = ask.chat.completions.create(model="glm", messages=HELLO, tools=TOOLS)
        (choice,) = reply.choices
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        calls = choice.message.tool_calls
        assert [call.function.name for call in calls] == ["get_weather", "get_traffic"]
        assert json.loads(calls[0].function.arguments) == {"city": "北京", "days": 3}
        results = [{"role": "tool", "tool_call_id": call.id, "content": "好"} for call in calls]
        reply = ask.chat.completions.create(
            model="glm", messages=[*HELLO, choice.message, *results], tools=TOOLS
        )
        assert reply.choices[0].message.content == "晴"
        assert reply.choices[0].finish_reason == "stop"


def test_calls_are_streamed(ask, pipeline):
    with scripted(pipeline, CALLS):
        chunks = list(ask.chat.completions.create(model="glm", messages=HELLO, tools=TOOLS, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls] == [(0, "get_weather"), (1, "get_traffic")]
    assert len({call.id for call in calls}) == 2
    assert json.loads(calls[1].function.arguments) == {"city": "上海", "days": 1}
    assert all(not chunk.choices[0].delta.content for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_one_call_is_enough_for_who_wants_one(ask, pipeline):
    for stream in (False, True):
        with scripted(pipeline, CALLS):
            found = ask.chat.completions.create(
                model="glm", messages=HELLO, tools=TOOLS, parallel_tool_calls=False, stream=stream
            )
            choices = [chunk.choices[0] for chunk in found] if stream else found.choices
        parts = [choice.delta if stream else choice.message for choice in choices]
        assert [call.function.name for part in parts for call in part.tool_calls or []] == ["get_weather"]
        assert choices[-1].finish_reason == "tool_calls"


def test_without_a_choice_of_tools_the_prompt_has_none(ask, pipeline):
    with scripted(pipeline, "\n好", "\n好") as prompts:
        for choice in ("none", "auto"):
            ask.chat.completions.create(model="glm", messages=HELLO, tools=TOOLS, tool_choice=choice)
    assert "get_weather" not in prompts[0] and "get_weather" in prompts[1]


@pytest.mark.parametrize(
    ("choice", "names"), [("required", {"get_weather", "get_traffic"}), (CHOSEN, {"get_traffic"})]
)
def test_a_call_that_is_asked_for_comes(ask, choice, names):
    """Of a model with random weights, too."""
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    for stream in (False, True):
        found = ask.chat.completions.create(
            model="glm",
            messages=HELLO,
            tools=TOOLS,
            tool_choice=choice,
            stream=stream,
            temperature=1.5,
            top_p=1,
        )
        choices = [chunk.choices[0] for chunk in found] if stream else found.choices
        parts = [one.delta if stream else one.message for one in choices]
        (call,) = [call for part in parts for call in part.tool_calls or []]
        assert call.function.name in names and call.id
        arguments = json.loads(call.function.arguments)
        assert arguments["city"] in ("北京", "上海") and arguments["days"] in (1, 2, 3)
        assert choices[-1].finish_reason == "tool_calls"


def test_a_call_that_is_cut_is_text(ask):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    reply = ask.chat.completions.create(
        model="glm", messages=HELLO, tools=TOOLS, tool_choice="required", max_tokens=2
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.tool_calls is None
    assert "get_weather\n".startswith(reply.choices[0].message.content[:4])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "nix"}}}, "tool_choice"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required", "stop": ["x"]}, "stop"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, None),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools[0].function.strict",
        ),
        (
            {
                "tool_choice": "required",
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"typ": "object"}}}],
            },
            None,
        ),
    ],
)
def test_wrong_wishes_are_named(server, change, param):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    with server.client() as client:
        body = {"messages": HELLO, "tools": TOOLS, **change}
        error = error_of(client.post("/v1/chat/completions", json=body), 400)
    assert param is None or error["param"] == param


def test_results_of_calls_that_nobody_made_are_refused(server):
    messages = [
        *HELLO,
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "b", "content": "?"},
    ]
    with server.client() as client:
        error = error_of(client.post("/v1/chat/completions", json={"messages": messages}), 400)
    assert error["param"] == "messages[2].tool_call_id"


def test_langchain_asks(server, pipeline):
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="-", model="glm", temperature=0, max_retries=0
    )
    with scripted(pipeline, "\n你好！", "\n你好！", CALLS):
        assert model.invoke("你好").content == "你好！"
        assert "".join(chunk.content for chunk in model.stream("你好")) == "你好！"
        calls = model.bind_tools(TOOLS).invoke("天气？").tool_calls
        assert [call["name"] for call in calls] == ["get_weather", "get_traffic"]
        assert calls[0]["args"] == {"city": "北京", "days": 3}
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    schema = {"title": "answer", **TOOLS[0]["function"]["parameters"]}
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(schema, method=method).invoke("天气？")
        assert set(found) == {"city", "days"}
