"""Bad input gets a sentence in OpenAI's shape."""

from __future__ import annotations

import socket

import pytest
from served import ENDLESS, HELLO, error_of, serving, until

from chatglm_cpp import Pipeline

openai = pytest.importorskip("openai", reason="openai is not installed")

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"functions": []}, "functions"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"seed": -5}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {" 5": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"color": 1}}, "stream_options.color"),
        ({"messages": []}, "messages"),
        ({"messages": "你好"}, "messages"),
        ({"messages": [{"role": "king", "content": "?"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "?", "x": 1}]}, "messages[0].x"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"nix": 1}}}},
            None,
        ),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"regex": "("}, None),
        ({"store": True}, "store"),
    ],
)
def test_fields_are_named(client, change, param):
    if {"regex", "response_format"} & set(change):
        pytest.importorskip("llguidance", reason="llguidance is not installed")
    error = error_of(client.post(CHAT, json={"messages": HELLO, **change}), 400)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


def test_of_alternatives_the_one_that_was_meant_says_what_is_wrong(client):
    error = error_of(client.post(CHAT, json={"messages": HELLO, "stop": ["a"] * 17}), 400)
    assert "at most 16" in error["message"]
    assert "at least 1" in error_of(client.post("/v1/completions", json={"prompt": []}), 400)["message"]


def test_a_name_may_have_slashes(pipeline):
    with serving(pipeline, model_name="THUDM/glm-4") as server, server.client() as client:
        for path in ("THUDM/glm-4", "THUDM%2Fglm-4"):
            assert client.get(f"/v1/models/{path}").json()["id"] == "THUDM/glm-4"
        error_of(client.get("/v1/models/THUDM/gpt-5"), 404, "model_not_found")


def test_what_is_repeated_is_short(client):
    for change in ({"model": "x" * 10**6}, {"x" * 10**6: 1}, {"messages": [{"role": "y" * 10**6}]}):
        response = client.post(CHAT, json={"messages": HELLO, **change})
        assert len(response.content) < 5000
        error_of(response, 404 if "model" in change else 400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"messages": [' + b"[" * 500 + b"]" * 500 + b"]}",
        b'{"temperature": NaN}',
        b'{"temperature": 1e999, "messages": [{"role": "user", "content": "?"}]}',
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "small", "model": "tiny"}',
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_bodies_that_are_no_json_get_a_sentence(client, body):
    error_of(client.post(CHAT, content=body, headers={"content-type": "application/json"}), 400)


def test_json_must_be_called_so(client):
    # A page of a stranger can send other types without asking first.
    error_of(client.post(CHAT, content=b'{"messages": []}', headers={"content-type": "text/plain"}), 400)


def test_paths_methods_and_models_that_are_not_there(client):
    error_of(client.get("/v1/nothing"), 404)
    error_of(client.get(CHAT), 405)
    error = error_of(client.post(CHAT, json={"model": "gpt-5", "messages": HELLO}), 404, "model_not_found")
    assert "'gpt-5'" in error["message"] and "'small'" in error["message"]
    error_of(client.get("/v1/models/gpt-5"), 404, "model_not_found")


def test_a_prompt_that_is_too_long_says_both_numbers(client, server):
    messages = [{"role": "user", "content": "长" * 5000}]
    error = error_of(client.post(CHAT, json={"messages": messages}), 400, "context_length_exceeded")
    assert str(server.service.max_length) in error["message"] and error["param"] == "messages"
    response = client.post("/v1/responses", json={"input": messages})
    assert error_of(response, 400, "context_length_exceeded")["param"] == "input"
    response = client.post("/v1/completions", json={"prompt": "长" * 5000})
    assert error_of(response, 400, "context_length_exceeded")["param"] == "prompt"
    response = client.post("/v1/embeddings", json={"input": "长" * 5000})
    assert error_of(response, 400, "context_length_exceeded")["param"] == "input"
    # In a stream, too, nothing has begun.
    error_of(client.post(CHAT, json={"messages": messages, "stream": True}), 400, "context_length_exceeded")


def test_the_client_raises_its_own_errors(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as ask:
        with pytest.raises(openai.NotFoundError, match="gpt-5"):
            ask.chat.completions.create(model="gpt-5", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            ask.chat.completions.create(model="small", messages=HELLO, max_tokens=-1)


def test_keys_are_asked_for(model_path):
    with Pipeline(model_path) as pipeline, serving(pipeline, api_key="one,two") as server:
        with server.client() as client:
            assert client.get("/health").status_code == 200
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                error_of(client.get(path), 401, "invalid_api_key")
            for wrong in ("Bearer three", "Bearer", "one", "Basic one", "Bearer one,two", "Bearer önë"):
                headers = {"authorization": wrong.encode("latin-1")}
                error_of(client.get("/v1/models", headers=headers), 401)
            assert client.get("/v1/models", headers={"authorization": "Bearer one"}).status_code == 200
            assert client.get("/v1/models", headers={"x-api-key": "two"}).status_code == 200
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as ask,
            pytest.raises(openai.AuthenticationError),
        ):
            ask.models.list()


def test_limits_hold(model_path):
    with Pipeline(model_path) as pipeline:
        limits = {"max_body": 2000, "max_tokens": 5, "max_length": 100, "max_choices": 2}
        with serving(pipeline, **limits) as server, server.client() as client:
            long = {"messages": [{"role": "user", "content": "?" * 3000}]}
            error_of(client.post(CHAT, json=long), 413, "body_too_large")

            def pieces():
                yield b'{"messages": "' + b"?" * 1500
                yield b"?" * 1500 + b'"}'

            headers = {"content-type": "application/json"}
            error_of(client.post(CHAT, content=pieces(), headers=headers), 413, "body_too_large")
            assert (
                error_of(client.post(CHAT, json={"messages": HELLO, "max_tokens": 6}), 400)["param"]
                == "max_tokens"
            )
            assert error_of(client.post(CHAT, json={"messages": HELLO, "n": 3}), 400)["param"] == "n"
            reply = client.post(CHAT, json={**ENDLESS}).json()
            assert reply["usage"]["completion_tokens"] == 5
            assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 100
            middle = {"messages": [{"role": "user", "content": "长" * 200}]}
            error_of(client.post(CHAT, json=middle), 400, "context_length_exceeded")


def test_a_full_queue_is_answered_with_another_time(model_path):
    with Pipeline(model_path, max_sequences=1, max_queue=1) as pipeline, serving(pipeline) as server:
        running = [
            pipeline.generate("今天", stream=True, do_sample=False, max_length=10**6, repetition_penalty=0.5)
            for _ in range(2)
        ]
        with server.client() as client:
            response = client.post(CHAT, json={"messages": HELLO})
            error_of(response, 503, "queue_full")
            assert int(response.headers["retry-after"]) > 0
            # Of several alternatives all are refused, and none is left behind.
            running[1].close()
            error_of(client.post(CHAT, json={"messages": HELLO, "n": 2}), 503, "queue_full")
            until(lambda: pipeline.stats.waiting == 0, "the end of the first alternative")
            running[0].close()
            assert client.post(CHAT, json={"messages": HELLO, "max_tokens": 3}).status_code == 200


def test_pages_of_strangers_may_not_ask(client):
    def allowed(origin: str) -> str | None:
        return client.get("/v1/models", headers={"origin": origin}).headers.get("access-control-allow-origin")

    assert allowed("http://localhost:5173") == "http://localhost:5173"
    assert allowed("http://127.0.0.1") == "http://127.0.0.1"
    for stranger in (
        "https://example.org",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "null",
    ):
        assert allowed(stranger) is None


OWN_NAMES = (
    "localhost",
    "LOCALHOST:1",
    "127.0.0.1:80",
    "[::1]",
    "[::1]:80",
    "glm",
    "a.local",
    "host.docker.internal",
)
OTHERS = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example.",
)


def test_pages_that_take_the_name_of_this_machine_may_not_ask(client, server, model_path):
    for name in (*OWN_NAMES, socket.gethostname()):
        assert client.get("/v1/models", headers={"host": name}).status_code == 200, name
    for name in OTHERS:
        error = error_of(client.get("/v1/models", headers={"host": name}), 421, "unknown_host")
        assert name.partition(":")[0].rstrip(".") in error["message"]
        ask = client.post("/v1/messages", json={}, headers={"host": name})
        assert ask.status_code == 421 and ask.json()["type"] == "error"
    with Pipeline(model_path) as pipeline:
        with serving(pipeline, host_name=["Glm.example"]) as known, known.client() as client:
            assert client.get("/health", headers={"host": "glm.example:8000"}).status_code == 200
            assert client.get("/health", headers={"host": "evil.example"}).status_code == 421
        # A key is more than such a page has.
        with serving(pipeline, api_key=["k"]) as closed, closed.client() as client:
            assert client.get("/health", headers={"host": "glm.example"}).status_code == 200
