"""Checkpoints and adapters that were cut or changed at every structural place: a sentence each time, or a
conversion that does not mind; never a crash, a hang or a large allocation."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chatglm_cpp.convert import ConvertError, convert
from convert_helpers import REMOTE_CONFIG, make_remote, remote_weights
from safetensors.numpy import save_file

from chatglm_cpp import Error, FormatError, GenerationConfig, Pipeline

ALLOWED = 16 << 20  # bytes: what a conversion of a few kilobytes may take, PyTorch's reader included
NUMBERS = (0, 1, 7, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def attempt(folder: Path, target: Path) -> str:
    """The sentence that ends the conversion, or an empty text when there was one."""
    tracemalloc.start()
    try:
        convert(folder, target, "q8_0")
        return ""
    except ConvertError as error:
        assert not target.exists()
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < ALLOWED


def check(sentence: str, file: str) -> None:
    assert file in sentence and "\n" not in sentence and len(sentence) < 1000, sentence


def test_safetensors_cut_at_every_place(tmp_path):
    folder = make_remote(tmp_path / "in")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_bytes])
    ends = sorted(8 + header_bytes + entry["data_offsets"][1] for entry in header.values())
    for length in [*range(0, 64, 3), 8 + header_bytes // 2, 8 + header_bytes - 1, *ends[:-1], len(data) - 1]:
        path.write_bytes(data[:length])
        check(attempt(folder, tmp_path / "m.gguf"), "model.safetensors")


def edits(header: dict) -> Iterator[dict]:
    """The header with each field of one entry replaced by something else."""
    name = next(iter(header))
    entry = header[name]
    values = {
        "dtype": ["", "F64", "I8", "U8", "F8_E4M3", "Q4", 5, None, ["F16"]],
        "shape": [[], [0], [-1, 64], [2**62, 2**62], [1.5], "64", None, [1] * 100_000, [2**62] * 9],
        "data_offsets": [[], [0], [5, 1], [0, 2**63], [-2, 4], [0, 1, 2], "0", None, [0.5, 1]],
    }
    for field, replacements in values.items():
        for value in replacements:
            yield header | {name: entry | {field: value}}
        yield header | {name: {k: v for k, v in entry.items() if k != field}}
    yield header | {name: None}
    yield header | {name: [entry]}
    yield {}
    other = next(k for k in header if k != name)
    yield header | {name: entry | {"data_offsets": header[other]["data_offsets"]}}


def test_every_field_of_a_safetensors_header(tmp_path):
    folder = make_remote(tmp_path / "in")
    path = folder / "model.safetensors"
    data = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_bytes])
    for changed in edits(header):
        text = json.dumps(changed).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + header_bytes :])
        check(attempt(folder, tmp_path / "m.gguf"), "model.safetensors")
    for number in NUMBERS:
        path.write_bytes(struct.pack("<Q", number) + data[8:])
        check(attempt(folder, tmp_path / "m.gguf"), "model.safetensors")


def test_pickles_cut_and_changed(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")
    folder = make_remote(tmp_path / "in")
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    weights = {k: torch.from_numpy(v) for k, v in remote_weights(REMOTE_CONFIG).items()}
    torch.save(weights, path)
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        check(attempt(folder, tmp_path / "m.gguf"), "pytorch_model.bin")
    at = data.index(b"data.pkl")
    for position in range(at, at + 2000, 41):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x5A]) + data[position + 1 :])
        if sentence := attempt(folder, tmp_path / "m.gguf"):
            check(sentence, "pytorch_model.bin")
        (tmp_path / "m.gguf").unlink(missing_ok=True)


def test_tensors_of_unusual_kinds(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch, which .bin checkpoints need, is not installed")
    folder = make_remote(tmp_path / "in")
    (folder / "model.safetensors").unlink()
    weights = {k: torch.from_numpy(v) for k, v in remote_weights(REMOTE_CONFIG).items()}
    name = "transformer.output_layer.weight"
    for unusual in (
        weights[name].to_sparse(),
        torch.empty(weights[name].shape, device="meta"),
        torch.view_as_complex(torch.zeros(64, 64, 2)),
    ):
        torch.save(weights | {name: unusual}, folder / "pytorch_model.bin")
        check(attempt(folder, tmp_path / "m.gguf"), name)


QKV = "transformer.encoder.layers.0.self_attention.query_key_value"


@pytest.fixture
def adapter(tmp_path) -> tuple[Pipeline, Path]:
    """A pipeline and an adapter for it."""
    base = make_remote(tmp_path / "base")
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    factors = {"A": np.ones((4, 64), np.float32), "B": np.ones((128, 4), np.float32)}
    save_file(
        {f"base_model.model.{QKV}.lora_{s}.weight": v for s, v in factors.items()},
        lora / "adapter_model.safetensors",
    )
    convert(base, tmp_path / "model.gguf", "f32")
    convert(lora, tmp_path / "adapter.gguf", base=base)
    return Pipeline(tmp_path / "model.gguf"), tmp_path / "adapter.gguf"


def test_adapters_cut_and_changed_at_every_byte_of_the_header(adapter):
    pipeline, path = adapter
    data = path.read_bytes()
    header = data.index(b"lora_b") + 64
    for length in range(0, len(data), 61):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError, match="adapter"):
            pipeline.set_lora(path)
    for position in range(header):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            pipeline.set_lora(path)
        except FormatError as error:
            check(str(error), "adapter.gguf")
    assert pipeline.lora in ({}, {str(path): 1.0})


def test_a_replaced_adapter_is_read_again_and_a_removed_one_goes_on(adapter, tmp_path):
    pipeline, path = adapter
    ids = [1, 5, 9]
    pipeline.set_lora(path)
    first = pipeline.logits(ids)
    data = bytearray(path.read_bytes())
    data[-4:] = struct.pack("<f", 30.0)
    (tmp_path / "new").write_bytes(data)
    (tmp_path / "new").replace(path)
    assert np.array_equal(pipeline.logits(ids), first)
    pipeline.set_lora(path)
    assert not np.array_equal(pipeline.logits(ids), first)
    path.write_bytes(b"")
    assert np.isfinite(pipeline.logits(ids)).all()


def test_an_adapter_without_numbers_is_refused_or_said(adapter):
    pipeline, path = adapter
    data = path.read_bytes()
    alpha = data.index(b"adapter.lora.alpha") + len("adapter.lora.alpha") + 4
    for value in (float("nan"), float("inf")):
        path.write_bytes(data[:alpha] + struct.pack("<f", value) + data[alpha + 4 :])
        with pytest.raises(FormatError, match="finite"):
            pipeline.set_lora(path)
    path.write_bytes(data)
    pipeline.set_lora({path: 1e38})
    with pytest.raises(Error, match="no number"):
        pipeline.generate([1, 5, 9], max_new_tokens=2)
    generation = pipeline._engine.start([1, 5, 9], GenerationConfig(max_new_tokens=2))
    with pytest.raises(Error, match="no number"):
        generation.step()
    assert generation.done and generation.step() is None
