"""What llama.cpp's quantizer makes of files: the blocks that our converter writes, and the same answers."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest
from convert_helpers import Gguf
from golden import load_arrays
from llama_cpp_files import write_file

from chatglm_cpp import Pipeline

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="the judge of the file format is not installed: pip install llama-cpp-python"
)
pytest.importorskip("torch", reason="the golden weights are read with PyTorch")

FILE_TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q8_0": 7}

# llama.cpp rounds activations to blocks of 8 bits, and so do we, each in its own way.
SIMILARITY = 0.999


def llama_quantize(source, target, dtype, *, pure):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = FILE_TYPES[dtype], pure, 1
    assert llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)) == 0
    return target


def compare(path, ids):
    ours = Pipeline(path, kv_dtype="f32").logits(ids)
    f32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(
        str(path), n_ctx=128, n_threads=1, logits_all=True, type_k=f32, type_v=f32, verbose=False
    )
    model.eval(ids)
    theirs = np.array(model.scores[: len(ids)])
    model.close()
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    assert ((ours * theirs).sum(axis=1) / norms).min() > SIMILARITY
    second, first = np.sort(theirs, axis=1)[:, -2:].T
    clear = first - second > 2 * np.abs(ours - theirs).max(axis=1)
    assert clear.sum() > len(ids) / 3
    assert np.array_equal(ours.argmax(axis=1)[clear], theirs.argmax(axis=1)[clear])


@pytest.mark.parametrize("dtype", FILE_TYPES)
@pytest.mark.parametrize("name", ["chatglm3-6b", "glm-4-9b-0414", "glm-edge-1.5b-chat"])
def test_blocks_and_logits(fixtures, converted, tmp_path, name, dtype):
    """Of our f32 file: every matrix has the bytes that our converter gives it."""
    path = llama_quantize(converted(name), tmp_path / "q.gguf", dtype, pure=True)
    theirs, ours = Gguf(path), Gguf(converted(name, dtype))
    assert theirs.tensors.keys() == ours.tensors.keys()
    for tensor, (kind, _, data) in theirs.tensors.items():
        assert kind == ours.tensors[tensor][0], tensor
        assert np.array_equal(data, ours.tensors[tensor][2]), tensor
    compare(path, load_arrays(fixtures / "checkpoints" / name / "reference.npz")["input_ids"].tolist())


@pytest.mark.parametrize("dtype", FILE_TYPES)
@pytest.mark.parametrize("name", ["glm-4-9b-chat-hf", "glm-4-9b-0414"])
def test_the_mixes_that_users_get(fixtures, tmp_path, name, dtype):
    """Of a file of llama.cpp's converter. Rows of 128 have no q6_K, so that the output matrix is q8_0."""
    folder = fixtures / "checkpoints" / name
    source = write_file(folder, tmp_path / "s.gguf")
    path = llama_quantize(source, tmp_path / "q.gguf", dtype, pure=False)
    kinds = {tensor: kind for tensor, (kind, _, _) in Gguf(path).tensors.items()}
    assert kinds["output.weight"] == "q8_0" and kinds["blk.0.attn_q.weight"] == dtype
    compare(path, load_arrays(folder / "reference.npz")["input_ids"].tolist())
