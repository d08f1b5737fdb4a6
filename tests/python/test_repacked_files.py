"""Files of types that the engine repacks at load, against the reference dequantizers and llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from test_cli import run

from chatglm_cpp import _C, FormatError, Pipeline

gguf = pytest.importorskip("gguf", reason="the reference dequantizers are not installed")
from gguf import GGMLQuantizationType as GgmlType  # noqa: E402
from golden import load_arrays  # noqa: E402

# Stored type -> the type that it is repacked as, and where its half floats lie in a block.
TYPES = {
    "q2_K": ("q8_0", (80, 82)),
    "q3_K": ("q8_0", (108,)),
    "q4_K": ("q4_1", (0, 2)),
    "q5_K": ("q5_1", (0, 2)),
    "q6_K": ("q8_0", (208,)),
    "iq4_nl": ("q8_0", (0,)),
    "iq4_xs": ("q8_0", (0,)),
}
# Products with blocks take activations rounded to 8 bits, which alone moves the logits of these models by 2 %
# of their norm. Scales rounded to half floats add 2^-11, which is not seen; weights rounded to 8 bits, as the
# activations are, add as much again: 2 % * sqrt(2) in all.
LOGITS_ERROR = {
    "q2_K": 0.035,
    "q3_K": 0.035,
    "q4_K": 0.025,
    "q5_K": 0.025,
    "q6_K": 0.035,
    "iq4_nl": 0.025,
    "iq4_xs": 0.025,
}

Encoder = Callable[[str, npt.NDArray[np.float32]], "tuple[np.ndarray, GgmlType]"]


def ggml_type(name: str) -> GgmlType:
    return GgmlType[name.upper()]


def norm_error(actual, expected) -> float:
    """Norm of the difference in units of the expected norm."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def random_blocks(name: str, n: int, seed: int = 0, scale: float = 1e-3) -> npt.NDArray[np.uint8]:
    """Blocks (n, bytes) of any codes and small scales, whose halves have the size of `scale` and any sign."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (n, gguf.GGML_QUANT_SIZES[ggml_type(name)][1]), dtype=np.uint8)
    for offset in TYPES[name][1]:
        halves = (random.uniform(-scale, scale, (n, 1))).astype(np.float16)
        blocks[:, offset : offset + 2] = halves.view(np.uint8)
    return blocks


def rewrite(source: Path, target: Path, encode: Encoder) -> Path:
    """`source` with its matrices in other types."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(
            field.name, field.contents(), field.types[0], sub_type=field.types[-1] if is_array else None
        )
    for tensor in reader.tensors:
        if tensor.data.ndim == 2:
            data, kind = encode(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def as_f32(source: Path, target: Path) -> Path:
    return rewrite(source, target, lambda _, weights: (weights, GgmlType.F32))


def with_random_blocks(source: Path, target: Path, name: str) -> Path:
    """Every matrix replaced by blocks of the type `name`, scaled to the values that stood there."""
    kind = ggml_type(name)
    block_size = gguf.GGML_QUANT_SIZES[kind][0]

    def encode(tensor: str, weights: npt.NDArray[np.float32]):
        rows, cols = weights.shape
        if cols % block_size:
            return weights, GgmlType.F32
        scale = 1e-3
        for _ in range(2):
            blocks = random_blocks(name, rows * cols // block_size, len(tensor), scale)
            scale *= float(weights.std() / gguf.quants.dequantize(blocks, kind).std())
        return blocks.reshape(rows, -1), kind

    return rewrite(source, target, encode)


@pytest.mark.parametrize("name", TYPES)
def test_unpacked_values_are_those_of_the_reference_to_the_bit(name: str):
    for scale in (1e-3, 1.0, 500.0, 1e-7):
        blocks = random_blocks(name, 400, scale=scale)
        expected = gguf.quants.dequantize(blocks, ggml_type(name))
        assert np.array_equal(_C.dequantize(blocks, name).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", TYPES)
def test_logits_are_those_of_the_values_in_the_file(fixtures, converted, tmp_path: Path, name: str):
    ids = load_arrays(fixtures / "checkpoints" / "chatglm3-6b" / "reference.npz")["input_ids"]
    path = with_random_blocks(converted("chatglm3-6b"), tmp_path / "blocks.gguf", name)
    pipeline = Pipeline(path)
    exact = Pipeline(as_f32(path, tmp_path / "exact.gguf"))
    assert norm_error(pipeline.logits(ids), exact.logits(ids)) <= LOGITS_ERROR[name]
    assert exact.notes == []
    (note,) = pipeline.notes
    assert f"type {name}" in note and f"repacked as {TYPES[name][0]} (" in note and "convert" in note


MIXES = {
    "Q2_K": 10,
    "Q3_K_M": 12,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("checkpoint", ["chatglm3-6b", "glm-4-9b-chat"])
def test_files_of_llama_quantize(fixtures, converted, tmp_path: Path, checkpoint: str, mix: str):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python, which makes the files")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = MIXES[mix], 1
    path, source = tmp_path / "mix.gguf", converted(checkpoint)
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), params) == 0

    stored = {t.tensor_type for t in gguf.GGUFReader(path).tensors}
    repacked = [name for name in TYPES if ggml_type(name) in stored]
    assert repacked
    ids = load_arrays(fixtures / "checkpoints" / checkpoint / "reference.npz")["input_ids"]
    pipeline = Pipeline(path)
    assert all(name in pipeline.notes[0] for name in repacked)
    logits = pipeline.logits(ids)
    exact = Pipeline(as_f32(path, tmp_path / "exact.gguf")).logits(ids)
    error = norm_error(logits, exact)
    assert error <= max(LOGITS_ERROR.values())

    judge = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    judge.eval(ids.tolist())
    # It computes with the stored types, and rounds activations too.
    assert error <= 1.3 * norm_error(judge.scores[: len(ids)], exact)
    judge.close()


def test_the_command_line_says_what_was_repacked(converted, tmp_path: Path):
    path = with_random_blocks(converted("chatglm3-6b"), tmp_path / "blocks.gguf", "q4_K")
    result = run("chat", "-m", path, "-p", "hi", "--greedy", "--max_new_tokens", "1")
    assert result.returncode == 0, result.stderr
    said = result.stderr.decode()
    assert said.startswith("note: ") and "q4_K were repacked as q4_1" in said and said.count("\n") == 1

    text = run("info", path).stdout.decode()
    assert "repacked at load" in text and "q4_K as q4_1" in text
    described = json.loads(run("info", path, "--json").stdout)
    assert described["repacked_types"] == {"q4_K": "q4_1"} and described["unsupported_types"] == []
    assert described["memory_bytes"] > described["weight_bytes"]


def test_types_that_cannot_be_used_are_named(converted, tmp_path: Path):
    def encode(name: str, weights: npt.NDArray[np.float32]):
        if name != "output.weight":
            return weights, GgmlType.F32
        return np.zeros((weights.shape[0], weights.shape[1] // 256 * 66), np.uint8), GgmlType.IQ2_XXS

    path = rewrite(converted("chatglm3-6b"), tmp_path / "iq2.gguf", encode)
    with pytest.raises(FormatError, match=r"'output\.weight' has the type iq2_xxs.* convert"):
        Pipeline(path)
    described = json.loads(run("info", path, "--json").stdout)
    assert described["unsupported_types"] == ["iq2_xxs"]
    assert "cannot use iq2_xxs" in run("info", path).stdout.decode()
