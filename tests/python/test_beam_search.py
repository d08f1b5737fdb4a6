"""Beam search, against Hugging Face's transformers and as users see it."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import load_json

from chatglm_cpp import ContextLengthError, InvalidArgument, Pipeline

GOLDEN = load_json(Path(__file__).with_name("goldens") / "beam_search.json")
MESSAGES = ["你好，请介绍一下你自己。"]


@pytest.mark.parametrize("model", GOLDEN["models"], ids=lambda model: model["name"])
def test_replies_and_scores_are_those_of_transformers(converted, model):
    with Pipeline(converted(model["name"]), kv_dtype="f32", max_sequences=64) as pipeline:
        for case in model["cases"]:
            n = case["options"]["num_beams"]
            alternatives = pipeline.submit_alternatives(
                prompt=case["prompt"], n=n, stop_token_ids=case["stop_ids"], **case["options"]
            )
            for stream, expected in zip(alternatives, case["replies"], strict=True):
                ids = token_ids(stream)
                assert ids == expected["ids"], case
                assert stream.usage.beam_score == pytest.approx(expected["score"], rel=2e-4, abs=2e-4)
                assert stream.usage.finish_reason == ("stop" if expected["stopped"] else "length")


def token_ids(stream) -> list[int]:
    generation = stream._generation
    ids = []
    while not generation.done:
        if (token := generation.step()) is not None:
            ids.append(token)
    return ids


def test_a_stream_gives_the_whole_reply_at_its_end(shared_pipeline):
    options = {"num_beams": 3, "max_new_tokens": 24}
    reply = shared_pipeline.chat(MESSAGES, **options)
    with shared_pipeline.chat(MESSAGES, stream=True, **options) as stream:
        assert "".join(delta.content for delta in stream) == reply.content
        assert stream.usage.beam_score < 0
    assert reply.content
    assert shared_pipeline.generate("春眠", stream=False, **options) == "".join(
        shared_pipeline.generate("春眠", stream=True, **options)
    )


def test_nothing_is_drawn(shared_pipeline):
    options = {"num_beams": 3, "max_new_tokens": 24}
    expected = shared_pipeline.chat(MESSAGES, **options)
    for other in ({"seed": 1, "temperature": 4.0}, {"do_sample": False}, {"top_k": 1}):
        assert shared_pipeline.chat(MESSAGES, **options, **other) == expected


def test_the_likelier_reply_is_found(shared_pipeline):
    greedy = shared_pipeline.generate("今天", do_sample=False, max_new_tokens=12, logprobs=True)
    assert greedy.logprobs is not None and greedy.finish_reason == "length"
    sum_of_greedy = sum(token.logprob for token in greedy.logprobs)
    with shared_pipeline.submit(
        prompt="今天", num_beams=8, max_new_tokens=12, min_new_tokens=12, length_penalty=0.0
    ) as beams:
        beams.result()
        assert beams.usage.beam_score >= sum_of_greedy - 1e-3


def test_alternatives_are_the_best_replies_in_order(shared_pipeline):
    options = {"num_beams": 4, "max_new_tokens": 12}
    alternatives = shared_pipeline.submit_alternatives(MESSAGES, n=3, **options)
    replies = alternatives.result()
    scores = [stream.usage.beam_score for stream in alternatives]
    assert scores == sorted(scores, reverse=True)
    assert replies[0] == shared_pipeline.chat(MESSAGES, **options)
    assert len({reply.content for reply in replies}) > 1


def test_beams_run_beside_other_replies(model_path):
    options = {"num_beams": 3, "max_new_tokens": 24}
    with Pipeline(model_path) as pipeline:
        expected = pipeline.chat(MESSAGES, **options)
        other = pipeline.generate("今天", do_sample=False, max_new_tokens=24)
        pipeline.clear_cache()
        running = [pipeline.submit(prompt="今天", do_sample=False, max_new_tokens=24) for _ in range(3)]
        beams = [pipeline.submit(MESSAGES, **options) for _ in range(3)]
        assert [reply.result() for reply in beams] == [expected] * 3
        assert [reply.result() for reply in running] == [other] * 3
        assert pipeline.stats.used_bytes == 0


def test_a_cancelled_search_gives_its_memory_back(pipeline):
    options = {"num_beams": 4, "max_length": 10**6, "ignore_eos": True}
    with pipeline.submit(prompt="今天", **options) as stream:
        for usage in stream.prefill():
            if usage.computed_tokens == usage.prompt_tokens:
                break
    assert stream.usage.finish_reason == "cancelled"
    assert pipeline.generate("今天", max_new_tokens=2) is not None
    assert pipeline.stats.used_bytes == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 0}, "num_beams is 0; .* at least 1"),
        ({"num_beams": 17}, "num_beams is 17; .* between 1 and 16"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty"),
        ({"num_beams": 2, "early_stopping": "always"}, "early_stopping is 'always'"),
        ({"num_beams": 2, "early_stopping": "\ud800"}, "early_stopping"),
        ({"num_beams": 2, "logprobs": True}, "logprobs"),
    ],
)
def test_wrong_settings_are_one_sentence(shared_pipeline, options, words):
    with pytest.raises(InvalidArgument, match=words):
        shared_pipeline.chat(MESSAGES, **options)


def test_more_alternatives_than_beams_and_formats_are_refused(shared_pipeline):
    with pytest.raises(InvalidArgument, match="alternatives is 3, and 2 beams"):
        shared_pipeline.submit_alternatives(MESSAGES, n=3, num_beams=2)
    pytest.importorskip("llguidance")
    with pytest.raises(InvalidArgument, match="with beams"):
        shared_pipeline.chat(MESSAGES, num_beams=2, regex="a+")


def test_beams_that_could_outgrow_the_memory_are_refused(model_path):
    with Pipeline(model_path) as free:
        free.generate([5] * 100, max_new_tokens=1)
        page = free.stats.allocated_bytes // 2
    with Pipeline(model_path, cache_memory=8 * page) as pipeline:
        pipeline.generate([5] * 100, num_beams=2, max_new_tokens=100)
        with pytest.raises(ContextLengthError, match="num_beams"):
            pipeline.generate([5] * 100, num_beams=8, max_new_tokens=100)
