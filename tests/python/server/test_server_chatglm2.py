"""The protocol of ChatGLM2-6B's api.py."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from served import TIMEOUT, httpx, serving, until

from chatglm_cpp import Busy, Pipeline

LIKELIEST = {"top_p": 1e-6}  # leaves one token to draw


@pytest.fixture(scope="module")
def address(shared_pipeline: Pipeline) -> Iterator[str]:
    with serving(shared_pipeline, max_body=200_000) as server:
        yield server.url


def ask(address: str, **body: Any) -> Any:
    return httpx.post(address, json=body, timeout=TIMEOUT)


def test_answers_as_the_original_does(address: str, shared_pipeline: Pipeline) -> None:
    history = [["你好", "你好！"]]
    response = ask(address, prompt="你是谁", history=history, max_length=60, **LIKELIEST)
    assert response.status_code == 200
    body = response.json()
    assert list(body) == ["response", "history", "status", "time"]
    expected = shared_pipeline.chat(["你好", "你好！", "你是谁"], max_length=60, do_sample=False).content
    assert body["response"] == expected
    assert body["history"] == [*history, ["你是谁", expected]]
    assert body["status"] == 200
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", body["time"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (2048, 0.7, 0.95)),
        ({"history": None, "max_length": None, "top_p": None, "temperature": None}, (2048, 0.7, 0.95)),
        ({"max_length": 0, "top_p": 0, "temperature": 0}, (2048, 0.7, 0.95)),
        ({"max_length": 50, "top_p": 0.5, "temperature": 0.1}, (50, 0.5, 0.1)),
        ({"max_length": 20000, "top_p": 1, "temperature": 3}, (2048, 1, 3)),  # the model has no more
    ],
)
def test_what_is_left_out_null_or_0_takes_the_default(
    address: str,
    shared_pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    expected: tuple[int, float, float],
) -> None:
    asked: dict[str, Any] = {}

    def submit(messages: Any, **options: Any) -> Any:
        asked.update(options)
        return shared_pipeline.chat(messages, stream=True, max_new_tokens=1)

    monkeypatch.setattr(shared_pipeline, "submit", submit)
    assert ask(address, prompt="你好", **given).status_code == 200
    longest = min(expected[0], shared_pipeline.config.max_length)
    assert (asked["max_length"], asked["top_p"], asked["temperature"]) == (longest, *expected[1:])


def test_a_body_needs_no_content_type(address: str) -> None:
    response = httpx.post(address, content=json.dumps({"prompt": "hi", "max_length": 40}), timeout=TIMEOUT)
    assert response.status_code == 200


def test_fields_that_it_does_not_know_are_listed(address: str) -> None:
    response = ask(address, prompt="hi", max_length=40, stream=True, 头="x")
    assert response.headers["X-Ignored-Fields"] == r'stream, "\u5934"'
    for names in (["", " ", "a\u0019\r\nb"], ["x" * 998, "y"], ["stream", ""]):
        response = ask(address, prompt="hi", max_length=40, **dict.fromkeys(names, 1))
        assert response.status_code == 200 and response.headers["X-Ignored-Fields"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "The body"),
        (b"{", "The body"),
        (b"[" * 90_000, "The body"),
        (b'"\xff"', "The body"),
        (b"[]", "The body"),
        (b"{}", "prompt"),
        (rb'{"prompt": "\ud800"}', "The body"),
        (b'{"prompt": 1}', "prompt"),
        (b'{"prompt": "x", "history": [["a"]]}', "history[0]"),
        (b'{"prompt": "x", "history": "a"}', "history"),
        (b'{"prompt": "x", "max_length": -5}', "max_length"),
        (b'{"prompt": "x", "max_length": 1e300}', "max_length"),
        (b'{"prompt": "x", "max_length": 9999999999999}', "max_length"),
        (b'{"prompt": "x", "top_p": 2}', "top_p"),
        (b'{"prompt": "x", "temperature": NaN}', "The body"),
        (b'{"prompt": "x", "temperature": -1}', "temperature"),
        (b'{"prompt": "a b c d e f g h i j k", "max_length": 4}', "token"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(address: str, body: bytes, words: str) -> None:
    response = httpx.post(address, content=body, timeout=TIMEOUT)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert words in message and message.endswith(".")


def test_a_body_that_is_too_large_is_refused(address: str) -> None:
    response = ask(address, prompt="x" * 200_000)
    assert response.status_code == 413
    assert "200000 bytes" in response.json()["error"]["message"]


def test_a_full_queue_is_503(
    address: str, shared_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise Busy("256 requests wait already.")

    monkeypatch.setattr(shared_pipeline, "submit", refuse)
    response = ask(address, prompt="hi")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert response.json()["error"]["message"] == "256 requests wait already."


def test_a_client_that_goes_frees_its_place(
    address: str, shared_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, streams = threading.Event(), []
    submit = shared_pipeline.submit

    def endless(*args: Any, **options: Any) -> Any:
        # Long enough to outlast the test, were it not cancelled.
        streams.append(submit(*args, **options, ignore_eos=True))
        begun.set()
        return streams[-1]

    monkeypatch.setattr(shared_pipeline, "submit", endless)
    body = json.dumps({"prompt": "hi", "max_length": shared_pipeline.config.max_length}).encode()
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert begun.wait(TIMEOUT)
    until(lambda: streams[0].usage.finish_reason == "cancelled", "the end of the reply")
    until(lambda: shared_pipeline.stats.running == 0, "idleness")


def test_the_module_has_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATGLM_CPP_MODEL", "some/model.gguf")
    for name in ("chatglm_cpp.langchain_api", "chatglm_cpp.openai_api"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from chatglm_cpp.langchain_api import app

    assert app.state.service.settings.model == "some/model.gguf"


@pytest.mark.filterwarnings("ignore")  # of the library, which speaks of its own future
def test_langchains_client_holds_a_conversation(address: str) -> None:
    llms = pytest.importorskip("langchain_community.llms", exc_type=ImportError)
    client = llms.ChatGLM(endpoint_url=address, max_token=60, top_p=1e-6, history=[["你好", "你好！"]])
    client.with_history = True
    first = client.invoke("你是谁")
    assert (
        first
        == ask(address, prompt="你是谁", history=[["你好", "你好！"]], max_length=60, **LIKELIEST).json()[
            "response"
        ]
    )
    assert client.history == [["你好", "你好！"], ["你是谁", first]]
