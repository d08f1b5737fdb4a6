"""Several replies to one prompt."""

from __future__ import annotations

import asyncio
import threading

import pytest
from interrupt import press_ctrl_c

import chatglm_cpp
from chatglm_cpp import Busy, InvalidArgument, Pipeline

OPTIONS = {"seed": 7, "max_new_tokens": 24, "top_p": 1.0, "temperature": 4.0}
MESSAGES = ["你好，请介绍一下你自己。"]


def alone(pipeline: Pipeline, i: int, **options: object) -> chatglm_cpp.ChatMessage:
    return pipeline.chat(MESSAGES, **{**OPTIONS, "seed": OPTIONS["seed"] + i, **options})


def endless(pipeline: Pipeline, n: int) -> chatglm_cpp.Alternatives:
    return pipeline.submit_alternatives(
        prompt="今天", n=n, do_sample=False, max_length=10**6, repetition_penalty=0.5
    )


def test_each_is_the_reply_that_its_seed_gives_alone(shared_pipeline, model_path):
    replies = shared_pipeline.submit_alternatives(MESSAGES, n=4, **OPTIONS).result()
    other = Pipeline(model_path)
    assert replies == [alone(other, i) for i in range(4)]
    assert len({reply.content for reply in replies}) > 1
    assert [reply.finish_reason for reply in replies] == [alone(other, i).finish_reason for i in range(4)]


def test_continuations_too(shared_pipeline):
    texts = shared_pipeline.submit_alternatives(prompt="春眠", n=3, **OPTIONS).result()
    expected = [shared_pipeline.generate("春眠", **{**OPTIONS, "seed": 7 + i}) for i in range(3)]
    assert texts == expected
    assert [text.finish_reason for text in texts] == [text.finish_reason for text in expected]


@pytest.mark.parametrize("prompt", ["你", "春眠不觉晓，处处闻啼鸟。" * 20])
def test_the_prompt_is_computed_once(pipeline, prompt):
    alternatives = pipeline.submit_alternatives([prompt], n=3, **OPTIONS)
    alternatives.result()
    first, *others = (stream.usage for stream in alternatives)
    assert first.cached_tokens == 0
    assert all(usage.cached_tokens == first.prompt_tokens - 1 for usage in others)


def test_a_prompt_of_chatglm_6b_is_computed_once_too(converted):
    path = converted("chatglm-6b")
    with Pipeline(path) as pipeline:
        alternatives = pipeline.submit_alternatives(MESSAGES, n=3, **OPTIONS)
        replies = alternatives.result()
        first, *others = (stream.usage for stream in alternatives)
        assert first.cached_tokens == 0
        assert all(usage.cached_tokens == first.prompt_tokens - 1 for usage in others)
        assert replies == [alone(pipeline, i) for i in range(3)]
        # Of another prompt nothing is of use, however much alike it begins.
        mixed = [pipeline.submit(prompt=[5] * 40 + [6] * i, **OPTIONS) for i in range(3)]
        assert [reply.result() for reply in mixed] == [
            pipeline.generate([5] * 40 + [6] * i, **OPTIONS) for i in range(3)
        ]
        assert all(reply.usage.cached_tokens == 0 for reply in mixed)


def test_pieces_come_with_the_index_of_their_reply(shared_pipeline):
    expected = [alone(shared_pipeline, i).content for i in range(3)]
    contents = ["", "", ""]
    order = []
    for index, delta in shared_pipeline.submit_alternatives(MESSAGES, n=3, **OPTIONS).pieces():
        contents[index] += delta.content
        order.append(index)
    assert contents == expected
    assert order != sorted(order)  # side by side, not one after the other


def test_coroutines(shared_pipeline):
    expected = [alone(shared_pipeline, i).content for i in range(3)]

    async def pieces() -> list[str]:
        contents = ["", "", ""]
        async for index, delta in shared_pipeline.submit_alternatives(MESSAGES, n=3, **OPTIONS).apieces():
            contents[index] += delta.content
        return contents

    async def whole() -> list[str]:
        replies = await shared_pipeline.submit_alternatives(MESSAGES, n=3, **OPTIONS)
        return [reply.content for reply in replies]

    assert asyncio.run(pieces()) == expected
    assert asyncio.run(whole()) == expected


def test_cancelling_a_task_stops_all(shared_pipeline):
    async def main() -> None:
        alternatives = endless(shared_pipeline, 3)
        started = asyncio.Event()

        async def read() -> None:
            async for _ in alternatives.apieces():
                started.set()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert all(stream.done for stream in alternatives)

    asyncio.run(main())


def test_ctrl_c_stops_all(shared_pipeline):
    alternatives = endless(press_ctrl_c(shared_pipeline, 5), 3)
    with pytest.raises(KeyboardInterrupt):
        for _ in alternatives.pieces():
            pass
    assert all(stream.done for stream in alternatives)


def test_one_may_be_cancelled_alone(shared_pipeline):
    alternatives = endless(shared_pipeline, 2)
    pieces = alternatives.pieces()
    next(pieces)
    alternatives[0].cancel()
    next(index for index, _ in pieces if index == 1)
    assert alternatives[0].usage.finish_reason == "cancelled"
    threading.Thread(target=alternatives.cancel).start()
    for _ in pieces:
        pass
    assert [stream.usage.finish_reason for stream in alternatives] == ["cancelled"] * 2


def test_the_end_of_a_block_stops_all(shared_pipeline):
    with endless(shared_pipeline, 3) as alternatives:
        next(alternatives.pieces())
    assert all(stream.done for stream in alternatives)
    with pytest.raises(StopIteration):
        next(alternatives.pieces())


def test_all_begin_or_none(model_path):
    with Pipeline(model_path, max_sequences=2, max_queue=1) as pipeline:
        with endless(pipeline, 2):
            with pytest.raises(Busy, match="leaves room for 1"):
                pipeline.submit_alternatives(MESSAGES, n=2)
            assert pipeline.stats.running + pipeline.stats.waiting == 2
            waiting = pipeline.submit_alternatives(MESSAGES, n=1, **OPTIONS)
        assert waiting.result() == [alone(pipeline, 0)]


@pytest.mark.parametrize("n", [0, -1, 3, 2**31 - 1])
def test_a_number_out_of_range_is_a_sentence(model_path, n):
    with Pipeline(model_path, max_sequences=2) as pipeline:
        for formats in ({}, {"regex": "a+"}):
            if formats:
                pytest.importorskip("llguidance")
            with pytest.raises(InvalidArgument, match=f"alternatives is {n}; .* between 1 and 2"):
                pipeline.submit_alternatives(MESSAGES, n=n, **formats)


def test_wrong_arguments_are_errors(shared_pipeline):
    for wrong in ({}, {"messages": MESSAGES, "prompt": "你好"}):
        with pytest.raises(TypeError, match="either"):
            shared_pipeline.submit_alternatives(n=2, **wrong)
    with pytest.raises(TypeError, match="colour"):
        shared_pipeline.submit_alternatives(MESSAGES, n=2, colour="red")
    with pytest.raises(TypeError, match="n is a str"):
        shared_pipeline.submit_alternatives(MESSAGES, n="2")


def test_each_holds_to_the_format_by_itself(shared_pipeline):
    pytest.importorskip("llguidance")
    options = {**OPTIONS, "regex": "[0-9]{3,9}"}
    replies = shared_pipeline.submit_alternatives(MESSAGES, n=4, **options).result()
    assert all(3 <= len(reply.content) <= 9 and reply.content.isdigit() for reply in replies)
    assert replies == [alone(shared_pipeline, i, regex=options["regex"]) for i in range(4)]
