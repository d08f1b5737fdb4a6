"""Every supported architecture against the original model code: logits, greedy tokens, chats."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import pytest
from golden import as_chat, load_arrays, load_json, relative_error

from chatglm_cpp import GenerationConfig, Pipeline

FIRST_GENERATION = "chatglm-6b"
NAMES = [
    "chatglm2-6b",
    "chatglm2-6b-32k",
    "chatglm2-6b-int4",
    "chatglm2-6b-ptuning-v2",
    "chatglm3-6b",
    "chatglm3-6b-128k",
    "chatglm3-6b-lora",
    "codegeex2-6b",
    "glm-4-9b-0414",
    "glm-4-9b-chat",
    "glm-4-9b-chat-hf",
    "glm-edge-1.5b-chat",
]
REAL_VOCABULARY = "chatglm2-real-vocab"
LONG = ["chatglm2-6b-32k", "chatglm3-6b-128k"]
WITHOUT_CHATS = ["codegeex2-6b", "chatglm2-6b-ptuning-v2", "chatglm3-6b-lora"]
CHATS = [name for name in NAMES if name not in WITHOUT_CHATS] + [FIRST_GENERATION, REAL_VOCABULARY]

# An exact f32 engine differs from the originals by the order of sums only.
F32_ERROR = 1e-4
# The weights are exact in f16 or bf16; what is left is the rounding of the f16 cache.
F16_ERROR = 5e-3
# And that of queries, keys and values to 8 bits; models with random weights, as these are, feel it most.
Q8_0_CACHE_ERROR = 4e-2


@pytest.fixture(scope="module", params=NAMES)
def golden(request, fixtures, converted):
    """A pipeline in full precision and the arrays that the original gave."""
    reference = load_arrays(fixtures / "checkpoints" / request.param / "reference.npz")
    return Pipeline(converted(request.param), kv_dtype="f32"), reference


def test_logits_of_a_prompt(golden):
    pipeline, reference = golden
    logits = pipeline.logits(reference["input_ids"])
    assert logits.dtype == np.float32
    assert relative_error(logits, reference["logits"]) <= F32_ERROR


def test_logits_of_steps_and_of_a_second_turn(golden):
    pipeline, reference = golden
    past = np.concatenate([reference["input_ids"], reference["greedy_ids"]])
    assert len(past) == reference["turn2_past"]
    one_by_one = Pipeline(pipeline.path, kv_dtype="f32", prefill_chunk=1)
    logits = one_by_one.logits(np.concatenate([past, reference["turn2_ids"]]))
    n = len(reference["input_ids"])
    assert relative_error(logits[n : len(past)], reference["step_logits"]) <= F32_ERROR
    assert relative_error(logits[len(past) :], reference["turn2_logits"]) <= F32_ERROR


def test_greedy_tokens_and_a_second_turn_from_the_cache(golden):
    pipeline, reference = golden
    eos = pipeline.tokenizer.eos_ids
    prompt, expected = reference["input_ids"].tolist(), reference["greedy_ids"].tolist()
    assert greedy(pipeline, prompt, len(expected)) == list(takewhile(lambda i: i not in eos, expected))

    second = prompt + expected + reference["turn2_ids"].tolist()
    with pipeline.generate(second, stream=True, do_sample=False, max_new_tokens=8) as stream:
        continued = "".join(stream)
    assert stream.usage.cached_tokens >= len(prompt)
    assert stream.usage.prompt_tokens == len(second)
    afresh = Pipeline(pipeline.path, kv_dtype="f32")
    assert continued == afresh.generate(second, do_sample=False, max_new_tokens=8)
    (first,) = greedy(afresh, second, 1) or [None]
    assert first in (None, int(reference["turn2_logits"][-1].argmax()))


@pytest.fixture(scope="module")
def first_generation(fixtures, converted):
    reference = load_arrays(fixtures / "checkpoints" / FIRST_GENERATION / "reference.npz")
    return Pipeline(converted(FIRST_GENERATION), kv_dtype="f32"), reference


def test_the_first_generation(first_generation):
    """Its context sees all of itself, and the reply is numbered in two dimensions."""
    pipeline, reference = first_generation
    prompt, expected = reference["input_ids"].tolist(), reference["greedy_ids"].tolist()
    assert relative_error(pipeline.logits(prompt), reference["logits"]) <= F32_ERROR
    one_by_one = Pipeline(pipeline.path, kv_dtype="f32", prefill_chunk=1)
    steps = one_by_one.logits(prompt + expected)[len(prompt) :]
    assert relative_error(steps, reference["step_logits"]) <= F32_ERROR
    eos = pipeline.tokenizer.eos_ids
    assert greedy(pipeline, prompt, len(expected)) == list(takewhile(lambda i: i not in eos, expected))


def test_the_first_generation_computes_a_second_turn_anew(first_generation):
    pipeline, reference = first_generation
    prompt = reference["input_ids"].tolist()
    pipeline.generate(prompt, do_sample=False, max_new_tokens=4)
    longer = reference["turn2_full_ids"].tolist()
    assert relative_error(pipeline.logits(longer), reference["turn2_full_logits"]) <= F32_ERROR
    with pipeline.generate(longer, stream=True, do_sample=False, max_new_tokens=4) as stream:
        continued = "".join(stream)
    assert stream.usage.cached_tokens == 0
    afresh = Pipeline(pipeline.path, kv_dtype="f32")
    assert continued == afresh.generate(longer, do_sample=False, max_new_tokens=4)
    (first,) = greedy(afresh, longer, 1)
    assert first == int(reference["turn2_full_logits"][-1].argmax())


@pytest.mark.parametrize("name", [*NAMES, FIRST_GENERATION])
def test_logits_of_an_f16_file_with_the_default_cache(fixtures, converted, name):
    reference = load_arrays(fixtures / "checkpoints" / name / "reference.npz")
    logits = Pipeline(converted(name, "f16")).logits(reference["input_ids"])
    assert relative_error(logits, reference["logits"]) <= F16_ERROR


@pytest.mark.parametrize("name", [*NAMES, FIRST_GENERATION])
def test_logits_with_a_q8_0_cache(fixtures, converted, name):
    reference = load_arrays(fixtures / "checkpoints" / name / "reference.npz")
    logits = Pipeline(converted(name, "f16"), kv_dtype="q8_0").logits(reference["input_ids"])
    assert F16_ERROR < relative_error(logits, reference["logits"]) <= Q8_0_CACHE_ERROR


@pytest.mark.parametrize("name", ["chatglm2-6b-ptuning-v2", "glm-4-9b-0414"])
def test_a_second_turn_from_a_q8_0_cache(fixtures, converted, name):
    """What is found in the cache is what is computed afresh, to the bit."""
    reference = load_arrays(fixtures / "checkpoints" / name / "reference.npz")
    pipeline = Pipeline(converted(name), kv_dtype="q8_0")
    prompt = reference["input_ids"].tolist()
    pipeline.generate(prompt, do_sample=False, max_new_tokens=4)
    second = prompt + reference["greedy_ids"].tolist() + reference["turn2_ids"].tolist()
    with pipeline.generate(second, stream=True, do_sample=False, max_new_tokens=8) as stream:
        continued = "".join(stream)
    assert stream.usage.cached_tokens >= len(prompt)
    afresh = Pipeline(pipeline.path, kv_dtype="q8_0", n_threads=3, prefill_chunk=7)
    assert continued == afresh.generate(second, do_sample=False, max_new_tokens=8)
    assert np.array_equal(afresh.logits(second), pipeline.logits(second))


@pytest.mark.parametrize("name", LONG)
def test_logits_after_a_long_prompt(fixtures, converted, name):
    reference = load_arrays(fixtures / "checkpoints" / name / "reference.npz")
    logits = Pipeline(converted(name), kv_dtype="f32").logits(reference["long_ids"])
    assert relative_error(logits[-8:], reference["long_logits_last8"]) <= F32_ERROR


def test_the_real_vocabulary(fixtures, converted):
    """Stored in part only: some rows whole, some columns of all."""
    reference = load_arrays(fixtures / "checkpoints" / REAL_VOCABULARY / "reference.npz")
    pipeline = Pipeline(converted(REAL_VOCABULARY), kv_dtype="f32")
    prompt, expected = reference["input_ids"].tolist(), reference["greedy_ids"].tolist()
    logits = pipeline.logits(prompt + expected + reference["turn2_ids"].tolist())
    n, past, cols = len(prompt), int(reference["turn2_past"]), reference["cols"]
    assert relative_error(logits[reference["rows"]], reference["logits_rows"]) <= F32_ERROR
    assert relative_error(logits[:n, cols], reference["logits_cols"]) <= F32_ERROR
    assert relative_error(logits[n:past, cols], reference["step_logits_cols"]) <= F32_ERROR
    assert relative_error(logits[past:, cols], reference["turn2_logits_cols"]) <= F32_ERROR
    assert np.array_equal(logits[:n].argmax(axis=1), reference["argmax"])
    top8 = np.take_along_axis(logits[n:past], reference["step_top8_ids"], axis=1)
    assert relative_error(top8, reference["step_top8_logits"]) <= F32_ERROR
    eos = pipeline.tokenizer.eos_ids
    assert greedy(pipeline, prompt, len(expected)) == list(takewhile(lambda i: i not in eos, expected))


@pytest.mark.parametrize("name", CHATS)
def test_chats(fixtures, converted, name):
    pipeline = Pipeline(converted(name), kv_dtype="f32")
    reference = load_json(fixtures / "checkpoints" / name / "reference_chat.json")
    assert sorted(pipeline.tokenizer.eos_ids) == sorted(reference["eos_ids"])
    for case in reference["cases"]:
        messages = as_chat(case["messages"])
        assert pipeline.tokenizer.apply_chat_template(messages) == case["prompt_ids"]
        options = {"do_sample": False, "max_new_tokens": reference["max_new_tokens"]}
        deltas = list(pipeline.chat(messages, stream=True, **options))
        expected = [i for i in case["output_ids"] if i not in reference["eos_ids"]]
        assert [i for delta in deltas for i in delta.token_ids] == expected
        content = case.get("content", case.get("text", case["raw_text"].strip()))
        assert pipeline.merge_streaming_messages(deltas).content == content
        assert "".join(delta.content for delta in deltas) == content


@pytest.mark.parametrize(
    ("dtype", "kv_dtype"),
    [*((dtype, "f16") for dtype in ("f32", "f16", "q8_0", "q4_0", "q4_1")), ("q4_0", "q8_0")],
)
@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm2-6b-ptuning-v2", "chatglm3-6b", "glm-4-9b-0414"])
def test_bits_do_not_depend_on_threads_or_chunks(fixtures, converted, name, dtype, kv_dtype):
    ids = load_arrays(fixtures / "checkpoints" / name / "reference.npz")["input_ids"]
    path = converted(name, dtype)
    expected = Pipeline(path, n_threads=1, kv_dtype=kv_dtype).logits(ids)
    for n_threads, chunk in [(2, 512), (3, 512), (1, 1), (1, 7), (2, 7), (3, 64), (2, 47)]:
        pipeline = Pipeline(path, n_threads=n_threads, prefill_chunk=chunk, kv_dtype=kv_dtype)
        logits = pipeline.logits(ids)
        assert np.array_equal(logits, expected), f"{n_threads} threads, chunks of {chunk}"


def greedy(pipeline: Pipeline, prompt: list[int], n: int) -> list[int]:
    """At most n tokens of the likeliest continuation, up to the one that ends a reply."""
    config = GenerationConfig(do_sample=False, max_new_tokens=n)
    generation = pipeline._engine.start(prompt, config)
    ids = []
    while not generation.done:
        token = generation.step()
        if token is not None:
            ids.append(token)
    return ids
