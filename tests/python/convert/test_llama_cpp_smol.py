"""A real model of 135M parameters in llama.cpp and here: the same answers. Half a minute, so only where
CHATGLM_TEST_SMOL names the checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from chatglm_cpp.convert import convert
from golden import load_json, relative_error

from chatglm_cpp import Pipeline

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="the judge of the file format is not installed: pip install llama-cpp-python"
)
pytestmark = pytest.mark.skipif(
    not os.environ.get("CHATGLM_TEST_SMOL"), reason="CHATGLM_TEST_SMOL names no SmolLM checkpoint"
)

STEPS = 64


@pytest.fixture(scope="module")
def exact(fixtures, tmp_path_factory):
    """For each golden conversation its ids, the length of its prompt, and the logits of its reply in f32."""
    path = tmp_path_factory.mktemp("exact") / "m.gguf"
    convert(os.environ["CHATGLM_TEST_SMOL"], path, "f32")
    pipeline = Pipeline(path, kv_dtype="f32")
    result = []
    for case in load_json(fixtures / "smol" / "reference.json")["cases"]:
        ids = case["prompt_ids"] + case["greedy_ids"][:STEPS]
        begin = len(case["prompt_ids"]) - 1
        result.append((ids, begin, pipeline.logits(ids)[begin:]))
    return result


def both(path: Path, exact):
    """(ours, llama.cpp's, exact) logits of each reply."""
    ours = Pipeline(path)
    theirs = llama_cpp.Llama(str(path), n_ctx=512, logits_all=True, verbose=False)
    for ids, begin, expected in exact:
        theirs.reset()
        theirs.eval(ids)
        yield ours.logits(ids)[begin:], np.array(theirs.scores[begin : len(ids)]), expected
    theirs.close()


def test_f16_answers_are_the_same(exact, tmp_path):
    convert(os.environ["CHATGLM_TEST_SMOL"], tmp_path / "m.gguf", "f16")
    for ours, theirs, _ in both(tmp_path / "m.gguf", exact):
        assert relative_error(ours, theirs) < 5e-3
        assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


def test_q8_0_answers_are_as_near_to_the_exact_ones(exact, tmp_path):
    """Both round activations to 8 bits, each in its own way, which here and there decides a token."""
    convert(os.environ["CHATGLM_TEST_SMOL"], tmp_path / "m.gguf", "q8_0")
    n = n_equal = 0
    our_error = their_error = 0.0
    for ours, theirs, expected in both(tmp_path / "m.gguf", exact):
        our_error += float(np.square(ours - expected).sum())
        their_error += float(np.square(theirs - expected).sum())
        n_equal += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
        n += len(ours)
    assert our_error <= 1.1 * their_error
    assert n_equal >= 0.95 * n
