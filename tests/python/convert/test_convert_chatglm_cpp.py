"""Model files of chatglm.cpp up to 0.4: the same weights, bit for bit, and the answers of the originals."""

from __future__ import annotations

import json
import os
import sys
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from chatglm_cpp.convert import ConvertError, convert
from chatglm_cpp.convert.cli import main
from chatglm_cpp_writer import OldFile, golden, golden_weights, tiny
from convert_helpers import Gguf, expected_bytes

import chatglm_cpp
from chatglm_cpp import GenerationConfig, Pipeline
from chatglm_cpp.cli import main as program
from chatglm_cpp.model_file import CACHE_VARIABLE

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden import as_chat, load_arrays, load_json, relative_error

NAMES = ["chatglm-6b", "chatglm2-6b", "chatglm2-6b-32k", "chatglm3-6b", "codegeex2-6b", "glm-4-9b-chat"]
CHATS = {"chatglm-6b": 1, "chatglm2-6b": 1, "chatglm3-6b": 2, "glm-4-9b-chat": 2}  # version of the header
BLOCKS = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
PREFIX = "chatglm2-6b-ptuning-v2"


def save(file: OldFile | bytes, path: Path) -> Path:
    path.write_bytes(file.data if isinstance(file, OldFile) else file)
    return path


@pytest.fixture
def old_golden(checkpoints, tmp_path):
    """old_golden(name, version, type, ...) is a golden checkpoint as an old file."""
    pytest.importorskip("torch", reason="the golden checkpoints need torch")

    def make(name: str, version: int = 2, kind: str = "f32", **options) -> Path:
        return save(golden(checkpoints / name, version, kind, **options), tmp_path / f"{name}-{kind}.bin")

    return make


def converted(source: Path, *arguments, **options) -> Path:
    target = source.with_suffix(".gguf")
    convert(source, target, *arguments, **options)
    return target


def reference_of(folder: Path) -> dict[str, np.ndarray]:
    """chatglm.cpp scales the rotary base of ChatGLM2-6B-32k, which its own code does not."""
    arrays = load_arrays(folder / "reference.npz")
    if (folder / "reference_rope_base_scaling.npz").is_file():
        arrays |= load_arrays(folder / "reference_rope_base_scaling.npz")
    return arrays


def greedy(pipeline: Pipeline, prompt: list[int], n: int) -> list[int]:
    generation = pipeline._engine.start(prompt, GenerationConfig(do_sample=False, max_new_tokens=n))
    ids = []
    while not generation.done:
        if (token := generation.step()) is not None:
            ids.append(token)
    return ids


@pytest.mark.parametrize(
    ("name", "version"),
    [(n, 2) for n in NAMES]
    + [("chatglm-6b", 1), ("chatglm2-6b", 1), ("chatglm3-6b", 1), ("codegeex2-6b", 1)],
)
def test_logits_and_greedy_tokens_are_the_originals(old_golden, checkpoints, name, version):
    reference = reference_of(checkpoints / name)
    pipeline = Pipeline(converted(old_golden(name, version)), kv_dtype="f32")
    assert relative_error(pipeline.logits(reference["input_ids"]), reference["logits"]) <= 1e-4
    eos, expected = pipeline.tokenizer.eos_ids, reference["greedy_ids"].tolist()
    ids = greedy(pipeline, reference["input_ids"].tolist(), len(expected))
    assert ids == list(takewhile(lambda i: i not in eos, expected))


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_f16_files(old_golden, checkpoints, name):
    reference = reference_of(checkpoints / name)
    pipeline = Pipeline(converted(old_golden(name, kind="f16")))
    assert relative_error(pipeline.logits(reference["input_ids"]), reference["logits"]) <= 5e-3
    assert pipeline.config.dtype == "f16" and pipeline.config.name == f"{name}-f16"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("chatglm3-6b", kind) for kind in BLOCKS] + [("chatglm-6b", "q5_1"), ("glm-4-9b-chat", "q4_0")],
)
def test_blocks_are_copied(old_golden, checkpoints, tmp_path, name, kind):
    """What gguf.quants made of the checkpoint is what our converter makes, also in another order of rows."""
    copied = Gguf(converted(old_golden(name, kind=kind)))
    convert(checkpoints / name, tmp_path / "own.gguf", kind)
    own = Gguf(tmp_path / "own.gguf")
    assert copied.tensors.keys() == own.tensors.keys()
    for tensor, (stored_type, shape, data) in own.tensors.items():
        assert copied.tensors[tensor][:2] == (stored_type, shape)
        assert np.array_equal(copied.tensors[tensor][2], data), tensor
    for key in own.metadata:
        # The checkpoint's template makes the same prompts; the file does not carry it.
        if key not in ("general.name", "tokenizer.chat_template"):
            assert copied.metadata[key] == own.metadata[key], key


def test_matrices_of_other_types_keep_them(old_golden, checkpoints):
    types = {"word_embeddings.weight": "f16", "output_layer.weight": "q8_0", "dense.weight": "f32"}
    path = old_golden("chatglm3-6b", kind="q4_1", types=types)
    file = Gguf(converted(path))
    weights = golden_weights(checkpoints / "chatglm3-6b")
    expected = {
        "token_embd": ("f16", "transformer.embedding.word_embeddings"),
        "output": ("q8_0", "transformer.output_layer"),
        "blk.1.attn_output": ("f32", "transformer.encoder.layers.1.self_attention.dense"),
        "blk.1.ffn_up": ("q4_1", "transformer.encoder.layers.1.mlp.dense_h_to_4h"),
    }
    for target, (kind, source) in expected.items():
        stored_type, _, data = file.tensors[f"{target}.weight"]
        assert stored_type == kind
        assert np.array_equal(data.view(np.uint8).ravel(), expected_bytes(weights[f"{source}.weight"], kind))
    assert file.metadata["general.file_type"] == 3  # q4_1
    reference = load_arrays(checkpoints / "chatglm3-6b" / "reference.npz")
    logits = Pipeline(path.with_suffix(".gguf")).logits(reference["input_ids"])
    assert relative_error(logits, reference["logits"]) <= 0.57


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_a_prefix_comes_along(old_golden, checkpoints, kind):
    reference = load_arrays(checkpoints / PREFIX / "reference.npz")
    path = converted(old_golden("chatglm2-6b", kind=kind, prefix=checkpoints / PREFIX))
    pipeline = Pipeline(path, kv_dtype="f32")
    # The file holds the prefix itself as f16.
    assert relative_error(pipeline.logits(reference["input_ids"]), reference["logits"]) <= 5e-3
    assert greedy(pipeline, reference["input_ids"].tolist(), 32) == reference["greedy_ids"].tolist()


def test_a_prefix_can_be_added_to_a_file_without_one(old_golden, checkpoints):
    reference = load_arrays(checkpoints / PREFIX / "reference.npz")
    path = converted(old_golden("chatglm2-6b"), ptuning=checkpoints / PREFIX)
    logits = Pipeline(path, kv_dtype="f32").logits(reference["input_ids"])
    assert relative_error(logits, reference["logits"]) <= 5e-3  # a prefix is stored as f16


@pytest.mark.parametrize("name", CHATS)
def test_chats(old_golden, checkpoints, name):
    pipeline = Pipeline(converted(old_golden(name, version=CHATS[name])), kv_dtype="f32")
    reference = load_json(checkpoints / name / "reference_chat.json")
    assert sorted(pipeline.tokenizer.eos_ids) == sorted(reference["eos_ids"])
    for case in reference["cases"]:
        messages = as_chat(case["messages"])
        assert pipeline.tokenizer.apply_chat_template(messages) == case["prompt_ids"]
        deltas = pipeline.chat(
            messages, stream=True, do_sample=False, max_new_tokens=reference["max_new_tokens"]
        )
        expected = [i for i in case["output_ids"] if i not in reference["eos_ids"]]
        assert [i for delta in deltas for i in delta.token_ids] == expected


@pytest.mark.parametrize("name", [name for name in NAMES if name != "chatglm-6b"])
def test_tokenizers(old_golden, checkpoints, name):
    tokenizer = chatglm_cpp.Tokenizer(converted(old_golden(name)))
    for case in load_json(checkpoints / name / "tokenizer_goldens.json")["cases"]:
        assert tokenizer.encode_plain(case["text"]) == case["ids"]


def test_positions_of_chatglm2_32k_on_request(old_golden, checkpoints, tmp_path, capsys):
    path, target = old_golden("chatglm2-6b-32k"), tmp_path / "m.gguf"
    assert main(["-i", str(path), "-o", str(target)]) == 0
    assert "note: the rotary base is 160000" in capsys.readouterr().out
    assert main(["-i", str(path), "-o", str(target), "--rope-scaling", "position"]) == 0
    assert "rotary" not in capsys.readouterr().out
    reference = load_arrays(checkpoints / "chatglm2-6b-32k" / "reference.npz")
    logits = Pipeline(target, kv_dtype="f32").logits(reference["long_ids"])
    assert relative_error(logits[-8:], reference["long_logits_last8"]) <= 1e-4


def test_image_tokens_of_the_first_generation_follow_from_the_ids(tmp_path):
    shifted = tiny(1, version=1, bos=41 + 7, eos=42 + 7)
    file = Gguf(converted(save(shifted, tmp_path / "old.bin")))
    assert file.metadata["chatglm.tokenizer.num_image_tokens"] == 7
    assert file.metadata["chatglm.tokenizer.eos_ids"] == [49]
    plain = Gguf(converted(save(tiny(1), tmp_path / "plain.bin")))
    assert "chatglm.tokenizer.num_image_tokens" not in plain.metadata


def test_a_type_on_request(tmp_path, capsys):
    path, target = save(tiny(3, kind="q8_0"), tmp_path / "old.bin"), tmp_path / "m.gguf"
    assert main(["-i", str(path), "-o", str(target), "-t", "q8_0"]) == 0
    same, out = Gguf(target), capsys.readouterr().out
    assert "note" not in out and "q8_0" in out
    assert main(["-i", str(path), "-o", str(target), "-t", "q4_0"]) == 0
    assert "note: matrices of type q8_0 became q4_0" in capsys.readouterr().out
    requantized = Gguf(target)
    name = "blk.0.ffn_down.weight"
    expected = expected_bytes(same.floats(name), "q4_0")
    assert np.array_equal(requantized.tensors[name][2].ravel(), expected)
    assert requantized.metadata["general.file_type"] == 2
    # Floats are quantized as those of a checkpoint are.
    convert(save(tiny(3, kind="f32"), path), target, "q4_0")
    assert Gguf(target).tensors[name][0] == "q4_0"


def test_scales_that_are_no_numbers_are_reported(tmp_path):
    file = tiny(3, kind="q5_1")
    name = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"
    at = file.at(f"{name}: data")
    file.data[at : at + 2] = b"\x00\x7e"  # NaN as f16
    summary = convert(save(file, tmp_path / "old.bin"), tmp_path / "m.gguf")
    assert summary.notes == ["blk.0.ffn_down.weight: 32 values are NaN or infinite in the checkpoint"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": "x"}, "before they are quantized"),
        ({"ptuning": "nowhere"}, "nowhere: no such folder"),
        ({"chat_format": "template"}, "needs a template"),
        ({"chat_format": "glm4"}, "does not go with this tokenizer"),
        ({"vocab_only": True, "lora": "x"}, "--vocab-only"),
    ],
)
def test_options_that_such_a_file_cannot_honour(tmp_path, options, words):
    path = save(tiny(2), tmp_path / "old.bin")
    with pytest.raises(ConvertError, match=words):
        convert(path, tmp_path / "m.gguf", **options)
    assert os.listdir(tmp_path) == ["old.bin"]


def test_options_that_it_honours(tmp_path):
    path, target = save(tiny(2), tmp_path / "old.bin"), tmp_path / "m.gguf"
    convert(path, target, name="mine", chat_format="chatglm3")
    assert Gguf(target).metadata["general.name"] == "mine"
    assert Gguf(target).metadata["chatglm.tokenizer.eos_ids"] == [2, 46, 48]
    convert(path, target, vocab_only=True)
    assert Gguf(target).tensors == {} and len(Gguf(target).metadata["tokenizer.ggml.tokens"]) == 64
    with pytest.raises(ConvertError, match="is the file to convert"):
        convert(path, path)
    assert path.read_bytes() == tiny(2).data


@pytest.mark.parametrize("content", [b"", b"ggm", b"ggjt" + bytes(64), b"GGUF" + bytes(64)])
def test_other_files_are_no_input_of_the_converter(tmp_path, content):
    path = save(content, tmp_path / "old.bin")
    with pytest.raises(
        ConvertError, match=r"old\.bin: is a (file, but no model|GGUF file already).*chatglm\.cpp"
    ):
        convert(path, tmp_path / "m.gguf")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_pipeline_converts_once_and_again_when_the_file_changes(tmp_path, cache, capsys):
    path = save(tiny(3), tmp_path / "模型.ggml")  # the magic decides, not the name
    pipeline = Pipeline(path, verbose=True)
    assert "Converting" in capsys.readouterr().err
    assert pipeline.config.dtype == "q4_0" and pipeline.config.name == "模型"
    (first,) = cache.iterdir()
    assert Pipeline(path, verbose=True).path == pipeline.path == str(first)
    assert capsys.readouterr().err == ""
    save(tiny(3, kind="q8_0"), path)
    assert Pipeline(path, verbose=False).config.dtype == "q8_0"
    (second,) = cache.iterdir()
    assert second != first
    assert Pipeline(path, dtype="f16").config.dtype == "f16"
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_file_leaves_nothing_in_the_cache(tmp_path, cache):
    path = save(bytes(tiny(3).data[:-1]), tmp_path / "old.bin")
    with pytest.raises(ValueError, match=r"old\.bin: .* bytes are left in the file|old\.bin: .*needs"):
        Pipeline(path)
    assert list(cache.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path, cache, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("chatglm_cpp.convert.driver.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"needs .* KB, but only .* are free"):
        Pipeline(save(tiny(3), tmp_path / "old.bin"))
    assert list(cache.iterdir()) == []


def test_info_says_what_it_is_and_what_it_becomes(tmp_path, cache, capsys):
    path = save(tiny(3), tmp_path / "old.bin")
    assert program(["info", str(path)]) == 0
    text = capsys.readouterr().out
    for words in (
        "old.bin, file of chatglm.cpp up to 0.4",
        "converts",
        "the types that it has",
        "q4_0 (10 tensors",
    ):
        assert words in text
    assert program(["info", str(path), "--json", "--dtype", "q8_0"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["types"]["q8_0"]["tensors"] == 10 and described["chat_format"] == "chatglm3"
    assert not cache.exists()


def test_chat_answers_from_it(tmp_path, cache, capsys):
    path = save(tiny(3), tmp_path / "old.bin")
    assert program(["chat", "-m", str(path), "-p", "一", "--greedy", "--max_new_tokens", "2"]) == 0
    assert capsys.readouterr().out.endswith("\n")
    assert len(list(cache.iterdir())) == 1


def test_the_engine_says_how_to_convert_it(tmp_path):
    path = save(tiny(3), tmp_path / "old.bin")
    with pytest.raises(
        chatglm_cpp.FormatError, match=r"chatglm\.cpp up to version 0\.4.*convert -i .*old\.bin"
    ):
        chatglm_cpp.Tokenizer(path)
    with pytest.raises(chatglm_cpp.FormatError, match=r"HF_FOLDER.*which begin with ggml"):
        Pipeline(save(b"ggjt" + bytes(100), path))
