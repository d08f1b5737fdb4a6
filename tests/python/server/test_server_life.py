"""A server from its start to its end, and what clients that leave leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from served import ENDLESS, HELLO, TIMEOUT, error_of, httpx, serving, until

from chatglm_cpp import Error, Pipeline
from chatglm_cpp.server import Settings, service

CHAT = "/v1/chat/completions"
HERE = Path(__file__).parent


def test_a_model_that_is_loading_is_waited_for(model_path, monkeypatch):
    may_load = threading.Event()
    load = service.load_pipeline

    def slowly(settings: Settings) -> Pipeline:
        may_load.wait(TIMEOUT)
        return load(settings)

    monkeypatch.setattr(service, "load_pipeline", slowly)
    with serving(model=str(model_path), model_name="small") as server, server.client() as client:
        response = client.get("/health")
        assert (response.status_code, response.json()["status"]) == (503, "loading")
        response = client.post(CHAT, json={"messages": HELLO})
        error_of(response, 503, "model_loading")
        assert "retry-after" in response.headers
        error_of(client.get("/v1/models"), 503, "model_loading")
        assert client.get("/metrics").status_code == 200
        may_load.set()
        until(lambda: client.get("/health").status_code == 200, "the model")
        assert client.get("/health").json()["status"] == "ok"
        assert client.post(CHAT, json={"messages": HELLO, "max_tokens": 3}).status_code == 200


def test_a_model_that_cannot_be_loaded_says_why(tmp_path):
    (tmp_path / "wrong.gguf").write_bytes(b"GGUF" + bytes(100))
    with serving(model=str(tmp_path / "wrong.gguf")) as server, server.client() as client:
        until(lambda: client.get("/health").json()["status"] == "failed", "the failure")
        assert "wrong.gguf" in client.get("/health").json()["error"]
        error_of(client.post(CHAT, json={"messages": HELLO}), 503, "model_failed")


def test_figures_are_counted(model_path):
    with Pipeline(model_path) as pipeline, serving(pipeline) as server, server.client() as client:
        for _ in range(2):
            reply = client.post(CHAT, json={"messages": HELLO, "temperature": 0, "max_tokens": 5}).json()
        text = client.get("/metrics").text

        def value(name: str) -> float:
            found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
            assert found, name
            return float(found[1])

        usage = reply["usage"]
        assert value(f'chatglm_requests_total{{path="{CHAT}",status="200"}}') == 2
        assert value("chatglm_prompt_tokens_total") == 2 * usage["prompt_tokens"]
        assert value("chatglm_cached_tokens_total") == usage["prompt_tokens"] - 1
        assert value("chatglm_reply_tokens_total") == 10
        assert value('chatglm_replies_total{reason="length"}') == 2
        assert value("chatglm_time_to_first_token_seconds_count") == 2
        assert value("chatglm_time_between_tokens_seconds_count") > 0
        assert value('chatglm_engine_replies{state="running"}') == 0
        assert value('chatglm_engine_cache_bytes{state="kept"}') > 0


def test_comments_come_while_a_client_waits(model_path):
    with (
        Pipeline(model_path, max_sequences=1) as pipeline,
        serving(pipeline, keep_alive=0.02) as server,
        server.client() as client,
        pipeline.generate(
            "今天", stream=True, do_sample=False, max_length=10**6, repetition_penalty=0.5
        ) as first,
        client.stream("POST", CHAT, json={"messages": HELLO, "stream": True, "max_tokens": 2}) as response,
    ):
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": keep-alive"
        first.close()
        assert [line for line in lines if line.startswith("data")][-1] == "data: [DONE]"


def test_running_replies_end_before_the_server_does(model_path):
    with Pipeline(model_path) as pipeline, serving(pipeline, shutdown_timeout=60) as server:
        with (
            server.client() as client,
            client.stream(
                "POST", CHAT, json={"messages": HELLO, "stream": True, "temperature": 0}
            ) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            server.terminate()
            data = [line for line in lines if line]
        assert data[-1] == "data: [DONE]"
        assert json.loads(data[-2][6:])["choices"][0]["finish_reason"] == "stop"
        server.thread.join(TIMEOUT)
        assert not server.thread.is_alive()


def test_replies_that_take_too_long_are_cut_in_order(model_path):
    with Pipeline(model_path) as pipeline, serving(pipeline, shutdown_timeout=0.05) as server:
        with server.client() as client:
            # More work than can be done before the deadline.
            body = {**ENDLESS, "n": 100, "stream": True}
            with client.stream("POST", CHAT, json=body) as response:
                lines = response.iter_lines()
                next(lines)
                server.terminate()
                data = [line for line in lines if line.startswith("data")]
        assert data[-1] == "data: [DONE]"
        assert json.loads(data[-2][6:])["error"]["code"] == "shutting_down"
        server.thread.join(TIMEOUT)
        assert not server.thread.is_alive()
        until(lambda: pipeline.stats.running == pipeline.stats.waiting == 0, "idleness")


def test_64_clients_that_leave_at_random_leave_nothing_behind(model_path):
    with Pipeline(model_path, max_sequences=8) as pipeline, serving(pipeline) as server:
        with server.client() as client:
            expected = client.post(CHAT, json={"messages": HELLO, "temperature": 0, "max_tokens": 20}).json()
            # The first stream begins a task that watches for the end of the server.
            client.post(CHAT, json={"messages": HELLO, "stream": True, "max_tokens": 1})
        text = expected["choices"][0]["message"]["content"]
        server.wait_until_idle()
        n_tasks = server.n_tasks()

        async def visit(client: httpx.AsyncClient, dice: random.Random) -> None:
            limit = dice.choice([0, 1, 3, 8, None])
            body = {"messages": HELLO, "temperature": 0, "max_tokens": 20, "stream": dice.random() < 0.8}
            if limit is not None:
                body |= {**ENDLESS, "max_tokens": 500}
            if limit == 0:
                with pytest.raises(httpx.TimeoutException):
                    await client.post(CHAT, json={**body, "n": 4}, timeout=0.01)
                return
            async with client.stream("POST", CHAT, json=body) as response:
                assert response.status_code == 200
                lines, n = [], 0
                async for line in response.aiter_lines():
                    lines.append(line)
                    n += line.startswith("data")
                    if n == limit:
                        return
            if limit is not None:
                return
            if body["stream"]:
                chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
                assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == text
            else:
                assert json.loads("".join(lines))["choices"][0]["message"]["content"] == text

        async def main() -> None:
            limits = httpx.Limits(max_connections=64)
            async with httpx.AsyncClient(
                base_url=server.url, limits=limits, timeout=TIMEOUT, trust_env=False
            ) as client:
                await asyncio.gather(*(visit(client, random.Random(i)) for i in range(64)))

        asyncio.run(main())
        server.wait_until_idle()
        until(lambda: server.n_tasks() <= n_tasks, "the end of all tasks")
        until(lambda: len(server.service._replies) == 0, "the end of all replies")
        pipeline.clear_cache()
        pipeline.logits([5])  # after what the engine has begun
        assert pipeline.stats.used_bytes == 0
        with server.client() as client:
            again = client.post(CHAT, json={"messages": HELLO, "temperature": 0, "max_tokens": 20}).json()
        assert again["choices"][0]["message"]["content"] == text


def start(*command: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A server as a program, and where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=HERE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(r"running on (http://\S+)", line):
            return process, found[1]
    pytest.fail("".join(seen))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("command", ["serve", "uvicorn"])
def test_the_programs_serve_until_they_are_told_to_end(model_path, command):
    environment = {"CHATGLM_CPP_API_KEY": "key", "CHATGLM_CPP_SHUTDOWN_TIMEOUT": "0.1"}
    if command == "serve":
        process, url = start("chatglm_cpp", "serve", "-m", str(model_path), "--port", "0", **environment)
    else:
        environment["CHATGLM_CPP_MODEL"] = str(model_path)
        process, url = start("uvicorn", "chatglm_cpp.openai_api:app", "--port", "0", **environment)
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False) as client:
            until(lambda: client.get("/health").status_code == 200, "the model")
            assert client.get("/v1/models").status_code == 401
            client.headers["authorization"] = "Bearer key"
            assert client.get("/v1/models").json()["data"][0]["id"] == model_path.stem
            with client.stream("POST", CHAT, json={**ENDLESS, "n": 100, "stream": True}) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                assert [line for line in lines if line][-1] == "data: [DONE]"
        process.communicate(timeout=TIMEOUT)
        assert process.returncode in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()


def test_wrong_options_and_models_end_the_program_with_a_sentence(tmp_path):
    def run(*options: str, **environment: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "chatglm_cpp", "serve", "--port", "0", *options],
            capture_output=True,
            text=True,
            cwd=HERE,
            timeout=TIMEOUT,
            env={**os.environ, **environment},
        )
        assert result.returncode == 2 and "Traceback" not in result.stderr
        return result.stderr.splitlines()[-1]

    missing = str(tmp_path / "missing.gguf")
    assert run("-m", missing).startswith(f"error: {missing}")
    assert "max_queue" in run("--max_queue", "-1")
    assert "max_body" in run(CHATGLM_CPP_MAX_BODY="much")


def test_settings_come_from_the_environment():
    settings = Settings.from_environment(
        {"CHATGLM_CPP_MODEL": "a.gguf", "CHATGLM_CPP_API_KEY": "x, y", "CHATGLM_CPP_MAX_QUEUE": ""},
        max_tokens=5,
    )
    assert (settings.model, settings.api_key, settings.max_queue) == ("a.gguf", ["x", "y"], 256)
    assert settings.max_tokens == 5 and settings.names() == ["a"]
    assert Settings.make(lora="0.5:a.gguf,b.gguf,1:c.gguf").loras() == {
        "a.gguf": 0.5,
        "b.gguf": 1,
        "c.gguf": 1,
    }
    assert Settings.make(model="THUDM/chatglm3-6b").names() == ["chatglm3-6b"]
    with pytest.raises(Error, match="max_queue"):
        Settings.make(max_queue="x")
    for nothing in ([""], ["one", " "], ","):  # which would let in everybody
        with pytest.raises(Error, match="api_key"):
            Settings.make(api_key=nothing)
    assert Settings.from_environment({"CHATGLM_CPP_API_KEY": ""}).api_key == []
