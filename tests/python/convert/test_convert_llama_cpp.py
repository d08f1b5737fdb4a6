"""llama.cpp opens what we write and computes what the original computed."""

from __future__ import annotations

import numpy as np
import pytest
from chatglm_cpp.convert import convert
from golden import load_arrays, load_json

from chatglm_cpp import Tokenizer

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="the judge of the file format is not installed: pip install llama-cpp-python"
)


def open_model(path, **options):
    f32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, logits_all=True, type_k=f32, type_v=f32, verbose=False, **options
    )


@pytest.mark.parametrize(
    "name",
    [
        "chatglm2-6b",
        "codegeex2-6b",
        "chatglm3-6b",
        "chatglm3-6b-128k",
        "glm-4-9b-chat",
        "glm-4-9b-chat-hf",
        "glm-edge-1.5b-chat",
        "glm-4-9b-0414",
    ],
)
def test_logits_and_greedy_ids_of_the_original(checkpoints, tmp_path, name):
    if any((checkpoints / name).glob("*.bin")):
        pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")
    convert(checkpoints / name, tmp_path / "m.gguf", "f32")
    reference = load_arrays(checkpoints / name / "reference.npz")
    model = open_model(tmp_path / "m.gguf")
    model.eval(reference["input_ids"].tolist())
    expected = reference["logits"]
    error = np.abs(model.scores[: len(expected)] - expected).max() / np.abs(expected).max()
    assert error < 1e-4
    for step, token in enumerate(reference["greedy_ids"].tolist()):
        assert int(model.scores[len(expected) + step - 1].argmax()) == token
        model.eval([token])
    model.close()


def test_position_scaling_of_chatglm2_32k(checkpoints, tmp_path):
    pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")
    folder = checkpoints / "chatglm2-6b-32k"
    for option, file in (("position", "reference.npz"), ("base", "reference_rope_base_scaling.npz")):
        convert(folder, tmp_path / "m.gguf", "f32", rope_scaling=option)
        reference = load_arrays(folder / file)
        model = open_model(tmp_path / "m.gguf")
        model.eval(reference["input_ids"].tolist())
        expected = reference["logits"]
        error = np.abs(model.scores[: len(expected)] - expected).max() / np.abs(expected).max()
        assert error < 1e-4
        model.close()


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_every_type_loads(checkpoints, tmp_path, dtype):
    convert(checkpoints / "chatglm3-6b", tmp_path / "m.gguf", dtype)
    reference = load_arrays(checkpoints / "chatglm3-6b" / "reference.npz")
    model = open_model(tmp_path / "m.gguf")
    model.eval(reference["input_ids"].tolist())
    expected = reference["logits"]
    scores = model.scores[: len(expected)]
    similarity = (scores * expected).sum() / np.linalg.norm(scores) / np.linalg.norm(expected)
    assert similarity > (0.999 if dtype in ("f16", "bf16", "q8_0") else 0.7)
    model.close()


@pytest.mark.parametrize("name", ["chatglm3-6b", "glm-4-9b-chat", "glm-4-9b-chat-hf"])
def test_special_tokens_and_ends_are_known(checkpoints, tmp_path, name):
    convert(checkpoints / name, tmp_path / "m.gguf", vocab_only=True)
    model = open_model(tmp_path / "m.gguf", vocab_only=True)
    sop = "sop" if name == "chatglm3-6b" else "<sop>"
    ids = model.tokenize(f"[gMASK]{sop}<|user|>".encode(), add_bos=False, special=True)
    reference = load_arrays(checkpoints / name / "reference.npz")
    assert ids[:2] == reference["input_ids"][:2].tolist()
    assert len(ids) == 3
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    assert llama_cpp.llama_vocab_is_eog(vocabulary, ids[2])
    assert llama_cpp.llama_vocab_is_eog(vocabulary, model.token_eos())
    model.close()


def test_special_tokens_do_not_steal_the_letters_of_words(checkpoints, tmp_path):
    spm = pytest.importorskip("sentencepiece", reason="the judge of SentencePiece models is not installed")
    source = checkpoints.parent / "tokenizers" / "chatglm2" / "tokenizer.model"
    (tmp_path / "tokenizer.model").write_bytes(source.read_bytes())
    convert(tmp_path, tmp_path / "m.gguf", vocab_only=True, chat_format="chatglm2")
    model = open_model(tmp_path / "m.gguf", vocab_only=True)
    text = "a soprano, philosophy, people"
    judge = spm.SentencePieceProcessor(model_file=str(source))
    assert model.tokenize(text.encode(), add_bos=False, special=False) == judge.encode(text)
    model.close()


# ChatGLM's special tokens have no brackets of their own, so that llama.cpp, which merges towards every token
# by its spelling, ends up at "sop" and "eop" when no piece competes.
MERGED_BY_LLAMA_CPP = ("<sop>", "<eop>")


@pytest.mark.parametrize("name", ["chatglm2", "chatglm3", "glm4"])
def test_plain_text_of_the_real_vocabularies(vocabulary, fixtures, name):
    path = vocabulary(name)
    tokenizer, model = Tokenizer(path), open_model(path, vocab_only=True)
    for case in load_json(fixtures / "tokenizers" / name / "encode.json")["cases"]:
        text = case["text"]
        if name != "glm4" and any(word in text for word in MERGED_BY_LLAMA_CPP):
            continue
        theirs = model.tokenize(text.encode(), add_bos=False, special=False)
        assert theirs == tokenizer.encode_plain(text), text
    model.close()


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm2-6b-ptuning-v2"])
def test_what_llama_cpp_does_not_know_is_refused_by_it(converted, name):
    """ChatGLM-6B's blocks, and prefixes: it must not answer nonsense."""
    with pytest.raises(ValueError, match="Failed to load"):
        open_model(converted(name))


def test_a_lora_adapter_works_there(checkpoints, tmp_path):
    base, adapter = tmp_path / "base.gguf", tmp_path / "adapter.gguf"
    convert(checkpoints / "chatglm3-6b", base, "f32")
    convert(checkpoints / "chatglm3-6b-lora", adapter, base=checkpoints / "chatglm3-6b")
    reference = load_arrays(checkpoints / "chatglm3-6b-lora" / "reference.npz")
    model = open_model(base, lora_path=str(adapter))
    model.eval(reference["input_ids"].tolist())
    expected = reference["logits"]
    assert np.abs(model.scores[: len(expected)] - expected).max() / np.abs(expected).max() < 1e-4
    model.close()
