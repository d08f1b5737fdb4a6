"""Many replies of one pipeline at once. CHATGLM_TEST_SOAK sets how many requests the soak makes."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import chatglm_cpp
from chatglm_cpp import Busy, ContextLengthError, InvalidArgument, Pipeline

PROMPTS = ["今天", "明天", "The weather", "春眠", "def quicksort(", "床前明月光"]
GREEDY = {"do_sample": False, "max_new_tokens": 24}
SYSTEM = {
    "role": "system",
    "content": "你是一个乐于助人的助手。请用简短、准确、友好的语言回答每一个问题。" * 4,
}


def endless(pipeline: Pipeline) -> chatglm_cpp.Stream[str, str]:
    """A reply that runs for longer than any test."""
    return pipeline.generate("今天", stream=True, do_sample=False, max_length=10**6, repetition_penalty=0.5)


@pytest.fixture
def narrow(model_path: Path) -> Iterator[Pipeline]:
    """A pipeline that computes one reply at a time and lets one wait."""
    with Pipeline(model_path, max_sequences=1, prompt_lookup=False, max_queue=1) as pipeline:
        yield pipeline


def test_submitted_replies_are_those_computed_alone(shared_pipeline):
    alone = [shared_pipeline.generate(prompt, **GREEDY) for prompt in PROMPTS]
    replies = [shared_pipeline.submit(prompt=prompt, **GREEDY) for prompt in PROMPTS]
    assert [reply.result() for reply in replies] == alone
    assert [reply.result() for reply in replies] == alone  # again
    reply = shared_pipeline.submit(["你好"], **GREEDY)
    assert reply.result() == shared_pipeline.chat(["你好"], **GREEDY)


def test_submit_takes_messages_or_a_prompt(shared_pipeline):
    for wrong in ({}, {"messages": ["你好"], "prompt": "你好"}):
        with pytest.raises(TypeError, match="either"):
            shared_pipeline.submit(**wrong)
    with pytest.raises(TypeError, match="colour"):
        shared_pipeline.submit(["你好"], colour="red")
    with pytest.raises(InvalidArgument, match="max_time is"):
        shared_pipeline.submit(["你好"], max_time=0)


def test_users_share_a_system_message_and_a_retried_question_is_known(pipeline, model_path):
    def ask(user: str) -> tuple[str, int, int]:
        messages = [SYSTEM, {"role": "user", "content": user}]
        with pipeline.submit(messages, **GREEDY) as reply:
            content = reply.result().content
            assert content == Pipeline(model_path).chat(messages, **GREEDY).content
            return content, reply.usage.cached_tokens, reply.usage.prompt_tokens

    prompts = [
        pipeline.tokenizer.apply_chat_template([SYSTEM, {"role": "user", "content": text}])
        for text in ("一加一等于几？", "天空为什么是蓝色的？")
    ]
    n_common = next(i for i, (a, b) in enumerate(zip(*prompts, strict=False)) if a != b)
    assert n_common > 64
    first, cached, _ = ask("一加一等于几？")
    assert cached == 0
    _, cached, _ = ask("天空为什么是蓝色的？")
    assert cached >= n_common
    again, cached, n = ask("一加一等于几？")
    assert again == first and cached == n - 1
    pipeline.clear_cache()
    assert ask("一加一等于几？")[1] == 0


def test_no_memory_is_kept_beyond_the_budget(model_path):
    ids = list(range(5, 105))
    with Pipeline(model_path) as free:
        free.generate(ids, max_new_tokens=1)
        page = free.stats.allocated_bytes // 2  # two pages of 64 tokens
    with Pipeline(model_path, cache_memory=8 * page) as pipeline:
        for i in range(10):
            pipeline.generate([5 + i, *ids], max_new_tokens=100)
            assert pipeline.stats.allocated_bytes <= 8 * page
        with pytest.raises(ContextLengthError, match="cache_memory"):
            pipeline.generate(ids, max_length=1000)
        assert pipeline.stats.used_bytes == 0 < pipeline.stats.cached_bytes


def test_one_request_too_many_is_refused(narrow):
    running, waiting = endless(narrow), endless(narrow)
    with pytest.raises(Busy, match="max_queue") as caught:
        narrow.submit(prompt="你好")
    assert isinstance(caught.value, chatglm_cpp.Error)
    waiting.cancel()
    instead = narrow.submit(prompt="你好", **GREEDY)
    running.cancel()
    assert instead.result() == narrow.generate("你好", **GREEDY)
    assert waiting.result() == ""
    assert waiting.usage.finish_reason == "cancelled"


def test_a_cancelled_reply_leaves_its_place_at_once(narrow):
    for _ in range(20):
        running, waiting = endless(narrow), endless(narrow)
        running.cancel()
        another = endless(narrow)
        waiting.cancel()
        another.cancel()


def test_cancel_from_another_thread_ends_an_iteration(narrow):
    stream = endless(narrow)
    next(stream)
    pieces: list[str] = []
    reader = threading.Thread(target=lambda: pieces.extend(stream))
    reader.start()
    stream.cancel()
    reader.join()
    assert stream.done and stream.usage.finish_reason == "cancelled"
    assert narrow.generate("你好", **GREEDY) is not None


def test_a_reply_ends_when_its_time_is_up(narrow):
    options = {"max_time": 0.01, "do_sample": False, "max_length": 10**6, "repetition_penalty": 0.5}
    replies = [narrow.submit(prompt="今天", **options) for _ in range(2)]
    for reply in replies:
        reply.result()
        assert reply.usage.finish_reason == "deadline"
        assert 0.01 <= reply.usage.seconds < 30


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="the system cannot signal a thread")
def test_ctrl_c_ends_the_wait_for_a_turn(narrow):
    running, waiting = endless(narrow), endless(narrow)
    main = threading.main_thread().ident
    assert main is not None
    presser = threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        presser.start()
        waiting.result()
    presser.join()
    waiting.close()
    assert waiting.usage.finish_reason == "cancelled"
    assert next(running)
    running.close()


def test_the_progress_of_a_long_prompt_is_told(model_path):
    with Pipeline(model_path, prefill_chunk=16) as pipeline:
        ids = [5 + i % 90 for i in range(100)]
        stream = pipeline.submit(prompt=ids, **GREEDY)
        seen = [usage.computed_tokens for usage in stream.prefill()]
        assert seen == sorted(seen) and len(seen) <= 6 and all(n < 100 for n in seen)
        assert stream.result() == pipeline.generate(ids, **GREEDY)
        assert stream.usage.computed_tokens == 100
        assert list(stream.prefill()) == []


def test_each_reply_carries_its_numbers(shared_pipeline):
    stream = shared_pipeline.submit(prompt=PROMPTS[0], **GREEDY)
    stream.result()
    usage = stream.usage
    assert usage.prompt_tokens == len(shared_pipeline.tokenizer.encode(PROMPTS[0]))
    assert 0 <= usage.queue_seconds <= usage.prompt_seconds <= usage.seconds
    assert 1 < usage.new_tokens <= 24 and usage.tokens_per_second > 0
    assert stream.usage == usage


def test_coroutines_share_a_pipeline(shared_pipeline):
    alone = [shared_pipeline.generate(prompt, **GREEDY) for prompt in PROMPTS]

    async def read(prompt: str) -> str:
        return "".join([piece async for piece in shared_pipeline.agenerate(prompt, **GREEDY)])

    async def main() -> None:
        assert await asyncio.gather(*map(read, PROMPTS * 3)) == alone * 3
        reply = await shared_pipeline.achat(["你好"], **GREEDY)
        assert reply == shared_pipeline.chat(["你好"], **GREEDY)
        async with shared_pipeline.achat(["你好"], **GREEDY) as stream:
            async for _ in stream:
                break
        assert stream.usage.finish_reason == "cancelled"

    asyncio.run(main())
    asyncio.run(main())  # in a loop of its own


def test_a_cancelled_task_cancels_its_reply_and_the_loop_stays_free(narrow):
    async def main() -> None:
        running, waiting = endless(narrow), endless(narrow)
        task = asyncio.create_task(waiting._wait_for_all())
        async for _ in running:
            break
        await asyncio.sleep(0)  # the task begins to wait
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting.usage.finish_reason == "cancelled"
        running.close()
        assert await narrow.agenerate("你好", **GREEDY) == narrow.generate("你好", **GREEDY)

    asyncio.run(main())


def test_a_closed_pipeline_says_so(model_path):
    with Pipeline(model_path) as pipeline:
        stream = endless(pipeline)
        next(stream)
    assert list(stream) is not None
    assert stream.usage.finish_reason == "cancelled"
    with pytest.raises(chatglm_cpp.Error, match="closed"):
        pipeline.generate("你好")


@pytest.mark.parametrize(
    "option", [{"max_sequences": 0}, {"max_queue": -1}, {"max_pause": 0.0}, {"cache_memory": -1}]
)
def test_settings_out_of_range_are_named(model_path, option):
    (name,) = option
    with pytest.raises(InvalidArgument, match=name):
        Pipeline(model_path, **option)


def run_script(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent)


ENDLESS = """
import contextlib, sys, threading, chatglm_cpp
pipeline = chatglm_cpp.Pipeline(sys.argv[1])
def endless():
    return pipeline.generate("今天", stream=True, do_sample=False, max_length=10**6, repetition_penalty=0.5)
def read():
    with contextlib.suppress(chatglm_cpp.Error):  # that Python shuts down
        list(endless())
"""


@pytest.mark.parametrize(
    "rest",
    [
        "stream = endless(); next(stream)",
        "streams = [endless() for _ in range(40)]",
        "threading.Thread(target=read, daemon=True).start()",
        "import asyncio\nasync def f():\n async for _ in endless(): break\nasyncio.run(f())",
    ],
)
def test_python_ends_while_replies_run(model_path, rest):
    result = run_script(ENDLESS + rest, model_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_uses_the_pipeline_of_its_parent(model_path):
    script = (
        ENDLESS
        + """
import os
expected = pipeline.generate("今天", do_sample=False, max_new_tokens=20)
while pipeline.stats.running: pass
pipeline.logits([5])  # afterwards the engine only has to fall asleep
child = os.fork()
try:
    again = pipeline.generate("今天", do_sample=False, max_new_tokens=20)
except chatglm_cpp.Error as error:
    again = expected if child == 0 and "forked" in str(error) else str(error)
if child == 0:
    os._exit(again != expected)
print(again == expected, os.waitpid(child, 0)[1])
stream = endless()
next(stream)
child = os.fork()
if child == 0:
    try:
        next(stream)
    except chatglm_cpp.Error as error:
        os._exit("forked" not in str(error))
    os._exit(2)
print(next(stream) != "", os.waitpid(child, 0)[1])
"""
    )
    result = run_script(script, model_path)
    assert (result.stdout.splitlines(), result.stderr) == (["True 0", "True 0"], "")


@pytest.mark.parametrize("kv_dtype", ["f16", "q8_0"])
def test_soak_of_threads_with_random_ends(model_path, tmp_path, kv_dtype):
    n_requests = int(os.environ.get("CHATGLM_TEST_SOAK", "150")) // 2
    kinds = [GREEDY, {"seed": 3, "n": 2, "max_new_tokens": 24}, {"num_beams": 3, "n": 2, "max_new_tokens": 8}]
    questions = [{"prompt": prompt, "n": 1, **kind} for prompt in PROMPTS for kind in kinds]
    talk = [SYSTEM, {"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]
    questions.append({"messages": [*talk, {"role": "user", "content": "再见"}], "n": 1, **GREEDY})
    with Pipeline(model_path, kv_dtype=kv_dtype) as single:
        alone = [single.submit_alternatives(**question).result() for question in questions]
    options = {"max_sequences": 5, "max_queue": 6, "prefill_chunk": 32, "prompt_lookup": True}
    with Pipeline(model_path, kv_dtype=kv_dtype, **options) as pipeline:
        wrong: list[object] = []
        left = iter(range(n_requests))
        lock = threading.Lock()

        def take() -> bool:
            with lock:
                return next(left, None) is not None

        def work(seed: int) -> None:
            dice = random.Random(seed)
            while take():
                if dice.random() < 0.1:
                    pipeline.save_session(tmp_path / f"{seed}.session", talk)
                    pipeline.load_session(tmp_path / f"{seed}.session")
                which = dice.randrange(len(questions))
                try:
                    replies = pipeline.submit_alternatives(**questions[which])
                except Busy:
                    continue
                limit = dice.choice([0, 3, 10**6, 10**6])
                for stream, whole in zip(replies, alone[which], strict=True):
                    pieces = list(itertools.islice(stream, limit))
                    texts = [piece if isinstance(piece, str) else piece.content for piece in pieces]
                    text, expected = "".join(texts), whole if isinstance(whole, str) else whole.content
                    if not expected.startswith(text) or (limit == 10**6 and text != expected):
                        wrong.append(questions[which])
                if dice.random() < 0.5:
                    replies.close()

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        pipeline.generate("今天", max_new_tokens=1)
        pipeline.clear_cache()
        pipeline.logits([5])
        stats = pipeline.stats
        assert (stats.running, stats.waiting, stats.used_bytes) == (0, 0, 0)
