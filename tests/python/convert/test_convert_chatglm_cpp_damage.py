"""Damaged files of chatglm.cpp: each is one sentence with the file and the place, and nothing is written.

The small files here are cut at every place where something begins, and each of their numbers is set to absurd
ones.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chatglm_cpp.convert.cli import main
from chatglm_cpp_writer import FLOATS, OldFile, Tensor, field_names, tiny

LARGEST, SMALLEST = 2**31 - 1, -(2**31)
SPARE_BYTES = 8 << 20  # that a conversion may allocate beside the bytes of its input
KINDS = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (4, 2)]  # model type, version

Check = Callable[[bytes], str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Check]:
    """refused(data) converts a file of these bytes, checks how that fails, and returns the sentence."""
    path, out = tmp_path / "old.bin", tmp_path / "out"
    out.mkdir()
    path.write_bytes(tiny(3).data)
    assert main(["-i", str(path), "-o", str(tmp_path / "good.gguf"), "-q"]) == 0  # everything is imported
    tracemalloc.start()

    def check(data: bytes) -> str:
        path.write_bytes(data)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        status = main(["-i", str(path), "-o", str(out / "m.gguf")])
        allocated = tracemalloc.get_traced_memory()[1] - before
        said = capsys.readouterr()
        assert status == 2, f"it was converted: {said.out}"
        assert said.out == "" and list(out.iterdir()) == []
        assert said.err.startswith(f"error: {path}: ") and said.err.count("\n") == 1, said.err
        assert allocated < len(data) + SPARE_BYTES, f"{allocated} bytes for a file of {len(data)}"
        return said.err

    yield check
    tracemalloc.stop()


@pytest.mark.parametrize(("model_type", "version"), KINDS)
def test_a_file_that_ends_early(refused, model_type, version):
    file = tiny(model_type, version)
    for offset, what in file.marks:
        if what == "magic":
            continue
        message = refused(bytes(file.data[:offset]))
        assert "ends inside" in message or "left in the file" in message or "is missing" in message, what
        # In the middle of it, too.
        if file.data[offset + 1 :]:
            refused(bytes(file.data[: offset + 1]))
    refused(bytes(file.data[:-1]))
    refused(bytes(file.data) + b"\0")


# Of each field of the header, what it may be among the numbers that are tried.
FINE = {"pad": (0, -1), "bos": (0, -1), "sep": (0, -1), "eos": (-1,), "virtual": (0,), "max_len": (10**6,)}
FIRST_GENERATION_FINE = FINE | {"bos": (-1,)}


@pytest.mark.parametrize(("model_type", "version"), KINDS)
def test_absurd_numbers_in_the_header(refused, model_type, version):
    file = tiny(model_type, version)
    fine = FIRST_GENERATION_FINE if model_type == 1 else FINE
    for field in field_names(model_type, version):
        for value in (0, -1, 1, 10**6, LARGEST, SMALLEST):
            # 1 is a size or an id like any other, and as the bits of a float it is next to nothing.
            if value in fine.get(field, ()) or (value == 1 and field not in FLOATS):
                continue
            refused(file.with_int(field, value))


@pytest.mark.parametrize(
    ("what", "value", "words"),
    [
        ("model_type", 0, "type of the model is 0"),
        ("model_type", -1, "type of the model is -1"),
        ("model_type", LARGEST, f"type of the model is {LARGEST}"),
        ("model_type", 1004, "GLM-4V, a vision model, which is not supported"),
        ("model_type", 1280, "InternLM"),
        ("model_type", 1, '"num_kv_heads" of the header is 1'),
        ("version", 0, "version of the header is 0"),
        ("version", -1, "version of the header is -1"),
        ("version", 3, "version of the header is 3"),
        ("version", LARGEST, f"version of the header is {LARGEST}"),
        ("dtype", 9, '"dtype" of the header is 9'),
        ("dtype", 8, '"dtype" of the header is 8 (q8_0), and no matrix has it'),
        ("hidden", 0, '"hidden_size" is 0, expected 1..'),
        ("heads", 8, "transformer.encoder.layers.0.self_attention.query_key_value.weight has the shape"),
        ("kv_heads", 0, '"n_kv_heads" is 0, expected 1..'),
        ("layers", 3, "transformer.encoder.layers.2.input_layernorm.weight is missing"),
        ("layers", 1, "transformer.encoder.layers.1."),
        ("vocab", 65, "its header makes it [65, 64]"),
        ("max_len", LARGEST, '"seq_length" is 2147483647'),
        ("norm_eps", -1, '"layernorm_epsilon" is NaN'),
        ("rope_theta", -1, '"rope_theta" of the header is nan'),
        ("virtual", 4, "the tensor past_key_values with their keys and values is missing"),
        (
            "eos",
            0,
            "\"eos_token_id\" of the header is 0, in the tokenizer '<unk>', which ends no text; expected 2",
        ),
        ("pad", 64, '"pad_token_id" of the header is 64, expected -1 for none, or 0 to 63'),
        ("tokenizer size", 0, "the tokenizer claims 0 bytes"),
        ("tokenizer size", -1, "the tokenizer claims -1 bytes"),
        ("tokenizer size", LARGEST, f"the tokenizer claims {LARGEST} bytes, and "),
    ],
)
def test_the_sentence_names_the_field(refused, what, value, words):
    assert words in refused(tiny(3).with_int(what, value))


@pytest.mark.parametrize("model_type", [1, 3, 4])
@pytest.mark.parametrize("change", [-1, 1, -100])
def test_a_tokenizer_of_another_size(refused, model_type, change):
    file = tiny(model_type)
    size = int.from_bytes(file.data[file.at("tokenizer size") :][:4], "little")
    refused(file.with_int("tokenizer size", size + change))


@pytest.mark.parametrize("model_type", [1, 2, 3, 4])
def test_a_tokenizer_of_noise(refused, model_type):
    file = tiny(model_type)
    begin = file.at("tokenizer")
    end = next(offset for offset, _ in file.marks if offset > begin)
    noise = np.random.default_rng(3).integers(0, 256, end - begin, np.uint8).tobytes()
    refused(bytes(file.data[:begin]) + noise + bytes(file.data[end:]))


def test_absurd_numbers_of_tensors(refused):
    file = tiny(3)
    numbers = {
        "name length": (0, -1, 10**6, LARGEST, SMALLEST),
        "ndim": (0, -1, 5, 10**6, LARGEST, SMALLEST),
        "dim 0": (0, -1, 10**6, LARGEST, SMALLEST),
        "dim 1": (0, -1, 33, 10**6, LARGEST, SMALLEST),
        "dtype": (-1, 4, 5, 9, 10, 30, 10**6, LARGEST, SMALLEST),
    }
    names = [what.split(":")[0] for _, what in file.marks if what.endswith(": data")]
    tried = 0
    for name in (names[0], names[len(names) // 2], names[-1]):
        for what, values in numbers.items():
            if any(mark == f"{name}: {what}" for _, mark in file.marks):
                for value in values:
                    refused(file.with_int(f"{name}: {what}", value))
                    tried += 1
    assert tried > 60


EMBEDDING = "transformer.embedding.word_embeddings.weight"
DOWN = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"


def test_a_shape_whose_size_overflows(refused):
    file = tiny(3)
    file.put_tensor("x", (LARGEST, LARGEST, LARGEST, LARGEST), 0, b"")
    assert f"[{LARGEST}, {LARGEST}, {LARGEST}, {LARGEST}]" in refused(bytes(file.data))


def test_rows_that_are_no_whole_blocks(refused):
    file = tiny(3)
    file.put_tensor("x", (2, 48), 2, bytes(54))
    assert "tensor x of type q4_0 has the shape [2, 48]: no rows of whole blocks" in refused(bytes(file.data))


def replaced(which: str, **new: object) -> Callable[[list[Tensor]], None]:
    def change(tensors: list[Tensor]) -> None:
        i = next(i for i, tensor in enumerate(tensors) if tensor[0] == which)
        old = dict(zip(("name", "values", "kind"), tensors[i], strict=True))
        tensors[i] = tuple((old | new).values())

    return change


def removed(tensors: list[Tensor]) -> None:
    tensors[:] = [tensor for tensor in tensors if tensor[0] != DOWN]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.append(tensors[0]), f"tensor {EMBEDDING} is there twice"),
        (removed, f"tensor {DOWN} is missing"),
        (
            lambda tensors: tensors.append(("mlp.extra", np.ones(4), "f32")),
            "tensor mlp.extra does not belong to a model of 2 layers",
        ),
        (
            lambda tensors: tensors.append(("past_key_values", np.ones((4, 1, 3, 32)), "f16")),
            "header makes it floats of the shape [4, 1, 0, 32]",
        ),
        (
            replaced(DOWN, values=np.ones((64, 32))),
            f"tensor {DOWN} has the shape [64, 32], its header makes it",
        ),
        (replaced(DOWN, values=np.ones((2, 32, 96))), f"tensor {DOWN} has the shape [2, 32, 96]"),
        (replaced(DOWN, name="transformer.\x07"), "which is no name"),
    ],
)
def test_tensors_of_another_model(refused, change, words):
    assert words in refused(bytes(tiny(3, change=change).data))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((4, 1, 5, 32), "f16"), ((2, 1, 4, 32), "f16"), ((4, 128), "f16"), ((4, 1, 4, 32), "q8_0")],
)
def test_a_prefix_of_another_shape(refused, shape, kind):
    def add(tensors: list[Tensor]) -> None:
        tensors.append(("past_key_values", np.ones(shape), kind))

    assert "tensor past_key_values has the type" in refused(bytes(tiny(3, change=add, virtual=4).data))


def test_data_that_is_not_aligned(refused):
    def no_tensors(tensors: list[Tensor]) -> None:
        tensors.clear()

    file: OldFile = tiny(3, change=no_tensors)
    file.put_tensor("x" * (1 + -len(file.data) % 16), (4,), 0, b"\x01" * 16, aligned=False)
    assert "not zero" in refused(bytes(file.data))


def test_more_tensors_than_any_model_has(refused):
    file = tiny(3)
    parts = [bytes(file.data)]
    size = len(file.data)
    for i in range(1 << 12):
        name = f"{i}".encode()
        head = len(name).to_bytes(4, "little") + name + b"\1\0\0\0\1\0\0\0\1\0\0\0"
        head += bytes(-(size + len(head)) % 16) + b"\0\0"
        parts.append(head)
        size += len(head)
    assert "more than 48 tensors for 2 layers" in refused(b"".join(parts))


def test_a_pipe_is_not_waited_for(tmp_path, capsys):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    assert main(["-i", str(tmp_path / "pipe"), "-o", str(tmp_path / "m.gguf")]) == 2
    assert "pipe: is neither a folder nor a regular file" in capsys.readouterr().err
