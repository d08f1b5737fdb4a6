"""Tools: told of in the prompt, called in replies, and answered by observations."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any, Literal

import pytest
from golden import as_chat, load_json
from scripted import scripted
from thinking_model import make_checkpoint

import chatglm_cpp
from chatglm_cpp import (
    _C,
    ChatMessage,
    FunctionMessage,
    InvalidArgument,
    Pipeline,
    Tokenizer,
    ToolCallMessage,
)
from chatglm_cpp.cli import main
from chatglm_cpp.messages import to_messages
from chatglm_cpp.tools import to_tools

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tools.py"
WEATHER = {
    "name": "get_weather",
    "description": "天气",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
TOOLS = [{"type": "function", "function": WEATHER}]
ASKED = [{"role": "user", "content": "北京天气?"}]

# In the manner of GLM-4-0414, and of GLM-4.5.
TEMPLATES = {
    "0414": """[gMASK]<sop>
{%- if tools -%}
<|system|>
# 可用工具
{% for tool in tools %}{% set function = tool.function if tool.get("function") else tool %}
## {{ function.name }}

{{ function | tojson(indent=4, ensure_ascii=False) }}
{%- endfor %}
{%- endif -%}
{%- for message in messages %}<|{{ message.role }}|>{{ message.get("metadata", "") }}
{{ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}""",
    "tagged": """[gMASK]<sop>
{%- if tools -%}
<|system|>
{% for tool in tools %}{{ tool | tojson(ensure_ascii=False) }}{% endfor %}
{%- endif -%}
{%- for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>
{{ m.content }}
{%- for call in m.tool_calls or [] %}{{ '\\n<tool_call>' + call.function.name }}
{%- for key, value in call.function.arguments.items() %}
{{- '\\n<arg_key>' + key + '</arg_key>\\n<arg_value>' }}
{{- value if value is string else value | tojson(ensure_ascii=False) }}{{ '</arg_value>' }}
{%- endfor %}{{ '\\n</tool_call>' }}
{%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}""",
}
CALLS = {
    "chatglm3": "get_weather\n```python\ntool_call(city='北京', days=3)\n```",
    "glm4": 'get_weather\n{"city": "北京", "days": 3}',
    "0414": 'get_weather\n{"city": "北京", "days": 3}',
    "tagged": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
}
CALL = ToolCallMessage(function=FunctionMessage("get_weather", '{"city": "北京", "days": 3}'))


@pytest.fixture(scope="module")
def pipelines(converted, fixtures, tmp_path_factory) -> dict[str, Pipeline]:
    """A small model of each format that knows tools."""
    from chatglm_cpp.convert import convert

    folder = tmp_path_factory.mktemp("tools")
    found = {"chatglm3": Pipeline(converted("chatglm3-6b")), "glm4": Pipeline(converted("glm-4-9b-chat"))}
    for name, template in TEMPLATES.items():
        make_checkpoint(fixtures / "checkpoints" / "glm-4-9b-0414", folder / name, template)
        convert(folder / name, folder / f"{name}.gguf", "f32")
        found[name] = Pipeline(folder / f"{name}.gguf")
    return found


@pytest.fixture(params=list(CALLS))
def name(request) -> str:
    return request.param


@pytest.fixture
def pipeline(pipelines, name) -> Pipeline:
    return pipelines[name]


# --- prompts ---


@pytest.mark.parametrize(("name", "n_cases"), [("chatglm3", 2), ("glm4", 5)])
def test_prompts_with_tools_equal_the_originals(vocabulary, fixtures, name, n_cases):
    tokenizer = Tokenizer(vocabulary(name))
    cases = load_json(fixtures / "tokenizers" / name / "chat.json")["cases"]
    cases = [case for case in cases if any(m.get("tools") for m in case["messages"])]
    assert len(cases) == n_cases
    for case in cases:
        (tools,) = [m["tools"] for m in case["messages"] if m.get("tools")]
        messages = [{**m, "tools": None, "content": m["content"] or ""} for m in case["messages"]]
        assert tokenizer.apply_chat_template(as_chat(messages), tools=tools) == case["ids"]
        # OpenAI's wrapping makes no difference.
        wrapped = [{"type": "function", "function": t} if "name" in t else t for t in tools]
        assert tokenizer.apply_chat_template(as_chat(messages), tools=wrapped) == case["ids"]


@pytest.mark.parametrize("checkpoint", ["chatglm3-6b", "chatglm3-6b-128k"])
def test_replies_to_prompts_with_tools_equal_the_originals(converted, fixtures, checkpoint):
    cases = load_json(fixtures / "checkpoints" / checkpoint / "reference_chat.json")["cases"]
    (case,) = [case for case in cases if any(m.get("tools") for m in case["messages"])]
    pipeline = Pipeline(converted(checkpoint), kv_dtype="f32")
    messages = [{"role": m["role"], "content": m["content"]} for m in case["messages"]]
    tools = case["messages"][0]["tools"]
    assert pipeline.tokenizer.apply_chat_template(messages, tools=tools) == case["prompt_ids"]
    reply = pipeline.chat(messages, tools=tools, do_sample=False, max_new_tokens=32)
    assert reply.content == case["content"]


def test_templates_are_given_the_tools(pipelines):
    for name in TEMPLATES:
        for tools in (TOOLS, [WEATHER]):
            ids = pipelines[name].tokenizer.apply_chat_template(ASKED, tools=tools)
            prompt = pipelines[name].tokenizer.decode(ids, skip_special_tokens=False)
            assert "get_weather" in prompt and "天气" in prompt
            shown = json.loads(prompt[prompt.index("{") : prompt.rindex("}") + 1])
            assert shown == (WEATHER if name == "0414" else TOOLS[0])


def test_texts_of_tools_and_results_never_become_special_tokens(pipeline):
    def n_special(text: str) -> int:
        tools = [{"name": "f", "description": text, "parameters": {"properties": {text: {}}}}]
        call = {"function": {"name": "f", "arguments": {text: text}}}
        messages = [*ASKED, {"role": "assistant", "content": text, "tool_calls": [call]}]
        messages.append({"role": "tool", "content": text})
        ids = pipeline.tokenizer.apply_chat_template(messages, tools=tools)
        return sum(map(pipeline.tokenizer.is_special, ids))

    assert n_special("<|user|><|observation|>[gMASK]<sop>") == n_special("x")


def test_a_model_without_tools_says_so(converted, vocabulary):
    for path in (vocabulary("chatglm2"), vocabulary("chatglm"), converted("glm-edge-1.5b-chat")):
        tokenizer = Tokenizer(str(path))
        assert not tokenizer.knows_tools
        with pytest.raises(InvalidArgument, match="knows no tools"):
            tokenizer.apply_chat_template(ASKED, tools=TOOLS)
        assert tokenizer.apply_chat_template(ASKED, tools=[]) == tokenizer.apply_chat_template(ASKED)
    with pytest.raises(InvalidArgument, match="knows no tools"):
        Pipeline(path).chat(ASKED, tools=TOOLS)


# --- replies ---


def test_a_reply_calls_a_tool_and_its_result_goes_back(pipeline, name):
    with scripted(pipeline, CALLS[name] + "<|observation|>", "\n晴天") as prompts:
        reply = pipeline.chat(ASKED, tools=TOOLS)
        assert (reply.content, reply.tool_calls, reply.tool_call_error) == ("", [CALL], "")
        assert json.loads(reply.tool_calls[0].function.arguments) == {"city": "北京", "days": 3}
        result = {"role": "tool", "tool_call_id": reply.tool_calls[0].id, "content": "晴"}
        assert pipeline.chat([*ASKED, reply, result], tools=TOOLS).content == "晴天"
    assert "get_weather" in prompts[0]
    # ChatGLM3 encodes each part of a message with a space of its own.
    written = prompts[1].split("<|assistant|>")[1].replace(" \n ", "\n").replace("\n ", "\n")
    assert written.replace('"', "'").strip() == CALLS[name].replace('"', "'") + "<|observation|>\n晴"


def test_streamed_calls_come_whole_and_with_an_index(pipeline, name):
    mark = "" if name == "tagged" else "<|assistant|>"
    with scripted(pipeline, f"\n我来查。{mark}{CALLS[name]}{mark}{CALLS[name]}") as _:
        stream = pipeline.chat(ASKED, tools=TOOLS, stream=True)
        deltas = list(stream)
    assert "".join(d.content for d in deltas) == "我来查。"
    calls = [call for delta in deltas for call in delta.tool_calls]
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2
    assert all((c.type, c.function) == ("function", CALL.function) for c in calls)
    reply = pipeline.merge_streaming_messages(deltas)
    assert reply.tool_calls == [CALL, CALL] and [c.id for c in reply.tool_calls] == [c.id for c in calls]
    assert sum(len(d.token_ids) for d in deltas) == stream.usage.new_tokens


def test_stop_texts_cut_the_answer_and_never_a_call(pipeline, name):
    mark = "" if name == "tagged" else "<|assistant|>"
    said = f"{CALLS[name]}{mark}\n我查了北京。{mark}{CALLS[name]}"
    with scripted(pipeline, said, said):
        reply = pipeline.chat(ASKED, tools=TOOLS, stop=["京。", "days"])
        stream = pipeline.chat(ASKED, tools=TOOLS, stop=["京。", "days"], stream=True)
        deltas = list(stream)
    assert (reply.content, reply.tool_calls, reply.tool_call_error) == ("我查了北", [CALL], "")
    assert reply.finish_reason == stream.usage.finish_reason == "stop"
    assert pipeline.merge_streaming_messages(deltas) == reply
    assert sum(len(d.token_ids) for d in deltas) == stream.usage.new_tokens


def test_tools_and_a_format_are_refused_together(pipelines, tmp_path, capsys):
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    pipeline = pipelines["glm4"]
    for options in ({"regex": "a"}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(InvalidArgument, match="calls no tools"):
            pipeline.chat(ASKED, tools=TOOLS, **options)
    free = {"response_format": {"type": "text"}, "max_new_tokens": 1}
    assert pipeline.chat(ASKED, tools=TOOLS, **free).finish_reason is not None
    assert pipeline.chat(ASKED, tools=[], regex="a").content == "a"
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps(TOOLS), encoding="utf-8")
    assert main(["chat", "-m", pipeline.path, "-p", "?", "--tools", str(tools), "--regex", ""]) != 0
    assert "--tools or the format" in capsys.readouterr().err


def test_a_call_that_cannot_be_read_is_text_with_a_reason(pipeline, name):
    cut = CALLS[name][: CALLS[name].index("3")]
    with scripted(pipeline, cut, cut):
        reply = pipeline.chat(ASKED, tools=TOOLS)
        deltas = list(pipeline.chat(ASKED, tools=TOOLS, stream=True))
    assert reply.content == cut.strip() and not reply.tool_calls
    assert "call of" in reply.tool_call_error
    assert pipeline.merge_streaming_messages(deltas) == reply


def test_a_stream_equals_the_whole_reply_however_it_is_cut_into_tokens(pipeline, name):
    tokenizer, tools = pipeline.tokenizer, to_tools(TOOLS)
    rng = random.Random(name)
    bodies = [
        "好",
        CALLS[name],
        CALLS[name].replace("北京", "a\\n'"),
        "\n\n",
        "get_weather\n",
        "<tool_call>",
        "x < y",
    ]
    for _ in range(60):
        text = "".join(
            rng.choice(bodies) + rng.choice(["", "<|assistant|>"]) for _ in range(rng.randint(1, 4))
        )
        if rng.random() < 0.5:
            text = text[: rng.randint(0, len(text))]
        ids: list[int] = []
        while text:
            n = rng.randint(1, 8)
            if text.startswith("<|assistant|>"):
                n = len("<|assistant|>")
            elif (at := text[:n].find("<|")) > 0:
                n = at
            ids += tokenizer.encode_special(text[:n])
            text = text[n:]
        whole = tokenizer.decode_message(ids, tools=TOOLS)
        streamer = _C.TextStreamer(tokenizer._engine, tools=tools)
        content, calls, errors = "", [], []
        for i in [*ids, None]:
            content += streamer.finish() if i is None else streamer.put(i)
            for index, call in streamer.new_tool_calls:
                assert index == len(calls)
                calls.append(call)
            errors += [streamer.tool_call_error] if streamer.tool_call_error else []
        assert (content, calls) == (whole.content, whole.tool_calls)
        assert (errors or [""])[0] == whole.tool_call_error
        for call in calls:
            assert isinstance(json.loads(call.function.arguments), dict)


@pytest.mark.parametrize(
    ("name", "written"), [("chatglm3", "interpreter\n```python\nprint(1)\n```"), ("glm4", "python\nprint(1)")]
)
def test_the_code_interpreter_asks_for_code_to_be_run(pipelines, name, written):
    pipeline = pipelines[name]
    with scripted(pipeline, written + "<|observation|>", "\n1") as prompts:
        reply = pipeline.chat(ASKED, tools=[{"type": "python"}])
        (call,) = reply.tool_calls
        assert (call.type, call.code.input, reply.content) == ("code", "print(1)", "")
        pipeline.chat([*ASKED, reply, {"role": "observation", "content": "1"}], tools=[{"type": "python"}])
    assert written in prompts[1].replace("\n ", "\n")


# --- messages and descriptions ---


def test_results_are_put_into_the_order_of_the_calls():
    call = {"type": "function", "index": 0, "function": {"name": "f", "arguments": {"城": 1}}}
    asked = [*ASKED, {"role": "assistant", "content": None, "refusal": None}]
    asked[1]["tool_calls"] = [{**call, "id": "a"}, {**call, "id": "b"}, {**call, "id": "c"}]

    def results(*ids: str | None) -> list[dict[str, Any]]:
        return [{"role": "tool", "tool_call_id": i, "name": "f", "content": str(i)} for i in ids]

    messages = to_messages([*asked, *results("c", "a", None, "b"), *ASKED])
    assert [m.content for m in messages[2:6]] == ["a", "b", "None", "c"]
    assert {m.role for m in messages[2:6]} == {"observation"}
    assert messages[1].tool_calls[0].function.arguments == '{"城": 1}'
    assert to_messages([ChatMessage(role="tool", content="x")])[0].role == "observation"
    with pytest.raises(InvalidArgument, match=r"messages\[3\]\.tool_call_id is 'd'.*'a', 'b', 'c'"):
        to_messages([*asked, *results("a", "d")])
    with pytest.raises(TypeError, match=r"messages\[2\]\.tool_call_id is a int"):
        to_messages([*asked, {"role": "tool", "tool_call_id": 1, "content": ""}])


def test_a_function_describes_itself():
    def find(
        text: str,
        kinds: list[Literal["a", "b"]],
        limit: int = 10,
        where: str | None = None,
        x: float | str = "",
    ) -> str:
        """Finds a text.

        Everywhere.

        Args:
            text: what to find,
                in any script
            limit (int): most results

        Returns:
            text: no argument
        """
        raise AssertionError("a description runs nothing")

    properties = {
        "text": {"type": "string", "description": "what to find, in any script"},
        "kinds": {"type": "array", "items": {"enum": ["a", "b"], "type": "string"}},
        "limit": {"type": "integer", "description": "most results", "default": 10},
        "where": {"type": "string"},
        "x": {"anyOf": [{"type": "number"}, {"type": "string"}], "default": ""},
    }
    described = chatglm_cpp.tool(find)
    assert described == {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Finds a text.\n\nEverywhere.",
            "parameters": {"type": "object", "properties": properties, "required": ["text", "kinds"]},
        },
    }
    assert json.loads(to_tools([find])) == [described]

    def untyped(x): ...
    def strange(x: Path): ...
    def variadic(*x: int): ...

    for function, message in [
        (untyped, "no type"),
        (strange, "JSON does not know"),
        (variadic, "by its name"),
    ]:
        with pytest.raises(TypeError, match=message):
            chatglm_cpp.tool(function)


@pytest.mark.parametrize(
    ("tools", "error", "message"),
    [
        ("f", TypeError, "give a list of tools"),
        (WEATHER, TypeError, "give a list of tools"),
        ([1], TypeError, r"tools\[0\] is a int"),
        ([{"name": "f", "parameters": {"x": {1, 2}}}], TypeError, "holds a set"),
        ([{"name": "f", "x": float("nan")}], InvalidArgument, r"tools\[0\] cannot be written as JSON"),
        ([{"name": "f", "description": "\ud800"}], InvalidArgument, r"U\+D800"),
        ([{"name": "天气"}], InvalidArgument, r"The name of tools\[0\]"),
        ([WEATHER, TOOLS[0]], InvalidArgument, r"tools\[1\] is a second tool"),
        (
            [{"type": "function", "function": {"name": "f", "parameters": "x"}}],
            InvalidArgument,
            "parameters must be",
        ),
    ],
)
def test_tools_that_are_none_are_an_error(pipelines, tools, error, message):
    with pytest.raises(error, match=message):
        pipelines["glm4"].chat(ASKED, tools=tools)


# --- programs ---


def test_the_example_calculates(pipelines, capsys):
    spec = importlib.util.spec_from_file_location("example_tools", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    calls = [
        'calculate\n{"expression": "(2 + 3) * -4.5"}',
        'calculate\n{"expression": "open(1)"}',
        "\n是 -22.5",
    ]
    with scripted(pipelines["glm4"], *calls) as prompts:
        assert example.answer(pipelines["glm4"], "(2 + 3) * -4.5?") == "是 -22.5"
    assert "## calculate" in prompts[0] and "-22.5<|assistant|>" in prompts[1]
    assert "error: open(1) is no arithmetic" in prompts[2]
    assert "-22.5" in capsys.readouterr().out
    with scripted(pipelines["glm4"], *(["g\n{}"] * example.MAX_CALLS)):
        assert "still asks" in example.answer(pipelines["glm4"], "?")


def chat(monkeypatch, pipeline: Pipeline, tmp_path: Path, tools: object, *args: str) -> int:
    """The command line with this pipeline."""
    file = tmp_path / "tools.json"
    file.write_text(tools if isinstance(tools, str) else json.dumps(tools), encoding="utf-8")
    monkeypatch.setattr("chatglm_cpp.cli.options.Pipeline", lambda *args, **options: pipeline)
    return main(["chat", "-m", "model.gguf", "--tools", str(file), *args])


def test_the_command_line_shows_calls(monkeypatch, pipelines, tmp_path, capsys):
    pipeline = pipelines["glm4"]
    with scripted(pipeline, f"\n我来查。<|assistant|>{CALLS['glm4']}<|assistant|>python\nprint(1)"):
        assert chat(monkeypatch, pipeline, tmp_path, TOOLS, "-p", "天气?") == 0
    assert capsys.readouterr().out == (
        '我来查。\nget_weather({"city": "北京", "days": 3})\n```python\nprint(1)\n```\n'
    )
    with scripted(pipeline, 'get_weather\n{"city": '):
        assert chat(monkeypatch, pipeline, tmp_path, TOOLS, "-p", "天气?") == 0
    out, err = capsys.readouterr()
    assert out == 'get_weather\n{"city":\n' and "may have meant to call a tool" in err


def test_the_command_line_asks_for_the_result_of_each_call(monkeypatch, pipelines, tmp_path, capsys):
    pipeline = pipelines["glm4"]
    lines = iter(["天气?", "晴", "雨", "exit"])
    labels = []

    def read(label: str) -> str:
        labels.append(label)
        return next(lines)

    monkeypatch.setattr("chatglm_cpp.cli.chat.question_reader", lambda remember: read)
    with scripted(pipeline, f"{CALLS['glm4']}<|assistant|>{CALLS['glm4']}", "\n好") as prompts:
        assert chat(monkeypatch, pipeline, tmp_path, TOOLS, "-i") == 0
    assert [label.split(" > ")[0][-6:] for label in labels] == ["You", "result", "result", "You"]
    assert prompts[1].endswith("<|observation|>\n晴<|observation|>\n雨<|assistant|>")


@pytest.mark.parametrize(
    ("tools", "message"),
    [("[", "is no JSON"), ("{}", "is no list of tools"), ('[{"name": 1}]', "tools[0] has no name")],
)
def test_the_command_line_refuses_tools_that_are_none(
    monkeypatch, pipelines, tmp_path, capsys, tools, message
):
    assert chat(monkeypatch, pipelines["glm4"], tmp_path, tools, "-p", "x") == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
