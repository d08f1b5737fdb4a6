"""Replicas on a local Ray cluster answer as one server does, and survive the loss of one of them."""

from __future__ import annotations

import concurrent.futures
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatglm_cpp import InvalidArgument, Pipeline

pytest.importorskip("ray", reason="Ray is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

with warnings.catch_warnings():  # Ray has many of its own
    warnings.simplefilter("ignore")
    import ray
    from ray import serve
    from starlette.testclient import TestClient

    from chatglm_cpp.scaling.application import build
    from chatglm_cpp.scaling.session_key import session_key
    from chatglm_cpp.scaling.sticky_router import rank
    from chatglm_cpp.server import Settings, make_app


pytestmark = pytest.mark.filterwarnings("ignore")
URL = "http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def cluster(model_path: Path) -> Iterator[Any]:
    """Two replicas of the small model behind one address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": _free_port()})
        arguments = {"model": str(model_path), "model_name": "small", "replicas": 2, "threads": 1}
        serve.run(build({**arguments, "max_sequences": 4}), name="test")
        port = serve.context._get_global_client().http_config.port
        with httpx.Client(base_url=URL.format(port=port), timeout=120) as client:
            yield client
    finally:
        serve.shutdown()
        ray.shutdown()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def chat(*texts: str, **options: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"model": "small", "messages": messages, "temperature": 0, "max_tokens": 24, **options}


def test_answers_are_those_of_one_server(cluster, model_path: Path):
    with Pipeline(model_path) as pipeline:
        app = make_app(Settings(model_name="small"), pipeline)
        with TestClient(app) as single:
            for text in ("你好", "Who are you?"):
                ours = cluster.post("/v1/chat/completions", json=chat(text)).json()
                theirs = single.post("/v1/chat/completions", json=chat(text)).json()
                assert ours["choices"] == theirs["choices"]
                assert ours["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"]
            for path, body in (("/v1/chat/completions", {"messages": 1}), ("/nothing", {})):
                ours, theirs = cluster.post(path, json=body), single.post(path, json=body)
                assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
            assert cluster.get("/health").json() == single.get("/health").json()
    assert cluster.get("/health", headers={"host": "evil.example"}).status_code == 421


def test_a_stream_comes_through_piece_by_piece(cluster):
    with cluster.stream("POST", "/v1/chat/completions", json=chat("你好", stream=True)) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    pieces = [json.loads(line[6:])["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
    whole = cluster.post("/v1/chat/completions", json=chat("你好")).json()
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert sum(map(bool, pieces)) > 1


def test_the_next_turn_finds_the_cache_of_the_last(cluster):
    for text in ("今天天气怎么样？", "Tell me about this program.", "你叫什么名字？", "What can you do?"):
        reply = cluster.post("/v1/chat/completions", json=chat(text)).json()
        answer = reply["choices"][0]["message"]["content"]
        usage = cluster.post("/v1/chat/completions", json=chat(text, answer, "再见")).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] >= reply["usage"]["prompt_tokens"] - 1


def test_a_replica_that_dies_loses_no_request(cluster):
    replicas = [n for n in ray.util.list_named_actors(all_namespaces=True) if "Engine" in n["name"]]
    assert len(replicas) == 2
    body = chat("你好", max_tokens=1000, ignore_eos=True)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        asked = [
            pool.submit(cluster.post, "/v1/chat/completions", json=body, headers={"x-session-id": str(i)})
            for i in range(24)
        ]
        next(concurrent.futures.as_completed(asked))  # some run now, the others wait
        victim = ray.get_actor(replicas[0]["name"], namespace=replicas[0]["namespace"])
        ray.kill(victim, no_restart=False)
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1


def test_a_conversation_keeps_its_replica_when_another_goes():
    replicas = ["a", "b", "c", "d"]
    keys = [str(i) for i in range(200)]
    before = {key: rank(key, replicas) for key in keys}
    after = {key: rank(key, ["a", "b", "d"]) for key in keys}
    assert all(after[key] == [r for r in before[key] if r != "c"] for key in keys)
    counts = [sum(order[0] == replica for order in before.values()) for replica in replicas]
    assert min(counts) > 25


def test_turns_of_a_conversation_have_one_key():
    def key(body: object, **headers: bytes) -> str:
        return session_key(
            [(name.encode(), value) for name, value in headers.items()], json.dumps(body).encode()
        )

    first = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "你好"}]}
    later = {
        "messages": [
            *first["messages"],
            {"role": "assistant", "content": "x"},
            {"role": "user", "content": "y"},
        ]
    }
    other = {"messages": [{"role": "user", "content": "再见"}]}
    assert key(first) == key(later) != key(other)
    assert key({"prompt": "abc"}) and key({"input": "abc"})
    assert key({**first, "prompt_cache_key": "k"}) == key({**other, "prompt_cache_key": "k"}) != key(first)
    assert session_key([(b"X-Session-Id", b"1")], b"") == session_key([(b"x-session-id", b"1")], b"{}")
    for nothing in (b"", b"\xff", b"[]", b"{}", b"[" * 100_000, b'{"messages": 3}', b'{"prompt": [1]}'):
        assert session_key([], nothing) == ""


@pytest.mark.parametrize(
    "arguments",
    [
        {"replica": 2},
        {"replicas": 0},
        {"replicas": "4-2"},
        {"replicas": "x"},
        {"cpus": -1},
        {"max_body": "x"},
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: dict[str, Any]):
    with pytest.raises(InvalidArgument, match=next(iter(arguments))):
        build(arguments)
