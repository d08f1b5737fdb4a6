"""Vectors of texts, against the original models' hidden states."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from golden import load_arrays, relative_error

from chatglm_cpp import ContextLengthError, InvalidArgument, Pipeline

# An exact f32 engine differs from the originals by the order of sums only.
F32_ERROR = 1e-4
NAMES = ["chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-4-9b-0414"]
TEXTS = ["你好", "a", "", "今天天气很好，我们去公园散步吧。" * 12, "Three short words", "你好"]


@pytest.mark.parametrize("name", NAMES)
def test_states_of_the_original(fixtures, converted, name):
    reference = load_arrays(fixtures / "checkpoints" / name / "reference.npz")
    pipeline = Pipeline(converted(name), kv_dtype="f32")
    ids, states = reference["input_ids"], reference["final_norm"]
    last = pipeline.embed([ids], pooling="last", normalize=False)
    mean = pipeline.embed([ids], normalize=False)
    assert last.dtype == mean.dtype == np.float32
    assert relative_error(last[0], states[-1]) <= F32_ERROR
    assert relative_error(mean[0], states.mean(axis=0)) <= F32_ERROR
    unit = pipeline.embed([ids])[0]
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    assert relative_error(unit, states.mean(axis=0) / np.linalg.norm(states.mean(axis=0))) <= F32_ERROR


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm3-6b"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_bits_depend_on_the_text_alone(converted, name, pooling):
    path = converted(name, "q8_0")
    together = Pipeline(path).embed(TEXTS, pooling=pooling)
    cut = Pipeline(path, prefill_chunk=5, n_threads=2)
    alone = np.stack([cut.embed(text, pooling=pooling) for text in TEXTS])
    assert np.array_equal(together, alone)
    assert np.array_equal(cut.embed(TEXTS[::-1], pooling=pooling), together[::-1])
    assert np.array_equal(together[0], together[-1])


def test_shapes_and_ids(shared_pipeline):
    width = shared_pipeline.config.hidden_size
    assert shared_pipeline.embed("hello").shape == (width,)
    assert shared_pipeline.embed(["hello"]).shape == (1, width)
    assert shared_pipeline.embed([]).shape == (0, width)
    ids = shared_pipeline.tokenizer.encode("hello")
    assert np.array_equal(shared_pipeline.embed([ids, "hello"])[0], shared_pipeline.embed("hello"))


def test_a_text_beyond_the_context_is_named(shared_pipeline):
    limit = shared_pipeline.config.max_length
    with pytest.raises(ContextLengthError, match=rf"texts\[1\] has {limit + 1} tokens.*{limit}"):
        shared_pipeline.embed(["hello", [5] * (limit + 1)])


@pytest.mark.parametrize(
    ("texts", "error", "words"),
    [
        (["a", []], InvalidArgument, r"texts\[1\] has no tokens"),
        ([[10**9]], InvalidArgument, r"texts\[0\] holds 1000000000"),
        ([5, 6], TypeError, r"texts\[0\] is an int"),
        ([b"a"], TypeError, r"texts\[0\] is a bytes"),
        (b"a", TypeError, "texts is a bytes"),
        (None, TypeError, "texts is a NoneType"),
        (["\ud800"], InvalidArgument, r"U\+D800"),
    ],
)
def test_what_is_no_text_is_named(shared_pipeline, texts, error, words):
    with pytest.raises(error, match=words):
        shared_pipeline.embed(texts)


def test_an_unknown_pooling_is_named(shared_pipeline):
    with pytest.raises(InvalidArgument, match=r"'max'.*mean.*last"):
        shared_pipeline.embed("a", pooling="max")


def test_beside_a_reply_that_is_being_written(pipeline):
    expected = pipeline.embed(TEXTS)
    options = {"do_sample": False, "ignore_eos": True, "max_new_tokens": 60}
    alone = pipeline.chat(["你好"], **options).content
    pipeline.clear_cache()
    reply = pipeline.submit(["你好"], **options)
    found = []
    threads = [threading.Thread(target=lambda: found.append(pipeline.embed(TEXTS))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert reply.result().content == alone
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(vectors, expected) for vectors in found)
    assert pipeline.stats.used_bytes == 0
