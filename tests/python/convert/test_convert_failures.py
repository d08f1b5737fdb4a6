"""Bad input gives one sentence that names file and tensor, exit status 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chatglm_cpp.convert.cli import main
from convert_helpers import REMOTE_CONFIG, make_glm, make_remote, remote_weights, tokenizer_json

WEIGHTS = "model.safetensors"
QKV = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
EMBEDDING = "transformer.embedding.word_embeddings.weight"


def fails(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Runs the converter on `folder`, checks how it fails, and returns the sentence."""
    out = folder.parent / "out"
    out.mkdir(exist_ok=True)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} if folder.is_dir() else {}
    assert main(["-i", str(folder), "-o", str(out / "m.gguf"), "-t", "q8_0", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    assert list(out.iterdir()) == []
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} if folder.is_dir() else {}
    assert after == before
    return captured.err


def rewrite_header(folder: Path, edit: Callable[[dict], object]) -> None:
    """Applies `edit` to the JSON header of the safetensors file."""
    data = (folder / WEIGHTS).read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    edit(header)
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + n :])


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def set_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def without(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))


def set_tokenizer(folder: Path, edit: Callable[[dict], object]) -> None:
    spec = tokenizer_json()
    edit(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))


# what was done to a good ChatGLM3 checkpoint -> what the sentence must contain
REMOTE_FAILURES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ("config.json", "no such file")),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{"), ("config.json", "not valid JSON")),
    "config is a list": (lambda f: (f / "config.json").write_text("[1]"), ("config.json", "[1]", "object")),
    "config is not text": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
        ("config.json", "UTF-8"),
    ),
    "config nests too deep": (
        lambda f: (f / "config.json").write_text("[" * 200_000),
        ("config.json", "JSON"),
    ),
    "unknown architecture": (
        lambda f: set_config(f, model_type="llama"),
        ("config.json", "llama", "chatglm (ChatGLMModel)", "glm (GlmForCausalLM)"),
    ),
    "first generation without its sizes": (
        lambda f: set_config(f, position_encoding_2d=True),
        ('"vocab_size" is missing',),
    ),
    "vision model": (lambda f: set_config(f, vision_config={"x": 1}), ("vision",)),
    "missing size": (lambda f: without(f, "hidden_size"), ('"hidden_size" is missing',)),
    "size is text": (lambda f: set_config(f, num_layers="two"), ('"num_layers"', "expected a number")),
    "size is a fraction": (lambda f: set_config(f, num_layers=1.5), ('"num_layers"', "whole number")),
    "size is negative": (lambda f: set_config(f, num_layers=-1), ('"num_layers" is -1',)),
    "size is huge": (lambda f: set_config(f, num_layers=10**12), ('"num_layers"', "expected 1..1024")),
    "heads do not divide": (
        lambda f: set_config(f, num_attention_heads=3, multi_query_group_num=2),
        ("divide",),
    ),
    "odd head": (lambda f: set_config(f, kv_channels=33), ('"kv_channels" is 33', "even")),
    "no epsilon": (lambda f: set_config(f, layernorm_epsilon=0.0), ('"layernorm_epsilon" is 0.0',)),
    "infinite rope ratio": (lambda f: set_config(f, rope_ratio=float("inf")), ('"rope_ratio"', "finite")),
    "layer norm model": (lambda f: set_config(f, rmsnorm=False), ('"rmsnorm" is false',)),
    "3-bit checkpoint": (lambda f: set_config(f, quantization_bit=3), ('"quantization_bit" is 3', "4 and 8")),
    "p-tuning": (lambda f: set_config(f, pre_seq_len=16), ('"pre_seq_len" is 16', "--ptuning")),
    "p-tuning of negative length": (lambda f: set_config(f, pre_seq_len=-1), ('"pre_seq_len" is -1',)),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ("no weights", WEIGHTS)),
    "index names a missing file": (
        lambda f: (
            (f / WEIGHTS).unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
        ),
        ("model.safetensors.index.json", "model-1.safetensors"),
    ),
    "index leaves the folder": (
        lambda f: (
            (f / WEIGHTS).unlink(),
            (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'),
        ),
        ("index.json", "../x.safetensors"),
    ),
    "index without a map": (
        lambda f: ((f / WEIGHTS).unlink(), (f / "model.safetensors.index.json").write_text("{}")),
        ("index.json", "weight_map"),
    ),
    "a numbered shard is missing": (
        lambda f: (f / WEIGHTS).rename(f / "model-00001-of-00002.safetensors"),
        ("1 of 2 shards",),
    ),
    "an absurd number of shards": (
        lambda f: (f / WEIGHTS).rename(f / "model-00001-of-999999999999.safetensors"),
        ("1 of 999999999999 shards",),
    ),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), (WEIGHTS, "too short")),
    "truncated header": (lambda f: cut(f / WEIGHTS, 100), (WEIGHTS, "truncated")),
    "truncated data": (
        lambda f: cut(f / WEIGHTS, -1 + (f / WEIGHTS).stat().st_size),
        (WEIGHTS, "truncated", "tensor "),
    ),
    "absurd header length": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 62) + (f / WEIGHTS).read_bytes()[8:]),
        (WEIGHTS, str(1 << 62)),
    ),
    "header is not JSON": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 4) + b"{{{{"),
        (WEIGHTS, "JSON"),
    ),
    "header is a number": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 1) + b"7"),
        (WEIGHTS, "object"),
    ),
    "header says a name twice": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 15) + b'{"a":{},"a":{}}'),
        (WEIGHTS, "twice"),
    ),
    "overlapping tensors": (
        lambda f: rewrite_header(f, lambda h: h[QKV].update(data_offsets=[0, 128 * 64 * 2])),
        (WEIGHTS, QKV, "overlap"),
    ),
    "offsets outside the file": (
        lambda f: rewrite_header(
            f, lambda h: h[QKV].update(data_offsets=[1 << 40, (1 << 40) + 128 * 64 * 2])
        ),
        (WEIGHTS, QKV, "outside"),
    ),
    "offsets run backwards": (
        lambda f: rewrite_header(f, lambda h: h[QKV].update(data_offsets=[9, 3])),
        (WEIGHTS, QKV, "outside"),
    ),
    "offsets are no numbers": (
        lambda f: rewrite_header(f, lambda h: h[QKV].update(data_offsets=["0", True])),
        (WEIGHTS, QKV, "offsets"),
    ),
    "shape and bytes disagree": (
        lambda f: rewrite_header(f, lambda h: h[QKV].update(shape=[1 << 60, 1 << 60])),
        (WEIGHTS, QKV, "do not fit"),
    ),
    "shape is negative": (
        lambda f: rewrite_header(f, lambda h: h[QKV].update(shape=[-1, 2])),
        (WEIGHTS, QKV, "shape"),
    ),
    "entry is no object": (lambda f: rewrite_header(f, lambda h: h.update({QKV: 7})), (WEIGHTS, QKV)),
    "unknown element type": (
        lambda f: rewrite_header(f, lambda h: h[QKV].update(dtype="F17")),
        (WEIGHTS, QKV, "F17"),
    ),
    "element type that is no float": (
        lambda f: rewrite_header(f, lambda h: h[QKV].update(dtype="I16")),
        (WEIGHTS, QKV, "I16"),
    ),
    "missing tensor": (lambda f: rewrite_header(f, lambda h: h.pop(QKV)), (WEIGHTS, QKV, "missing")),
    "wrong shape": (
        lambda f: rewrite_header(f, lambda h: h[QKV].update(shape=[64, 128])),
        (WEIGHTS, QKV, "[64, 128]", "[128, 64]"),
    ),
    "vocabulary of config differs": (
        lambda f: set_config(f, padded_vocab_size=96),
        (WEIGHTS, EMBEDDING, "[64, 64]", "[96, 64]"),
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), ("no tokenizer", "tokenizer.model")),
    "damaged tokenizer": (lambda f: cut(f / "tokenizer.model", 50), ("tokenizer.model", "SentencePiece")),
    "tokenizer is noise": (lambda f: (f / "tokenizer.model").write_bytes(b"\xff" * 64), ("tokenizer.model",)),
    "empty tokenizer": (lambda f: (f / "tokenizer.model").write_bytes(b""), ("tokenizer.model", "no pieces")),
    "more tokens than rows": (
        lambda f: set_config(f, padded_vocab_size=40),
        ("tokenizer.model", "49 tokens"),
    ),
    "damaged tokenizer config": (
        lambda f: (f / "tokenizer_config.json").write_text("{]"),
        ("tokenizer_config.json", "not valid JSON"),
    ),
}


@pytest.mark.parametrize("case", REMOTE_FAILURES)
def test_bad_checkpoint(tmp_path, capsys, case):
    folder = make_remote(tmp_path / "in")
    damage, expected = REMOTE_FAILURES[case]
    damage(folder)
    message = fails(folder, capsys)
    for part in expected:
        assert part in message


GLM_FAILURES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "yarn": (
        lambda f: set_config(f, rope_scaling={"rope_type": "yarn", "factor": 4.0}),
        ("config.json", "rope_scaling.rope_type", "yarn"),
    ),
    "gelu": (lambda f: set_config(f, hidden_act="gelu"), ('"hidden_act" is', "gelu")),
    "too much rotary": (
        lambda f: set_config(f, partial_rotary_factor=2.0),
        ("partial_rotary_factor", "64 rotary"),
    ),
    "end of text outside the vocabulary": (
        lambda f: set_config(f, eos_token_id=[99999]),
        ("config.json", "99999"),
    ),
    "end of text is text": (lambda f: set_config(f, eos_token_id="end"), ("config.json", "eos_token_id")),
    "untied output missing": (
        lambda f: rewrite_header(f, lambda h: h.pop("lm_head.weight")),
        (WEIGHTS, "lm_head.weight", "missing"),
    ),
    "unknown regex": (
        lambda f: set_tokenizer(
            f, lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\w+|\s"})
        ),
        ("tokenizer.json", r"\\w+|\\s"),
    ),
    "unknown pre-tokenizer": (
        lambda f: set_tokenizer(f, lambda t: t.update(pre_tokenizer={"type": "Metaspace"})),
        ("tokenizer.json", "Metaspace"),
    ),
    "normalizer": (
        lambda f: set_tokenizer(f, lambda t: t.update(normalizer={"type": "NFC"})),
        ("tokenizer.json", "normalizer", "NFC"),
    ),
    "unigram": (
        lambda f: set_tokenizer(f, lambda t: t["model"].update(type="Unigram")),
        ("tokenizer.json", "BPE"),
    ),
    "post-processor": (
        lambda f: set_tokenizer(f, lambda t: t.update(post_processor={"type": "BertProcessing"})),
        ("tokenizer.json", "BertProcessing"),
    ),
    "merge of unknown parts": (
        lambda f: set_tokenizer(f, lambda t: t["model"]["merges"].append(["x", "yz"])),
        ("tokenizer.json", "merge 44", "'yz'"),
    ),
    "two tokens with one id": (
        lambda f: set_tokenizer(f, lambda t: t["model"]["vocab"].update(new=7)),
        ("tokenizer.json", "share the id 7"),
    ),
    "absurd token id": (
        lambda f: set_tokenizer(f, lambda t: t["model"]["vocab"].update(new=16_000_000)),
        ("tokenizer.json", "16000000"),
    ),
    "token outside the byte alphabet": (
        lambda f: set_tokenizer(f, lambda t: t["model"]["vocab"].update({"中": 299, "yo": 319})),
        ("tokenizer.json", "中"),
    ),
    "token that is not Unicode": (
        lambda f: set_tokenizer(f, lambda t: t["added_tokens"].append({"id": 314, "content": "\ud800"})),
        ("not valid Unicode",),
    ),
}


@pytest.mark.parametrize("case", GLM_FAILURES)
def test_bad_glm_checkpoint(tmp_path, capsys, case):
    folder = make_glm(tmp_path / "in")
    damage, expected = GLM_FAILURES[case]
    damage(folder)
    message = fails(folder, capsys)
    for part in expected:
        assert part in message


def test_folder_that_is_not_there_or_no_folder(tmp_path, capsys):
    assert "nowhere: no such file or folder" in fails(tmp_path / "nowhere", capsys)
    (tmp_path / "file").write_text("")
    assert "is a file" in fails(tmp_path / "file", capsys)


@pytest.mark.parametrize(
    "option",
    [
        ["--chat-format", "glm4"],
        ["--chat-format", "template"],
        ["--threads", "-1"],
        ["--threads", "9999999999999"],
    ],
)
def test_options_that_do_not_fit(tmp_path, capsys, option):
    assert option[1] in fails(make_remote(tmp_path / "in"), capsys, *option)


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys, zipped):
    torch = pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")
    folder = make_remote(tmp_path / "in")
    (folder / WEIGHTS).unlink()
    state = {EMBEDDING: Evil(tmp_path / "ran")}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert "could run code" in fails(folder, capsys)
    assert not (tmp_path / "ran").exists()


def test_damaged_pickles(tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")
    folder = make_remote(tmp_path / "in")
    (folder / WEIGHTS).unlink()
    weights = {k: torch.from_numpy(v) for k, v in remote_weights(REMOTE_CONFIG).items()}
    path = folder / "pytorch_model.bin"
    torch.save(weights, path)
    whole = path.read_bytes()
    for keep in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        assert "pytorch_model.bin" in fails(folder, capsys)
    torch.save([1, 2], path)
    assert "pytorch_model.bin: holds a list" in fails(folder, capsys)
    torch.save({"epoch": 3}, path)
    assert "'epoch' is no tensor" in fails(folder, capsys)
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "pytorch_model.bin" in fails(folder, capsys)
    torch.save(weights | {QKV: torch.zeros(128, 64, dtype=torch.int8)}, path)
    message = fails(folder, capsys)
    assert QKV in message and "integers" in message


def test_pickles_without_torch_say_what_to_install(tmp_path, capsys, monkeypatch):
    folder = make_remote(tmp_path / "in")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in fails(folder, capsys)


def test_torch_that_cannot_read_safely_is_refused(tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")
    folder = make_remote(tmp_path / "in")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert "2.5.1" in fails(folder, capsys)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("in", "is a folder"),
        ("in/model.safetensors", "among the files that are read"),
        ("in/config.json", "among the files that are read"),
        ("missing/m.gguf", "does not exist"),
        pytest.param(
            "n" * 260,
            "not usable",
            marks=pytest.mark.skipif(os.name != "posix", reason="other limits of names"),
        ),
        pytest.param(
            "/dev/null", "no regular file", marks=pytest.mark.skipif(os.name != "posix", reason="POSIX only")
        ),
    ],
)
def test_outputs_that_cannot_be(tmp_path, capsys, output, expected):
    folder = make_remote(tmp_path / "in")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert main(["-i", str(folder), "-o", str(tmp_path / output)]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_folder_without_permission(tmp_path, capsys):
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("needs a user whom permissions bind")
    folder = make_remote(tmp_path / "in")
    out = tmp_path / "closed"
    out.mkdir(mode=0o555)
    assert main(["-i", str(folder), "-o", str(out / "m.gguf")]) == 2
    assert "not writable" in capsys.readouterr().err


def test_a_disk_without_room_is_noticed_before_writing(tmp_path, capsys, monkeypatch):
    from chatglm_cpp.convert import driver

    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(driver.shutil, "disk_usage", lambda _: usage)
    assert "are free" in fails(make_remote(tmp_path / "in"), capsys)


def test_nan_epsilon(tmp_path, capsys):
    folder = make_remote(tmp_path / "in", layernorm_epsilon=float("nan"))
    assert "finite" in fails(folder, capsys)
    assert np.isnan(json.loads((folder / "config.json").read_text())["layernorm_epsilon"])


@pytest.mark.parametrize("code", [5, 32, 1224])
def test_windows_does_not_replace_a_file_in_use(tmp_path, capsys, monkeypatch, code):
    def refuse(*_: object) -> None:
        error = PermissionError(13, "Access is denied")
        error.winerror = code
        raise error

    target = tmp_path / "m.gguf"
    target.write_bytes(b"in use")
    monkeypatch.setattr("chatglm_cpp.convert.writer.os.replace", refuse)
    assert main(["-i", str(make_glm(tmp_path / "glm")), "-o", str(target)]) == 2
    error = capsys.readouterr().err
    assert "m.gguf: a program has this file open" in error and "another name" in error
    assert target.read_bytes() == b"in use" and list(tmp_path.glob(".*")) == []
