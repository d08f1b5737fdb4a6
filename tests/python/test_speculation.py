"""Guessed tokens change the speed of a reply and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from chatglm_cpp import InvalidArgument, Pipeline
from chatglm_cpp.cli.options import add_model_options, load

PROMPT = "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the"
SETTINGS = {
    "greedy": {"do_sample": False},
    "sampled": {"seed": 3, "temperature": 0.5},
    "penalties": {"seed": 4, "repetition_penalty": 1.05, "frequency_penalty": 0.1, "logprobs": 2},
    "short": {"do_sample": False, "max_length": 60, "min_new_tokens": 4},
}
# Values that make the published shape small.
TINY_FIRST = {
    "num_layers": 2, "hidden_size": 64, "inner_hidden_size": 96, "num_attention_heads": 4, "vocab_size": 320,
}  # fmt: skip


@pytest.fixture(scope="module")
def never(model_path: Path) -> Pipeline:
    return Pipeline(model_path, prompt_lookup=False)


@pytest.fixture(scope="module")
def first_generation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that numbers and masks its tokens as ChatGLM-6B does."""
    random_model = pytest.importorskip(
        "chatglm_cpp.random_model",
        reason="the converter's dependencies are not installed",
        exc_type=ImportError,
    )
    path = tmp_path_factory.mktemp("first") / "first.gguf"
    random_model.write_random_model("chatglm-6b", "q8_0", path, config=TINY_FIRST)
    return path


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_lookup_changes_no_reply(never, model_path, settings):
    options = {"max_new_tokens": 60, **settings}
    expected = never.generate(PROMPT, **options)
    for prompt_lookup in (True, None):
        pipeline = Pipeline(model_path, prompt_lookup=prompt_lookup)
        stream = pipeline.submit(prompt=PROMPT, **options)
        reply = stream.result()
        assert reply == expected
        assert reply.logprobs == expected.logprobs
        assert reply.finish_reason == expected.finish_reason
        assert 0 <= stream.usage.accepted_tokens <= stream.usage.drafted_tokens


def test_usage_counts_guesses(never, model_path):
    stream = never.submit(prompt=PROMPT, do_sample=False, max_new_tokens=60)
    stream.result()
    assert stream.usage.drafted_tokens == stream.usage.accepted_tokens == 0
    # A penalty below 1 has the model say the same again and again.
    options = {"do_sample": False, "max_new_tokens": 60, "repetition_penalty": 0.5}
    stream = Pipeline(model_path, prompt_lookup=True).submit(prompt="今天", **options)
    assert stream.result() == never.generate("今天", **options)
    assert stream.usage.accepted_tokens > 20


def test_a_model_that_drafts_for_itself_is_always_right(never, model_path):
    pipeline = Pipeline(model_path, prompt_lookup=False, draft=model_path, draft_tokens=4)
    stream = pipeline.submit(["你好"], do_sample=False, max_new_tokens=40)
    assert stream.result() == never.chat(["你好"], do_sample=False, max_new_tokens=40)
    usage = stream.usage
    assert usage.accepted_tokens == usage.drafted_tokens >= usage.new_tokens // 2
    replies = [
        pipeline.submit(prompt=p, do_sample=False, max_new_tokens=24) for p in ("今天", "明天", PROMPT)
    ]
    for reply, prompt in zip(replies, ("今天", "明天", PROMPT), strict=True):
        assert reply.result() == never.generate(prompt, do_sample=False, max_new_tokens=24)


def test_a_draft_in_the_cache_of_its_own_choice_changes_no_reply(never, model_path):
    with Pipeline(model_path, draft=model_path) as pipeline:  # as large as the model: it never pays
        assert pipeline.generate(PROMPT, do_sample=False) == never.generate(PROMPT, do_sample=False)


def test_the_first_generation_is_guessed_too(first_generation):
    never = Pipeline(first_generation, prompt_lookup=False)
    pipeline = Pipeline(first_generation, prompt_lookup=True, draft=first_generation, draft_tokens=3)
    text = never.tokenizer.encode("ab")  # ends with <sop>; ids without it are all context
    for prompt in ([*range(60, 90)] * 2, [*range(60, 90), *text]):
        options = {"prompt": prompt, "do_sample": False, "max_new_tokens": 60, "logprobs": True}
        stream, expected = pipeline.submit(**options), never.submit(**options).result()
        reply = stream.result()
        assert (reply, reply.logprobs) == (expected, expected.logprobs)
        assert stream.usage.accepted_tokens > 0


@pytest.mark.parametrize("name", ["chatglm2-6b-ptuning-v2", "glm-4-9b-0414"])
def test_every_kind_of_model_is_guessed(converted, name):
    path = converted(name)
    prompt = [*range(30, 60)] * 2
    options = {"prompt": prompt, "do_sample": False, "max_new_tokens": 40, "ignore_eos": True}
    expected = Pipeline(path, prompt_lookup=False).submit(**options).result()
    pipeline = Pipeline(path, prompt_lookup=True, draft=path, draft_tokens=3)
    for _ in range(2):  # the second time from the cache
        stream = pipeline.submit(**options)
        assert stream.result() == expected
        assert stream.usage.accepted_tokens > 0
    assert stream.usage.cached_tokens == len(prompt) - 1


def test_formats_hold_with_guesses(model_path):
    pytest.importorskip("llguidance", reason="formats need llguidance")
    options = {"do_sample": False, "max_new_tokens": 40, "regex": "(ab|cd){3,10}"}
    expected = Pipeline(model_path, prompt_lookup=False).generate("abcdabcd", **options)
    assert Pipeline(model_path, prompt_lookup=True).generate("abcdabcd", **options) == expected


def test_drafts_that_cannot_be_are_refused(model_path, first_generation, tmp_path):
    with pytest.raises(InvalidArgument, match="cannot draft for this model: its vocabulary has 320 tokens"):
        Pipeline(model_path, draft=first_generation)
    with pytest.raises(FileNotFoundError):
        Pipeline(model_path, draft=tmp_path / "none.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 40)
    with pytest.raises(ValueError, match="draft model"):
        Pipeline(model_path, draft=broken)
    for wrong in (-1, 17):
        with pytest.raises(InvalidArgument, match="draft_tokens is"):
            Pipeline(model_path, draft_tokens=wrong)
    with pytest.raises(InvalidArgument, match="draft_tokens is 3; it must be 0 without a draft model"):
        Pipeline(model_path, draft_tokens=3)
    with pytest.raises(TypeError, match="prompt_lookup is 'never'"):
        Pipeline(model_path, prompt_lookup="never")
    with pytest.raises(TypeError, match="draft_tokens"):
        Pipeline(model_path, draft_tokens="many")


def test_programs_have_the_options(model_path):
    def drafted(pipeline: Pipeline) -> int:
        with pipeline, pipeline.submit(prompt="今天", do_sample=False, max_new_tokens=20) as stream:
            stream.result()
            return stream.usage.drafted_tokens

    parser = argparse.ArgumentParser()
    add_model_options(parser)
    for options, any_guess in (
        (["--prompt_lookup", "never"], False),
        (["--prompt_lookup", "never", "--draft", str(model_path), "--draft_tokens", "3"], True),
    ):
        pipeline, _ = load(parser.parse_args(["-m", str(model_path), *options]))
        assert (drafted(pipeline) > 0) == any_guess
    server = pytest.importorskip("chatglm_cpp.server.service", reason="the server's packages are missing")
    settings = server.Settings.from_environment(
        {"CHATGLM_CPP_PROMPT_LOOKUP": "never", "CHATGLM_CPP_DRAFT_TOKENS": "3"},
        model=str(model_path),
        draft=str(model_path),
    )
    assert drafted(server.load_pipeline(settings)) > 0
    with pytest.raises(InvalidArgument, match="prompt_lookup"):
        server.Settings.make(prompt_lookup="sometimes")
